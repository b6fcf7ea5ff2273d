//! Pools and bids by number, and tables that hold a value for each.
//!
//! The only place that indexes: numbers come from a checked [`super::Book`], tables are made for it.

use std::fmt;
use std::ops::{Index, IndexMut};

use serde::{Deserialize, Serialize};

macro_rules! index {
    ($(#[$doc:meta])* $name:ident($number:ty), $(#[$table_doc:meta])* $table:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $number);

        impl $name {
            /// All numbers below a length; lengths are limited far below what the number can hold.
            pub(super) fn below(length: usize) -> impl Iterator<Item = Self> {
                (0..<$number>::try_from(length).unwrap_or(<$number>::MAX)).map(Self)
            }

            /// As the index of a list.
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        $(#[$table_doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub(super) struct $table<T>(pub(super) Vec<T>);

        impl<T: Clone> $table<T> {
            pub(super) fn of(length: usize, value: T) -> Self {
                Self(vec![value; length])
            }
        }

        impl<T> Index<$name> for $table<T> {
            type Output = T;

            #[expect(clippy::indexing_slicing, reason = "made for a checked book, as the number was")]
            fn index(&self, ix: $name) -> &T {
                &self.0[ix.index()]
            }
        }

        impl<T> IndexMut<$name> for $table<T> {
            #[expect(clippy::indexing_slicing, reason = "made for a checked book, as the number was")]
            fn index_mut(&mut self, ix: $name) -> &mut T {
                &mut self.0[ix.index()]
            }
        }
    };
}

index! {
    /// A pool of a book: its place in the list.
    PoolIx(u16),
    /// A value for each pool.
    PerPool
}
index! {
    /// A bid of a book: its place in the list, which is in the order of the log.
    BidIx(u32),
    /// A value for each bid.
    PerBid
}
