//! What makes two models the same.

use guildhall_checkpoint::Fingerprint;
use serde_json::{Value, json};

use crate::support::{GATE, Model, bf16, changed, config};

fn fingerprint(change: impl FnOnce(&Model)) -> Fingerprint {
    let model = Model::new();
    change(&model);
    model.open().unwrap().fingerprint()
}

fn check_same(what: &str, change: impl FnOnce(&Model)) {
    assert_eq!(fingerprint(|_| ()), fingerprint(change), "{what}");
}

fn check_differs(what: &str, change: impl FnOnce(&Model)) {
    assert_ne!(fingerprint(|_| ()), fingerprint(change), "{what}");
}

/// The keys in the opposite order, with spaces and line ends.
fn reformatted() -> String {
    let config = config();
    let keys: Vec<_> = config.as_object().unwrap().iter().collect();
    let lines = keys.iter().rev().map(|(key, value)| format!("  \"{key}\" :\t{value}"));
    format!("\n{{\r\n{}\n}}\n\n", lines.collect::<Vec<_>>().join(",\n"))
}

#[test]
fn copies_have_the_same_fingerprint() {
    check_same("a copy", |_| ());
    check_same("a reformatted config.json", |model| model.write("config.json", reformatted()));
    check_same("two shards", |model| model.shard(|_| ()));
    check_same("another order in the file", |model| model.write_tensors(|t| t.reverse()));
    check_same("a tokenizer beside it", |model| model.write("tokenizer.json", "{}"));
}

#[test]
fn another_model_has_another_fingerprint() {
    check_differs("a gate value", |model| {
        model.write_tensors(|tensors| {
            let gate = tensors.iter_mut().find(|tensor| tensor.name == GATE).unwrap();
            gate.bytes[0] ^= 1;
        });
    });
    check_differs("a shape", |model| {
        model.write_tensors(|tensors| tensors[0].shape.reverse());
    });
    check_differs("a type", |model| model.write_tensors(|tensors| tensors[0].dtype = "F16"));
    check_differs("a tensor more", |model| {
        model.write_tensors(|tensors| tensors.push(bf16("extra", &[1])));
    });
    let values: [(&str, Value); 3] =
        [("rms_norm_eps", json!(1e-5)), ("norm_topk_prob", json!(true)), ("new_key", json!(1))];
    for (key, value) in values {
        let config = changed(config(), &json!({ key: value })).to_string();
        check_differs(key, |model| model.write("config.json", config));
    }
}

#[test]
fn the_printed_form_is_sixteen_hex_digits() {
    let text = fingerprint(|_| ()).to_string();
    assert_eq!(text.len(), 16);
    assert!(text.bytes().all(|byte| byte.is_ascii_hexdigit()), "{text}");
}
