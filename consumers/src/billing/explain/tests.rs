//! Evidence and rows on a real store.
