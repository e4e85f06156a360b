//! What people ask of a running cluster: how it is, to empty a node, to balance now.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, bail};
use guildhall_loadtest::DEFAULT_ADMIN;
use guildhall_proto::v1;
use guildhall_proto::v1::admin_client::AdminClient;
use guildhall_proto::v1::cluster_node::State;
use tonic::Request;
use tonic::transport::Channel;

use crate::config::{AdminOptions, DrainOptions, RebalanceOptions, StatusOptions};
use crate::local_cluster::LocalCluster;

/// Time between two looks at a node that is being emptied.
const LOOK: Duration = Duration::from_millis(300);

/// The admin API with its key.
struct Admin {
    client: AdminClient<Channel>,
    key: String,
}

impl Admin {
    async fn connect(options: AdminOptions) -> anyhow::Result<Self> {
        let (address, key) = whom(options)?;
        let client = AdminClient::connect(address.clone())
            .await
            .with_context(|| format!("connecting to {address}"))?;
        Ok(Self { client: client.max_decoding_message_size(64 << 20), key })
    }

    fn request<T>(&self, message: T) -> anyhow::Result<Request<T>> {
        let mut request = Request::new(message);
        let value = format!("Bearer {}", self.key);
        let value = value.parse().context("the key has characters that cannot be sent")?;
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }

    async fn experts(&mut self) -> anyhow::Result<v1::GetExpertsResponse> {
        let request = self.request(v1::GetExpertsRequest {})?;
        Ok(self.client.get_experts(request).await?.into_inner())
    }

    async fn cluster(&mut self) -> anyhow::Result<v1::GetClusterResponse> {
        let request = self.request(v1::GetClusterRequest {})?;
        Ok(self.client.get_cluster(request).await?.into_inner())
    }
}

/// The address that is asked, and its key: those given, or those of the cluster on this machine.
fn whom(options: AdminOptions) -> anyhow::Result<(String, String)> {
    let AdminOptions { admin, admin_api_key: key, runtime } = options;
    if let Some(admin) = admin {
        let key = key.context("--admin needs --admin-api-key (or GUILDHALL_ADMIN_API_KEY)")?;
        return Ok((admin, key));
    }
    let local = LocalCluster::find(&runtime.folder())?;
    if let Some(local) = local.filter(|local| local.has_key(key.as_deref())) {
        return Ok((local.admin, local.admin_api_key));
    }
    let key = key.context("no `guildhall up` runs here: give --admin and --admin-api-key")?;
    Ok((DEFAULT_ADMIN.to_owned(), key))
}

/// Prints the state of a cluster.
pub(crate) async fn status(options: StatusOptions) -> anyhow::Result<()> {
    let mut admin = Admin::connect(options.admin).await?;
    if options.experts {
        return print(&describe_experts(&admin.experts().await?));
    }
    print(&describe(&admin.cluster().await?))
}

/// Asks for a node to be emptied and waits until it is.
pub(crate) async fn drain(options: DrainOptions) -> anyhow::Result<()> {
    let DrainOptions { node, undo, no_wait, admin } = options;
    let mut admin = Admin::connect(admin).await?;
    let request = admin.request(v1::DrainNodeRequest { node_id: node.clone(), undo })?;
    admin.client.drain_node(request).await?;
    if undo {
        return print(&format!("{node} may hold experts again\n"));
    }
    if no_wait {
        return print(&format!("{node} is being emptied\n"));
    }
    loop {
        let cluster = admin.cluster().await?;
        let Some(found) = cluster.nodes.iter().find(|found| found.node_id == node) else {
            bail!("{node} has left before it was empty");
        };
        if found.assigned_experts == 0 {
            return print(&format!("{node} holds nothing that is needed; it can be stopped\n"));
        }
        print(&format!("{node} still has {} experts\n", found.assigned_experts))?;
        tokio::time::sleep(LOOK).await;
    }
}

/// Has a placement solved, and says what it changes.
pub(crate) async fn rebalance(options: RebalanceOptions) -> anyhow::Result<()> {
    let dry_run = options.dry_run;
    let mut admin = Admin::connect(options.admin).await?;
    let request = admin.request(v1::RebalanceRequest { dry_run })?;
    let done = admin.client.rebalance(request).await?.into_inner();
    let mut text = String::new();
    for reason in &done.reasons {
        text += &format!("{reason}\n");
    }
    let verb = if dry_run { "would be" } else { "is being" };
    text += &format!(
        "{} changes; a step {verb} made {:.1} % faster by the cost model\n",
        done.reasons.len(),
        done.gain * 100.0
    );
    print(&text)
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("writing to standard output")
}

