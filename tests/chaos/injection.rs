//! Lets the faults happen and heals them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use hourglass_test_servers::Fault as OnTheWay;

use super::broker;
use super::cast::{AGENT_ON_SMALL_DISK, Cast, LEASE_MS, STREAM_BYTES_MAX};
use super::client::Client;
use super::clock::{Stopwatch, pause};
use super::faults::{Fault, Kind, SETTLE_MS};
use super::schedule::agent_name;
use crate::http::usage_batch;

/// Takes part of what a slow way delays: each piece that passes.
const DELAY: Duration = Duration::from_millis(40);
/// What a full stream holds.
const FULL_STREAM_BYTES: u64 = 1_024;
/// Between two faults, where a restart took longer than was thought.
const SPACE_MS: u64 = 200;
/// Between two lines about how much is left.
const SAY_EVERY_MS: u64 = 5_000;
/// Poison messages of one fault, each sent twice.
const POISON: u64 = 3;

/// A fault that was injected and is to be healed.
struct Open {
    until: u64,
    kind: Kind,
    /// Which server or agent it hit.
    target: usize,
}

/// A message that nobody should have sent.
struct Poison {
    agent: String,
    payload: Vec<u8>,
    reason: &'static str,
}

/// Injects the faults of a run.
pub(crate) struct Injector {
    pub(crate) cast: Cast,
    pub(crate) watch: Stopwatch,
    client: Client,
    faults: std::iter::Peekable<std::vec::IntoIter<Fault>>,
    open: Vec<Open>,
    poison: Vec<Poison>,
    injected: BTreeMap<Kind, u64>,
    /// When the last fault was healed, and when one was injected.
    quiet_since: u64,
    injected_at: u64,
    take_overs_ms: Vec<u64>,
    restarts: u64,
    /// What must not have happened.
    pub(crate) wrong: Vec<String>,
    last_seen_at: i64,
    said_at: u64,
}

impl Injector {
    pub(crate) fn new(cast: Cast, client: Client, faults: Vec<Fault>) -> Self {
        Self {
            cast,
            watch: Stopwatch::start(),
            client,
            faults: faults.into_iter().peekable(),
            open: Vec::new(),
            poison: Vec::new(),
            injected: BTreeMap::new(),
            quiet_since: 0,
            injected_at: 0,
            take_overs_ms: Vec::new(),
            restarts: 0,
            wrong: Vec::new(),
            last_seen_at: 0,
            said_at: 0,
        }
    }

    fn say(&self, what: &str) {
        let ms = self.watch.ms();
        eprintln!("{:>5}.{:03} s  {what}", ms / 1_000, ms % 1_000);
    }

    /// Whether every fault has happened and is healed.
    pub(crate) fn is_over(&mut self) -> bool {
        self.open.is_empty() && self.faults.peek().is_none()
    }

    /// Heals and injects what is due.
    pub(crate) fn look(&mut self) {
        let now = self.watch.ms();
        let (due, open): (Vec<Open>, Vec<Open>) = self.open.drain(..).partition(|open| open.until <= now);
        self.open = open;
        for open in due {
            self.heal(&open);
            self.quiet_since = self.watch.ms();
        }
        let now = self.watch.ms();
        let may = |fault: &Fault| {
            let is_alone = self.open.is_empty() && now >= self.quiet_since + SETTLE_MS;
            fault.at <= now && now >= self.injected_at + SPACE_MS && (is_alone || !fault.kind.is_alone())
        };
        if self.faults.peek().is_some_and(may)
            && let Some(fault) = self.faults.next()
        {
            self.injected_at = now;
            match self.inject(fault) {
                Some(target) => {
                    *self.injected.entry(fault.kind).or_default() += 1;
                    self.say(&format!("{} ({target})", fault.kind));
                    let until = self.watch.ms() + fault.lasts;
                    self.open.push(Open { until, kind: fault.kind, target });
                }
                None => self.say(&format!("{}: not possible now", fault.kind)),
            }
        }
    }

