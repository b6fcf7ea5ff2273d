//! Why not.

use std::fmt;

use crate::limit::{Bound, Key};
use crate::name::NodeName;
use crate::tree::{KeyIx, NodeIx};

/// What does not fit, by numbers: [`crate::tree::Tree::denial`] tells it in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Misfit {
    /// The node with the least room.
    pub node: NodeIx,
    /// What was asked for.
    pub key: KeyIx,
    /// How much.
    pub asked: u64,
    /// How much would fit on the whole way.
    pub fits: u64,
}

/// a denial names the node, the resource, the limit, what is used, held and asked, and what would
/// fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Where.
    pub node: Option<NodeName>,
    /// Of what.
    pub key: Option<Key>,
    /// Its nominal limit.
    pub limit: Bound,
    /// What it borrows above that.
    pub borrowed: u64,
    /// Committed, leased, and running without a hold.
    pub used: u64,
    /// Held, and waiting for lent quota.
    pub held: u64,
    /// Asked for.
    pub asked: u64,
    /// The most that would pass now.
    pub fits: u64,
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, key, limit, borrowed, used, held, asked, fits } = self;
        match (node, key) {
            (Some(node), Some(key)) => write!(f, "{node} has a limit of {limit} on {key}")?,
            _ => write!(f, "there is a limit of {limit}")?,
        }
        write!(f, ": {used} used")?;
        if *borrowed > 0 {
            write!(f, " ({borrowed} of them borrowed)")?;
        }
        write!(f, " and {held} held, {asked} asked; ")?;
        match fits {
            0 => write!(f, "nothing more fits: release some, or request an increase"),
            fits => write!(f, "{fits} would fit"),
        }
    }
}
