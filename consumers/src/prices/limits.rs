//! How many streams there are, and of whom.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts streams by who has them.
#[derive(Debug, Default)]
pub(super) struct Streams(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    all: usize,
    opened: u64,
    by_name: BTreeMap<Arc<str>, usize>,
}

/// A stream's place among them; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct StreamSlot {
    streams: Arc<Streams>,
    name: Arc<str>,
    /// Counts all streams that were ever opened.
    pub(crate) number: u64,
}

/// Why there is no place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// The server has as many as it can.
    Server,
    /// Who asks has as many as it may.
    Own,
}

impl Streams {
    /// Takes a place for somebody who may have `own_max` of all that there may be.
    pub(super) fn open(
        self: &Arc<Self>,
        name: &str,
        own_max: usize,
        all_max: usize,
    ) -> Result<StreamSlot, Full> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.all >= all_max {
            return Err(Full::Server);
        }
        let name: Arc<str> =
            open.by_name.get_key_value(name).map_or_else(|| name.into(), |(name, _)| Arc::clone(name));
        let own = open.by_name.entry(Arc::clone(&name)).or_default();
        if *own >= own_max {
            return Err(Full::Own);
        }
        *own = own.saturating_add(1);
        open.all = open.all.saturating_add(1);
        open.opened = open.opened.wrapping_add(1);
        Ok(StreamSlot { streams: Arc::clone(self), name, number: open.opened })
    }

    /// How many are open.
    pub(super) fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).all
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let mut open = self.streams.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.all = open.all.saturating_sub(1);
        if let Some(own) = open.by_name.get_mut(&self.name) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                open.by_name.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_by_owner_and_given_back() {
        let streams = Arc::new(Streams::default());
        let open = |name: &str| streams.open(name, 2, 3);
        let (first, _second) = (open("a").unwrap(), open("a").unwrap());
        assert_eq!(open("a").unwrap_err(), Full::Own);
        let _third = open("b").unwrap();
        assert_eq!(open("c").unwrap_err(), Full::Server);
        assert_eq!(open("b").unwrap_err(), Full::Server);
        drop(first);
        assert_eq!((streams.count(), open("a").unwrap().number), (2, 4));
        drop((_second, _third));
        assert!(streams.0.lock().unwrap().by_name.is_empty());
    }
}
