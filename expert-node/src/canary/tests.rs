//! What the canary lets pass, and what it finds.

use std::path::{Path, PathBuf};

use guildhall_checkpoint::Checkpoint;
use guildhall_ids::{ExpertIdx, LayerIdx};
use guildhall_kernels::{CpuOptions, InstructionSet};

use super::*;

const EXPERT: ExpertId = ExpertId { layer: LayerIdx(1), expert: ExpertIdx(3) };

const FORMATS: [WeightFormat; 4] = [
    WeightFormat::Plain(Dtype::F32),
    WeightFormat::Plain(Dtype::Bf16),
    WeightFormat::Int8,
    WeightFormat::Int4,
];

fn devices() -> Vec<Device> {
    let sets = InstructionSet::available().into_iter();
    let options = sets.map(|set| CpuOptions {
        instruction_set: Some(set),
        ..CpuOptions::of_threads(2.try_into().unwrap())
    });
    options.map(|options| Device::cpu(options).unwrap()).collect()
}

/// All golden models and the demonstration model.
fn models() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let golden = std::fs::read_dir(root.join("router/tests/golden")).unwrap();
    let golden = golden.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    golden.chain([root.join("models/demo")]).collect()
}

fn demo() -> Checkpoint {
    Checkpoint::open(models().last().unwrap()).unwrap()
}

fn pack(
    device: &Device,
    tensors: &ExpertTensors,
    format: impl Into<WeightFormat>,
) -> ExpertWeights {
    device.expert_weights(&tensors.gate, &tensors.up, &tensors.down, format).unwrap()
}

fn copy(tensors: &ExpertTensors) -> ExpertTensors {
    let ExpertTensors { gate, up, down } = tensors;
    ExpertTensors { gate: gate.clone(), up: up.clone(), down: down.clone() }
}

#[test]
fn every_expert_of_every_model_passes() {
    let devices = devices();
    let models = models();
    assert!(models.len() > 8, "{models:?}");
    for model in models {
        let checkpoint = Checkpoint::open(&model).unwrap();
        for id in checkpoint.config().experts() {
            let tensors = checkpoint.expert(id).unwrap();
            for (device, format) in
                devices.iter().flat_map(|device| FORMATS.map(|format| (device, format)))
            {
                let weights = pack(device, &tensors, format);
                canary(device, id, &tensors, &weights).unwrap();
            }
        }
    }
}

/// The first rows and columns of an expert, with all weights multiplied.
fn part(expert: &ExpertTensors, (width, hidden): (usize, usize), factor: f64) -> ExpertTensors {
    let mut part = copy(expert);
    for matrix in [&mut part.gate, &mut part.up] {
        let rows = matrix.narrow(0, 0, width).unwrap();
        *matrix = rows.narrow(1, 0, hidden).unwrap().affine(factor, 0.0).unwrap();
    }
    let rows = part.down.narrow(0, 0, hidden).unwrap();
    part.down = rows.narrow(1, 0, width).unwrap().affine(factor, 0.0).unwrap();
    part
}

#[test]
fn experts_of_any_size_pass() {
    let expert = demo().expert(EXPERT).unwrap();
    for device in devices() {
        for size in [(1, 1), (5, 3), (17, 7), (31, 66), (128, 191)] {
            // Products that vanish, silu on its straight part, and far beyond its bend.
            for factor in [1e-37, 1e-20, 1e-3, 30.0, 3000.0] {
                let tensors = part(&expert, size, factor);
                for dtype in FORMATS {
                    let weights = pack(&device, &tensors, dtype);
                    let passed = canary(&device, EXPERT, &tensors, &weights);
                    passed.unwrap_or_else(|e| panic!("{size:?} {factor} {dtype}: {e}"));
                }
            }
        }
    }
}

#[test]
fn ranges_are_narrow() {
    let mut widest = [0.0f64; 2];
    let demo = demo();
    for id in demo.config().experts() {
        let tensors = demo.expert(id).unwrap();
        for (widest, dtype) in widest.iter_mut().zip([Dtype::F32, Dtype::Bf16]) {
            let probe = Probe::of(id, demo.config().hidden_size);
            let ranges = probe.expect(&tensors, dtype).unwrap();
            let largest =
                ranges.iter().fold(0.0, |most: f64, range| most.max(range.middle().abs()));
            let error = ranges.iter().fold(0.0, |most: f64, range| most.max(range.error()));
            *widest = widest.max(error / largest);
        }
    }
    // 128 products, some of which cancel; in bf16 one unit in the last place, on a tie.
    assert!(widest[0] < 2e-4 && widest[1] < 1.0 / 256.0, "{widest:?}");
}

/// Packs other tensors than those of the expert; that is found with each device and type.
fn check(spoil: impl Fn(&mut ExpertTensors, &Probe), expected: &str) {
    let tensors = demo().expert(EXPERT).unwrap();
    let mut spoiled = copy(&tensors);
    let probe = Probe::of(EXPERT, demo().config().hidden_size);
    spoil(&mut spoiled, &probe);
    for device in devices() {
        for dtype in FORMATS {
            let weights = pack(&device, &spoiled, dtype);
            let found = canary(&device, EXPERT, &tensors, &weights).unwrap_err().to_string();
            let set = device.instruction_set();
            assert!(found.starts_with("expert 1/3 computes wrongly: output "), "{found}");
            assert!(found.contains(expected), "{set} {dtype}: {found}");
        }
    }
}