    /// Lets a fault happen. Answers with whom it hit; `None` where it cannot happen now.
    fn inject(&mut self, fault: Fault) -> Option<usize> {
        let port = self.cast.nats.port();
        let target = fault.target;
        match fault.kind {
            Kind::KillWriter => {
                let writer = self.client.writer()?;
                self.cast.servers[writer].process.kill();
                return Some(writer);
            }
            Kind::KillStandby => {
                let standby = 1 - self.client.writer()?;
                self.cast.servers[standby].process.kill();
                return Some(standby);
            }
            Kind::PauseWriter => return self.pause_writer(),
            Kind::KillPostgres => self.cast.postgres.kill(),
            Kind::KillNats => self.cast.nats.kill(),
            Kind::KillAgent => self.cast.agents[target].process.kill(),
            Kind::FillAgentDisk => {
                fill(self.cast.small_disk.as_ref()?.path());
                return Some(AGENT_ON_SMALL_DISK);
            }
            Kind::FillStream => return broker::limit_stream(port, FULL_STREAM_BYTES).then_some(0),
            Kind::DeleteStream => return broker::delete_stream(port).then_some(0),
            Kind::DelayNats => {
                self.cast.agents_to_nats.delay(DELAY);
                self.cast.servers_to_nats.delay(DELAY);
            }
            Kind::CutNats => {
                let way = if target.is_multiple_of(2) {
                    &self.cast.agents_to_nats
                } else {
                    &self.cast.servers_to_nats
                };
                way.refuse(true);
            }
            Kind::RepeatMessages => self.cast.repeater.repeat(true),
            Kind::DelayPostgres => {
                self.cast.servers.iter().for_each(|server| server.to_postgres.delay(DELAY))
            }
            Kind::CutPostgres => {
                let server = target % 2;
                self.cast.servers[server].to_postgres.refuse(true);
                return Some(server);
            }
            Kind::LoseAnswers => {
                let writer = self.client.writer()?;
                let way = &self.cast.servers[writer].to_postgres;
                way.when(b"COMMIT", OnTheWay::CutAnswer);
                if target.is_multiple_of(2) {
                    way.lose_answers();
                }
                return Some(writer);
            }
            Kind::Poison => self.send_poison(target),
        }
        Some(target)
    }

    /// Stops the writer as if its machine had stopped, past its lease. The other one must take over, and
    /// the old one must find that out before it writes.
    fn pause_writer(&mut self) -> Option<usize> {
        let writer = self.client.writer()?;
        let other = 1 - writer;
        let stands_by = self.client.stands_by(other);
        self.cast.servers[writer].process.signal("STOP");
        let stopped = Stopwatch::start();
        while stopped.ms() < 4 * LEASE_MS {
            if self.client.writes(other) {
                self.take_overs_ms.push(stopped.ms());
                break;
            }
            pause(20);
        }
        let took = stopped.ms();
        // A lease to run out, one to notice, and one for a machine that runs all other tests beside this one.
        if stands_by && took > 3 * LEASE_MS {
            self.wrong.push(format!("{took} ms after the writer stopped nobody had taken over"));
        }
        Some(writer)
    }

    fn heal(&mut self, open: &Open) {
        match open.kind {
            Kind::KillWriter | Kind::KillStandby => {
                let process = &mut self.cast.servers[open.target].process;
                if process.is_down {
                    process.start();
                }
            }
            Kind::KillAgent => {
                let process = &mut self.cast.agents[open.target].process;
                if process.is_down {
                    process.start();
                }
            }
            Kind::PauseWriter => self.cast.servers[open.target].process.signal("CONT"),
            Kind::KillPostgres => self.cast.postgres.start_again(),
            Kind::KillNats => self.cast.nats.start_again(),
            Kind::FillAgentDisk => {
                if let Some(disk) = &self.cast.small_disk {
                    let _removed = std::fs::remove_file(disk.path().join("filler"));
                }
            }
            Kind::FillStream => {
                let _widened = broker::limit_stream(self.cast.nats.port(), STREAM_BYTES_MAX);
            }
            Kind::DelayNats => {
                self.cast.agents_to_nats.delay(Duration::ZERO);
                self.cast.servers_to_nats.delay(Duration::ZERO);
            }
            Kind::CutNats => {
                self.cast.agents_to_nats.refuse(false);
                self.cast.servers_to_nats.refuse(false);
            }
            Kind::RepeatMessages => self.cast.repeater.repeat(false),
            Kind::DelayPostgres => {
                self.cast.servers.iter().for_each(|server| server.to_postgres.delay(Duration::ZERO));
            }
            Kind::CutPostgres => self.cast.servers[open.target].to_postgres.refuse(false),
            // Whoever waits for a lost answer is told in the end that the way is broken.
            Kind::LoseAnswers => self.cast.servers[open.target].to_postgres.cut(),
            Kind::DeleteStream | Kind::Poison => {}
        }
    }

