//! Random damage: reading gives tensors or an error, never a panic.

use proptest::collection::vec;
use proptest::prelude::*;

use guildhall_checkpoint::{NodeBytes, Parameters, StorageType};

use crate::support::{Model, WEIGHTS, config, file, read_everything, tensors};

/// Bits to flip, each by its byte's place in the file as a share of 65536 and its number in the byte, and how much of
/// the file is left.
#[derive(Clone, Debug)]
struct Damage {
    bits: Vec<(u16, u8)>,
    left: u16,
}

fn damage() -> impl Strategy<Value = Damage> {
    // Half of all cases keep the whole file.
    let left = prop_oneof![Just(u16::MAX), any::<u16>()];
    (vec((any::<u16>(), 0..8u8), 0..6), left).prop_map(|(bits, left)| Damage { bits, left })
}

impl Damage {
    fn apply(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        let len = bytes.len();
        let at = |share: u16| (usize::from(share) * len) >> 16;
        for &(share, bit) in &self.bits {
            bytes[at(share)] ^= 1 << bit;
        }
        if self.left < u16::MAX {
            bytes.truncate(at(self.left));
        }
        bytes
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn damaged_weights_are_read_or_refused(damage in damage()) {
        let model = Model::new();
        model.write(WEIGHTS, damage.apply(file(&tensors())));
        let _ = read_everything(model.dir());
    }

    #[test]
    fn a_damaged_configuration_is_read_or_refused(damage in damage()) {
        let model = Model::new();
        model.write("config.json", damage.apply(config().to_string().into_bytes()));
        let _ = read_everything(model.dir());
        if let Ok(checkpoint) = model.open() {
            let config = checkpoint.config();
            let parameters = Parameters::of(config);
            let whole = parameters.total_bytes(StorageType::F32);
            prop_assert!(whole >= NodeBytes::of(config, StorageType::F32, (3, 1)).bytes);
            prop_assert!(config.kv_bytes_per_token(4) > 0);
        }
    }
}
