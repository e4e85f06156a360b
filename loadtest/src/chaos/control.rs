//! How faults are asked for: a line of JSON to the control socket of `guildhall up`, and lines of JSON back.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::plan::{Fault, Plan, Timed};
use crate::Error;

/// What a process needs to be there again, beyond the length of the fault.
const PATIENCE: Duration = Duration::from_secs(60);

/// The one line that a client sends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Whether this could be done.
    Check(Fault),
    /// Do it.
    Do(Fault),
}

/// A line of the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// It could be done, or has just been done.
    Begun,
    /// The fault is over: the process runs again.
    Over,
    /// It is not done, and why.
    Refused(String),
}

/// One connection to the control socket.
struct Conversation {
    lines: Lines<BufReader<OwnedReadHalf>>,
    /// Kept, because the end of this half is the end of the conversation.
    _asking: OwnedWriteHalf,
}

impl Conversation {
    /// Asks, and waits for the first answer.
    async fn begin(path: &Path, request: &Request) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("asking for it: {error}");
        let (answers, mut asking) = UnixStream::connect(path).await.map_err(failed)?.into_split();
        let line = serde_json::to_string(request).map_err(|error| error.to_string())? + "\n";
        asking.write_all(line.as_bytes()).await.map_err(failed)?;
        let lines = BufReader::new(answers).lines();
        let mut conversation = Self { lines, _asking: asking };
        match conversation.next().await? {
            Reply::Begun => Ok(conversation),
            Reply::Refused(why) => Err(why),
            Reply::Over => Err("it is over before it began".into()),
        }
    }

    async fn next(&mut self) -> Result<Reply, String> {
        let line = self.lines.next_line().await.map_err(|error| format!("listening: {error}"))?;
        let line = line.ok_or("the cluster ended the conversation")?;
        serde_json::from_str(&line).map_err(|error| format!("{line:?} is no reply: {error}"))
    }
}

/// What became of a fault; times are from the start of the run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Done {
    pub(crate) begun: Option<Duration>,
    pub(crate) over: Option<Duration>,
    pub(crate) problem: Option<String>,
}

/// Has faults done at their times.
pub(crate) struct Injector {
    control: PathBuf,
    plan: Plan,
}

impl Injector {
    /// Asks whether everything that is planned could be done.
    ///
    /// # Errors
    /// Nobody listens there, or a fault is refused.
    pub(crate) async fn connect(control: PathBuf, plan: Plan) -> Result<Self, Error> {
        for timed in &plan.0 {
            let check = Request::Check(timed.fault.clone());
            Conversation::begin(&control, &check).await.map_err(|what| Error::Unreachable {
                address: format!("--control {}", control.display()),
                what: format!("{}: {what}", timed.text),
            })?;
        }
        Ok(Self { control, plan })
    }

    /// Does everything until the load has ended, and waits until all that was done is over.
    pub(crate) async fn run(self, began: Instant, ended: CancellationToken) -> Vec<Done> {
        let mut faults = JoinSet::new();
        for (index, timed) in self.plan.0.into_iter().enumerate() {
            let (control, ended) = (self.control.clone(), ended.clone());
            faults.spawn(async move { (index, inject(&control, timed, began, ended).await) });
        }
        let mut done = faults.join_all().await;
        done.sort_by_key(|(index, _)| *index);
        done.into_iter().map(|(_, done)| done).collect()
    }
}

async fn inject(control: &Path, timed: Timed, began: Instant, ended: CancellationToken) -> Done {
    let mut done = Done::default();
    tokio::select! {
        () = tokio::time::sleep_until((began + timed.at).into()) => {}
        () = ended.cancelled() => {
            done.problem = Some("the run ended before".into());
            return done;
        }
    }
    let lasts = timed.fault.lasts;
    let mut conversation = match Conversation::begin(control, &Request::Do(timed.fault)).await {
        Ok(conversation) => conversation,
        Err(why) => return Done { problem: Some(why), ..done },
    };
    done.begun = Some(began.elapsed());
    match tokio::time::timeout(lasts + PATIENCE, conversation.next()).await {
        Ok(Ok(Reply::Over)) => done.over = Some(began.elapsed()),
        Ok(Ok(reply)) => done.problem = Some(format!("{reply:?} in the place of its end")),
        Ok(Err(what)) => done.problem = Some(what),
        Err(_) => done.problem = Some("the process did not come back".into()),
    }
    done
}
