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

/// A page as it came: its items, and the token for the next.
pub(super) type Fetched<T> = Result<(Vec<T>, String), ComputeError>;

/// Reads a whole list. One whose pages repeat or do not end is garbage, and so is one that is too long to
/// be true: a part of a list would look as if the rest were gone.
pub(super) async fn all<T>(mut fetch: impl AsyncFnMut(String) -> Fetched<T>) -> Result<Vec<T>, ComputeError> {
    let mut items = Vec::new();
    let mut tokens = BTreeSet::new();
    let mut token = String::new();
    for _ in 0..LIST_PAGES_MAX {
        let (page, next) = fetch(token).await?;
        items.extend(page);
        if items.len() > LIST_ITEMS_MAX {
            return Err(ComputeError::garbage(format!("a list has more than {LIST_ITEMS_MAX} items")));
        }
        if next.is_empty() {
            return Ok(items);
        }
        if next.len() > PAGE_TOKEN_LENGTH_MAX {
            let most = PAGE_TOKEN_LENGTH_MAX;
            return Err(ComputeError::garbage(format!("a page token has more than {most} bytes")));
        }
        if !tokens.insert(next.clone()) {
            return Err(ComputeError::garbage("a page token comes a second time: the list does not end"));
        }
        token = next;
    }
    Err(ComputeError::garbage(format!("a list has more than {LIST_PAGES_MAX} pages")))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(pages: impl Fn(usize) -> (usize, String)) -> Result<usize, ComputeError> {
        let mut number = 0;
        let items = all(async |_| {
            let (count, next) = pages(number);
            number += 1;
            Ok((vec![(); count], next))
        });
        items.await.map(|items| items.len())
    }

    #[tokio::test]
    async fn a_list_is_read_to_its_end() {
        assert_eq!(read(|_| (3, String::new())).await, Ok(3));
        let three = |number: usize| (2, if number < 2 { format!("t{number}") } else { String::new() });
        assert_eq!(read(three).await, Ok(6));
    }

    #[tokio::test]
    async fn a_list_that_does_not_end_is_garbage() {
        let garbage = |read, says: &str| match read {
            Err(ComputeError::Garbage { message }) => assert!(message.contains(says), "{message}"),
            other => panic!("{other:?}"),
        };
        garbage(read(|_| (1, "again".into())).await, "a second time");
        garbage(read(|number| (1, format!("t{}", number % 7))).await, "a second time");
        garbage(read(|number| (0, format!("t{number}"))).await, "more than 1000 pages");
        garbage(read(|number| (1_000, format!("t{number}"))).await, "more than 100000 items");
        garbage(read(|_| (1, "t".repeat(2_000))).await, "more than 1024 bytes");
    }
}
