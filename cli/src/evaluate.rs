//! What quantising a model costs on a text: perplexity, and how far predictions move.

use std::io::Write;

use anyhow::Context as _;
use guildhall_router::{Evaluation, Formats, Quality, WeightFormat};

use crate::config::EvaluateOptions;

pub(crate) fn run(options: &EvaluateOptions) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(&options.text)
        .with_context(|| format!("reading {}", options.text.display()))?;
    let mut evaluation = Evaluation::open(&options.model, &text, options.window)?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "| experts | all else | perplexity | mean KL | p99 KL | same best token |")?;
    writeln!(stdout, "|---|---|---|---|---|---|")?;
    let mut tokens = 0;
    for formats in formats(options) {
        let quality = evaluation.quality(formats)?;
        tokens = quality.tokens;
        print(&mut stdout, formats, &quality)?;
    }
    Ok(writeln!(stdout, "\n{tokens} tokens; KL(bf16 ‖ row) in nats")?)
}

fn formats(options: &EvaluateOptions) -> Vec<Formats> {
    let reference = Formats::REFERENCE;
    if options.expert_weights.is_none() && options.dense_weights.is_none() {
        use WeightFormat::{Int4, Int8};
        let quantised = [(Int8, None), (Int8, Some(Int8)), (Int4, None), (Int4, Some(Int8))];
        let quantised = quantised
            .map(|(experts, dense)| Formats { experts, dense: dense.unwrap_or(reference.dense) });
        return [reference].into_iter().chain(quantised).collect();
    }
    let chosen = Formats {
        experts: options.expert_weights.unwrap_or(reference.experts),
        dense: options.dense_weights.unwrap_or(reference.dense),
    };
    vec![reference, chosen]
}

fn print(out: &mut impl Write, formats: Formats, quality: &Quality) -> std::io::Result<()> {
    writeln!(
        out,
        "| {} | {} | {:.4} | {:.5} | {:.5} | {:.2} % |",
        formats.experts,
        formats.dense,
        quality.perplexity,
        quality.mean_divergence,
        quality.p99_divergence,
        100.0 * quality.same_best,
    )
}
