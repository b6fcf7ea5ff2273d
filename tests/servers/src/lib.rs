//! Private PostgreSQL and nats-server for tests and benchmarks.
//!
//! Each server listens on a free port of 127.0.0.1, keeps its files in a temporary directory and is
//! gone, files and all, when its value is dropped or its process ends, however that ends: a small
//! guard process waits at the other end of a pipe. Nothing that is installed as a service is used or
//! disturbed. PostgreSQL does not run as root, so there it runs as `postgres` (or `nobody`).
//!
//! These helpers panic with what went wrong: a test without its servers has nothing to say.

#![expect(clippy::panic, clippy::expect_used, reason = "only tests and benchmarks use this crate")]

mod guard;
mod nats;
mod postgres;
mod proxy;
mod tls;

pub use nats::{Nats, NatsOptions};
pub use postgres::{Postgres, PostgresOptions};
pub use proxy::{Fault, Proxy};
pub use tls::Certificates;

/// A port of the loopback address that nothing listens on now.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// Sends a signal (`KILL`, `STOP`, `CONT`, `TERM`, `INT`) to a process.
pub fn signal(name: &str, process: u32) {
    let sent = std::process::Command::new("kill").arg(format!("-{name}")).arg(process.to_string()).status();
    drop(sent);
}

/// Waits until `done`, or panics after half a minute.
fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..600 {
        if done() {
            return;
        }
        pause();
    }
    panic!("{what}: not there after 30 seconds");
}

#[expect(clippy::disallowed_methods, reason = "a server that starts is waited for in real time")]
fn pause() {
    std::thread::sleep(std::time::Duration::from_millis(50));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both servers start, are killed and start again with what they had, and leave nothing behind.
    #[test]
    fn servers_come_and_go() {
        let mut postgres = Postgres::start(PostgresOptions::default());
        let mut nats = Nats::start(&NatsOptions::default());
        assert_ne!(postgres.database(), postgres.database());
        postgres.kill();
        nats.kill();
        postgres.start_again();
        nats.start_again();
        let directory = nats.directory().to_owned();
        let processes = [postgres.process(), nats.process()];
        drop((postgres, nats));
        assert!(!directory.exists());
        for process in processes {
            assert!(!std::path::Path::new(&format!("/proc/{process}")).exists());
        }
    }
}
