//! Lists, a page at a time.
//!
//! A page token names the log position that the first page was read at, and the last row that was
//! given. Lists of rows so are one list as of that position, however long the reading takes. Lists
//! from the state (tenants, instances, cards) go on after the last row given; what was added
//! meanwhile behind it is in them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hourglass_ledger::core::{Position, State};
use hourglass_ledger::store::{Keyed, PAGE_ROWS_MAX, Page, Reader, RowKey, StoreError};
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering;
use utoipa::ToSchema;

use super::app::App;
use super::problem::Problem;
use crate::billing::report::AsOf;

/// Rows of a page where the caller does not say.
pub(crate) const PAGE_SIZE_DEFAULT: usize = 100;
/// Bytes by which a token is bound to its list.
const BINDING_LENGTH: usize = 16;

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ListPage<T> {
    /// The log position that the list holds for.
    pub(super) as_of: AsOf,
    /// The rows.
    pub(super) rows: Vec<T>,
    /// Gives the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_page_token: Option<String>,
}

/// Which page of which list.
pub(super) struct PageRequest {
    /// The list with all its filters: tokens of another are refused.
    list: String,
    limit: usize,
    from: Option<Token>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Token {
    until: u64,
    time: String,
    after: String,
}

impl PageRequest {
    /// Checks what the caller gave. `list` names the list and its filters.
    pub(super) fn new(
        list: String,
        page_size: Option<usize>,
        page_token: Option<&str>,
    ) -> Result<Self, Problem> {
        let limit = page_size.unwrap_or(PAGE_SIZE_DEFAULT);
        if !(1..=PAGE_ROWS_MAX).contains(&limit) {
            let detail = format!("page_size must be between 1 and {PAGE_ROWS_MAX}");
            return Err(Problem::bad_request("page_size_invalid", detail));
        }
        let from = page_token.map(|token| opened(&list, token).ok_or_else(invalid)).transpose()?;
        Ok(Self { list, limit, from })
    }

    fn token(&self, as_of: &AsOf, after: String) -> String {
        sealed(&self.list, as_of, after)
    }

    /// A page of rows of the store.
    pub(super) async fn of_rows<R: Send + 'static, T>(
        self,
        app: &App,
        read: impl FnOnce(&dyn Reader, Page) -> Result<Vec<Keyed<R>>, StoreError> + Send + 'static,
        view: impl Fn(Keyed<R>) -> T,
    ) -> Result<ListPage<T>, Problem> {
        let (as_of, after) = match &self.from {
            None => (app.read(|state| Ok(AsOf::of(state))).await?, RowKey::default()),
            Some(token) => {
                if token.until > app.status().position.load(Ordering::Relaxed) {
                    return Err(invalid());
                }
                let as_of = AsOf { position: token.until, time: token.time.clone() };
                (as_of, row_key(&token.after).ok_or_else(invalid)?)
            }
        };
        let page = Page { after, until: Position::new(as_of.position), limit: self.limit };
        let rows = app.store(move |reader| read(reader, page)).await?;
        let last = rows.last().filter(|_| rows.len() >= self.limit).map(|last| last.key);
        let next_page_token =
            last.map(|key| self.token(&as_of, format!("{}.{}", key.position.number(), key.line)));
        Ok(ListPage { as_of, rows: rows.into_iter().map(view).collect(), next_page_token })
    }

    /// A page of a list in the state. `list` is given the key of the last row of the page before, and
    /// answers with at most so many rows behind it, each with its key.
    pub(super) async fn of_state<T: Send + 'static>(
        self,
        app: &App,
        list: impl FnOnce(&State, Option<&str>, usize) -> Result<Vec<(String, T)>, Problem> + Send + 'static,
    ) -> Result<ListPage<T>, Problem> {
        let limit = self.limit;
        let after = self.from.as_ref().map(|token| token.after.clone());
        let read = move |state: &State| Ok((AsOf::of(state), list(state, after.as_deref(), limit)?));
        let (as_of, rows) = app.read(read).await?;
        let last = rows.last().filter(|_| rows.len() >= limit).map(|(key, _)| key.clone());
        let next_page_token = last.map(|key| self.token(&as_of, key));
        Ok(ListPage { as_of, rows: rows.into_iter().map(|(_, row)| row).collect(), next_page_token })
    }
}

