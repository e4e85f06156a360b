//! What each expert hashed to when it was first loaded, kept beside the weights or in a cache folder.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use guildhall_ids::ExpertId;

use crate::fingerprint::hex;
use crate::{Error, Fingerprint};

/// BLAKE3 of an expert's three matrices as they are in the files: gate, up, down, each with its type.
pub type ExpertHash = [u8; 32];

/// The record of one model. A line of it is `layer/expert hash`; lines are only ever appended, so that several nodes
/// of one machine can share it.
#[derive(Debug)]
pub struct HashCache {
    path: PathBuf,
    /// Held for a comparison, or until a line is written.
    record: Mutex<Record>,
}

#[derive(Debug)]
struct Record {
    known: BTreeMap<ExpertId, String>,
    writable: bool,
}

impl HashCache {
    /// Reads the record of the model with this fingerprint, if there is one, in `dir`.
    ///
    /// # Errors
    /// A record that cannot be read. One that cannot be written is no error: then nothing is recorded.
    pub fn open(dir: &Path, fingerprint: Fingerprint) -> Result<Self, Error> {
        let path = dir.join(format!(".guildhall-{fingerprint}.blake3"));
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(Error::io(path, e)),
        };
        let mut known = BTreeMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            let (id, hash) = parse(line)
                .ok_or_else(|| Error::malformed(&path, format!("line {number} is no hash")))?;
            known.insert(id, hash);
        }
        Ok(Self { path, record: Mutex::new(Record { known, writable: true }) })
    }

    /// Compares with the record, or records the hash of an expert that is seen for the first time.
    pub(crate) fn verify(
        &self,
        dir: &Path,
        expert: ExpertId,
        hash: &ExpertHash,
    ) -> Result<(), Error> {
        let found = hex(hash);
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        match record.known.get(&expert) {
            Some(expected) if *expected == found => Ok(()),
            Some(expected) => Err(Error::Corrupt {
                expert,
                dir: dir.into(),
                found,
                expected: expected.clone(),
                record: self.path.clone(),
            }),
            None => {
                record.append(&self.path, expert, &found);
                record.known.insert(expert, found);
                Ok(())
            }
        }
    }
}

impl Record {
    fn append(&mut self, path: &Path, expert: ExpertId, hash: &str) {
        if !self.writable {
            return;
        }
        // One short write to a file opened for appending is not torn by other writers.
        let line = format!("{expert} {hash}\n");
        let opened = OpenOptions::new().create(true).append(true).open(path);
        self.writable = opened.and_then(|mut file| file.write_all(line.as_bytes())).is_ok();
    }
}

fn parse(line: &str) -> Option<(ExpertId, String)> {
    let (id, hash) = line.split_once(' ')?;
    let (layer, expert) = id.split_once('/')?;
    let is_hash = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then_some(())?;
    Some((ExpertId::new(layer.parse().ok()?, expert.parse().ok()?), hash.to_owned()))
}
