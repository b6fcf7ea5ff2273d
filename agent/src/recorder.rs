//! The thread that samples the inventory and writes the log. All that blocks on files is here (but for
//! reading the log, which the publisher hands to a thread of its own).

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hourglass_proto::v1::Evidence;

use crate::assignment::{Inventory, Run};
use crate::evidence::Devices;
use crate::spool::{Appended, Spool, Writer, replace_file};
use crate::status::{Broker, Status};
use crate::tracker::{Lost, Tracker};
use crate::{AgentOptions, BATCH_RECORDS_MAX, Clock};

/// While the log takes nothing, it is said again after so long.
const NAG_MILLISECONDS: i64 = 300_000;

/// Where one sample does not fit into the log, it is tried again after so long at most.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(1);

/// What the recorder is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Something was freed: there may be room again.
    Freed,
    /// Take a last sample and end.
    Stop,
}

/// When the recorder ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// When it is told to.
    Stopped,
    /// When all of one sample is in the log.
    SampledOnce,
}

/// Samples and records.
pub(crate) struct Recorder {
    pub(crate) spool: Arc<Spool>,
    pub(crate) writer: Writer,
    pub(crate) tracker: Tracker,
    pub(crate) inventory: Inventory,
    pub(crate) devices: Devices,
    pub(crate) clock: Clock,
    pub(crate) every: Duration,
    pub(crate) broker: Arc<Mutex<Broker>>,
    pub(crate) status: Status,
    pub(crate) status_path: std::path::PathBuf,
    measured: BTreeMap<Run, Evidence>,
    sampled_at: i64,
    said_at: Option<i64>,
}

impl Recorder {
    /// A recorder on an open log.
    pub(crate) fn new(
        options: &AgentOptions,
        (spool, writer, tracker): (Arc<Spool>, Writer, Tracker),
        devices: Devices,
        clock: Clock,
        broker: Arc<Mutex<Broker>>,
    ) -> Self {
        let status = Status {
            agent: options.agent.to_string(),
            epoch: writer.epoch(),
            bytes_max: options.spool_bytes_max,
            ..Status::default()
        };
        Self {
            spool,
            writer,
            tracker,
            inventory: Inventory::new(options.inventory.clone()),
            devices,
            clock,
            every: options.every,
            broker,
            status,
            status_path: options.spool.join("status.json"),
            measured: BTreeMap::new(),
            sampled_at: 0,
            said_at: None,
        }
    }

