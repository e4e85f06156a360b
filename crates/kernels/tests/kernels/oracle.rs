//! Every operation but attention against candle or a plain f64 computation.

use candle_core::{D, Device as Place, Tensor as Matrix};
use guildhall_kernels::{Device, Dtype, GateOptions, RopeTable, Tensor, WeightFormat};
use proptest::prelude::*;

use crate::support::{
    DTYPES, assert_near, assert_same, devices, experts, flat, matrix, rounded, tensor, values,
};

fn name(device: &Device, format: impl std::fmt::Display) -> String {
    format!("{} {format}", device.instruction_set())
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn bf16(x: f64) -> f64 {
    half::bf16::from_f64(x).to_f64()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn linear_is_near_candle(
        m in 1usize..20, n in 1usize..150, k in 1usize..400, bias: bool, seed: u64,
    ) {
        for dtype in DTYPES {
            let (x, w) = (matrix(m, k, seed), matrix(n, k, seed ^ 1));
            let b = matrix(1, n, seed ^ 2).flatten_all().unwrap();
            let mut y = rounded(&x, dtype).matmul(&rounded(&w, dtype).t().unwrap()).unwrap();
            if bias {
                let b = rounded(&b, Dtype::F32);
                y = y.broadcast_add(&b).unwrap();
            }
            let expected = flat(&y);
            for device in devices() {
                let linear = device.linear_weights(&w, bias.then_some(&b), dtype).unwrap();
                prop_assert_eq!((linear.n(), linear.k(), linear.format()), (n, k, dtype.into()));
                let y = device.linear(&tensor(&device, m, k, seed), &linear).unwrap();
                assert_near(&name(&device, dtype), &device.host(&y), &expected, 1e-5);
            }
        }
    }

    #[test]
    fn ffn_is_near_candle(m in 1usize..12, hidden in 1usize..70, width in 1usize..70, seed: u64) {
        for dtype in DTYPES {
            let round = |x: f64| if dtype == Dtype::Bf16 { bf16(x) } else { x };
            let product = |x: &Matrix, w: &Matrix| {
                flat(&x.matmul(&rounded(w, dtype).t().unwrap()).unwrap())
            };
            let x = rounded(&matrix(m, hidden, seed >> 2), dtype);
            let gate = product(&x, &matrix(width, hidden, seed >> 3));
            let up = product(&x, &matrix(width, hidden, (seed >> 3) + 1));
            let inner: Vec<f64> =
                gate.iter().zip(&up).map(|(gate, up)| round(silu(*gate) * up)).collect();
            let inner = Matrix::from_vec(inner, (m, width), &Place::Cpu).unwrap();
            let expected = product(&inner, &matrix(hidden, width, (seed >> 3) + 2));
            // One bf16 of the inner layer may round the other way than in the oracle.
            let tolerance = if dtype == Dtype::Bf16 { 0.02 } else { 1e-5 };
            for device in devices() {
                let weights = experts(&device, (hidden, width), dtype, seed >> 3);
                let y = device.ffn(&tensor(&device, m, hidden, seed >> 2), &weights).unwrap();
                let y = device.host(&y);
                assert_near(&name(&device, dtype), &y, &expected, tolerance);
                if dtype == Dtype::Bf16 {
                    prop_assert!(y.iter().all(|&y| half::bf16::from_f32(y).to_f32() == y));
                }
            }
        }
    }

    #[test]
    fn rms_norm_is_near_candle(
        m in 1usize..8, heads in 1usize..5, group in 1usize..80, seed: u64,
    ) {
        let x = matrix(m * heads, group, seed);
        let weight = matrix(1, group, seed ^ 1).flatten_all().unwrap();
        let x64 = rounded(&x, Dtype::F32);
        let mean = x64.sqr().unwrap().mean_keepdim(D::Minus1).unwrap();
        let root = (mean + 1e-5).unwrap().sqrt().unwrap();
        let y = x64.broadcast_div(&root).unwrap();
        let expected = flat(&y.broadcast_mul(&rounded(&weight, Dtype::F32)).unwrap());
        for device in devices() {
            let weight = device.vector(&weight).unwrap();
            let x = tensor(&device, m, heads * group, seed);
            let y = device.rms_norm(&x, &weight, 1e-5).unwrap();
            assert_near("rms_norm", &device.host(&y), &expected, 1e-6);
        }
    }

    #[test]
    fn gate_is_the_sorted_softmax(
        tokens in 1usize..9, experts in 1usize..70, renormalise: bool, seed: u64,
    ) {
        let top_k = 1 + (seed % 8).min(experts as u64 - 1) as usize;
        for device in devices() {
            let logits = tensor(&device, tokens, experts, seed);
            let routes = device.top_k_gate(&logits, &GateOptions { top_k, renormalise }).unwrap();
            for (token, logits) in values(tokens * experts, seed).chunks(experts).enumerate() {
                let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
                let mut order: Vec<usize> = (0..experts).collect();
                order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
                let share = |expert: &usize| f64::from(logits[*expert]).exp() / sum;
                let kept: f64 = order[..top_k].iter().map(share).sum();
                let scale = if renormalise { kept } else { 1.0 };
                let expected: Vec<f64> =
                    order[..top_k].iter().map(|expert| share(expert) / scale).collect();
                let range = token * top_k..(token + 1) * top_k;
                assert_near("gate", &routes.weights[range.clone()], &expected, 1e-6);
                let got: Vec<usize> =
                    routes.experts[range].iter().map(|&expert| expert as usize).collect();
                prop_assert_eq!(&got, &order[..top_k]);
            }
        }
    }

    #[test]
    fn rope_rotates_halves(tokens in 1usize..6, heads in 1usize..4, half in 1usize..20, seed: u64) {
        let frequencies: Vec<f32> =
            (0..half).map(|i| 10_000f32.powf(-(i as f32) / half as f32)).collect();
        let table = RopeTable::new(&frequencies, 0.5, 64);
        prop_assert_eq!(table.head_dim(), 2 * half);
        let positions: Vec<u32> = (0..tokens as u64).map(|i| ((seed >> i) % 64) as u32).collect();
        let x = values(tokens * heads * 2 * half, seed);
        let mut expected = Vec::new();
        for (index, head) in x.chunks(2 * half).enumerate() {
            let position = positions[index / heads] as f32;
            let turn = |i: usize| {
                let (sin, cos) = f64::from(position * frequencies[i % half]).sin_cos();
                let other = f64::from(head[(i + half) % (2 * half)]);
                let other = if i < half { -other } else { other };
                0.5 * (f64::from(head[i]) * cos + other * sin)
            };
            expected.extend((0..2 * half).map(turn));
        }
        for device in devices() {
            let mut y = device.upload(&x, heads * 2 * half).unwrap();
            device.rope(&mut y, &positions, &table).unwrap();
            assert_near("rope", &device.host(&y), &expected, 1e-6);
        }
    }

    #[test]
    fn elementwise_operations_are_near_f64(rows in 1usize..6, cols in 1usize..60, seed: u64) {
        let (x, y) = (values(rows * cols, seed), values(rows * cols, seed ^ 1));
        let logits = values(rows, seed ^ 2);
        let pairs = || x.iter().zip(&y).map(|(&x, &y)| (f64::from(x), f64::from(y)));
        let added: Vec<f64> = pairs().map(|(x, y)| x + y).collect();
        let gated: Vec<f64> = pairs().map(|(x, y)| silu(x) * y).collect();
        let limited: Vec<f64> = pairs().map(|(x, _)| x.clamp(-0.25, 0.25)).collect();
        let scaled: Vec<f64> = pairs()
            .enumerate()
            .map(|(i, (x, y))| x + y / (1.0 + (-f64::from(logits[i / cols])).exp()))
            .collect();
        for device in devices() {
            let y = device.upload(&y, cols).unwrap();
            let mut out = device.upload(&x, cols).unwrap();
            let z = device.silu_mul(&out, &y).unwrap();
            assert_near("silu_mul", &device.host(&z), &gated, 1e-6);
            device.add(&mut out, &y).unwrap();
            assert_near("add", &device.host(&out), &added, 1e-6);
            let mut out = device.upload(&x, cols).unwrap();
            device.clamp(&mut out, 0.25).unwrap();
            assert_near("clamp", &device.host(&out), &limited, 0.0);
            let mut out = device.upload(&x, cols).unwrap();
            let logits = device.upload(&logits, 1).unwrap();
            device.add_sigmoid_scaled(&mut out, &y, &logits).unwrap();
            assert_near("add_sigmoid_scaled", &device.host(&out), &scaled, 1e-6);
        }
    }
}

#[test]
fn gate_prefers_the_lowest_index_among_equals() {
    for device in devices() {
        let logits = device.upload(&[0.0, 1.0, 1.0, 0.5, 1.0, 0.0], 6).unwrap();
        let options = GateOptions { top_k: 5, renormalise: true };
        let routes = device.top_k_gate(&logits, &options).unwrap();
        assert_eq!(routes.experts, [1, 2, 4, 3, 0]);
    }
}

#[test]
fn embed_and_gather_pick_rows() {
    let table = matrix(9, 7, 3);
    let all = values(63, 3);
    for device in devices() {
        for dtype in DTYPES {
            let embedding = device.embedding(&table, dtype).unwrap();
            let got = device.embed(&embedding, &[8, 0, 8]).unwrap();
            let picked: Vec<f64> = [8, 0, 8]
                .iter()
                .flat_map(|row| &all[row * 7..][..7])
                .map(|&x| if dtype == Dtype::Bf16 { bf16(x.into()) } else { x.into() })
                .collect();
            assert_near("embed", &device.host(&got), &picked, 0.0);
        }
        let x = device.upload(&all, 7).unwrap();
        let got = device.gather_rows(&x, &[2, 2, 5]).unwrap();
        assert_eq!(*device.host(&got), [&all[14..21], &all[14..21], &all[35..42]].concat());
    }
}

#[test]
fn weights_of_any_dtype_pack_alike() {
    let device = &devices()[0];
    let f32s = matrix(20, 9, 5).to_dtype(candle_core::DType::BF16).unwrap();
    let x = tensor(device, 3, 9, 6);
    for dtype in DTYPES {
        let results: Vec<Vec<f32>> = [candle_core::DType::BF16, candle_core::DType::F32]
            .iter()
            .map(|&source| f32s.to_dtype(source).unwrap())
            .map(|weight| device.linear_weights(&weight, None, dtype).unwrap())
            .map(|weight| device.host(&device.linear(&x, &weight).unwrap()).into_owned())
            .collect();
        assert_eq!(results[0], results[1]);
    }
    // A transposed view is read by its strides.
    let view = matrix(9, 20, 7).t().unwrap();
    let copy = view.contiguous().unwrap();
    let product = |weight| {
        let weight = device.linear_weights(weight, None, Dtype::F32).unwrap();
        device.host(&device.linear(&x, &weight).unwrap()).into_owned()
    };
    assert_eq!(product(&view), product(&copy));
}

#[test]
fn quantised_products_are_near_and_the_same_everywhere() {
    let (m, n, k) = (21, 150, 331);
    let (weight, x) = (matrix(n, k, 5), matrix(m, k, 6));
    let f64s = |matrix: &Matrix| matrix.to_dtype(candle_core::DType::F64).unwrap();
    let expected = flat(&f64s(&x).matmul(&f64s(&weight).t().unwrap()).unwrap());
    for (format, tolerance) in [(WeightFormat::Int8, 0.01), (WeightFormat::Int4, 0.1)] {
        let product = |device: &Device| {
            let weights = device.linear_weights(&weight, None, format).unwrap();
            let y = device.linear(&tensor(device, m, k, 6), &weights).unwrap();
            device.host(&y).into_owned()
        };
        let first = product(&devices()[0]);
        assert_near(&format.to_string(), &first, &expected, tolerance);
        for device in &devices()[1..] {
            assert_same(&name(device, format), &product(device), &first);
        }
    }
}

#[test]
fn products_of_the_largest_integers_fit_everywhere() {
    let (m, n, k) = (7, 40, 100);
    let signs = |count: usize| (0..count).map(|at| if at * at % 7 < 3 { 1.0 } else { -1.0 });
    let [x, w]: [Vec<f32>; 2] = [signs(m * k).collect(), signs(n * k).collect()];
    let product = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| f64::from(x * w)).sum();
    let exact = x.chunks(k).flat_map(|x| w.chunks(k).map(move |w| product(x, w)));
    let exact: Vec<f64> = exact.collect();
    let weight = Matrix::from_vec(w.clone(), (n, k), &Place::Cpu).unwrap();
    for format in [WeightFormat::Int8, WeightFormat::Int4] {
        for device in devices() {
            let weights = device.linear_weights(&weight, None, format).unwrap();
            let y = device.linear(&device.upload(&x, k).unwrap(), &weights).unwrap();
            assert_near(&name(&device, format), &device.host(&y), &exact, 0.02);
        }
    }
}

