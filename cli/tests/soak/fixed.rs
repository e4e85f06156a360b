//! Requests whose answers are known: each was asked alone before the load began.

use guildhall_proto::v1;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use crate::{proper, requests};
use guildhall_testkit::client::{Essence, connect, essence};

const REQUESTS: usize = 20;

/// Requests with their answers.
pub(crate) struct Pool(Vec<(v1::GenerateRequest, Answer)>);

/// Everything of an answer that must be the same again, floats as bits.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    choices: Essence,
    /// Of each token of the prompt: its log-probability, and the best tokens with theirs.
    prompt: Vec<(u32, Vec<(u32, u32)>)>,
    prompt_ids: Vec<u32>,
}

impl Pool {
    /// Asks for everything on a quiet cluster.
    pub(crate) async fn ask(address: &str, seed: u64) -> Self {
        let mut client = connect(address).await;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // The workers have the first streams.
        rng.set_stream(u64::MAX);
        let mut pool = Vec::new();
        for _ in 0..REQUESTS {
            let (_, request) = requests::draw(&mut rng);
            let answer = client.generate(request.clone()).await;
            let answer = answer.unwrap_or_else(|e| panic!("{e:?}: {request:?}")).into_inner();
            proper::assert_proper(&request, &answer);
            pool.push((request, Answer::of(&answer)));
        }
        Self(pool)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn request(&self, index: usize) -> &v1::GenerateRequest {
        &self.0[index].0
    }

    pub(crate) fn assert_same(&self, index: usize, response: &v1::GenerateResponse) {
        let (request, expected) = &self.0[index];
        assert_eq!(&Answer::of(response), expected, "another answer under load to {request:?}");
    }
}

impl Answer {
    fn of(response: &v1::GenerateResponse) -> Self {
        let prompt = response.prompt.clone().unwrap_or_default();
        let scores = prompt.logprobs.iter().map(|token| {
            let top = token.top.iter().map(|top| (top.token_id, top.logprob.to_bits()));
            (token.logprob.to_bits(), top.collect())
        });
        Self { choices: essence(response), prompt: scores.collect(), prompt_ids: prompt.token_ids }
    }
}
