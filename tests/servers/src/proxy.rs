//! A network that can be cut, slowed and made to lose answers, on loopback.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// What becomes of the connection on which the awaited bytes come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is cut, and the server never sees the bytes.
    CutBefore,
    /// The server gets the bytes; the client gets no answer any more, and is not told.
    LoseAnswer,
    /// The server gets the bytes, and the connection is cut before its answer arrives.
    CutAnswer,
}

/// Forwards connections to a port of 127.0.0.1. Ends when it is dropped.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

struct Shared {
    to: u16,
    ending: AtomicBool,
    refusing: AtomicBool,
    delay_ms: AtomicU64,
    bytes: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Both sides of every connection that was made.
    connections: Vec<Arc<Connection>>,
    /// What happens when a client sends these bytes, once.
    awaited: Option<(Vec<u8>, Fault)>,
    happened: u64,
}

struct Connection {
    client: TcpStream,
    server: TcpStream,
    mute: AtomicBool,
}

impl Connection {
    fn cut(&self) {
        // One that is closed already cannot be closed.
        let _client = self.client.shutdown(Shutdown::Both);
        let _server = self.server.shutdown(Shutdown::Both);
    }
}

impl Proxy {
    /// Begins to forward to a port.
    pub fn start(to: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let shared = Arc::new(Shared {
            to,
            ending: AtomicBool::new(false),
            refusing: AtomicBool::new(false),
            delay_ms: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            state: Mutex::default(),
        });
        let listening = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.listen(&listener)
        });
        Self { port, shared, listening: Some(listening) }
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts every connection. New ones are forwarded.
    pub fn cut(&self) {
        for connection in self.shared.state().connections.drain(..) {
            connection.cut();
        }
    }

    /// From now on cuts every connection as soon as it is made, or forwards them again.
    pub fn refuse(&self, refusing: bool) {
        self.shared.refusing.store(refusing, Ordering::SeqCst);
        if refusing {
            self.cut();
        }
    }

    /// Loses every answer on the connections of now. Those made later are forwarded.
    pub fn lose_answers(&self) {
        for connection in &self.shared.state().connections {
            connection.mute.store(true, Ordering::SeqCst);
        }
    }

    /// Holds back what is forwarded, in both directions, by so much each time.
    pub fn delay(&self, by: Duration) {
        self.shared.delay_ms.store(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Does something once, when a client sends these bytes next.
    pub fn when(&self, bytes: &[u8], fault: Fault) {
        self.shared.state().awaited = Some((bytes.to_vec(), fault));
    }

    /// How often what [`Self::when`] waited for came.
    pub fn happened(&self) -> u64 {
        self.shared.state().happened
    }

    /// Bytes that were forwarded, in both directions.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::SeqCst);
        // Wakes the one that listens.
        let _woken = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(listening) = self.listening.take() {
            let _ended = listening.join();
        }
        self.cut();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(self: &Arc<Self>, listener: &TcpListener) {
        while let Ok((client, _)) = listener.accept() {
            if self.ending.load(Ordering::SeqCst) {
                return;
            }
            if self.refusing.load(Ordering::SeqCst) {
                continue;
            }
            // Where the server is away the client's connection ends here.
            let Ok(server) = TcpStream::connect(("127.0.0.1", self.to)) else { continue };
            let _quick = (client.set_nodelay(true), server.set_nodelay(true));
            let connection = Arc::new(Connection { client, server, mute: AtomicBool::new(false) });
            {
                let mut state = self.state();
                state.connections.retain(|it| Arc::strong_count(it) > 1);
                state.connections.push(Arc::clone(&connection));
            }
            for from_client in [true, false] {
                let (shared, connection) = (Arc::clone(self), Arc::clone(&connection));
                std::thread::spawn(move || {
                    shared.forward(&connection, from_client);
                    connection.cut();
                });
            }
        }
    }

    /// Forwards one direction until it ends.
    fn forward(&self, connection: &Connection, from_client: bool) {
        let (mut from, mut to) = if from_client {
            (&connection.client, &connection.server)
        } else {
            (&connection.server, &connection.client)
        };
        let mut buffer = vec![0; 64 << 10];
        // The end of what came before: the awaited bytes may come in two pieces.
        let mut seen = Vec::new();
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let Some(bytes) = buffer.get(..length) else { return };
            let delay = self.delay_ms.load(Ordering::SeqCst);
            if delay > 0 {
                pause(Duration::from_millis(delay));
            }
            let fault = if from_client { self.awaited(&mut seen, bytes) } else { None };
            match fault {
                Some(Fault::CutBefore) => return,
                Some(Fault::LoseAnswer) => connection.mute.store(true, Ordering::SeqCst),
                // The answer is awaited by the other direction, and lost there.
                Some(Fault::CutAnswer) => {
                    connection.mute.store(true, Ordering::SeqCst);
                    let _sent = to.write_all(bytes);
                    pause(Duration::from_millis(200));
                    return;
                }
                None => {}
            }
            let mute = !from_client && connection.mute.load(Ordering::SeqCst);
            if !mute && to.write_all(bytes).is_err() {
                return;
            }
            self.bytes.fetch_add(length as u64, Ordering::SeqCst);
        }
    }

    fn awaited(&self, seen: &mut Vec<u8>, bytes: &[u8]) -> Option<Fault> {
        let mut state = self.state();
        let (awaited, fault) = state.awaited.as_ref()?;
        let keep = awaited.len().saturating_sub(1);
        seen.extend_from_slice(bytes);
        let found = seen.windows(awaited.len().max(1)).any(|window| window == awaited.as_slice());
        let fault = *fault;
        seen.drain(..seen.len().saturating_sub(keep));
        if !found {
            return None;
        }
        seen.clear();
        state.awaited = None;
        state.happened += 1;
        Some(fault)
    }
}

