//! A client that asks for one thing after the other and judges what it gets.

use std::time::{Duration, Instant};

use guildhall_proto::v1;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::fixed::Pool;
use crate::plan::{Plan, Reading};
use crate::proper::assert_proper;
use crate::tally::{Kind, Outcome, Tally};
use guildhall_testkit::client::{Client, append_part, collect_after, connect};
use guildhall_testkit::process::PATIENCE;

/// Shorter than what the router asks for, or there would be too little load.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_millis(50);
/// Every deadline is long over by then, on a busy machine too.
const DEADLINE_PATIENCE: Duration = Duration::from_secs(5);
/// Parts after which a slow reader pauses.
const SLOW_PARTS: usize = 10;

/// How a request went.
enum Reply {
    Whole(v1::GenerateResponse),
    /// The client left, with so many tokens.
    Left(usize),
}

/// Asks until the time is over.
pub(crate) async fn run(
    (seed, number): (u64, u64),
    address: &str,
    pool: &Pool,
    until: Instant,
) -> Tally {
    let mut client = connect(address).await;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(number);
    let mut tally = Tally::default();
    while Instant::now() < until {
        let plan = Plan::draw(&mut rng, pool);
        let patience = if plan.kind == Kind::Deadline { DEADLINE_PATIENCE } else { PATIENCE };
        let reply = tokio::time::timeout(patience, ask(&mut client, &plan)).await;
        let reply = reply.unwrap_or_else(|_| panic!("no end within {patience:?} of {plan:?}"));
        let (outcome, tokens) = match reply {
            Err(status) => (judge_failure(&plan, &status), 0),
            Ok(Reply::Left(tokens)) => (Outcome::Left, tokens),
            Ok(Reply::Whole(response)) => (Outcome::Finished, judge_answer(&plan, &response, pool)),
        };
        tally.count(plan.kind, outcome, tokens);
        if outcome == Outcome::Refused {
            tokio::time::sleep(PAUSE_AFTER_REFUSAL).await;
        }
    }
    tally
}

async fn ask(client: &mut Client, plan: &Plan) -> Result<Reply, Status> {
    let request = plan.request.clone();
    match plan.reading {
        Reading::Whole => Ok(Reply::Whole(client.generate(request).await?.into_inner())),
        Reading::WholeOrLeaveIn(time) => {
            match tokio::time::timeout(time, client.generate(request)).await {
                Ok(response) => Ok(Reply::Whole(response?.into_inner())),
                Err(_) => Ok(Reply::Left(0)),
            }
        }
        Reading::Stream => read(client, plan, (0, Duration::ZERO)).await,
        Reading::StreamSlowly(pause) => read(client, plan, (SLOW_PARTS, pause)).await,
        Reading::StreamAndLeaveAfter(parts) => {
            let mut stream = client.generate_stream(request).await?.into_inner();
            let mut whole = v1::GenerateResponse::default();
            for _ in 0..parts {
                let Some(part) = stream.message().await? else { return Ok(Reply::Whole(whole)) };
                append_part(&mut whole, part);
            }
            Ok(Reply::Left(tokens(&whole)))
        }
    }
}

/// Reads a stream to its end, with a pause after each of the first parts.
async fn read(
    client: &mut Client,
    plan: &Plan,
    (parts, pause): (usize, Duration),
) -> Result<Reply, Status> {
    let mut stream = client.generate_stream(plan.request.clone()).await?.into_inner();
    let mut whole = v1::GenerateResponse::default();
    for _ in 0..parts {
        let Some(part) = stream.message().await? else { return Ok(Reply::Whole(whole)) };
        append_part(&mut whole, part);
        tokio::time::sleep(pause).await;
    }
    Ok(Reply::Whole(collect_after(whole, stream).await?))
}

fn tokens(response: &v1::GenerateResponse) -> usize {
    response.choices.iter().map(|choice| choice.token_ids.len()).sum()
}

/// How many tokens an answer has, which must be right.
fn judge_answer(plan: &Plan, response: &v1::GenerateResponse, pool: &Pool) -> usize {
    assert_ne!(plan.kind, Kind::Bad, "answered: {plan:?}");
    assert_proper(&plan.request, response);
    if let Some(index) = plan.fixed {
        pool.assert_same(index, response);
    }
    tokens(response)
}

/// What a failure is, which must be one that this request can have.
fn judge_failure(plan: &Plan, status: &Status) -> Outcome {
    match (status.code(), plan.kind) {
        (Code::ResourceExhausted, _) => {
            let retry = status.get_error_details().retry_info().and_then(|info| info.retry_delay);
            assert!(
                retry.is_some_and(|delay| !delay.is_zero()),
                "no RetryInfo: {status:?} {plan:?}"
            );
            Outcome::Refused
        }
        (Code::DeadlineExceeded, Kind::Deadline) => Outcome::TimeOver,
        (Code::InvalidArgument | Code::NotFound, Kind::Bad) => Outcome::Invalid,
        _ => panic!("{status:?}: {plan:?}"),
    }
}
