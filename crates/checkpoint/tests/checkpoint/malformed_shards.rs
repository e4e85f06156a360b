//! Indices of several weight files that contradict the files.

use serde_json::json;

use crate::support::{EMBEDDING, INDEX, Model, WEIGHTS, check, file, read_everything, tensors};

#[test]
fn a_model_of_two_files_is_read() {
    let model = Model::new();
    model.shard(|_| ());
    read_everything(model.dir()).unwrap();
}

#[test]
fn an_index_that_names_a_file_elsewhere_is_refused() {
    let elsewhere = tempfile::tempdir().unwrap();
    let absolute = elsewhere.path().join(WEIGHTS);
    std::fs::write(&absolute, file(&tensors())).unwrap();
    let absolute = absolute.to_str().unwrap();
    for name in
        ["../a.safetensors", absolute, "./a.safetensors", "sub/a.safetensors", "..", "", "/"]
    {
        let breaking = |model: &Model| {
            model.shard(|index| drop(index.insert(EMBEDDING.into(), json!(name))));
        };
        check(breaking, &[INDEX, &format!("{name:?} is no file name in this folder")]);
    }
}

#[test]
fn an_index_that_names_a_missing_file_is_refused() {
    let breaking = |model: &Model| {
        model.shard(|index| drop(index.insert(EMBEDDING.into(), json!("c.safetensors"))));
    };
    check(breaking, &["c.safetensors", "No such file"]);
    check(|model| model.shard(|index| index.clear()), &["is missing"]);
}

#[test]
fn an_index_that_is_no_index_is_refused() {
    for text in ["", "[]", "{}", r#"{"weight_map": []}"#, r#"{"weight_map": {"a": 1}}"#] {
        check(|model| model.write(INDEX, text), &[INDEX, "not a shard index"]);
    }
}

#[test]
fn a_tensor_that_is_in_no_file_or_in_two_is_refused_by_name() {
    let ghost = |model: &Model| {
        model.shard(|index| drop(index.insert("ghost".into(), json!("a.safetensors"))));
    };
    check(ghost, &["tensor ghost", "is in the index, but in none of its files"]);
    let twice = |model: &Model| {
        model.shard(|_| ());
        let tensors = tensors();
        model.write("b.safetensors", file(&[&tensors[3..], &tensors[..1]].concat()));
    };
    check(twice, &[EMBEDDING, "is in two files"]);
}

#[test]
fn a_broken_shard_is_named() {
    let breaking = |model: &Model| {
        model.shard(|_| ());
        model.write("b.safetensors", [0; 3]);
    };
    check(breaking, &["b.safetensors", "not a safetensors file"]);
}

#[test]
fn a_folder_without_weights_or_that_is_none_is_named() {
    let remove = |model: &Model| std::fs::remove_file(model.path(WEIGHTS)).unwrap();
    check(remove, &[WEIGHTS, "No such file"]);
    let folder = |model: &Model| {
        remove(model);
        std::fs::create_dir(model.path(WEIGHTS)).unwrap();
    };
    check(folder, &[WEIGHTS]);
    let error = read_everything("/nonexistent/model".as_ref()).unwrap_err();
    assert_eq!(error.to_string(), "/nonexistent/model/config.json");
}