#[test]
fn quantised_weights_take_as_many_bytes_as_they_say() {
    let device = &devices()[0];
    let bits_per_weight = |format| {
        let weights = device.linear_weights(&matrix(64, 64, 1), None, format).unwrap();
        8.0 * weights.bytes() as f64 / (64.0 * 64.0)
    };
    assert_eq!(bits_per_weight(WeightFormat::Int8), 8.5);
    assert_eq!(bits_per_weight(WeightFormat::Int4), 5.0);
}

#[test]
fn rows_go_over_a_wire_and_back() {
    let device = &devices()[0];
    let x = tensor(device, 4, 5, 1);
    let there_and_back = |x: &Tensor, dtype| {
        let parts = [&[2][..], &[0, 3]].map(|rows| device.rows_to_bytes(x, rows, dtype).unwrap());
        device.rows_from_bytes(&parts.each_ref().map(Vec::as_slice), 5, dtype).unwrap()
    };
    let sent = device.gather_rows(&x, &[2, 0, 3]).unwrap();
    assert_eq!(device.host(&there_and_back(&x, Dtype::F32)), device.host(&sent));
    let once = there_and_back(&x, Dtype::Bf16);
    let expected: Vec<f64> = device.host(&sent).iter().map(|&x| bf16(x.into())).collect();
    assert_near("bf16", &device.host(&once), &expected, 0.0);
}
