//! The record of expert hashes: it finds changed bytes and survives folders that cannot be written.

use std::path::Path;

use guildhall_checkpoint::{Checkpoint, Error, HashCache};
use guildhall_ids::ExpertId;

use crate::support::{Model, RawTensor, message};

const EXPERT: ExpertId =
    ExpertId { layer: guildhall_ids::LayerIdx(0), expert: guildhall_ids::ExpertIdx(1) };

fn load(checkpoint: &Checkpoint, cache: &Path) -> Result<(), Error> {
    let hashes = HashCache::open(cache, checkpoint.fingerprint())?;
    checkpoint.verified_expert(EXPERT, &hashes).map(drop)
}

/// The file in which hashes of this model are recorded.
fn record(checkpoint: &Checkpoint, cache: &Path) -> std::path::PathBuf {
    cache.join(format!(".guildhall-{}.blake3", checkpoint.fingerprint()))
}

fn flip_last_bit(tensors: &mut [RawTensor]) {
    *tensors.last_mut().unwrap().bytes.first_mut().unwrap() ^= 1;
}

#[test]
fn an_expert_that_changed_after_its_first_load_is_corrupt() {
    let model = Model::new();
    load(&model.open().unwrap(), model.dir()).unwrap();
    load(&model.open().unwrap(), model.dir()).unwrap();
    model.write_tensors(|tensors| flip_last_bit(tensors));
    let error = load(&model.open().unwrap(), model.dir()).unwrap_err();
    assert!(matches!(error, Error::Corrupt { expert: EXPERT, .. }), "{error:?}");
    let text = message(&error);
    for words in ["expert 0/1", "is corrupt", ".blake3", model.dir().to_str().unwrap()] {
        assert!(text.contains(words), "{text:?} does not say {words:?}");
    }
}

#[test]
fn an_expert_that_changes_within_one_process_is_corrupt() {
    let (model, cache) = (Model::new(), tempfile::tempdir().unwrap());
    let checkpoint = model.open().unwrap();
    let hashes = HashCache::open(cache.path(), checkpoint.fingerprint()).unwrap();
    let (_, hash) = checkpoint.verified_expert(EXPERT, &hashes).unwrap();
    assert_eq!(hash, checkpoint.expert_bytes(EXPERT).unwrap().hash());
    model.write_tensors(|tensors| flip_last_bit(tensors));
    let changed = model.open().unwrap();
    assert!(changed.verified_expert(EXPERT, &hashes).is_err());
}

#[test]
fn every_expert_has_a_hash_of_its_own_and_a_line() {
    let model = Model::new();
    // Both experts of the tiny model have the same values until one of them changes.
    model.write_tensors(|tensors| flip_last_bit(tensors));
    let checkpoint = model.open().unwrap();
    let hashes = HashCache::open(model.dir(), checkpoint.fingerprint()).unwrap();
    for expert in checkpoint.config().experts() {
        checkpoint.verified_expert(expert, &hashes).unwrap();
    }
    let text = std::fs::read_to_string(record(&checkpoint, model.dir())).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("0/0 ") && lines[1].starts_with("0/1 "), "{text}");
    assert_ne!(lines[0][4..], lines[1][4..]);
}

#[test]
fn a_broken_line_of_the_record_is_named() {
    let hash = "0".repeat(64);
    let short = "0".repeat(63);
    for line in
        ["x", "0/1", "0/1 ", &format!("0/1 {short}"), &format!("0 {hash}"), &format!("a/1 {hash}")]
    {
        let model = Model::new();
        let checkpoint = model.open().unwrap();
        let path = record(&checkpoint, model.dir());
        std::fs::write(&path, format!("0/0 {hash}\n{line}\n")).unwrap();
        let text = message(&load(&checkpoint, model.dir()).unwrap_err());
        assert!(text.contains(path.to_str().unwrap()), "{text}");
        assert!(text.contains("line 2 is no hash"), "{line:?}: {text}");
    }
}

#[test]
fn a_record_that_is_no_text_is_named() {
    let model = Model::new();
    let checkpoint = model.open().unwrap();
    std::fs::write(record(&checkpoint, model.dir()), [0xff, 0xfe]).unwrap();
    let text = message(&load(&checkpoint, model.dir()).unwrap_err());
    assert!(text.contains(".blake3") && text.contains("UTF-8"), "{text}");
}

#[test]
fn a_folder_that_cannot_be_written_is_no_error() {
    let model = Model::new();
    let checkpoint = model.open().unwrap();
    // Nobody, not even root, makes a file in a folder that is not there.
    load(&checkpoint, &model.path("absent")).unwrap();
    assert!(!model.path("absent").exists());
}
