//! Renderings that transformers made, byte for byte.

use std::path::{Path, PathBuf};

use guildhall_chat::{ChatTemplate, Conversation, Error};
use serde_json::{Map, Value, json};

use crate::support::open;

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn json_file(path: &Path) -> Value {
    serde_json::from_str(&read(path)).unwrap()
}

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn check(name: &str) {
    let folder = here().join("tests/golden");
    let golden = json_file(&folder.join(format!("{name}.json")));
    let source = read(&folder.join(format!("{name}.jinja")));
    let tokens = golden["tokens"].to_string();
    let files = [("chat_template.jinja", &*source), ("tokenizer_config.json", &*tokens)];
    let template = open(&files).unwrap().unwrap();
    for case in golden["cases"].as_array().unwrap() {
        let what = format!("{name}, {}", case["name"]);
        match render(&template, case) {
            Ok(text) => assert_eq!(text, case["text"].as_str().expect(&what), "{what}"),
            Err(Error::Refused(message)) => assert_eq!(message, case["refused"], "{what}"),
            Err(error) => panic!("{what}: {error}"),
        }
    }
}

fn render(template: &ChatTemplate, case: &Value) -> Result<String, Error> {
    template.render(&Conversation {
        messages: case["messages"].as_array().unwrap(),
        tools: case["tools"].as_array().unwrap(),
        add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
        continue_final_message: case["continue_final_message"].as_bool().unwrap(),
        template_kwargs: case["template_kwargs"].as_object().unwrap(),
    })
}

#[test]
fn a_plain_template_renders_as_transformers_does() {
    check("chatml");
}

#[test]
fn a_template_with_tools_renders_as_transformers_does() {
    check("hermes");
}

#[test]
fn a_template_that_refuses_renders_and_refuses_as_transformers_does() {
    check("strict");
}

#[test]
fn a_template_that_reads_parts_renders_as_transformers_does() {
    check("parts");
}

#[test]
fn values_and_methods_are_those_of_python() {
    check("python");
}

#[test]
fn the_demonstration_models_template_renders_as_transformers_does() {
    let root = here().join("../..");
    let golden = |name: &str| json_file(&root.join("router/tests/golden").join(name));
    let template = ChatTemplate::open(&root.join("models/demo"), None).unwrap().unwrap();
    let mut conversations = vec![golden("demo_chat.json")];
    let with_tools = golden("demo_tools.json");
    conversations.extend(with_tools["conversations"].as_array().unwrap().iter().cloned());
    assert!(conversations.len() > 3);
    for golden in conversations {
        for (begins_answer, text) in [(true, "text"), (false, "text_without_generation_prompt")] {
            let rendered = template.render(&Conversation {
                messages: golden["messages"].as_array().unwrap(),
                tools: golden["tools"].as_array().map_or(&[], Vec::as_slice),
                add_generation_prompt: begins_answer,
                continue_final_message: false,
                template_kwargs: &Map::new(),
            });
            assert_eq!(json!(rendered.unwrap()), golden[text]);
        }
    }
}
