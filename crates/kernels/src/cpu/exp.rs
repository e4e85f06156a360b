//! The exponential and the logistic function, the same for every element of a vector.

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts, the first of so few bits that its product with an exponent is exact.
const LN_2_HIGH: f32 = 355.0 / 512.0;
const LN_2_LOW: f32 = -2.121_944_4e-4;
/// Adding this to a small f32 leaves its nearest integer in the low bits of the sum.
const TO_INTEGER: f32 = 12_582_912.0;

/// Returns e to the power of `x` within two units in the last place.
///
/// The reduction and the polynomial are those of `expf` in Cephes (S. Moshier, netlib). It has
/// no branches, so that a loop over it becomes vector code in which each element goes the same
/// way, wherever it stands. Overflows to infinity, underflows through denormals to zero, and
/// keeps NaN.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Beyond these bounds the result is infinite or zero; comparisons with NaN are false.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -105.0 { -105.0 } else { x };
    let shifted = x * LOG2_E + TO_INTEGER;
    let n = shifted - TO_INTEGER;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let power = (shifted.to_bits() as i32).wrapping_sub(TO_INTEGER.to_bits() as i32);
    let half = power >> 1;
    // Two factors, because 2^power alone can be beyond the range of an f32.
    (p * r * r + r + 1.0) * two_to(half) * two_to(power.wrapping_sub(half))
}

/// Returns 1 / (1 + e^-x).
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[inline(always)]
fn two_to(power: i32) -> f32 {
    f32::from_bits((power.wrapping_add(127) as u32) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_a_millionth() {
        let mut worst = 0.0f64;
        for i in -870_000..=887_000 {
            let x = i as f32 * 1e-4;
            let expected = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) / expected - 1.0).abs());
        }
        assert!(worst < 3e-7, "{worst:e}");
    }

    #[test]
    fn exp_has_the_right_limits() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-200.0), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(89.0), f32::INFINITY);
        assert!(exp(-100.0) > 0.0 && exp(-100.0) < 1e-42);
        assert!(exp(f32::NAN).is_nan());
        assert!(sigmoid(f32::NAN).is_nan());
        assert_eq!(sigmoid(-1000.0), 0.0);
        assert_eq!(sigmoid(1000.0), 1.0);
    }
}
