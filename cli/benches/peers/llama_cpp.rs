//! llama.cpp and its forks, measured with their own programs.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::row::PROMPT_TOKENS;
use crate::{output, threads};

/// Tokens that each stream generates.
const TOKENS: u32 = 64;
/// Where the servers listen.
const SERVERS: [&str; 2] = ["127.0.0.1:50652", "127.0.0.1:50653"];

/// A program, whichever of its names it has.
fn program(programs: &Path, names: &[&str]) -> PathBuf {
    let paths: Vec<_> = names.iter().map(|name| programs.join(name)).collect();
    let found = paths.iter().find(|path| path.exists()).cloned();
    assert!(found.is_some(), "none of {paths:?} exists");
    found.unwrap()
}

/// The model as it is, and quantised by `programs` to eight and to four bits, beside `file`.
pub(crate) fn quantised(programs: &Path, file: &Path) -> [(&'static str, PathBuf); 3] {
    let quantise = |format: &str| {
        let path = file.with_file_name(format!("model-{format}.gguf"));
        if !path.exists() {
            let part = path.with_extension("part");
            let mut command = Command::new(program(programs, &["llama-quantize"]));
            output(command.arg(file).arg(&part).arg(format).arg(threads()));
            std::fs::rename(part, &path).unwrap();
        }
        path
    };
    [("16 bits", file.to_owned()), ("8 bits", quantise("Q8_0")), ("4 bits", quantise("Q4_K_M"))]
}

/// Tokens per second of 1, 8 and 32 streams of their own tokens, and of a prompt.
pub(crate) fn measure(programs: &Path, file: &Path, more: &[&str]) -> [f64; 4] {
    let batched = |prompt: &str, tokens: &str, streams: &str, speed: &str| -> Vec<f64> {
        let mut command = Command::new(program(programs, &["llama-batched-bench"]));
        command.arg("-m").arg(file).args(["-t", &threads(), "-c", "4096", "-b", "2048"]);
        command.args(["-npp", prompt, "-ntg", tokens, "-npl", streams]);
        let lines = output(command.args(["--output-format", "jsonl"]).args(more));
        let rows = lines.lines().filter(|line| line.trim_start().starts_with('{'));
        rows.map(|row| serde_json::from_str::<Value>(row).unwrap()[speed].as_f64().unwrap())
            .collect()
    };
    let decode = batched("8", &TOKENS.to_string(), "1,8,32", "speed_tg");
    let prefill = batched(&PROMPT_TOKENS.to_string(), "1", "1", "speed_pp");
    [decode[0], decode[1], decode[2], prefill[0]]
}

/// The same of one stream, and of a prompt.
pub(crate) fn measure_single(programs: &Path, file: &Path) -> [f64; 4] {
    let mut command = Command::new(program(programs, &["llama-bench"]));
    command.arg("-m").arg(file).args(["-t", &threads(), "-r", "3", "-o", "json"]);
    command.args(["-p", &PROMPT_TOKENS.to_string(), "-n", &TOKENS.to_string()]);
    let rows: Vec<Value> = serde_json::from_str(&output(&mut command)).unwrap();
    let speed = |tokens: &str| {
        let row = rows.iter().find(|row| row[tokens].as_u64().unwrap() > 0).unwrap();
        row["avg_ts"].as_f64().unwrap()
    };
    [speed("n_gen"), f64::NAN, f64::NAN, speed("n_prompt")]
}

/// A process that ends with this value.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// The same as [`measure`] with all layers on two servers, which share the threads.
pub(crate) fn measure_over_rpc(programs: &Path, file: &Path) -> [f64; 4] {
    let share = std::thread::available_parallelism().unwrap().get().div_ceil(SERVERS.len());
    let start = |server: &&str| {
        let (host, port) = server.split_once(':').unwrap();
        let mut command = Command::new(program(programs, &["rpc-server", "ggml-rpc-server"]));
        command.args(["-H", host, "-p", port, "-t", &share.to_string()]);
        let server = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while std::net::TcpStream::connect((host, port.parse().unwrap())).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Server(server)
    };
    let _servers: Vec<Server> = SERVERS.iter().map(start).collect();
    measure(programs, file, &["--rpc", &SERVERS.join(","), "-ngl", "99"])
}
