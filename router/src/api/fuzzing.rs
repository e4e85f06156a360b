//! What a hostile client can reach before the engine: bodies and messages, up to a checked request.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use guildhall_chat::ChatTemplate;
use guildhall_proto::v1;

use super::ask::Ask;
use super::served_model::ServedModel;
use super::{openai, validate};
use crate::constraint::Grammars;
use crate::tokenizer::Tokenizer;

/// The demonstration model, with its tokenizer, its template and its grammars.
pub(super) fn demo() -> &'static ServedModel {
    static DEMO: OnceLock<ServedModel> = OnceLock::new();
    DEMO.get_or_init(|| {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo");
        let tokenizer = Tokenizer::open(&dir).ok().flatten();
        let template = ChatTemplate::open(&dir, None).ok().flatten();
        ServedModel {
            name: "demo".into(),
            family: "qwen3_moe".into(),
            grammars: tokenizer.as_ref().and_then(|of| Grammars::new(of, &[0, 2]).ok()),
            tokenizer,
            chat_template: template.map(Arc::new),
            tool_format: guildhall_chat::ToolFormat::Json,
            dir,
            vocab_size: 2048,
            eos_token_ids: vec![0, 2],
            max_model_len: 1024,
            moe_layers: vec![0, 1, 2, 3],
            top_k: 2,
        }
    })
}

/// Reads and checks a body of either completion route. Says how many of the two took it.
pub fn http_body(body: &[u8]) -> usize {
    let asks = openai::asks(body);
    asks.into_iter().filter(|ask| validate::request(demo(), ask.clone()).is_ok()).count()
}

/// Checks a message of the generate service. Says whether it was taken.
pub fn grpc_request(wire: v1::GenerateRequest) -> bool {
    validate::request(demo(), Ask { wire, ..Ask::default() }).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::Message as _;

    /// Bodies that are taken, to change a little; a fuzzer begins with them too.
    const BODIES: [&str; 4] = [
        include_str!("../../../fuzz/seeds/http_body/chat.json"),
        include_str!("../../../fuzz/seeds/http_body/prompts.json"),
        include_str!("../../../fuzz/seeds/http_body/token_ids.json"),
        include_str!("../../../fuzz/seeds/http_body/tools.json"),
    ];

    #[test]
    fn the_seeds_are_taken() {
        for body in BODIES {
            assert!(http_body(body.as_bytes()) > 0, "{body}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// A byte here and there is replaced, or the body ends early: an answer or a refusal, and never a panic.
        #[test]
        fn a_body_that_is_almost_right_does_no_harm(
            which in 0..BODIES.len(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            end in any::<prop::sample::Index>(), cut in any::<bool>(),
        ) {
            let mut body = BODIES[which].as_bytes().to_vec();
            for (at, byte) in changes { let at = at.index(body.len()); body[at] = byte; }
            if cut { body.truncate(end.index(body.len())); }
            http_body(&body);
        }

        #[test]
        fn any_bytes_as_a_message_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(wire) = v1::GenerateRequest::decode(bytes.as_slice()) { grpc_request(wire); }
        }

        #[test]
        fn a_message_that_is_almost_right_does_no_harm(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let wire = v1::GenerateRequest {
                prompt: Some(v1::generate_request::Prompt::Chat(v1::Chat {
                    messages: vec![v1::Message { role: "user".into(), content: "Hi".into(), ..Default::default() }],
                    tools: vec![v1::Tool { name: "f".into(), parameters_json: r#"{"type":"object"}"#.into(), ..Default::default() }],
                    tool_choice: v1::ToolChoice::Required.into(),
                    ..Default::default()
                })),
                sampling: Some(v1::Sampling { top_p: Some(0.5), seed: Some(1), ..Default::default() }),
                stopping: Some(v1::Stopping { max_tokens: Some(5), stop: vec!["x".into()], ..Default::default() }),
                n: 2,
                ..Default::default()
            };
            prop_assert!(grpc_request(wire.clone()));
            let mut bytes = wire.encode_to_vec();
            for (at, byte) in changes { let at = at.index(bytes.len()); bytes[at] = byte; }
            if let Ok(wire) = v1::GenerateRequest::decode(bytes.as_slice()) { grpc_request(wire); }
        }
    }
}
