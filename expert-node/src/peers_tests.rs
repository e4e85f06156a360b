//! A node without files, and others that hand out the right experts, wrong ones or none.

use std::path::{Path, PathBuf};
use std::time::Duration;

use guildhall_checkpoint::{Checkpoint, ModelConfig};
use guildhall_cluster::store::Memory;
use guildhall_cluster::{Key, NodeRecord, ResidentRecord, Session, SessionOptions};
use guildhall_ids::{ExpertId, NodeId};
use guildhall_transport::{
    BusyPoll, Call, ExpertBackend, FrameShape, Handshake, Lifecycle, Listener, Refusal, ReplySlot,
    StoredExpert, serve,
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::supply::Supply;

const PREFIX: &str = "test/";
const EXPERT: ExpertId =
    ExpertId { layer: guildhall_ids::LayerIdx(1), expert: guildhall_ids::ExpertIdx(3) };

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../router/tests/golden/mixtral")
}

/// What a node hands out.
#[derive(Clone, Copy, Debug)]
enum Giver {
    Honest,
    /// A bit of the expert is another than its hash says.
    Flipped,
    /// Another expert, with its right hash.
    Another,
    /// Its connection is refused.
    Gone,
}

#[derive(Clone)]
struct Node(Giver);

impl ExpertBackend for Node {
    fn identity(&self) -> (NodeId, u64) {
        ("giver".parse().unwrap(), 1)
    }

    fn accept(&self, _: &Handshake) -> Result<FrameShape, Refusal> {
        Err(Refusal::Draining)
    }

    fn stored(&self, fingerprint: &[u8], id: ExpertId) -> Result<StoredExpert, String> {
        let hashes = tempfile::tempdir().unwrap();
        let files = Supply::open(&golden(), Some(hashes.path())).unwrap();
        match self.0 {
            Giver::Another => files.stored(fingerprint, ExpertId::new(id.layer.0, 0)),
            Giver::Flipped => {
                let mut stored = files.stored(fingerprint, id)?;
                let mut up = stored.matrices[1].bytes.to_vec();
                up[5] ^= 1;
                stored.matrices[1].bytes = up.into();
                Ok(stored)
            }
            Giver::Honest | Giver::Gone => files.stored(fingerprint, id),
        }
    }

    fn submit(&self, _: Call, _: ReplySlot) {}
}

/// A session in which these nodes have files, and one more holds the expert under its right name.
async fn cluster(givers: &[Giver], checkpoint: &Checkpoint) -> Session {
    let (session, task) = Session::new(Memory::new(), PREFIX, SessionOptions::default());
    tokio::spawn(task.run(CancellationToken::new()));
    let fingerprint = checkpoint.fingerprint().0.to_vec();
    let holder: NodeId = "holder".parse().unwrap();
    session.publish(Key::Node(holder.clone()).under(PREFIX), record(String::new(), &[]));
    let hash = checkpoint.expert_bytes(EXPERT).unwrap().hash();
    let resident =
        ResidentRecord { resident: [(EXPERT, hash)].into(), ..ResidentRecord::default() };
    session.publish(Key::Resident(holder).under(PREFIX), resident.encode());
    for (number, &giver) in givers.iter().enumerate() {
        let mut address = "127.0.0.1:1".to_owned();
        if !matches!(giver, Giver::Gone) {
            let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
            address = listener.endpoint().unwrap().to_string();
            tokio::spawn(serve(listener, Node(giver), Lifecycle::default(), BusyPoll::default()));
        }
        let key = Key::Node(format!("giver-{number}").parse().unwrap()).under(PREFIX);
        session.publish(key, record(address, &fingerprint));
    }
    let mut seen = session.clone();
    while View::read(&seen.mirror(), PREFIX).nodes.len() <= givers.len()
        || View::read(&seen.mirror(), PREFIX).resident.is_empty()
    {
        assert!(seen.changed().await);
    }
    session
}

/// Of a node that has files if it has a fingerprint.
fn record(address: String, fingerprint: &[u8]) -> Vec<u8> {
    let (has_files, model_fingerprint) = (!fingerprint.is_empty(), fingerprint.to_vec());
    NodeRecord { address, has_files, model_fingerprint, speed: 1.0, ..NodeRecord::default() }
        .encode()
}

