//! Sits between agents and nats-server and says what agents publish twice, when told to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// By this header the server knows a repeat and drops it; written otherwise, the copy is stored too.
const KNOWN_BY: &[u8] = b"Nats-Msg-Id:";
const UNKNOWN_BY: &[u8] = b"Nats-Msg-Ix:";

/// Forwards connections to nats-server. It runs until the process ends.
pub(crate) struct Repeater {
    pub(crate) port: u16,
    repeating: Arc<AtomicBool>,
    repeated: Arc<AtomicU64>,
}

impl Repeater {
    /// Begins to forward to a port of loopback.
    pub(crate) fn start(to: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (repeating, repeated) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let repeater = Self { port, repeating: Arc::clone(&repeating), repeated: Arc::clone(&repeated) };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                let (repeating, repeated) = (Arc::clone(&repeating), Arc::clone(&repeated));
                let (Ok(from), Ok(back)) = (client.try_clone(), server.try_clone()) else { continue };
                std::thread::spawn(move || {
                    let _ended = forward(&from, &server, &repeating, &repeated);
                    let _cut =
                        (from.shutdown(std::net::Shutdown::Both), server.shutdown(std::net::Shutdown::Both));
                });
                std::thread::spawn(move || {
                    let (mut back, mut client) = (back, client);
                    let _ended = std::io::copy(&mut back, &mut client);
                    let _cut =
                        (back.shutdown(std::net::Shutdown::Both), client.shutdown(std::net::Shutdown::Both));
                });
            }
        });
        repeater
    }

    /// From now on repeats each message, or no longer.
    pub(crate) fn repeat(&self, repeating: bool) {
        self.repeating.store(repeating, Ordering::SeqCst);
    }

    /// Messages that were said twice.
    pub(crate) fn repeated(&self) -> u64 {
        self.repeated.load(Ordering::SeqCst)
    }
}

/// Forwards one direction, frame by frame, until it ends.
fn forward(
    client: &TcpStream,
    mut server: &TcpStream,
    repeating: &AtomicBool,
    repeated: &AtomicU64,
) -> std::io::Result<()> {
    let mut client = BufReader::with_capacity(256 << 10, client);
    let mut frame = Vec::new();
    loop {
        frame.clear();
        if client.read_until(b'\n', &mut frame)? == 0 {
            return Ok(());
        }
        let is_message = frame.starts_with(b"PUB ") || frame.starts_with(b"HPUB ");
        if is_message {
            let line = String::from_utf8_lossy(&frame);
            let size = line.split_whitespace().next_back().and_then(|size| size.parse::<u64>().ok());
            // What ends the content counts, too.
            (&mut client).take(size.unwrap_or(0) + 2).read_to_end(&mut frame)?;
        }
        server.write_all(&frame)?;
        if is_message && repeating.load(Ordering::SeqCst) {
            if let Some(at) = frame.windows(KNOWN_BY.len()).position(|window| window == KNOWN_BY) {
                frame[at..at + KNOWN_BY.len()].copy_from_slice(UNKNOWN_BY);
            }
            server.write_all(&frame)?;
            repeated.fetch_add(1, Ordering::SeqCst);
        }
    }
}
