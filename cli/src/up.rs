//! A whole cluster on this machine: a router and its expert nodes as processes that live and end together.

use std::collections::VecDeque;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use guildhall_loadtest::chaos::{Reply, Request};
use guildhall_router::ExpertsMode;
use rustix::process::Signal;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::config::{LogOptions, UpOptions};
use crate::local_cluster::LocalCluster;
use crate::shutdown;
use control::{Control, Order};
use etcd::Etcd;
use faults::{Act, Present};
use processes::{Member, Starting, copy_log, first};

mod processes;
mod etcd;
mod control;
mod faults;

/// What etcd is called among the processes.
const ETCD: &str = "etcd";

/// Starts everything, waits until it is ready, and stops it on Ctrl-C, SIGTERM, or when one process fails.
pub(crate) async fn run(options: UpOptions, logs: &LogOptions) -> anyhow::Result<()> {
    let remote = options.experts == ExpertsMode::Remote;
    ensure!(remote || options.etcd.is_none(), "--etcd and --experts local contradict each other");
    let stop = shutdown::on_signal(false)?;
    // Sockets of the nodes; the folder goes when this function returns.
    let folder = tempfile::Builder::new().prefix("guildhall-").tempdir()?;
    let mut cluster = Cluster {
        options: &options,
        logs,
        folder: folder.path(),
        store: String::new(),
        etcd: None,
        members: Vec::new(),
        copies: JoinSet::new(),
        running: Vec::new(),
    };
    let ended = tokio::select! {
        ended = cluster.serve() => ended,
        () = stop.cancelled() => Ok(()),
    };
    cluster.stop().await;
    ended
}

struct Cluster<'a> {
    options: &'a UpOptions,
    logs: &'a LogOptions,
    folder: &'a Path,
    /// Where nodes find the cluster's state, once that is known.
    store: String,
    etcd: Option<Etcd>,
    /// etcd, if there is one; the router; the nodes.
    members: Vec<Member>,
    /// Tasks that copy the processes' log lines; each ends with its process.
    copies: JoinSet<()>,
    /// Faults that are not over.
    running: Vec<Running>,
}

/// A fault that is not over.
struct Running {
    /// The place of its process among the members.
    place: usize,
    /// What is still to be done, and when.
    acts: VecDeque<(Instant, Act)>,
    replies: mpsc::Sender<Reply>,
}

