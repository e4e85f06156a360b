//! Integers of four or eight bits with a scale and a zero for each group of inputs: the formats of GPTQ, AWQ and
//! compressed-tensors.

use safetensors::Dtype;

use super::Part;

/// Values are (integer - zero) × scale; inputs of one group share the scale and the zero of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Integers {
    /// Where the integers are.
    pub layout: Layout,
    /// Of an integer: 4 or 8.
    pub bits: u32,
    /// Inputs of a group; `None`: all of them.
    pub group: Option<usize>,
}

/// Where the integers of a matrix are; words are of 32 bits, the first integer in the lowest ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As GPTQModel and AutoGPTQ write it: words along the inputs, [words, outputs]; zeros in words along the outputs.
    Gptq {
        /// Zeros are stored less one, as in the first version of the format.
        zeros_less_one: bool,
        /// The group of each input is given by its number (`desc_act`).
        ordered: bool,
    },
    /// As AutoAWQ writes it (`gemm`): words along the outputs, the even ones of eight first, [inputs, words].
    Awq,
    /// `pack-quantized` of compressed-tensors: words along the inputs, [outputs, words].
    Packed {
        /// There are zeros, in words along the outputs; else zero is in the middle.
        zeros: bool,
        /// The group of each input is given by its number.
        ordered: bool,
    },
    /// `int-quantized` of compressed-tensors: signed bytes.
    Bytes {
        /// There are zeros; else zero is zero.
        zeros: bool,
    },
}