#[test]
fn swapped_matrices_are_found() {
    check(|expert, _| std::mem::swap(&mut expert.gate, &mut expert.up), "expected ");
    // down has the shape of the others when it is transposed.
    check(
        |expert, _| {
            let gate = expert.gate.clone();
            expert.gate = expert.down.t().unwrap();
            expert.down = gate.t().unwrap();
        },
        "expected ",
    );
    check(
        |expert, _| {
            let up = expert.up.clone();
            expert.up = expert.down.t().unwrap();
            expert.down = up.t().unwrap();
        },
        "expected ",
    );
}

/// Changes the sign of one column of the first panel of gate.
fn turn_gate(expert: &mut ExpertTensors, column: usize) {
    let panel = expert.gate.narrow(0, 0, 16).unwrap();
    let turned = panel.narrow(1, column, 1).unwrap().neg().unwrap();
    let panel = panel.slice_scatter(&turned, 1, column).unwrap();
    expert.gate = expert.gate.slice_scatter(&panel, 0, 0).unwrap();
}

#[test]
fn one_wrong_panel_is_found() {
    for input in 0..INPUTS {
        let column = |probe: &Probe| probe.inputs[input].0;
        check(|expert, probe| turn_gate(expert, column(probe)), "expected ");
        check(
            |expert, probe| {
                std::mem::swap(&mut expert.gate, &mut expert.up);
                turn_gate(expert, column(probe));
                std::mem::swap(&mut expert.gate, &mut expert.up);
            },
            "expected ",
        );
    }
}

#[test]
fn one_wrong_weight_in_a_row_that_is_looked_at_is_mostly_found_in_f32() {
    let tensors = demo().expert(EXPERT).unwrap();
    let device = &devices()[0];
    let row = Probe::of(EXPERT, demo().config().hidden_size).outputs[2];
    let is_found = |column: &usize| {
        let mut spoiled = copy(&tensors);
        let weights = tensors.down.narrow(0, row, 1).unwrap();
        let wrong = weights.narrow(1, *column, 1).unwrap().affine(1.5, 0.01).unwrap();
        let weights = weights.slice_scatter(&wrong, 1, *column).unwrap();
        spoiled.down = spoiled.down.slice_scatter(&weights, 0, row).unwrap();
        canary(device, EXPERT, &tensors, &pack(device, &spoiled, Dtype::F32)).is_err()
    };
    // The others meet a silu of nearly zero.
    let found = (0..128).filter(is_found).count();
    assert!(found > 100, "{found}");
}

#[test]
fn one_wrong_row_of_down_is_found() {
    for output in 0..OUTPUTS {
        let spoil = |expert: &mut ExpertTensors, probe: &Probe| {
            let row = probe.outputs[output];
            let turned = expert.down.narrow(0, row, 1).unwrap().neg().unwrap();
            expert.down = expert.down.slice_scatter(&turned, 0, row).unwrap();
        };
        check(spoil, "expected ");
    }
}

#[test]
fn a_value_that_is_no_number_is_found_wherever_it_is() {
    const NAN: f64 = f64::NAN;
    let place = |probe: &Probe| probe.inputs[0].0 ^ 1;
    check(
        |expert, probe| {
            let value = expert.up.narrow(0, 5, 1).unwrap().narrow(1, place(probe), 1).unwrap();
            let row = expert.up.narrow(0, 5, 1).unwrap();
            let row = row.slice_scatter(&value.affine(NAN, 0.0).unwrap(), 1, place(probe));
            expert.up = expert.up.slice_scatter(&row.unwrap(), 0, 5).unwrap();
        },
        "is NaN, expected a finite number",
    );
    check(
        |expert, probe| {
            let row = (probe.outputs[0] + 1) % probe.hidden;
            let spoiled = expert.down.narrow(0, row, 1).unwrap().affine(NAN, 0.0).unwrap();
            expert.down = expert.down.slice_scatter(&spoiled, 0, row).unwrap();
        },
        "is NaN, expected a finite number",
    );
}

#[test]
fn a_probe_has_its_places_in_all_parts_of_the_row() {
    for hidden in [1, 3, 4, 192, 4097] {
        let probe = Probe::of(EXPERT, hidden);
        let columns: Vec<usize> = probe.inputs.iter().map(|&(column, _)| column).collect();
        assert_eq!(columns.len(), hidden.min(INPUTS));
        assert!(columns.is_sorted_by(|a, b| a < b) && columns.iter().all(|&c| c < hidden));
        assert!(probe.outputs.iter().all(|&output| output < hidden));
        let exact = |value: f32| f64::from(value) == rounded(value.into(), Dtype::Bf16);
        assert!(probe.inputs.iter().all(|&(_, value)| value != 0.0 && exact(value)));
    }
    let columns = |expert| Probe::of(ExpertId::new(0, expert), 4096).inputs;
    assert_ne!(columns(0), columns(1));
}

#[test]
fn silu_stays_within_its_range() {
    let device = &devices()[0];
    for step in -2000..2000 {
        let (g, u) = (step as f32 * 0.05, 3.0 - step as f32 * 0.01);
        let row = |value| device.upload(&[value], 1).unwrap();
        let got = device.host(&device.silu_mul(&row(g), &row(u)).unwrap())[0];
        let range = silu_mul(f64::from(g).into(), f64::from(u).into());
        assert!(range.contains(got), "{g} {u}: {got} is not in {range:?}");
        assert!(range.error() <= 1e-6 * range.middle().abs() + 1e-30, "{g} {u}: {range:?}");
    }
}