impl Cluster<'_> {
    /// Returns when a process ends, which none should.
    async fn serve(&mut self) -> anyhow::Result<()> {
        if let Some(program) = &self.options.etcd {
            self.start_etcd(&Etcd::prepare(program, self.folder)?).await?;
        }
        let admin_key = self
            .options
            .admin_api_key
            .clone()
            .unwrap_or_else(|| format!("{:016x}", rand::random::<u64>()));
        let mut router = self.start_router(&admin_key)?;
        let mut nodes = Vec::new();
        if self.options.experts == ExpertsMode::Remote {
            if self.etcd.is_none() {
                self.store = router.address("cluster port on ").await?;
            }
            let count = self.options.expert_nodes.get();
            let started: Vec<_> =
                (0..count).map(|index| self.start_node(index)).collect::<anyhow::Result<_>>()?;
            for mut node in started {
                nodes.push(node.address(" listening on ").await?);
            }
        }
        let listening = self.ready(&mut router).await?;
        let http = router.address("HTTP API on ").await?;
        let admin = router.address("admin API on ").await?;
        let path = self.options.control.clone();
        let path = path.unwrap_or_else(|| self.folder.join("control.sock"));
        let mut control = Control::listen(&path)?;
        let local = LocalCluster {
            process: std::process::id(),
            server: listening,
            http,
            admin,
            admin_api_key: admin_key,
            control: path,
        };
        let announced = local.announce(&self.options.runtime.folder());
        let _until_the_end = announced.inspect_err(|error| {
            tracing::warn!("other commands need --server, --admin and --admin-api-key: {error:#}");
        });
        print_ready(&local, &nodes);
        self.watch(&mut control.orders).await
    }

    /// Does what is asked for, until a process ends that should not.
    async fn watch(&mut self, orders: &mut mpsc::Receiver<Order>) -> anyhow::Result<()> {
        loop {
            let acts = self.running.iter().filter_map(|fault| fault.acts.front());
            let next = acts.map(|(at, _)| *at).min();
            tokio::select! {
                // A process that should run has ended, and so does the cluster.
                ended = self.first_to_end() => return ended,
                // Somebody wants a fault.
                Some(order) = orders.recv() => self.take(order)?,
                // A fault goes on, or is over.
                () = until(next) => self.go_on()?,
            }
        }
    }

    /// Refuses a request, or begins what it asks for.
    fn take(&mut self, order: Order) -> anyhow::Result<()> {
        let Order { request, replies } = order;
        let (Request::Check(fault) | Request::Do(fault)) = &request;
        let names: Vec<&str> = self.members.iter().map(|member| member.name.as_str()).collect();
        let faulty: Vec<&str> = self.running.iter().map(|fault| names[fault.place]).collect();
        let reply = match faults::target(fault, Present { names: &names, faulty: &faulty }) {
            Err(why) => Reply::Refused(why),
            Ok(place) => {
                if let Request::Do(fault) = &request {
                    tracing::info!(process = names[place], ?fault, "fault begins");
                    let begun = Instant::now();
                    let acts = faults::acts(fault).into_iter();
                    let acts = acts.map(|(after, act)| (begun + after, act)).collect();
                    self.running.push(Running { place, acts, replies: replies.clone() });
                }
                Reply::Begun
            }
        };
        answer(&replies, reply);
        self.go_on()
    }

    /// Does what is due of all faults.
    fn go_on(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        let mut running = std::mem::take(&mut self.running);
        for fault in &mut running {
            while let Some((_, act)) = fault.acts.pop_front_if(|(at, _)| *at <= now) {
                self.act(fault, act)?;
            }
        }
        running.retain(|fault| !fault.acts.is_empty());
        self.running = running;
        Ok(())
    }

    fn act(&mut self, fault: &Running, act: Act) -> anyhow::Result<()> {
        let member = &mut self.members[fault.place];
        let over = fault.acts.is_empty();
        match act {
            Act::Stop => member.signal(Signal::STOP)?,
            Act::Continue => member.signal(Signal::CONT)?,
            Act::Kill if member.name == ETCD => {
                // Its guard kills it and ends.
                member.down = true;
                member.stdin = None;
            }
            Act::Kill => {
                member.down = true;
                member.signal(Signal::KILL)?;
            }
            Act::Start => return self.start_again(fault.place, fault.replies.clone()),
        }
        if over {
            tracing::info!(process = member.name, "fault is over");
            answer(&fault.replies, Reply::Over);
        }
        Ok(())
    }

    /// Starts a process that was killed, and says when it is there.
    fn start_again(&mut self, place: usize, replies: mpsc::Sender<Reply>) -> anyhow::Result<()> {
        let name = self.members[place].name.clone();
        let etcd = self.etcd.clone().filter(|_| name == ETCD);
        let command = match &etcd {
            Some(etcd) => guarded(etcd)?,
            None => self.node(&name)?,
        };
        let (member, mut starting, log) = Member::start(&name, command)?;
        self.copies.spawn(copy_log(name.clone(), log));
        self.members[place] = member;
        self.copies.spawn(async move {
            let there = match etcd {
                Some(etcd) => etcd.wait().await,
                None => starting.address(" listening on ").await.map(drop),
            };
            match there {
                Ok(()) => {
                    tracing::info!(process = name, "fault is over");
                    answer(&replies, Reply::Over);
                }
                // If it ended, the cluster ends and says so.
                Err(error) => tracing::warn!(process = name, "it is not there: {error:#}"),
            }
        });
        Ok(())
    }

    /// Waits until the router takes requests, which it never does if a node ends before.
    async fn ready(&mut self, router: &mut Starting) -> anyhow::Result<String> {
        tokio::select! {
            listening = router.address("router listening on ") => listening,
            ended = self.first_to_end() => Err(ended.err().context("a process ended")?),
        }
    }

    /// Starts etcd, and waits until it answers.
    async fn start_etcd(&mut self, etcd: &Etcd) -> anyhow::Result<()> {
        self.start(ETCD, guarded(etcd)?)?;
        tokio::select! {
            there = etcd.wait() => there?,
            ended = self.first_to_end() => ended?,
        }
        self.store = etcd.address();
        self.etcd = Some(etcd.clone());
        Ok(())
    }

    fn start_node(&mut self, index: usize) -> anyhow::Result<Starting> {
        let name = format!("expert-node-{index}");
        let command = self.node(&name)?;
        self.start(&name, command)
    }

    /// What runs a node, the first time and again.
    fn node(&self, name: &str) -> anyhow::Result<Command> {
        let socket = self.folder.join(format!("{name}.sock"));
        let mut command = self.guildhall("expert-node")?;
        command.arg("--node-id").arg(name).arg("--store").arg(&self.store);
        command.arg("--listen").arg(format!("unix:{}", socket.display()));
        Ok(command)
    }

    fn start_router(&mut self, admin_key: &str) -> anyhow::Result<Starting> {
        let mut command = self.guildhall("router")?;
        command.arg("--grpc-port").arg(self.options.grpc_port.to_string());
        command.arg("--port").arg(self.options.port.to_string());
        command.arg("--admin-port").arg(self.options.admin_port.to_string());
        if self.options.metrics_per_expert {
            command.arg("--metrics-per-expert");
        }
        // Arguments can be seen by every user of the machine.
        command.env("GUILDHALL_ADMIN_API_KEY", admin_key);
        command.arg("--experts").arg(self.options.experts.to_string());
        if let Some(format) = self.options.dense_weights {
            command.arg("--dense-weights").arg(format.to_string());
        }
        if self.options.experts == ExpertsMode::Remote {
            command.arg("--cluster-port").arg("0");
            if self.etcd.is_some() {
                command.arg("--store").arg(&self.store);
            }
            command.arg("--min-nodes").arg(self.options.expert_nodes.to_string());
            command.arg("--min-replicas").arg(self.options.min_replicas.to_string());
        }
        self.start("router", command)
    }

    /// Whether there are more processes than cores: one that looks for messages would take another one's.
    fn crowded(&self) -> bool {
        let nodes = match self.options.experts {
            ExpertsMode::Remote => self.options.expert_nodes.get(),
            ExpertsMode::Local => 0,
        };
        std::thread::available_parallelism().is_ok_and(|cores| cores.get() < 1 + nodes)
    }

    /// This binary in another role, with what all roles share.
    fn guildhall(&self, role: &str) -> anyhow::Result<Command> {
        let binary = std::env::current_exe().context("finding the own binary")?;
        let mut command = Command::new(binary);
        command.arg(role).arg("--stop-on-stdin-close");
        command.arg("--model").arg(&self.options.model);
        command.arg("--dtype").arg(&self.options.dtype);
        if let Some(format) = self.options.expert_weights {
            command.arg("--expert-weights").arg(format.to_string());
        }
        if let Some(busy_poll) = self.options.busy_poll.or_else(|| self.crowded().then_some(0)) {
            command.arg("--busy-poll").arg(busy_poll.to_string());
        }
        command.arg("--log-format").arg(self.logs.log_format.to_string());
        command.arg("--log").arg(&self.logs.log);
        command.args(self.options.otlp.flags());
        // Ctrl-C reaches the whole group of processes; this process alone decides when the others stop.
        command.process_group(0);
        Ok(command)
    }

    fn start(&mut self, name: &str, command: Command) -> anyhow::Result<Starting> {
        let (member, starting, log) = Member::start(name, command)?;
        self.copies.spawn(copy_log(name.to_owned(), log));
        self.members.push(member);
        Ok(starting)
    }

    /// Waits for the first of the processes that should run.
    async fn first_to_end(&mut self) -> anyhow::Result<()> {
        let running = self.members.iter_mut().filter(|member| !member.down);
        let watching =
            running.map(|of| Box::pin(async { (of.name.clone(), of.process.wait().await) }));
        let (name, status) = first(watching.collect()).await;
        bail!("{name} ended: {}", status.context("waiting for it")?)
    }

    /// Stops the router first, so that running requests can end, then all nodes at once, and etcd when nobody needs it.
    async fn stop(&mut self) {
        let members = std::mem::take(&mut self.members).into_iter();
        let (etcd, members): (Vec<_>, Vec<_>) = members.partition(|member| member.name == ETCD);
        let mut members = members.into_iter();
        if let Some(router) = members.next() {
            router.stop().await;
        }
        members.map(Member::stop).collect::<JoinSet<()>>().join_all().await;
        for etcd in etcd {
            etcd.stop().await;
        }
        while self.copies.join_next().await.is_some() {}
    }
}

