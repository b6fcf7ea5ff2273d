//! Snapshots: the state at a position, so that recovery need not start at the first event.
//!
//! A snapshot is a cache. One that cannot be used, for whatever reason, is passed over and the log
//! is folded from its start.

use prost::bytes::Bytes;

use crate::core::{Position, State};

/// What the bytes of a snapshot are. Another engine's snapshot is not read. The number at the end is
/// raised whenever the layout of the state changes; a test knows the layout and asks for it.
pub const SNAPSHOT_FORMAT: &str = concat!("postcard-lz4/", env!("CARGO_PKG_VERSION"), "/8");
/// Most bytes of a snapshot once unpacked: a forged length must not make us allocate.
const SNAPSHOT_BYTES_MAX: usize = 16 << 30;
/// Bytes of each part, before compression.
const PART_BYTES: usize = 4 << 20;

/// The state at a position, in parts that fit a database row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The log up to here is folded in.
    pub position: Position,
    /// [`SNAPSHOT_FORMAT`].
    pub format: String,
    /// In order.
    pub parts: Vec<Bytes>,
}

/// What a snapshot holds: the state and the chain at its position.
#[derive(serde::Serialize, serde::Deserialize)]
struct Content<S> {
    chain_hash: [u8; 32],
    state: S,
}

impl Snapshot {
    /// Takes one. `None` where the state cannot be written, which loses nothing.
    pub fn of(state: &State, chain_hash: &blake3::Hash) -> Option<Self> {
        let content = Content { chain_hash: *chain_hash.as_bytes(), state };
        let bytes = postcard::to_stdvec(&content).ok()?;
        let checksum = *blake3::hash(&bytes).as_bytes();
        let parts = bytes
            .chunks(PART_BYTES)
            .map(|part| Bytes::from(lz4_flex::compress_prepend_size(part)))
            .chain([Bytes::copy_from_slice(&checksum)])
            .collect();
        Some(Self { position: state.position(), format: SNAPSHOT_FORMAT.to_owned(), parts })
    }

    /// The state and the chain in it; `None` where it is not whole or of another format.
    pub fn open(&self) -> Option<(State, blake3::Hash)> {
        if self.format != SNAPSHOT_FORMAT {
            return None;
        }
        let (checksum, parts) = self.parts.split_last()?;
        let mut bytes = Vec::new();
        for part in parts {
            let (length, block) = lz4_flex::block::uncompressed_size(part).ok()?;
            if length > PART_BYTES || bytes.len().checked_add(length)? > SNAPSHOT_BYTES_MAX {
                return None;
            }
            bytes.extend_from_slice(&lz4_flex::block::decompress(block, length).ok()?);
        }
        if blake3::hash(&bytes).as_bytes().as_slice() != checksum.as_ref() {
            return None;
        }
        let content: Content<State> = postcard::from_bytes(&bytes).ok()?;
        let mut state = content.state;
        state.reindex();
        (state.position() == self.position).then(|| (state, blake3::Hash::from_bytes(content.chain_hash)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two layouts under one format would read each other's bytes as something else.
    #[test]
    fn the_format_names_the_layout() {
        let (_, snapshot) = crate::core::tests::a_state_of_everything();
        let layout = blake3::hash(snapshot.parts.first().unwrap()).to_hex();
        let known = ("2d24d2781762140d86a961fd16f79011b25303ee4c1983d412581b7a1dab546b", "/8");
        let hint =
            "the layout of State changed: raise the number in SNAPSHOT_FORMAT, and write both down here";
        assert!(layout.as_str() == known.0 && SNAPSHOT_FORMAT.ends_with(known.1), "{hint}: {layout}");
    }
}
