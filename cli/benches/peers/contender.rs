//! Who is measured, and how.

use std::path::Path;
use std::process::Command;

use guildhall_testkit::cluster::Up;

use crate::support::model::Shape;
use crate::{Options, gguf, llama_cpp, output, own_file, row, threads};

/// Guildhall in one set-up, or a peer.
pub(crate) struct Contender {
    pub(crate) name: String,
    pub(crate) weights: &'static str,
    side: Side,
    /// Whether it computes experts in other processes.
    distributed: bool,
    /// Tokens per second, NaN where it is not measured.
    measure: Box<dyn Fn() -> [f64; 4]>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Ours,
    Peer,
}

impl Contender {
    pub(crate) fn measure(&self) -> [f64; 4] {
        (self.measure)()
    }

    /// Whether this is what `other` has to be compared with.
    pub(crate) fn rivals(&self, other: &Self) -> bool {
        let same_kind = (self.weights, self.distributed) == (other.weights, other.distributed);
        same_kind && self.side == Side::Peer && other.side == Side::Ours
    }
}

pub(crate) fn all(options: &Options, model: &Path, shape: &Shape) -> Vec<Contender> {
    let mut all = vec![
        ours("guildhall, experts local", "16 bits", model, &["--experts", "local"]),
        ours("guildhall, 2 nodes", "16 bits", model, &["--expert-nodes", "2"]),
        ours(
            "guildhall, experts local",
            "8 bits",
            model,
            &["--experts", "local", "--expert-weights", "int8", "--dense-weights", "int8"],
        ),
        ours(
            "guildhall, experts local",
            "4 bits",
            model,
            &["--experts", "local", "--expert-weights", "int4", "--dense-weights", "int8"],
        ),
    ];
    if let Some(python) = &options.transformers {
        let (python, model) = (python.clone(), model.to_owned());
        let measure = move || {
            let script = own_file("transformers_speed.py");
            serde_json::from_str(&output(Command::new(&python).arg(script).arg(&model))).unwrap()
        };
        all.push(peer("transformers".into(), "16 bits", false, measure));
    }
    if options.llama_cpp.is_none() && options.ik_llama_cpp.is_none() {
        return all;
    }
    let file = gguf::make(model, shape);
    if let Some(programs) = &options.llama_cpp {
        for (weights, file) in llama_cpp::quantised(programs, &file) {
            let programs = programs.clone();
            let measure = move || llama_cpp::measure(&programs, &file, &[]);
            all.push(peer("llama.cpp".into(), weights, false, measure));
        }
        let (programs, file) = (programs.clone(), file.clone());
        let measure = move || llama_cpp::measure_over_rpc(&programs, &file);
        all.push(peer("llama.cpp, 2 RPC servers".into(), "16 bits", true, measure));
    }
    // It knows the one architecture only.
    if let Some(programs) =
        options.ik_llama_cpp.as_ref().filter(|_| shape.model_type == "qwen3_moe")
    {
        for (weights, file) in llama_cpp::quantised(programs, &file) {
            let programs = programs.clone();
            let measure = move || llama_cpp::measure_single(&programs, &file);
            all.push(peer("ik_llama.cpp".into(), weights, false, measure));
        }
    }
    all
}

fn ours(name: &str, weights: &'static str, model: &Path, args: &[&'static str]) -> Contender {
    let (model, args) = (model.to_owned(), args.to_vec());
    let distributed = args.contains(&"--expert-nodes");
    let measure = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let cluster = Up::start(&model, &args, &[]);
        runtime.block_on(row::measure(&cluster.address))
    };
    Contender {
        name: name.into(),
        weights,
        side: Side::Ours,
        distributed,
        measure: Box::new(measure),
    }
}

fn peer(
    name: String,
    weights: &'static str,
    distributed: bool,
    measure: impl Fn() -> [f64; 4] + 'static,
) -> Contender {
    let name = format!("{name}, {} threads", threads());
    Contender { name, weights, side: Side::Peer, distributed, measure: Box::new(measure) }
}
