//! Every kernel against the portable one.

use super::*;

const SETS: [InstructionSet; 3] =
    [InstructionSet::Avx2, InstructionSet::Avx512, InstructionSet::Avx512Bf16];

/// Two bf16 between -1 and 1; read as one f32, the word is between -1 and 1 too.
fn word(state: &mut u32) -> u32 {
    let mut next = || {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        crate::dtype::bf16_bits((*state >> 8) as f32 / (1 << 23) as f32 - 1.0)
    };
    next() | (next() << 16)
}

fn arithmetics(set: InstructionSet) -> Vec<Arithmetic> {
    match set {
        InstructionSet::Avx512Bf16 => {
            vec![Arithmetic::F32, Arithmetic::WidenedBf16, Arithmetic::Bf16Pairs]
        }
        _ => vec![Arithmetic::F32, Arithmetic::WidenedBf16],
    }
}

/// Computes a tile of `rows` and `panels` in which every sum begins with one.
fn tile(kernel: Kernel, rows: usize, panels: usize, steps: usize) -> Tile {
    let mut state = 7;
    let words: Vec<Vec<u32>> = (0..rows)
        .map(|_| (0..steps * kernel.words_per_step()).map(|_| word(&mut state)).collect())
        .collect();
    let lines: Vec<Vec<Line>> = (0..panels)
        .map(|_| (0..steps).map(|_| Line([(); LANES].map(|()| word(&mut state)))).collect())
        .collect();
    let words: Vec<&[u32]> = words.iter().map(Vec::as_slice).collect();
    let lines: Vec<&[Line]> = lines.iter().map(Vec::as_slice).collect();
    let mut sums = [[Lanes([1.0; LANES]); TILE_PANELS]; TILE_ROWS];
    kernel.accumulate(&words, &lines, &mut sums);
    sums
}

#[test]
fn kernels_agree_with_the_portable_one() {
    let available = InstructionSet::available();
    for set in SETS.into_iter().filter(|set| available.contains(set)) {
        for arithmetic in arithmetics(set) {
            let kernel = Kernel { set, arithmetic };
            let reference = Kernel { set: InstructionSet::Portable, arithmetic };
            for case in 0..kernel.max_rows() * TILE_PANELS * 2 {
                let (rows, panels) = (1 + case / 2 / TILE_PANELS, 1 + case / 2 % TILE_PANELS);
                let steps = [3, 70][case % 2];
                let got = tile(kernel, rows, panels, steps);
                let expected = tile(reference, rows, panels, steps);
                let what = format!("{kernel:?} {rows} rows {panels} panels {steps} steps");
                assert_near(&what, &got, &expected);
            }
        }
    }
}

fn assert_near(what: &str, got: &Tile, expected: &Tile) {
    for (got, expected) in got.iter().flatten().zip(expected.iter().flatten()) {
        for (got, expected) in got.0.iter().zip(&expected.0) {
            assert!((got - expected).abs() < 1e-5, "{what}: {got} instead of {expected}");
        }
    }
}

#[test]
fn widening_kernels_have_the_same_bits() {
    let available = InstructionSet::available();
    if !available.contains(&InstructionSet::Avx512) {
        return;
    }
    for arithmetic in arithmetics(InstructionSet::Avx512) {
        let [narrow, wide] = [InstructionSet::Avx2, InstructionSet::Avx512]
            .map(|set| tile(Kernel { set, arithmetic }, 5, 7, 90));
        for (narrow, wide) in narrow.iter().flatten().zip(wide.iter().flatten()) {
            assert_eq!(narrow.0.map(f32::to_bits), wide.0.map(f32::to_bits));
        }
    }
}

#[test]
fn operands_of_different_lengths_take_the_shortest() {
    let available = InstructionSet::available();
    for set in available {
        let kernel = Kernel::of_cache(set, Dtype::F32);
        let ones = [1f32.to_bits(); 9];
        let lines = [Line([2f32.to_bits(); LANES]); 6];
        let mut sums = ZERO_TILE;
        kernel.accumulate(&[&ones[..4], &ones], &[&lines, &lines[..5]], &mut sums);
        assert_eq!(sums[1][1].0, [8.0; LANES]);
        assert_eq!(sums[1][2].0, [0.0; LANES]);
        assert_eq!(sums[2][0].0, [0.0; LANES]);
        kernel.accumulate(&[], &[&lines], &mut sums);
        kernel.accumulate(&[&ones], &[], &mut sums);
        assert_eq!(sums[0][0].0, [8.0; LANES]);
    }
}