/// A page about the whole cluster.
fn describe(cluster: &v1::GetClusterResponse) -> String {
    let mut text = format!(
        "placement {}, leader {}{}\n\n",
        cluster.epoch,
        if cluster.leader.is_empty() { "none" } else { &cluster.leader },
        if cluster.connected { "" } else { "; THE STORE IS AWAY: this is the last that was known" },
    );
    text += &format!(
        "{:<18} {:<9} {:>16} {:>24}  {:<10} {}\n",
        "node", "state", "experts", "memory", "zone", "address"
    );
    for node in &cluster.nodes {
        let experts = format!("{} of {}", node.resident_experts, node.assigned_experts);
        let memory = format!("{} of {}", mib(node.resident_bytes), mib(node.capacity_bytes));
        text += &format!(
            "{:<18} {:<9} {experts:>16} {memory:>24}  {:<10} {}\n",
            node.node_id,
            state(node.state()),
            node.zone,
            node.address,
        );
        if !node.reason.is_empty() {
            text += &format!("  {}\n", node.reason);
        }
    }
    if cluster.missing_experts > 0 {
        text += &format!("\n{} experts are on no node\n", cluster.missing_experts);
    }
    match &cluster.balance {
        Some(balance) => text += &describe_balance(balance),
        None => text += "\nthe leader does not answer\n",
    }
    text
}

/// A table of each layer: how often its experts were used, and the nodes that hold them.
fn describe_experts(seen: &v1::GetExpertsResponse) -> String {
    let mut text =
        format!("placement {}; pairs of a token and an expert since the start\n", seen.epoch);
    for layer in &seen.layers {
        text += &format!("\nlayer {}\nexpert        pairs  of mean  nodes\n", layer.layer);
        let mean = layer.pairs.iter().sum::<u64>() as f64 / layer.pairs.len().max(1) as f64;
        for (expert, &pairs) in (0..).zip(&layer.pairs) {
            let holds = |node: &&v1::ExpertLayerNode| node.experts.contains(&expert);
            let nodes = layer.nodes.iter().filter(holds).map(|node| node.node_id.as_str());
            let nodes = nodes.collect::<Vec<_>>().join(" ");
            let of_mean = pairs as f64 / mean.max(1.0);
            text += &format!("{expert:>6} {pairs:>12} {of_mean:>7.2}×  {nodes}\n");
        }
    }
    text
}

fn state(state: State) -> &'static str {
    match state {
        State::Serving => "serving",
        State::Leaving => "leaving",
        State::Drained => "drained",
        State::Refused => "refused",
        State::Gone => "gone",
        State::Unspecified => "?",
    }
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

fn describe_balance(balance: &v1::GetBalanceResponse) -> String {
    let mut text = format!("\nbalancer: {}", balance.state);
    if balance.last_change_unix_ms > 0 {
        text += &format!("; last placement {} ago", ago(balance.last_change_unix_ms));
    }
    if balance.last_failure_unix_ms > 0 {
        let (when, why) = (ago(balance.last_failure_unix_ms), &balance.last_failure);
        text += &format!("; last failure {when} ago: {why}");
    }
    text += "\n\nmean over maximum (1 is even)\nlayer   nodes  experts  entropy    pairs  dead experts / hot experts\n";
    for layer in &balance.layers {
        let (nodes, experts) = (layer.nodes.unwrap_or_default(), layer.experts.unwrap_or_default());
        text += &format!(
            "{:>5}  {:>6.3}  {:>7.3}  {:>7.3} {:>8.0}  {} / {}\n",
            layer.layer,
            nodes.balancedness,
            experts.balancedness,
            experts.normalised_entropy,
            layer.pairs,
            numbers(&layer.dead_experts),
            numbers(&layer.hot_experts),
        );
    }
    for node in &balance.slow_nodes {
        let (name, times) = (&node.node_id, node.times);
        text +=
            &format!("\n{name} takes {times:.1} times as long as expected: it shall hold less\n");
    }
    for reason in balance.reasons.iter().take(10) {
        text += &format!("  {reason}\n");
    }
    if balance.reasons.len() > 10 {
        text += &format!("  and {} more\n", balance.reasons.len() - 10);
    }
    text
}

fn numbers(experts: &[u32]) -> String {
    if experts.is_empty() {
        return "-".into();
    }
    let shown: Vec<String> = experts.iter().take(8).map(u32::to_string).collect();
    let more = if experts.len() > 8 { " …" } else { "" };
    format!("{}{more}", shown.join(" "))
}

fn ago(unix_ms: u64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
    let seconds = now.saturating_sub(unix_ms) / 1000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}
