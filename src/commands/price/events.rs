//! Server-sent events, read from a stream of lines (WHATWG HTML, 9.2.6).

use std::io::{self, BufRead};

use serde_json::Value;

/// Most bytes of one event.
const EVENT_BYTES_MAX: usize = 16 << 20;

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Event {
    /// Where to go on behind it.
    pub(super) id: Option<String>,
    pub(super) event: String,
    data: String,
    /// Milliseconds after which to come back.
    pub(super) retry: Option<u64>,
}

impl Event {
    /// Its data, as JSON.
    pub(super) fn data(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_default()
    }
}

/// The events of a stream, each as soon as it is whole.
pub(super) struct Events<R>(R);

impl<R: BufRead> Events<R> {
    pub(super) const fn new(stream: R) -> Self {
        Self(stream)
    }

    fn next_event(&mut self) -> io::Result<Option<Event>> {
        let (mut event, mut any, mut bytes, mut line) = (Event::default(), false, 0_usize, String::new());
        loop {
            line.clear();
            let read = self.0.read_line(&mut line)?;
            bytes = bytes.saturating_add(read);
            // An event that is cut off is none.
            if read == 0 || !line.ends_with('\n') {
                return Ok(None);
            }
            if bytes > EVENT_BYTES_MAX {
                return Err(io::Error::other("an event is longer than any of ours"));
            }
            let text = line.trim_end_matches(['\r', '\n']);
            if text.is_empty() {
                if any {
                    return Ok(Some(event));
                }
                continue;
            }
            let (name, value) = text.split_once(':').unwrap_or((text, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            any = any || !name.is_empty();
            match name {
                "id" => event.id = Some(value.to_owned()),
                "event" => value.clone_into(&mut event.event),
                "retry" => event.retry = value.parse().ok(),
                "data" if event.data.is_empty() => value.clone_into(&mut event.data),
                "data" => {
                    event.data.push('\n');
                    event.data.push_str(value);
                }
                // A comment, or what we do not know.
                _ => {}
            }
        }
    }
}

impl<R: BufRead> Iterator for Events<R> {
    type Item = io::Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_event().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_as_they_are_written() {
        let stream = "retry: 1234\n\n: a comment\n\nid: 1.42\nevent: tick\ndata: {\"a\":\ndata:1}\r\n\n\nevent: x\nid\n\nid: 9\n";
        let read: Vec<Event> = Events::new(stream.as_bytes()).map(Result::unwrap).collect();
        let expected = [
            Event { retry: Some(1234), ..Event::default() },
            Event {
                id: Some("1.42".to_owned()),
                event: "tick".to_owned(),
                data: "{\"a\":\n1}".to_owned(),
                retry: None,
            },
            Event { id: Some(String::new()), event: "x".to_owned(), ..Event::default() },
        ];
        assert_eq!(read, expected);
        assert_eq!(read[1].data(), serde_json::json!({"a": 1}));
    }
}
