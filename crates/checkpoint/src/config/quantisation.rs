//! `quantization_config`: how a checkpoint stores its matrices.

use serde_json::Value;

use super::fields::Fields;
use crate::{Error, Fp8Blocks, Integers, Layout, Quantisation};

/// Reads how quantised matrices are stored, if some are.
pub(super) fn read(fields: &mut Fields) -> Result<Option<Quantisation>, Error> {
    let Some(mut of) = fields.object("quantization_config")? else { return Ok(None) };
    let method = of.text("quant_method")?.unwrap_or_default();
    let format = match method.as_str() {
        "fp8" => Quantisation::Fp8(fp8(&mut of)?),
        "gptq" => Quantisation::Integers(gptq(&mut of)?),
        "awq" => Quantisation::Integers(awq(&mut of)?),
        "compressed-tensors" => Quantisation::Integers(compressed_tensors(&mut of)?),
        other => return Err(of.unsupported("quant_method", &format!("{other:?}"))),
    };
    Ok(Some(format))
}

fn fp8(of: &mut Fields) -> Result<Fp8Blocks, Error> {
    only(of, "fmt", &["e4m3"])?;
    only(of, "activation_scheme", &["dynamic"])?;
    match of.indices("weight_block_size")?.as_deref() {
        Some(&[rows, columns]) if rows > 0 && columns > 0 => Ok(Fp8Blocks { rows, columns }),
        Some(_) => Err(of.malformed("weight_block_size", "is not two numbers above 0")),
        None => Err(of.unsupported("weight_block_size", "(one scale for a whole matrix)")),
    }
}

fn gptq(of: &mut Fields) -> Result<Integers, Error> {
    only(of, "checkpoint_format", &["gptq", "gptq_v2"])?;
    let zeros_less_one = of.text("checkpoint_format")?.is_none_or(|format| format == "gptq");
    let ordered = of.flag("desc_act")? == Some(true);
    let (bits, group) = (bits(of, "bits", &[4, 8])?, group(of)?);
    Ok(Integers { layout: Layout::Gptq { zeros_less_one, ordered }, bits, group })
}

fn awq(of: &mut Fields) -> Result<Integers, Error> {
    only(of, "version", &["gemm", "GEMM"])?;
    if of.flag("zero_point")? == Some(false) {
        return Err(of.unsupported("zero_point", "false"));
    }
    Ok(Integers { layout: Layout::Awq, bits: bits(of, "bits", &[4])?, group: group(of)? })
}

fn compressed_tensors(of: &mut Fields) -> Result<Integers, Error> {
    let format = of.text("format")?;
    let Some(mut groups) = of.object("config_groups")? else {
        return Err(of.malformed("config_groups", "is missing"));
    };
    let mut found = None;
    for name in groups.keys() {
        let Some(mut group) = groups.object(&name)? else { continue };
        let integers = compressed_group(&mut group, format.clone())?;
        if *found.get_or_insert(integers) != integers {
            return Err(of.unsupported("config_groups", "(matrices of several formats)"));
        }
    }
    found.ok_or_else(|| of.malformed("config_groups", "has no group"))
}

fn compressed_group(group: &mut Fields, format: Option<String>) -> Result<Integers, Error> {
    if let Some(mut activations) = group.object("input_activations")?
        && activations.flag("dynamic")? != Some(true)
    {
        return Err(activations.unsupported("dynamic", "false"));
    }
    let format = group.text("format")?.or(format).unwrap_or_default();
    let Some(mut weights) = group.object("weights")? else {
        return Err(group.malformed("weights", "is missing"));
    };
    only(&mut weights, "type", &["int"])?;
    only(&mut weights, "strategy", &["group", "channel"])?;
    only(&mut weights, "actorder", &["group", "weight", "static", "dynamic"])?;
    let zeros = weights.flag("symmetric")? == Some(false);
    let ordered = weights
        .text("actorder")?
        .is_some_and(|order| matches!(order.as_str(), "group" | "dynamic"));
    let (layout, widths): (_, &[u32]) = match format.as_str() {
        "pack-quantized" => (Layout::Packed { zeros, ordered }, &[4, 8]),
        "int-quantized" => (Layout::Bytes { zeros }, &[8]),
        other => return Err(group.unsupported("format", &format!("{other:?}"))),
    };
    let per_group = weights.text("strategy")?.as_deref() != Some("channel");
    let bits = bits(&mut weights, "num_bits", widths)?;
    let group = if per_group { self::group(&mut weights)? } else { None };
    Ok(Integers { layout, bits, group })
}

/// Refuses a text that is none of these; it may be missing.
fn only(of: &mut Fields, key: &str, known: &[&str]) -> Result<(), Error> {
    match of.text(key)? {
        Some(text) if !known.contains(&text.as_str()) => Err(of.unsupported(key, &text)),
        _ => Ok(()),
    }
}

fn bits(of: &mut Fields, key: &str, known: &[u32]) -> Result<u32, Error> {
    let bits = of.required_size(key)?;
    let found = known.iter().find(|&&known| known as usize == bits);
    found.copied().ok_or_else(|| of.unsupported(key, &bits.to_string()))
}

/// Inputs that share a scale; -1 is all of them.
fn group(of: &mut Fields) -> Result<Option<usize>, Error> {
    match of.value("group_size").and_then(Value::as_i64) {
        Some(-1) => Ok(None),
        _ => Ok(Some(of.required_size("group_size")?)),
    }
}
