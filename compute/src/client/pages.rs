//! Lists, page by page, and not for ever.

use std::collections::BTreeSet;

use crate::error::ComputeError;
use crate::wire::PAGE_TOKEN_LENGTH_MAX;

/// Items that a page is asked to have.
pub const LIST_PAGE_SIZE: i64 = 200;
/// Most pages of a list.
pub const LIST_PAGES_MAX: usize = 1_000;
/// Most items of a list.
pub const LIST_ITEMS_MAX: usize = 100_000;

/// A list that is read page by page. One whose pages repeat or do not end is garbage, and so is one that is
/// too long to be true: a part of a list would look as if the rest were gone.
pub(super) struct Pages<T> {
    items: Vec<T>,
    /// Which page is next, until the last was read.
    next: Option<String>,
    tokens: BTreeSet<String>,
    read: usize,
}

impl<T> Pages<T> {
    /// Before the first page.
    pub(super) fn new() -> Self {
        Self { items: Vec::new(), next: Some(String::new()), tokens: BTreeSet::new(), read: 0 }
    }

    /// The token of the page to ask for; none when all were read.
    pub(super) fn next(&mut self) -> Option<String> {
        self.next.take()
    }

    /// Takes a page as it came, and the token of the one after it.
    pub(super) fn add(&mut self, page: Vec<T>, next: String) -> Result<(), ComputeError> {
        self.items.extend(page);
        self.read = self.read.saturating_add(1);
        if self.items.len() > LIST_ITEMS_MAX {
            return Err(ComputeError::garbage(format!("a list has more than {LIST_ITEMS_MAX} items")));
        }
        if next.is_empty() {
            return Ok(());
        }
        if next.len() > PAGE_TOKEN_LENGTH_MAX {
            let most = PAGE_TOKEN_LENGTH_MAX;
            return Err(ComputeError::garbage(format!("a page token has more than {most} bytes")));
        }
        if !self.tokens.insert(next.clone()) {
            return Err(ComputeError::garbage("a page token comes a second time: the list does not end"));
        }
        if self.read >= LIST_PAGES_MAX {
            return Err(ComputeError::garbage(format!("a list has more than {LIST_PAGES_MAX} pages")));
        }
        self.next = Some(next);
        Ok(())
    }

    /// All items of all pages.
    pub(super) fn into_items(self) -> Vec<T> {
        self.items
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(page: impl Fn(usize) -> (usize, String)) -> Result<usize, ComputeError> {
        let (mut pages, mut number) = (Pages::new(), 0);
        while pages.next().is_some() {
            let (count, next) = page(number);
            number += 1;
            pages.add(vec![(); count], next)?;
        }
        Ok(pages.into_items().len())
    }

    #[test]
    fn a_list_is_read_to_its_end() {
        assert_eq!(read(|_| (3, String::new())), Ok(3));
        let three = |number: usize| (2, if number < 2 { format!("t{number}") } else { String::new() });
        assert_eq!(read(three), Ok(6));
    }

    #[test]
    fn a_list_that_does_not_end_is_garbage() {
        let garbage = |read, says: &str| match read {
            Err(ComputeError::Garbage { message }) => assert!(message.contains(says), "{message}"),
            other => panic!("{other:?}"),
        };
        garbage(read(|_| (1, "again".into())), "a second time");
        garbage(read(|number| (1, format!("t{}", number % 7))), "a second time");
        garbage(read(|number| (0, format!("t{number}"))), "more than 1000 pages");
        garbage(read(|number| (1_000, format!("t{number}"))), "more than 100000 items");
        garbage(read(|_| (1, "t".repeat(2_000))), "more than 1024 bytes");
    }
}