/// etcd in a process that ends with its standard input, as all others do.
fn guarded(etcd: &Etcd) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("finding the own binary")?);
    command.arg("guard");
    etcd.arguments(&mut command);
    command.process_group(0);
    Ok(command)
}

/// A client that has gone needs no reply, and the channel has room for all of them.
fn answer(replies: &mpsc::Sender<Reply>, reply: Reply) {
    if replies.try_send(reply).is_err() {
        tracing::debug!("nobody waits for a reply");
    }
}

/// Waits until a moment; for ever, if there is none.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// Says where everything is, and what to do with it.
fn print_ready(cluster: &LocalCluster, nodes: &[String]) {
    let LocalCluster { server, http, admin, control, .. } = cluster;
    let key = percent_encoded(&cluster.admin_api_key);
    let control = control.display();
    let nodes = nodes.iter().enumerate();
    let nodes: String = nodes.map(|(n, node)| format!("  expert-node-{n}  {node}\n")).collect();
    // As this process was called, so that the lines can be copied.
    let binary = std::env::args().next().unwrap_or_else(|| "guildhall".into());
    let text = format!(
        "\n  router         {server}\n  OpenAI API     {http}/v1\n  live page      {admin}/#key={key}\n{nodes}  control        {control}\n\n  Ready. In another terminal:\n    \
         {binary} generate \"Once upon a time\"\n    \
         {binary} status\n    \
         {binary} loadtest --skew hot-set --report report.html\n  Ctrl-C stops everything.\n\n"
    );
    let mut stdout = std::io::stdout();
    if stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_err() {
        tracing::debug!("nobody reads standard output");
    }
}

/// A text as part of an address.
fn percent_encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let encoded = |byte: u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(encoded).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_part_of_an_address() {
        assert_eq!(percent_encoded("9d0a-._~"), "9d0a-._~");
        assert_eq!(percent_encoded("a&b+%é"), "a%26b%2B%25%C3%A9");
    }
}