/// The place in a word of AWQ of each of eight outputs.
const AWQ_PLACES: [u32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

impl Integers {
    fn groups(self, inputs: usize) -> usize {
        self.group.map_or(1, |group| inputs.div_ceil(group))
    }

    fn per_word(self) -> usize {
        32 / self.bits as usize
    }

    fn words(self, integers: usize) -> usize {
        integers.div_ceil(self.per_word())
    }

    pub(super) fn parts(self, [outputs, inputs]: [usize; 2]) -> Vec<Part> {
        let groups = self.groups(inputs);
        let words = |name, shape: [usize; 2]| Part::new(name, Dtype::I32, shape);
        match self.layout {
            Layout::Gptq { ordered, .. } => {
                let values = words("qweight", [self.words(inputs), outputs]);
                let scales = Part::scales("scales", [groups, outputs]);
                let zeros = words("qzeros", [groups, self.words(outputs)]);
                let order = ordered.then(|| Part::new("g_idx", Dtype::I32, [inputs]));
                [values, scales, zeros].into_iter().chain(order).collect()
            }
            Layout::Awq => vec![
                words("qweight", [inputs, self.words(outputs)]),
                Part::scales("scales", [groups, outputs]),
                words("qzeros", [groups, self.words(outputs)]),
            ],
            Layout::Packed { zeros, ordered } => {
                let values = words("weight_packed", [outputs, self.words(inputs)]);
                let scales = Part::scales("weight_scale", [outputs, groups]);
                let zeros =
                    zeros.then(|| words("weight_zero_point", [self.words(outputs), groups]));
                let order = ordered.then(|| Part::new("weight_g_idx", Dtype::I32, [inputs]));
                [values, scales].into_iter().chain(zeros).chain(order).collect()
            }
            Layout::Bytes { zeros } => {
                let values = Part::new("weight", Dtype::I8, [outputs, inputs]);
                let scales = Part::scales("weight_scale", [outputs, groups]);
                let zeros =
                    zeros.then(|| Part::new("weight_zero_point", Dtype::I8, [outputs, groups]));
                [values, scales].into_iter().chain(zeros).collect()
            }
        }
    }

    pub(super) fn dequantise(
        self,
        shape: [usize; 2],
        parts: &[&[u8]],
        scales: &[f32],
    ) -> Result<Vec<f32>, String> {
        let [outputs, inputs] = shape;
        let (groups, per_word, bits) = (self.groups(inputs), self.per_word(), self.bits);
        let values = parts[0];
        let zeros = parts.get(2).copied().unwrap_or_default();
        let integer =
            |bytes, at, place| (word(bytes, at) >> (bits * place)) as i32 & ((1 << bits) - 1);
        // The word and the place in it of one of many.
        let split = |at: usize| (at / per_word, (at % per_word) as u32);
        let matrix =
            Matrix { shape, groups: self.group_of_inputs(inputs, parts)?, n_groups: groups };
        Ok(match self.layout {
            Layout::Gptq { zeros_less_one, .. } => matrix.fill(
                |output, input| {
                    let (at, place) = split(input);
                    integer(values, at * outputs + output, place)
                },
                |output, group| {
                    let (at, place) = split(output);
                    let zero = integer(zeros, group * self.words(outputs) + at, place);
                    zero + i32::from(zeros_less_one)
                },
                |output, group| scales[group * outputs + output],
            ),
            Layout::Awq => {
                let at = |row: usize, output: usize| row * self.words(outputs) + output / 8;
                matrix.fill(
                    |output, input| integer(values, at(input, output), AWQ_PLACES[output % 8]),
                    |output, group| integer(zeros, at(group, output), AWQ_PLACES[output % 8]),
                    |output, group| scales[group * outputs + output],
                )
            }
            Layout::Packed { zeros: has_zeros, .. } => matrix.fill(
                |output, input| {
                    let (at, place) = split(input);
                    integer(values, output * self.words(inputs) + at, place)
                },
                |output, group| {
                    let (at, place) = split(output);
                    if has_zeros {
                        integer(zeros, at * groups + group, place)
                    } else {
                        1 << (bits - 1)
                    }
                },
                |output, group| scales[output * groups + group],
            ),
            Layout::Bytes { .. } => {
                let byte = |bytes: &[u8], at: usize| i32::from(bytes[at].cast_signed());
                matrix.fill(
                    |output, input| byte(values, output * inputs + input),
                    |output, group| {
                        if zeros.is_empty() { 0 } else { byte(zeros, output * groups + group) }
                    },
                    |output, group| scales[output * groups + group],
                )
            }
        })
    }

    /// The group of each input.
    fn group_of_inputs(self, inputs: usize, parts: &[&[u8]]) -> Result<Vec<usize>, String> {
        let ordered = match self.layout {
            Layout::Gptq { ordered: true, .. } | Layout::Packed { ordered: true, .. } => {
                parts.last()
            }
            _ => None,
        };
        let Some(numbers) = ordered else {
            return Ok((0..inputs)
                .map(|input| self.group.map_or(0, |group| input / group))
                .collect());
        };
        let group = |input| {
            let number = word(numbers, input) as usize;
            let wrong = || format!("input {input} is in group {number} of {}", self.groups(inputs));
            if number < self.groups(inputs) { Ok(number) } else { Err(wrong()) }
        };
        (0..inputs).map(group).collect()
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let bytes = &bytes[4 * at..][..4];
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

struct Matrix {
    shape: [usize; 2],
    /// Of each input.
    groups: Vec<usize>,
    n_groups: usize,
}

impl Matrix {
    /// Puts the values together from those of (output, input), and zeros and scales of (output, group).
    fn fill(
        &self,
        integer: impl Fn(usize, usize) -> i32,
        zero: impl Fn(usize, usize) -> i32,
        scale: impl Fn(usize, usize) -> f32,
    ) -> Vec<f32> {
        let [outputs, inputs] = self.shape;
        let mut values = Vec::with_capacity(outputs * inputs);
        for output in 0..outputs {
            let of_group = |group| (zero(output, group), scale(output, group));
            let of_groups: Vec<(i32, f32)> = (0..self.n_groups).map(of_group).collect();
            values.extend(self.groups.iter().enumerate().map(|(input, &group)| {
                let (zero, scale) = of_groups[group];
                (integer(output, input) - zero) as f32 * scale
            }));
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn check(
        integers: Integers,
        shape: [usize; 2],
        (parts, scales): (&[&[u8]], &[f32]),
        expected: &[f32],
    ) {
        let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
        let size = |part: &Part| part.dtype.map_or(32, |of| of.bitsize()) / 8 * part.values();
        assert_eq!(lengths, integers.parts(shape).iter().map(size).collect::<Vec<_>>());
        assert_eq!(integers.dequantise(shape, parts, scales).unwrap(), expected);
    }

    #[test]
    fn gptq_packs_inputs_and_keeps_the_group_of_each() {
        let layout = Layout::Gptq { zeros_less_one: true, ordered: true };
        let integers = Integers { layout, bits: 4, group: Some(1) };
        // Two inputs, the second one in the first group; one output, 5 and 12; zeros 8 and 3.
        let (values, zeros, order) = (bytes(&[0xc5]), bytes(&[7, 2]), bytes(&[1, 0]));
        let parts: [&[u8]; 4] = [&values, &[0; 8], &zeros, &order];
        check(integers, [1, 2], (&parts, &[0.5, 2.0]), &[(5.0 - 3.0) * 2.0, (12.0 - 8.0) * 0.5]);
        let layout = Layout::Gptq { zeros_less_one: false, ordered: true };
        let later = Integers { layout, ..integers };
        check(later, [1, 2], (&parts, &[0.5, 2.0]), &[(5.0 - 2.0) * 2.0, (12.0 - 7.0) * 0.5]);
        let layout = Layout::Gptq { zeros_less_one: true, ordered: false };
        let neighbours = Integers { layout, ..integers };
        let expected = [(5.0 - 8.0) * 0.5, (12.0 - 3.0) * 2.0];
        check(neighbours, [1, 2], (&parts[..3], &[0.5, 2.0]), &expected);
        let order = bytes(&[1, 2]);
        let error = integers.dequantise([1, 2], &[&values, &[], &zeros, &order], &[0.5, 2.0]);
        assert_eq!(error.unwrap_err(), "input 1 is in group 2 of 2");
    }

    #[test]
    fn awq_packs_even_outputs_before_odd_ones() {
        let integers = Integers { layout: Layout::Awq, bits: 4, group: None };
        // The n-th output is n.
        let (values, zeros) = (bytes(&[0x7531_6420]), bytes(&[0x1111_1111]));
        let parts: [&[u8]; 3] = [&values, &[0; 32], &zeros];
        let expected = [-1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        check(integers, [8, 1], (&parts, &[1.0; 8]), &expected);
    }

    #[test]
    fn compressed_tensors_packs_inputs_of_each_output() {
        let layout = Layout::Packed { zeros: false, ordered: false };
        let integers = Integers { layout, bits: 4, group: Some(8) };
        // Nine inputs are two words.
        let values = bytes(&[0xf876_5432, 0x9, 0x8888_8888, 0x8]);
        let expected =
            [[-6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 7.0, 0.5].as_slice(), [0.0; 9].as_slice()];
        check(integers, [2, 9], (&[&values, &[0; 16]], &[1.0, 0.5, 1.0, 1.0]), &expected.concat());
        let layout = Layout::Packed { zeros: true, ordered: false };
        let integers = Integers { layout, bits: 8, group: None };
        // One word along the two outputs.
        let (values, zeros) = (bytes(&[0x01, 0xff]), bytes(&[0x0302]));
        let parts: [&[u8]; 3] = [&values, &[0; 8], &zeros];
        check(integers, [2, 1], (&parts, &[1.0, 1.0]), &[-1.0, 252.0]);
    }

    #[test]
    fn bytes_are_signed() {
        let integers = Integers { layout: Layout::Bytes { zeros: false }, bits: 8, group: None };
        check(integers, [1, 3], (&[&[0x80, 0, 0x7f], &[0; 4]], &[2.0]), &[-256.0, 0.0, 254.0]);
        let zeros = Integers { layout: Layout::Bytes { zeros: true }, ..integers };
        check(zeros, [1, 1], (&[&[5], &[0; 4], &[0xff]], &[2.0]), &[12.0]);
    }
}
