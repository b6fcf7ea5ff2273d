//! Lists, a page at a time.

use std::collections::BTreeMap;

use hourglass_compute::messages::PAGE_TOKEN_BYTES_MAX;
use hourglass_ledger::core::State;

use crate::api::page::{PAGE_SIZE_DEFAULT, row_before, sealed};
use crate::billing::report::AsOf;
use crate::refusal::Refusal;

/// Most items of a page.
pub(super) const PAGE_SIZE_MAX: usize = 200;

/// Which page of which list.
#[derive(Debug)]
pub(super) struct Page {
    /// Tokens of another list are refused.
    list: String,
    size: usize,
    after: Option<String>,
}

impl Page {
    /// Checks what the caller gave. `list` names the list and whose it is.
    pub(super) fn new(list: String, size: i64, token: &str) -> Result<Self, Refusal> {
        let size = match usize::try_from(size) {
            Ok(0) => PAGE_SIZE_DEFAULT,
            Ok(size) if size <= PAGE_SIZE_MAX => size,
            _ => return Err(Refusal::invalid("page_size", format!("it is between 0 and {PAGE_SIZE_MAX}"))),
        };
        let known = Some(token).filter(|token| token.len() <= PAGE_TOKEN_BYTES_MAX);
        let after = match known.map(|token| row_before(&list, token)) {
            _ if token.is_empty() => None,
            Some(Some(after)) => Some(after),
            _ => return Err(Refusal::invalid("page_token", "it is none of this list: start again")),
        };
        Ok(Self { list, size, after })
    }

    /// The rows of it, and the token of the next one; an empty token behind the last one.
    pub(super) fn of<T>(self, state: &State, mut rows: BTreeMap<String, T>) -> (Vec<T>, String) {
        let mut rest = match &self.after {
            None => rows,
            Some(after) => {
                let mut behind = rows.split_off(after);
                behind.remove(after);
                behind
            }
        };
        let next = rest.keys().nth(self.size).cloned();
        if let Some(next) = next {
            drop(rest.split_off(&next));
            let last = rest.last_key_value().map(|(last, _)| last.clone()).unwrap_or_default();
            let token = sealed(&self.list, &AsOf::of(state), last);
            return (rest.into_values().collect(), token);
        }
        (rest.into_values().collect(), String::new())
    }
}
