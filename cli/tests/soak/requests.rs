//! Random requests that the router must answer.

use guildhall_proto::v1;
use guildhall_proto::v1::constraint::Form;
use guildhall_proto::v1::generate_request::Prompt;
use rand::Rng as _;
use rand::seq::IndexedRandom as _;
use rand_chacha::ChaCha8Rng;

use crate::tally::Kind;

pub(crate) const LONGEST_PROMPT: usize = 600;
pub(crate) const MOST_TOKENS: u32 = 120;
/// The vocabulary of the demonstration model. Its first three tokens are special.
pub(crate) const VOCAB: u32 = 2048;
/// Beginnings that prompts share.
const PREFIXES: u32 = 6;

const TEXTS: [&str; 5] = [
    "Once upon a time",
    "Weather report for Oakford, Friday\nFriday will be",
    "Recipe: Leek soup (serves 4)\n\nIngredients:\n-",
    "Question: What is 12 + 30?\nAnswer:",
    "The weather",
];
const QUESTIONS: [&str; 3] =
    ["What is 12 + 30?", "Tell me a story about a fox.", "Write a JSON record of a person."];
const STOPS: [&str; 5] = [" the", ".", "\n", " a", "never in it"];
const CHOICES: [&str; 3] = ["yes", "no", "not at all, said the fox"];
pub(crate) const REGEX: &str = "[a-f]{2,9} (one|two)";
const SCHEMA: &str = r#"{"type": "object", "properties": {"name": {"type": "string", "maxLength": 12},
    "n": {"type": "integer"}}, "required": ["name", "n"], "additionalProperties": false}"#;
const LARK: &str = "start: \"yes\" | \"no\" \" sir\"?";

/// A request whose answer follows from the request alone: greedy, or with a seed.
pub(crate) fn draw(rng: &mut ChaCha8Rng) -> (Kind, v1::GenerateRequest) {
    let kinds = [Kind::Tokens, Kind::Tokens, Kind::Text, Kind::Chat, Kind::Constrained];
    let kind = *kinds.choose(rng).unwrap();
    let prompt = match kind {
        Kind::Tokens => Prompt::TokenIds(v1::TokenIds { ids: token_ids(rng) }),
        Kind::Text => text(rng),
        Kind::Constrained if rng.random_bool(0.5) => text(rng),
        _ => chat(rng),
    };
    let free = kind != Kind::Constrained;
    let request = v1::GenerateRequest {
        prompt: Some(prompt),
        sampling: Some(sampling(rng, free)),
        stopping: Some(stopping(rng, free)),
        outputs: Some(outputs(rng)),
        constraint: (!free).then(|| v1::Constraint { form: Some(form(rng)) }),
        n: *[0, 1, 1, 1, 2, 3].choose(rng).unwrap(),
        cache_salt: if rng.random_bool(0.1) { "salt".into() } else { String::new() },
        ..Default::default()
    };
    (kind, request)
}

/// Mostly few. Half of the prompts begin like others.
fn token_ids(rng: &mut ChaCha8Rng) -> Vec<u32> {
    let length = 1 + (LONGEST_PROMPT as f64 * rng.random::<f64>().powi(3)) as usize;
    let mut ids = Vec::new();
    if rng.random_bool(0.5) {
        let number = rng.random_range(0..PREFIXES);
        ids.extend((0..16 + number * 70).map(|i| 3 + (i * 31 + number * 97) % 2000));
    }
    let left = LONGEST_PROMPT - ids.len();
    ids.extend((0..length.min(left)).map(|_| rng.random_range(3..VOCAB)));
    ids
}

fn text(rng: &mut ChaCha8Rng) -> Prompt {
    Prompt::Text((*TEXTS.choose(rng).unwrap()).to_owned())
}

fn chat(rng: &mut ChaCha8Rng) -> Prompt {
    let message = |role: &str, content: &str| v1::Message {
        role: role.into(),
        content: content.into(),
        ..Default::default()
    };
    let mut messages = vec![message("user", QUESTIONS.choose(rng).unwrap())];
    if rng.random_bool(0.4) {
        messages.extend([message("assistant", "42"), message("user", "Are you sure?")]);
    }
    Prompt::Chat(v1::Chat { messages, ..Default::default() })
}

fn form(rng: &mut ChaCha8Rng) -> Form {
    match rng.random_range(0..4) {
        0 => Form::JsonSchema(SCHEMA.into()),
        1 => Form::Regex(REGEX.into()),
        2 => Form::Lark(LARK.into()),
        _ => Form::Choice(v1::Choices { texts: CHOICES.map(str::to_owned).into() }),
    }
}

/// `free`: no constraint, which a bias could leave without any token.
fn sampling(rng: &mut ChaCha8Rng, free: bool) -> v1::Sampling {
    let mut sampling = v1::Sampling::default();
    if rng.random_bool(0.5) {
        sampling.temperature = rng.random_range(0.3..1.5);
        sampling.seed = Some(rng.random());
        sampling.top_k = *[0, 0, 1, 5, 40].choose(rng).unwrap();
        sampling.top_p = rng.random_bool(0.4).then(|| rng.random_range(0.1..1.0));
        sampling.min_p = if rng.random_bool(0.3) { rng.random_range(0.0..0.5) } else { 0.0 };
    }
    if rng.random_bool(0.3) {
        sampling.repetition_penalty = Some(rng.random_range(0.8..1.5));
        sampling.presence_penalty = rng.random_range(-1.0..2.0);
        sampling.frequency_penalty = rng.random_range(-0.5..1.0);
    }
    if free && rng.random_bool(0.2) {
        let biases = (0..rng.random_range(1..5)).map(|_| rng.random_range(3..VOCAB));
        let biases: Vec<u32> = biases.collect();
        sampling.logit_bias =
            biases.into_iter().map(|id| (id, rng.random_range(-9.0..9.0))).collect();
    }
    sampling
}

fn stopping(rng: &mut ChaCha8Rng, free: bool) -> v1::Stopping {
    let max_tokens = rng.random_range(1..=MOST_TOKENS);
    let stops = if rng.random_bool(0.3) { rng.random_range(1..3) } else { 0 };
    let stop_ids = if rng.random_bool(0.1) { 20 } else { 0 };
    let late = free && rng.random_bool(0.2);
    v1::Stopping {
        max_tokens: Some(max_tokens),
        stop: STOPS.choose_multiple(rng, stops).map(|stop| (*stop).to_owned()).collect(),
        stop_token_ids: (0..stop_ids).map(|_| rng.random_range(3..VOCAB)).collect(),
        ignore_eos: free && rng.random_bool(0.5),
        min_tokens: if late { rng.random_range(0..=max_tokens) } else { 0 },
        include_stop: rng.random_bool(0.3),
    }
}

fn outputs(rng: &mut ChaCha8Rng) -> v1::Outputs {
    v1::Outputs {
        top_logprobs: rng.random_bool(0.4).then(|| rng.random_range(0..6)),
        routed_experts: rng.random_bool(0.2),
        prompt_logprobs: rng.random_bool(0.15).then(|| rng.random_range(0..3)),
        prompt_token_ids: rng.random_bool(0.2),
        special_tokens: rng.random_bool(0.2),
    }
}
