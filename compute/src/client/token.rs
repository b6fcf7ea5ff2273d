//! The bearer token: from where it comes, and when it is read again.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use tonic::metadata::{Ascii, MetadataValue};

/// Longest token, in bytes.
pub const TOKEN_LENGTH_MAX: usize = 16 << 10;

/// Where a token comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// There is none.
    None,
    /// A file, which is read again when it changes.
    File(PathBuf),
    /// A variable of the environment.
    Environment(String),
}

/// The token, as it was read last.
pub(super) struct Tokens {
    source: TokenSource,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// With the word `Bearer` before it.
    header: Option<MetadataValue<Ascii>>,
    /// When the file was changed that it comes from.
    modified: Option<SystemTime>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Tokens {
    pub(super) fn new(source: TokenSource) -> Self {
        Self { source, known: Mutex::default() }
    }

    /// The header to send now, if there is a token at all.
    pub(super) fn header(&self) -> Result<Option<MetadataValue<Ascii>>, String> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let modified = self.modified();
        let stale = known.header.is_none() || modified != known.modified;
        if stale && let Err(message) = self.read(&mut known) {
            // A file that is being replaced is there again soon; what it held may still be good.
            if known.header.is_none() {
                return Err(message);
            }
            tracing::warn!(%message, "the token is not read again");
        }
        Ok(known.header.clone())
    }

    /// Reads it again; whether it is another one now.
    pub(super) fn renew(&self) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.header.clone();
        self.read(&mut known).is_ok() && known.header != before
    }

    fn modified(&self) -> Option<SystemTime> {
        match &self.source {
            TokenSource::File(path) => std::fs::metadata(path).and_then(|file| file.modified()).ok(),
            TokenSource::None | TokenSource::Environment(_) => None,
        }
    }

    fn read(&self, known: &mut Known) -> Result<(), String> {
        // Before the reading: a change in between is seen the next time.
        let modified = self.modified();
        let (text, name) = match &self.source {
            TokenSource::None => return Ok(()),
            TokenSource::File(path) => {
                let text = std::fs::read_to_string(path);
                (text.map_err(|error| format!("{}: {error}", path.display()))?, path.display().to_string())
            }
            TokenSource::Environment(variable) => {
                let text = std::env::var(variable);
                (text.map_err(|_| format!("{variable} is not set"))?, variable.clone())
            }
        };
        let token = text.trim();
        if !(1..=TOKEN_LENGTH_MAX).contains(&token.len()) {
            return Err(format!("{name} holds no token of 1 to {TOKEN_LENGTH_MAX} bytes"));
        }
        let header = MetadataValue::try_from(format!("Bearer {token}"));
        let mut header =
            header.map_err(|_| format!("{name} holds no token: it has other than visible ASCII"))?;
        header.set_sensitive(true);
        *known = Known { header: Some(header), modified };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(tokens: &Tokens) -> String {
        tokens.header().unwrap().unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn a_file_is_read_again_when_it_changes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |text: &str, age| {
            std::fs::write(file.path(), text).unwrap();
            let modified = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(age);
            file.as_file().set_modified(modified).unwrap();
        };
        write("one\n", 1);
        let tokens = Tokens::new(TokenSource::File(file.path().to_owned()));
        assert_eq!(sent(&tokens), "Bearer one");
        write("two\n", 2);
        assert_eq!(sent(&tokens), "Bearer two");
        assert!(!tokens.renew());
        // As fast as the clock of the file system: only when the cloud says so it is read again.
        write("three\n", 2);
        assert_eq!(sent(&tokens), "Bearer two");
        assert!(tokens.renew());
        assert_eq!(sent(&tokens), "Bearer three");
        write("", 3);
        assert_eq!(sent(&tokens), "Bearer three", "what is being written is not a token yet");
        let shown = format!("{tokens:?}");
        assert!(!shown.contains("three"), "{shown}");
    }

    #[test]
    fn a_token_that_is_none_is_told() {
        let told = |source| Tokens::new(source).header().unwrap_err();
        assert!(told(TokenSource::File("/nowhere/token".into())).contains("/nowhere/token"));
        assert!(told(TokenSource::Environment("HOURGLASS_NO_SUCH".into())).contains("HOURGLASS_NO_SUCH"));
        let file = tempfile::NamedTempFile::new().unwrap();
        for text in ["", "a\u{7f}b", &"x".repeat(TOKEN_LENGTH_MAX + 1)] {
            std::fs::write(file.path(), text).unwrap();
            assert!(told(TokenSource::File(file.path().to_owned())).contains("holds no token"), "{text:?}");
        }
        assert_eq!(Tokens::new(TokenSource::None).header().unwrap(), None);
    }
}
