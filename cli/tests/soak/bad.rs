//! Requests that the router must refuse.

use guildhall_proto::v1;
use guildhall_proto::v1::constraint::Form;
use guildhall_proto::v1::generate_request::Prompt;
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

use crate::requests::VOCAB;

/// Makes one field of a request bad.
pub(crate) fn spoil(rng: &mut ChaCha8Rng, request: &mut v1::GenerateRequest) {
    match rng.random_range(0..4) {
        0 => spoil_prompt(rng, request),
        1 => spoil_sampling(rng, request.sampling.get_or_insert_default()),
        2 => spoil_stopping(rng, request),
        _ => spoil_the_rest(rng, request),
    }
}

fn spoil_prompt(rng: &mut ChaCha8Rng, request: &mut v1::GenerateRequest) {
    let ids = |ids| Some(Prompt::TokenIds(v1::TokenIds { ids }));
    request.prompt = match rng.random_range(0..5) {
        0 => None,
        1 => ids(Vec::new()),
        2 => ids(vec![5, VOCAB, 7]),
        3 => ids(vec![5; 800]),
        _ => Some(Prompt::Chat(v1::Chat::default())),
    };
}

fn spoil_sampling(rng: &mut ChaCha8Rng, sampling: &mut v1::Sampling) {
    match rng.random_range(0..6) {
        0 => sampling.temperature = -1.0,
        1 => sampling.top_p = Some(0.0),
        2 => sampling.min_p = f32::NAN,
        3 => sampling.repetition_penalty = Some(0.0),
        4 => sampling.presence_penalty = 2.5,
        _ => drop(sampling.logit_bias.insert(VOCAB, 1.0)),
    }
}

fn spoil_stopping(rng: &mut ChaCha8Rng, request: &mut v1::GenerateRequest) {
    let stopping = request.stopping.get_or_insert_default();
    match rng.random_range(0..3) {
        0 => stopping.stop = vec![String::new()],
        1 => stopping.min_tokens = 1000,
        _ => {
            stopping.max_tokens = Some(0);
            request.outputs = None;
        }
    }
}

fn spoil_the_rest(rng: &mut ChaCha8Rng, request: &mut v1::GenerateRequest) {
    let constraint = |form| Some(v1::Constraint { form: Some(form) });
    match rng.random_range(0..6) {
        0 => request.n = 1000,
        1 => request.model = "another".into(),
        2 => request.timeout_ms = u64::MAX,
        3 => request.constraint = constraint(Form::Regex("(".into())),
        4 => request.constraint = constraint(Form::JsonSchema("{".into())),
        _ => request.constraint = constraint(Form::Choice(v1::Choices::default())),
    }
}
