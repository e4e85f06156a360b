//! A row's result depends on that row alone, bit by bit.

use guildhall_kernels::{Device, Dtype, ExpertRows, InstructionSet, RopeTable, Tensor};
use proptest::prelude::*;

use crate::support::{
    DTYPES, FORMATS, assert_same, device, devices, experts, matrix, tensor, values,
};

/// Row counts around the sizes of tiles and blocks.
const COUNTS: [usize; 14] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 17, 64, 131, 300];

fn row<'a>(device: &'a Device, x: &'a Tensor, row: usize) -> Vec<f32> {
    device.host(x)[row * x.cols()..][..x.cols()].to_vec()
}

/// Checks that `operation`, which computes rows on their own, gives row by row what it gives
/// for the leading rows of x, for many numbers of rows.
fn check_rows(what: &str, device: &Device, x: &Tensor, operation: impl Fn(&Tensor) -> Tensor) {
    let alone: Vec<Tensor> = (0..x.rows() as u32)
        .map(|row| operation(&device.gather_rows(x, &[row]).unwrap()))
        .collect();
    for count in COUNTS.into_iter().filter(|&count| count <= x.rows()) {
        // The last rows: each of them is at another place for another count.
        let rows: Vec<u32> = (x.rows() - count..x.rows()).map(|row| row as u32).collect();
        let batch = operation(&device.gather_rows(x, &rows).unwrap());
        for (place, &source) in rows.iter().enumerate() {
            let expected = device.host(&alone[source as usize]);
            assert_same(what, &row(device, &batch, place), &expected);
        }
    }
}

#[test]
fn a_row_of_linear_does_not_depend_on_the_batch() {
    // Long enough for several passes along K, with odd ends everywhere.
    let (n, k) = (83, 601);
    let weight = matrix(n, k, 1);
    for device in devices() {
        let x = tensor(&device, 300, k, 2);
        for format in FORMATS {
            let linear = device.linear_weights(&weight, None, format).unwrap();
            let what = format!("linear {} {format}", device.instruction_set());
            check_rows(&what, &device, &x, |x| device.linear(x, &linear).unwrap());
        }
    }
}

#[test]
fn a_row_of_ffn_does_not_depend_on_the_batch() {
    for device in devices() {
        let x = tensor(&device, 131, 301, 2);
        for format in FORMATS {
            let weights = experts(&device, (301, 77), format, 3);
            let what = format!("ffn {} {format}", device.instruction_set());
            check_rows(&what, &device, &x, |x| device.ffn(x, &weights).unwrap());
        }
    }
}

