//! What is wrong, in a picture that a person can read.

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Write as _};

use crate::recorder::History;

/// So many operations of the order are shown before the place where it ends.
const SHOWN_BEFORE: usize = 8;

/// So many operations of each kind are shown where the order ends.
const SHOWN_AFTER: usize = 16;

/// Why a history does not pass.
#[derive(thiserror::Error)]
pub enum Violation {
    /// There is no order: no correct server answers so.
    #[error("the history is not linearizable: {0}")]
    NotLinearizable(Stuck),
    /// There may be an order, but it was not found within the bound. The place where the search got
    /// stuck is often telling all the same. If not: fewer clients, a shorter history, or fewer lost
    /// answers (an expiry that was watched is better than one that was only possible).
    #[error(
        "undecided: no order was found among {visited} configurations (CONFIGURATIONS_MAX); record fewer \
         clients, operations or lost answers at a time. So far: {stuck}"
    )]
    Undecided {
        /// How many configurations were visited.
        visited: usize,
        /// Where the longest order ends.
        stuck: Stuck,
    },
}

// A test says `check(..).unwrap()`, which prints this and not Display: it should be as readable.
impl Debug for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Violation {
    /// Where the longest order ends.
    #[must_use]
    pub fn stuck(&self) -> &Stuck {
        match self {
            Self::NotLinearizable(stuck) | Self::Undecided { stuck, .. } => stuck,
        }
    }
}

/// The longest order that was found, and what could not come after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// The order, by the places of the calls in [`History::calls`].
    pub order: Vec<usize>,
    /// The calls of which one had to come next, and none could.
    pub next: Vec<usize>,
    picture: String,
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.picture)
    }
}

impl Stuck {
    pub(crate) fn new<Op: Debug, Output: Debug>(
        history: &History<Op, Output>,
        order: &[usize],
        next: &[usize],
        state: &str,
    ) -> Self {
        let known = |calls: &[usize]| calls.iter().filter(|call| is_known(history, **call)).count();
        let all: Vec<usize> = (0..history.calls.len()).collect();
        let mut picture =
            format!("{} of {} answered operations can be put in an order", known(order), known(&all),);
        let unknown = order.len() - known(order);
        if unknown > 0 {
            _ = write!(picture, ", with {unknown} whose answer was lost");
        }
        _ = write!(picture, ".\nThen the state is: {state}.\n");

        let (stuck, lost): (Vec<usize>, Vec<usize>) = next.iter().partition(|call| is_known(history, **call));
        let before = order.len().saturating_sub(SHOWN_BEFORE);
        let last = order.get(before..).unwrap_or_default();
        let stuck_shown = stuck.get(..SHOWN_AFTER).unwrap_or(&stuck);
        // The youngest are the likeliest to matter.
        let lost_shown = lost.get(lost.len().saturating_sub(SHOWN_AFTER)..).unwrap_or_default();
        let shown: Vec<usize> = last.iter().chain(stuck_shown).chain(lost_shown).copied().collect();
        let columns = columns(history, &shown);

        let mut section = |title: &str, calls: &[usize], first: Option<usize>| {
            if calls.is_empty() {
                return;
            }
            _ = writeln!(picture, "{title}");
            for (place, number) in calls.iter().enumerate() {
                let Some(call) = history.calls.get(*number) else { continue };
                let label = first.map_or_else(|| "-".to_owned(), |first| format!("{}.", first + place + 1));
                let time = bar(&columns, call.invoked, call.answer.as_ref().map(|(_, completed)| *completed));
                _ = write!(picture, "  {time}  {label:>5} #{number} client {}: {:?}", call.client, call.op);
                _ = match &call.answer {
                    Some((output, _)) => writeln!(picture, " -> {output:?}"),
                    None => writeln!(picture, " -> (answer lost)"),
                };
            }
        };
        section("The end of the order (time runs to the right):", last, Some(before));
        section("One of these had to come next, and none can have been answered so:", stuck_shown, None);
        section(
            "These, whose answers were lost, could have come before it, and did not help:",
            lost_shown,
            None,
        );
        let hidden = stuck.len() + lost.len() - stuck_shown.len() - lost_shown.len();
        if hidden > 0 {
            _ = writeln!(picture, "({hidden} more are not shown)");
        }
        Self { order: order.to_vec(), next: next.to_vec(), picture }
    }
}

fn is_known<Op, Output>(history: &History<Op, Output>, call: usize) -> bool {
    history.calls.get(call).is_some_and(|call| call.answer.is_some())
}

/// A column for each event that is shown: only their order matters.
fn columns<Op, Output>(history: &History<Op, Output>, shown: &[usize]) -> BTreeMap<u64, usize> {
    let calls = shown.iter().filter_map(|call| history.calls.get(*call));
    let events = calls.flat_map(|call| [Some(call.invoked), call.answer.as_ref().map(|answer| answer.1)]);
    let mut columns: BTreeMap<u64, usize> = events.flatten().map(|event| (event, 0)).collect();
    for (place, column) in columns.values_mut().enumerate() {
        *column = place;
    }
    columns
}

/// `├──┤` from the sending to the answer, and `├──…` to the end where no answer came.
fn bar(columns: &BTreeMap<u64, usize>, invoked: u64, completed: Option<u64>) -> String {
    let from = columns.get(&invoked).copied().unwrap_or(0);
    let to = completed.and_then(|completed| columns.get(&completed)).copied();
    let column = |column: usize| match to {
        _ if column < from => ' ',
        _ if column == from => '├',
        Some(to) if column > to => ' ',
        Some(to) if column == to => '┤',
        None if column + 1 == columns.len() => '…',
        _ => '─',
    };
    (0..columns.len()).map(column).collect()
}