impl PageRequest {
    /// A page of a list of the log that goes backwards. `list` is given the position before which the page
    /// begins, and answers with at most so many rows, each with its position.
    pub(super) async fn backwards<T: Send + 'static>(
        self,
        app: &App,
        list: impl FnOnce(&dyn Reader, u64, usize) -> Result<Vec<(u64, T)>, Problem> + Send + 'static,
    ) -> Result<ListPage<T>, Problem> {
        let limit = self.limit;
        let (as_of, before) = match &self.from {
            None => {
                let as_of = app.read(|state| Ok(AsOf::of(state))).await?;
                let before = as_of.position.saturating_add(1);
                (as_of, before)
            }
            Some(token) => {
                let as_of = AsOf { position: token.until, time: token.time.clone() };
                (as_of, token.after.parse().map_err(|_| invalid())?)
            }
        };
        let rows = app.store(move |reader| Ok(list(reader, before, limit))).await??;
        let last = rows.last().filter(|_| rows.len() >= limit).map(|(position, _)| position.to_string());
        let next_page_token = last.map(|last| self.token(&as_of, last));
        Ok(ListPage { as_of, rows: rows.into_iter().map(|(_, row)| row).collect(), next_page_token })
    }
}

/// A page of a list that only ever grows at its end, or is short: rows are numbered from 0, and the
/// number is the key.
pub(super) fn behind<T>(
    rows: impl Iterator<Item = T>,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<(String, T)>, Problem> {
    let first: usize = match after {
        None => 0,
        Some(after) => after.parse::<usize>().map_err(|_| invalid())?.saturating_add(1),
    };
    let numbered = rows.enumerate().skip(first).take(limit);
    Ok(numbered.map(|(number, row)| (number.to_string(), row)).collect())
}

pub(super) fn invalid() -> Problem {
    let detail = "this is no page token of this list with these filters: start again without one";
    Problem::bad_request("page_token_invalid", detail)
}

/// The token of the page behind a row.
pub(crate) fn sealed(list: &str, as_of: &AsOf, after: String) -> String {
    let token = Token { until: as_of.position, time: as_of.time.clone(), after };
    // A struct of strings and a number has no value that JSON lacks.
    let token = serde_json::to_vec(&token).unwrap_or_default();
    let mut bytes = binding(list, &token).to_vec();
    bytes.extend(token);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The row behind which a token's page begins; `None` where it is no token of this list.
pub(crate) fn row_before(list: &str, token: &str) -> Option<String> {
    opened(list, token).map(|token| token.after)
}

/// Ties a token to its list. It keeps no secret: all that a token says is where to go on reading.
fn binding(list: &str, token: &[u8]) -> [u8; BINDING_LENGTH] {
    let mut hasher = blake3::Hasher::new_derive_key("hourglass 2026 page token");
    hasher.update(&(list.len() as u64).to_le_bytes());
    hasher.update(list.as_bytes());
    hasher.update(token);
    let mut binding = [0; BINDING_LENGTH];
    binding.iter_mut().zip(hasher.finalize().as_bytes()).for_each(|(to, from)| *to = *from);
    binding
}

fn opened(list: &str, token: &str) -> Option<Token> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (bound, token) = bytes.split_at_checked(BINDING_LENGTH)?;
    if bound != binding(list, token) {
        return None;
    }
    serde_json::from_slice(token).ok()
}

fn row_key(text: &str) -> Option<RowKey> {
    let (position, line) = text.split_once('.')?;
    Some(RowKey { position: Position::new(position.parse().ok()?), line: line.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_its_own_list_only() {
        let as_of = AsOf { position: 7, time: "2026-01-01T00:00:00Z".to_owned() };
        let page =
            PageRequest::new("transfers acme".to_owned(), None, None).unwrap_or_else(|_| panic!("valid"));
        let token = page.token(&as_of, "5.1".to_owned());
        assert_eq!(opened("transfers acme", &token).map(|token| token.after), Some("5.1".to_owned()));
        assert!(opened("transfers beta", &token).is_none());
        for (at, _) in token.char_indices() {
            let mut changed = token.clone();
            let other = if token[at..].starts_with('A') { "B" } else { "A" };
            changed.replace_range(at..=at, other);
            assert!(opened("transfers acme", &changed).is_none(), "{at}");
        }
        for bad in ["", "A", "!!", "AAAAAAAAAAAAAAAAAAAAAAAA"] {
            assert!(opened("transfers acme", bad).is_none(), "{bad:?}");
        }
        for size in [0, PAGE_ROWS_MAX + 1] {
            assert!(PageRequest::new(String::new(), Some(size), None).is_err());
        }
    }
}