#[test]
fn elementwise_rows_do_not_depend_on_the_batch() {
    let table = RopeTable::new(&[1.0, 0.5, 0.25], 1.0, 8);
    for device in devices() {
        let x = tensor(&device, 17, 42, 2);
        let weight = device.vector(&matrix(1, 21, 3).flatten_all().unwrap()).unwrap();
        check_rows("rms_norm", &device, &x, |x| device.rms_norm(x, &weight, 1e-6).unwrap());
        check_rows("silu_mul", &device, &x, |x| device.silu_mul(x, x).unwrap());
        check_rows("rope", &device, &x, |x| {
            let (mut y, positions) = (x.clone(), vec![5; x.rows()]);
            device.rope(&mut y, &positions, &table).unwrap();
            y
        });
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let (m, n, k) = (150, 333, 257);
    let weight = matrix(n, k, 1);
    for set in InstructionSet::available() {
        for format in FORMATS {
            let results: Vec<(Vec<f32>, Vec<f32>)> = [1, 2, 5]
                .into_iter()
                .map(|threads| {
                    let device = device(set, threads);
                    let linear = device.linear_weights(&weight, None, format).unwrap();
                    let x = tensor(&device, m, k, 2);
                    let weights = experts(&device, (k, 70), format, 3);
                    let y = device.linear(&x, &linear).unwrap();
                    let z = device.ffn(&x, &weights).unwrap();
                    (device.host(&y).into_owned(), device.host(&z).into_owned())
                })
                .collect();
            for other in &results[1..] {
                assert_same("linear", &other.0, &results[0].0);
                assert_same("ffn", &other.1, &results[0].1);
            }
        }
    }
}

#[test]
fn padding_lanes_change_nothing() {
    // The outputs of a narrow weight are the first outputs of a wider one.
    let k = 37;
    let wide = matrix(40, k, 1);
    for device in devices() {
        let x = tensor(&device, 5, k, 2);
        for dtype in DTYPES {
            let full = device.linear_weights(&wide, None, dtype).unwrap();
            let full = device.linear(&x, &full).unwrap();
            for n in 1..40 {
                let part = wide.narrow(0, 0, n).unwrap();
                let part = device.linear_weights(&part, None, dtype).unwrap();
                let part = device.linear(&x, &part).unwrap();
                for index in 0..5 {
                    let expected = &row(&device, &full, index)[..n];
                    assert_same("narrow", &row(&device, &part, index), expected);
                }
            }
        }
    }
}

/// Numbers of rows of each expert, drawn from few rows of x.
fn groups() -> impl Strategy<Value = Vec<Vec<u32>>> {
    proptest::collection::vec(proptest::collection::vec(0u32..12, 0..20), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn experts_compute_each_row_as_if_alone(
        groups in groups(), hidden in 1usize..70, width in 1usize..70, seed in 0u64..1 << 60,
    ) {
        for device in devices() {
            for format in FORMATS {
                let x = tensor(&device, 12, hidden, seed);
                let weights: Vec<_> = (0..groups.len() as u64)
                    .map(|expert| experts(&device, (hidden, width), format, seed + 10 * expert))
                    .collect();
                let work: Vec<_> = weights
                    .iter()
                    .zip(&groups)
                    .map(|(weights, rows)| ExpertRows { weights, rows })
                    .collect();
                let y = device.expert_ffn(&x, &work).unwrap();
                prop_assert_eq!(y.rows(), groups.iter().map(Vec::len).sum::<usize>());
                let each = work.iter().flat_map(|group| {
                    group.rows.iter().map(|&source| (group.weights, source))
                });
                for (place, (weights, source)) in each.enumerate() {
                    let one = device.gather_rows(&x, &[source]).unwrap();
                    let one = device.ffn(&one, weights).unwrap();
                    assert_same("expert_ffn", &row(&device, &y, place), &device.host(&one));
                }
            }
        }
    }
}

#[test]
fn nan_and_infinity_stay_in_their_row() {
    let (n, k) = (35, 33);
    let weight = matrix(n, k, 1);
    for device in devices() {
        for dtype in DTYPES {
            let linear = device.linear_weights(&weight, None, dtype).unwrap();
            let weights = experts(&device, (k, 20), dtype, 3);
            let clean = values(9 * k, 2);
            let mut data = clean.clone();
            data[3 * k + k - 1] = f32::NAN;
            data[5 * k] = f32::INFINITY;
            let check = |operation: &dyn Fn(&Tensor) -> Tensor| {
                let clean = operation(&device.upload(&clean, k).unwrap());
                let dirty = operation(&device.upload(&data, k).unwrap());
                assert!(row(&device, &dirty, 3).iter().all(|y| y.is_nan()));
                assert!(row(&device, &dirty, 5).iter().any(|y| !y.is_finite()));
                for index in [0, 1, 2, 4, 6, 7, 8] {
                    let expected = row(&device, &clean, index);
                    assert_same("clean row", &row(&device, &dirty, index), &expected);
                }
            };
            check(&|x| device.linear(x, &linear).unwrap());
            check(&|x| device.ffn(x, &weights).unwrap());
        }
    }
}

#[test]
fn nan_flows_through_elementwise_operations() {
    for device in devices() {
        let x = device.upload(&[f32::NAN, 1.0, 2.0, 3.0], 4).unwrap();
        let one = device.upload(&[1.0; 4], 4).unwrap();
        assert!(device.host(&device.silu_mul(&x, &one).unwrap())[0].is_nan());
        assert!(device.host(&device.silu_mul(&one, &x).unwrap())[0].is_nan());
        let mut y = x.clone();
        device.clamp(&mut y, 2.5).unwrap();
        assert!(device.host(&y)[0].is_nan());
        assert_eq!(device.host(&y)[1..], [1.0, 2.0, 2.5]);
        let bytes = device.rows_to_bytes(&x, &[0], Dtype::Bf16).unwrap();
        let bf16 = device.rows_from_bytes(&[&bytes], 4, Dtype::Bf16).unwrap();
        assert!(device.host(&bf16)[0].is_nan());
    }
}

#[test]
fn dtypes_of_cached_results_are_kept() {
    let device = device(InstructionSet::detect(), 1);
    for dtype in DTYPES {
        let weights = experts(&device, (8, 8), dtype, 1);
        assert_eq!(weights.format(), dtype.into());
        assert!(weights.bytes() >= 3 * 64 * dtype.size_bytes());
        assert_eq!((weights.hidden(), weights.width()), (8, 8));
    }
    assert_eq!(Dtype::Bf16.size_bytes(), 2);
}