    /// Messages that are no batch, and batches in another agent's name. Each is new, and comes twice.
    fn send_poison(&mut self, target: usize) {
        let agent = agent_name(target);
        for _ in 0..POISON {
            let number = self.poison.len() as u64;
            let garbage = format!("\u{ff}\u{fe} this is no batch, number {number}").into_bytes();
            let stranger = usage_batch("somebody-else", number, &[("i-0000", 0, 1_000, 8)]);
            let (payload, reason) = if number.is_multiple_of(2) {
                (garbage, "undecodable")
            } else {
                (stranger, "agent_mismatch")
            };
            self.poison.push(Poison { agent: agent.clone(), payload, reason });
        }
        let first = self.poison.len().saturating_sub(usize::try_from(POISON).unwrap());
        self.publish_poison(first);
        self.publish_poison(first);
    }

    fn publish_poison(&self, first: usize) {
        for poison in &self.poison[first..] {
            let _taken = broker::publish_as(self.cast.nats.port(), &poison.agent, &poison.payload);
        }
    }

    /// What must be in quarantine, by reason.
    pub(crate) fn poison_by_reason(&self) -> BTreeMap<&'static str, i64> {
        let mut counts = BTreeMap::new();
        for poison in &self.poison {
            *counts.entry(poison.reason).or_default() += 1;
        }
        counts
    }

    /// Nobody keeps poison as an agent keeps usage: what a fault swept away is sent again.
    pub(crate) fn settle_poison(&mut self, ms_max: u64) {
        let watch = Stopwatch::start();
        let found = || -> usize { self.cast.sql("SELECT count(*) FROM quarantine")[0][0].parse().unwrap() };
        while found() < self.poison.len() && watch.ms() < ms_max {
            self.publish_poison(0);
            pause(1_000);
        }
    }

    /// Heals everything, whatever was to happen yet.
    pub(crate) fn heal_all(&mut self) {
        for open in std::mem::take(&mut self.open) {
            self.heal(&open);
        }
        while !broker::limit_stream(self.cast.nats.port(), STREAM_BYTES_MAX) && self.watch.ms() < 600_000 {
            pause(200);
        }
        self.last_seen_at = crate::http::now_ms();
        self.say("everything is healed");
    }

    /// Starts again who ended by itself.
    pub(crate) fn supervise(&mut self) {
        for ended in self.cast.supervise() {
            self.restarts += 1;
            self.say(&ended);
        }
    }

    /// Whether every agent has recorded all that it was told, and knows all of it to be committed.
    pub(crate) fn is_drained(&self) -> bool {
        self.cast.agents.iter().all(|agent| {
            agent.status().is_some_and(|status| {
                status["unfreed"] == 0
                    && status["recording_stopped"] == false
                    && status["as_of_unix_ms"].as_i64().is_some_and(|at| at > self.last_seen_at + 2_000)
            })
        })
    }

    /// Says how much agents still keep, now and then.
    pub(crate) fn say_what_is_left(&mut self) {
        if self.watch.ms() >= self.said_at + SAY_EVERY_MS {
            self.said_at = self.watch.ms();
            let kept =
                |agent: &super::cast::Agent| agent.status().and_then(|status| status["unfreed"].as_u64());
            let kept: u64 = self.cast.agents.iter().filter_map(kept).sum();
            self.say(&format!("agents keep {kept} records"));
        }
    }

    /// What the agents say, for whoever looks why they did not drain.
    pub(crate) fn statuses(&self) -> String {
        let says = |agent: &super::cast::Agent| agent.status().unwrap_or_default().to_string();
        self.cast.agents.iter().map(says).collect::<Vec<_>>().join("\n")
    }

    /// Ends everyone in good order. Answers with who did not end well.
    pub(crate) fn stop_everyone(&mut self) -> Vec<String> {
        let agents = self.cast.agents.iter_mut().map(|agent| &mut agent.process);
        let processes = agents.chain(self.cast.servers.iter_mut().map(|server| &mut server.process));
        let stopped = processes.filter_map(|process| {
            let ended_well = process.stop();
            (!ended_well).then(|| format!("{} did not end well when it was asked to", process.name))
        });
        stopped.collect()
    }

    /// What was injected, as a table.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        for kind in Kind::ALL {
            let _row = writeln!(text, "{:>16}  {kind}", self.injected.get(&kind).copied().unwrap_or(0));
        }
        let _row = writeln!(text, "{:>16}  messages repeated on their way", self.cast.repeater.repeated());
        let _row = writeln!(text, "{:>16}  processes that ended by themselves", self.restarts);
        for ms in &self.take_overs_ms {
            let _row = writeln!(text, "{ms:>16}  ms from a stopped writer to the next");
        }
        text
    }
}

/// Fills a disk to the last byte.
fn fill(disk: &std::path::Path) {
    use std::io::Write as _;
    let mut filler = std::fs::File::options().create(true).append(true).open(disk.join("filler")).unwrap();
    let block = vec![0; 4_096];
    while filler.write_all(&block).is_ok() {}
}
