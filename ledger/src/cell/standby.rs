//! Standing by: folds the log as others write it, and takes over when the lease is free.
//!
//! Every candidate asks the head of the log for the lease; nothing else is agreed upon between them.
//! A writer that still runs when its lease ends is fenced by its epoch, so two clocks that differ can
//! cost a change of writers and never a wrong log. Take-over happens within the lease, plus
//! [`POLL`], plus the fold of what was written last.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;

use super::{CellError, Runner, Turn, Work, refuse};
use crate::load::{self, LoadError, Loaded, load};
use crate::store::{Acquire, AcquireError, Head, StoreError};

/// How often a standby looks at the head of the log.
const POLL: Duration = Duration::from_millis(100);
/// How long it leaves a store alone that did not answer.
const POLL_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Stands by until it is this cell's turn. `None` where it was closed meanwhile.
pub(super) fn stand_by(
    runner: &mut Runner,
    work: &mut mpsc::Receiver<Work>,
    mut returns: bool,
) -> Option<Turn> {
    let mut folded: Option<Loaded> = None;
    let mut writer = "nobody".to_owned();
    let mut told = String::new();
    loop {
        let standing_by = CellError::StandingBy { writer: writer.clone() };
        loop {
            match work.try_recv() {
                Ok(one) => {
                    if refuse(one, &standing_by) {
                        return None;
                    }
                }
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => return None,
            }
        }
        match look(runner, &mut folded, returns) {
            Ok(Seen::Ours(turn)) => return Some(*turn),
            Ok(Seen::Theirs(head)) => {
                if writer != head.holder {
                    tracing::info!(writer = head.holder, epoch = head.epoch, "standing by");
                    writer = head.holder;
                }
                // From now on a writer of this name is another process.
                returns = false;
                told.clear();
                pause(POLL);
            }
            Err(error) => {
                let error = error.to_string();
                if told != error {
                    tracing::warn!(error, "standing by, but the log cannot be followed");
                    told = error;
                }
                pause(POLL_AFTER_FAILURE);
            }
        }
    }
}

enum Seen {
    /// It is our turn.
    Ours(Box<Turn>),
    /// Somebody else's lease runs.
    Theirs(Head),
}

/// Folds what is new, and asks for the lease where it is free.
fn look(runner: &mut Runner, folded: &mut Option<Loaded>, returns: bool) -> Result<Seen, LoadError> {
    let reader = runner.reader.as_ref();
    let mut loaded = match folded.take() {
        None => load(reader, load::From::Snapshot, |_, _| {})?,
        Some(loaded) => loaded,
    };
    // A log that cannot be folded leaves a state that is of no use; a store that does not answer
    // leaves the one that there was.
    let followed = reader.head().map_err(LoadError::from).and_then(|head| {
        if head.position > loaded.state.position() {
            load::catch_up(reader, &mut loaded)?;
        }
        Ok(head)
    });
    if !matches!(followed, Err(LoadError::Log(_))) {
        *folded = Some(loaded);
    }
    let head = followed?;
    let Some(loaded) = folded.as_mut() else { return Ok(Seen::Theirs(head)) };
    runner.status.tell_of(&loaded.state);
    let now = runner.clock.now();
    let free = head.lease_until <= now || (returns && head.holder == runner.options.holder);
    if !free {
        return Ok(Seen::Theirs(head));
    }
    let (holder, lease_until) = (runner.options.holder.clone(), runner.options.lease_from(now));
    match runner.store.acquire(&Acquire { holder, now, lease_until, holder_is_gone: false }) {
        Ok(head) => {
            // Nobody else can append any more: this is the end of the log.
            load::catch_up(reader, loaded)?;
            let status = &runner.status;
            status.tell_of(&loaded.state);
            status.epoch.store(head.epoch, Ordering::Relaxed);
            status.writable.store(1, Ordering::Release);
            tracing::info!(epoch = head.epoch, position = %loaded.state.position(), "this process writes now");
            let loaded = folded.take().ok_or_else(|| StoreError("the state is gone".to_owned()))?;
            Ok(Seen::Ours(Box::new(Turn { epoch: head.epoch, lease_until, loaded })))
        }
        // Another candidate was faster.
        Err(AcquireError::Held { holder, until }) => {
            Ok(Seen::Theirs(Head { holder, lease_until: until, ..head }))
        }
        Err(AcquireError::Store(error)) => Err(error.into()),
    }
}

#[expect(clippy::disallowed_methods, reason = "a standby has nothing to do between two looks")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