    /// Runs until it is told to stop, or as `until` says. Gives itself back.
    pub(crate) fn run(mut self, orders: &Receiver<Order>, until: Until) -> Self {
        self.sample();
        loop {
            if until == Until::SampledOnce && self.tracker.owes_nothing() {
                break;
            }
            let pause = match until {
                Until::Stopped => self.until_next_sample(),
                Until::SampledOnce => self.every.min(RETRY_PAUSE_MAX),
            };
            match orders.recv_timeout(pause) {
                Ok(Order::Freed) => self.make_room(),
                Err(RecvTimeoutError::Timeout) if until == Until::SampledOnce => self.record(),
                Err(RecvTimeoutError::Timeout) => self.sample(),
                Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    if until == Until::Stopped {
                        self.sample();
                    }
                    break;
                }
            }
        }
        self.end();
        self
    }

    /// The wall clock says when; where it was set back, the pause is not longer than a whole one.
    fn until_next_sample(&self) -> Duration {
        let passed = (self.clock)().unix_ms().saturating_sub(self.sampled_at);
        let passed = Duration::from_millis(u64::try_from(passed).unwrap_or(0));
        self.every.saturating_sub(passed).max(Duration::from_millis(1))
    }

    fn sample(&mut self) {
        let now = (self.clock)().unix_ms();
        self.sampled_at = now;
        // An inventory that cannot be read says nothing: the next one that can says it all.
        if let Some(assignments) = self.inventory.read() {
            self.measured = self.devices.measure(&assignments);
            let lost = self.tracker.see(&assignments, now);
            self.tell_lost(lost);
        }
        self.record();
    }

    /// Writes what is owed to the log, as far as there is room.
    fn record(&mut self) {
        let before = self.spool.counts().recorded;
        let done = loop {
            // What fails half-way is owed still.
            let saved = self.tracker.clone();
            match self.record_group() {
                Ok(Appended::Enough) => {}
                Ok(last) => break Ok(last),
                Err(error) => {
                    self.tracker = saved;
                    break Err(error);
                }
            }
        };
        let stopped = match done {
            Ok(Appended::Full) => {
                let bytes_max = self.status.bytes_max;
                Some(format!("it holds its {bytes_max} bytes and the cell commits nothing"))
            }
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        };
        self.tell_stopped(stopped, self.spool.counts().recorded > before);
        self.write_status();
    }

    /// Gathers records and makes them durable.
    fn record_group(&mut self) -> std::io::Result<Appended> {
        if self.tracker.owes_nothing() {
            self.writer.delete_freed()?;
            return Ok(Appended::Room);
        }
        self.writer.begin(self.tracker.cursors())?;
        let mut outcome = Appended::Room;
        while outcome == Appended::Room {
            let records = self.tracker.next_records(BATCH_RECORDS_MAX, self.sampled_at, &self.measured);
            if records.is_empty() {
                break;
            }
            outcome = self.writer.append(records.clone());
            if outcome != Appended::Full {
                self.tracker.recorded(&records);
            }
        }
        self.writer.commit()?;
        Ok(outcome)
    }

    fn make_room(&mut self) {
        if self.tracker.owes_nothing() {
            if let Err(error) = self.writer.delete_freed() {
                tracing::warn!("what is freed of the log cannot be deleted: {error}");
            }
        } else {
            self.record();
        }
    }

    fn tell_stopped(&mut self, why: Option<String>, something_recorded: bool) {
        let stopped = why.is_some();
        match why {
            Some(why) if something_recorded => tracing::debug!("the log takes no more for now: {why}"),
            Some(why) => {
                let due =
                    self.said_at.is_none_or(|at| self.sampled_at >= at.saturating_add(NAG_MILLISECONDS));
                if due {
                    self.said_at = Some(self.sampled_at);
                    tracing::error!(
                        "usage is NOT being recorded, the log takes no more: {why}. It is caught up later for \
                         assignments whose files are kept; make room, raise --spool-max-bytes, or bring the cell back"
                    );
                }
            }
            None if self.said_at.take().is_some() => {
                tracing::warn!("usage is being recorded again, and what was missing is caught up");
            }
            None => {}
        }
        self.status.recording_stopped = stopped;
    }

    fn tell_lost(&mut self, lost: Lost) {
        if lost.runs > 0 {
            self.status.lost_instances = self.status.lost_instances.saturating_add(lost.runs);
            self.status.lost_gpu_milliseconds =
                self.status.lost_gpu_milliseconds.saturating_add(lost.gpu_milliseconds);
            tracing::error!(
                "{} GPU-milliseconds of {} instances are LOST: their files are gone and the log took no more",
                lost.gpu_milliseconds,
                lost.runs
            );
        }
    }

    fn end(&mut self) {
        let lost = self.tracker.lost_if_ended();
        self.tell_lost(lost);
        if let Err(error) = self.writer.save_state() {
            tracing::warn!("the log's state cannot be written, so some of it is published again: {error}");
        }
        self.write_status();
    }

    /// Writes the status file. It informs and nothing depends on it, so it is not made durable.
    pub(crate) fn write_status(&mut self) {
        let (instances, gpus) = self.tracker.held();
        let status = &mut self.status;
        status.as_of_unix_ms = (self.clock)().unix_ms();
        (status.instances, status.gpus) = (instances as u64, gpus);
        status.inventory_faults = self.inventory.fault_count() as u64;
        status.counts = self.spool.counts();
        status.broker = self.broker.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let written = serde_json::to_vec_pretty(&self.status)
            .map_err(std::io::Error::other)
            .and_then(|text| replace_file(&self.status_path, &text, false));
        if let Err(error) = written {
            tracing::debug!("the status file cannot be written: {error}");
        }
    }
}