#[expect(clippy::disallowed_methods, reason = "a slow network is slow in real time")]
fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers each byte with itself, and counts what came.
    fn echo() -> (u16, Arc<AtomicU64>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let (port, came) = (listener.local_addr().unwrap().port(), Arc::new(AtomicU64::new(0)));
        std::thread::spawn({
            let came = Arc::clone(&came);
            move || {
                for mut stream in listener.incoming().flatten() {
                    let came = Arc::clone(&came);
                    std::thread::spawn(move || {
                        let mut byte = [0];
                        while let Ok(1) = stream.read(&mut byte) {
                            came.fetch_add(1, Ordering::SeqCst);
                            if stream.write_all(&byte).is_err() {
                                return;
                            }
                        }
                    });
                }
            }
        });
        (port, came)
    }

    fn connect(proxy: &Proxy) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        stream
    }

    /// The answer; `None` where the connection was cut, `Some(None)` where none came.
    fn ask(stream: &mut TcpStream, text: &str) -> Option<Option<String>> {
        stream.write_all(text.as_bytes()).ok()?;
        let mut answer = vec![0; text.len()];
        match stream.read_exact(&mut answer) {
            Ok(()) => Some(Some(String::from_utf8(answer).unwrap())),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Some(None),
            Err(_) => None,
        }
    }

    #[test]
    fn it_forwards_cuts_and_loses_answers() {
        let (port, came) = echo();
        let proxy = Proxy::start(port);
        let good = |text: &str| Some(Some(text.to_owned()));
        let mut stream = connect(&proxy);
        assert_eq!(ask(&mut stream, "one"), good("one"));
        proxy.cut();
        assert_eq!(ask(&mut stream, "two"), None);
        assert_eq!(came.load(Ordering::SeqCst), 3);

        let mut stream = connect(&proxy);
        proxy.when(b"COMMIT", Fault::CutBefore);
        assert_eq!(ask(&mut stream, "COM"), good("COM"));
        assert_eq!(ask(&mut stream, "MIT"), None, "in two pieces");
        assert_eq!((came.load(Ordering::SeqCst), proxy.happened()), (6, 1));

        for (fault, answer) in [(Fault::LoseAnswer, Some(None)), (Fault::CutAnswer, None)] {
            let before = came.load(Ordering::SeqCst);
            let mut stream = connect(&proxy);
            proxy.when(b"COMMIT", fault);
            assert_eq!(ask(&mut stream, "COMMIT"), answer, "{fault:?}");
            assert_eq!(came.load(Ordering::SeqCst), before + 6, "{fault:?}: the server got it");
        }
        let mut stream = connect(&proxy);
        assert_eq!(ask(&mut stream, "COMMIT"), good("COMMIT"), "once");
        proxy.lose_answers();
        assert_eq!(ask(&mut stream, "lost"), Some(None));
        assert_eq!(ask(&mut connect(&proxy), "later"), good("later"));
        proxy.refuse(true);
        assert_eq!(ask(&mut connect(&proxy), "refused"), None);
        proxy.refuse(false);
        assert_eq!(ask(&mut connect(&proxy), "again"), good("again"));
    }
}