/// Reads an expert where only `givers` have files. `Ok` says that it is the right one.
async fn read(givers: &[Giver]) -> Result<(), String> {
    let checkpoint = Checkpoint::open(&golden()).unwrap();
    let session = cluster(givers, &checkpoint).await;
    let peers = Peers {
        own: "new".parse().unwrap(),
        fingerprint: checkpoint.fingerprint(),
        max_bytes: 1 << 20,
        session,
        prefix: PREFIX.into(),
        runtime: Handle::current(),
    };
    let config = ModelConfig::from_file(&golden().join("config.json")).unwrap();
    let reading = tokio::task::spawn_blocking(move || Supply::Peers(config, peers).read(EXPERT));
    let read = tokio::time::timeout(Duration::from_secs(20), reading).await.unwrap().unwrap();
    let (tensors, hash) = read.map_err(|error| {
        assert!(matches!(error, Error::NoGiver { expert: EXPERT, .. }), "{error:?}");
        error.to_string()
    })?;
    let own = checkpoint.expert(EXPERT).unwrap();
    for (fetched, own) in [(tensors.gate, own.gate), (tensors.up, own.up), (tensors.down, own.down)]
    {
        let values =
            |matrix: candle_core::Tensor| matrix.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(fetched), values(own));
    }
    assert_eq!(hash, checkpoint.expert_bytes(EXPERT).unwrap().hash());
    Ok(())
}

#[tokio::test]
async fn an_expert_comes_from_whoever_has_the_right_one() {
    use Giver::{Another, Flipped, Gone, Honest};
    read(&[Honest]).await.unwrap();
    // Whatever the order in which they are asked.
    for at in 0..4 {
        let mut givers = vec![Gone, Flipped, Another];
        givers.insert(at, Honest);
        read(&givers).await.unwrap();
    }
}

#[tokio::test]
async fn a_wrong_expert_is_never_taken() {
    let check = async |givers: &[Giver], words: &str| {
        let error = read(givers).await.unwrap_err();
        assert!(error.contains(words), "{givers:?}: {error}");
    };
    check(&[], "no other node has the model's files").await;
    check(&[Giver::Gone], "connecting").await;
    check(&[Giver::Flipped], "giver-0: expert 1/3 as it was received: its hash is").await;
    check(&[Giver::Another], "giver-0 has another expert 1/3 than others hold").await;
}

const OURS: Fingerprint = Fingerprint([7; 32]);

/// Nodes by name: `-` leaves soon, `!` has no files, `?` has another model.
fn view(names: &[&str]) -> View {
    let mut view = View::default();
    for name in names {
        let record = NodeRecord {
            address: format!("{}:1", name.trim_end_matches(['-', '!', '?'])),
            has_files: !name.ends_with('!'),
            draining: name.ends_with('-'),
            model_fingerprint: vec![if name.ends_with('?') { 8 } else { 7 }; 32],
            ..NodeRecord::default()
        };
        let node = name.trim_end_matches(['-', '!', '?']).parse().unwrap();
        view.nodes.insert(node, record);
    }
    view
}

fn order(view: &View, own: &str, expert: u32) -> Vec<String> {
    let givers = givers(view, &own.parse().unwrap(), OURS, ExpertId::new(0, expert));
    givers.into_iter().map(|(node, _)| node.to_string()).collect()
}

#[test]
fn those_with_files_are_asked_and_those_that_leave_last() {
    let view = view(&["a", "b-", "c!", "d?", "e"]);
    for expert in 0..20 {
        let mut asked = order(&view, "e", expert);
        assert_eq!(asked, ["a", "b"]);
        asked = order(&view, "f", expert);
        assert_eq!(asked.pop().unwrap(), "b");
        asked.sort();
        assert_eq!(asked, ["a", "e"]);
    }
}

#[test]
fn nodes_that_come_together_ask_different_ones() {
    let view = view(&["a", "b", "c", "d"]);
    let asked_first = |name: &str| {
        let experts = (0..64).filter(|expert| order(&view, "new", *expert)[0] == name);
        experts.count()
    };
    for name in ["a", "b", "c", "d"] {
        assert!((6..=28).contains(&asked_first(name)), "{name}: {}", asked_first(name));
    }
}

#[test]
fn what_somebody_holds_is_known() {
    let mut view = view(&["a"]);
    let (held, other) = (ExpertId::new(0, 1), ExpertId::new(0, 2));
    let resident = ResidentRecord { resident: [(held, [9; 32])].into(), ..Default::default() };
    view.resident.insert("a".parse().unwrap(), resident);
    assert_eq!((known_hash(&view, held), known_hash(&view, other)), (Some([9; 32]), None));
}
