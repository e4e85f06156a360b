//! What a worker does next: a request, and how it reads the answer.

use std::time::Duration;

use guildhall_proto::v1;
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

use crate::fixed::Pool;
use crate::tally::Kind;
use crate::{bad, requests};

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) kind: Kind,
    /// Which of the pool's requests it is.
    pub(crate) fixed: Option<usize>,
    pub(crate) request: v1::GenerateRequest,
    pub(crate) reading: Reading,
}

/// How a client takes an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reading {
    Whole,
    WholeOrLeaveIn(Duration),
    Stream,
    /// With a pause after each of the first parts.
    StreamSlowly(Duration),
    StreamAndLeaveAfter(usize),
}

impl Plan {
    /// Everything random is drawn here, so that what happens has no part in what comes next.
    pub(crate) fn draw(rng: &mut ChaCha8Rng, pool: &Pool) -> Self {
        let reading = Reading::draw(rng);
        let what = rng.random_range(0..100);
        if what < 25 {
            let index = rng.random_range(0..pool.len());
            let request = pool.request(index).clone();
            return Self { kind: Kind::Fixed, fixed: Some(index), request, reading };
        }
        let (mut kind, mut request) = requests::draw(rng);
        if what < 35 {
            kind = Kind::Deadline;
            request.timeout_ms = rng.random_range(1..=200);
        } else if what < 42 {
            kind = Kind::Bad;
            bad::spoil(rng, &mut request);
        }
        Self { kind, fixed: None, request, reading }
    }
}

impl Reading {
    fn draw(rng: &mut ChaCha8Rng) -> Self {
        let milliseconds =
            |rng: &mut ChaCha8Rng, most| Duration::from_millis(rng.random_range(1..=most));
        match rng.random_range(0..100) {
            0..35 => Self::Whole,
            35..40 => Self::WholeOrLeaveIn(milliseconds(rng, 400)),
            40..75 => Self::Stream,
            75..85 => Self::StreamSlowly(milliseconds(rng, 60)),
            _ => Self::StreamAndLeaveAfter(rng.random_range(0..20)),
        }
    }
}
