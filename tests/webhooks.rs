//! Webhooks of the real binary: killed between a delivery and its cursor, it says the same again.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use serde_json::{Value, json};

use crate::http::open_account;
use crate::support::Server;

/// How long a message may take to come.
const PATIENCE: Duration = Duration::from_secs(30);

/// A message as it came: its id, and what it says.
type Came = (String, Value);

fn listen() -> (u16, Receiver<Came>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, came) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            take(stream, &sender);
        }
    });
    (port, came)
}

/// Takes one request. The message is passed on before it is answered: the sender can be killed before it
/// learns that it was taken.
fn take(stream: TcpStream, sender: &Sender<Came>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let (mut id, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            if line.trim_end().is_empty() {
                break;
            } else {
                continue;
            };
        };
        match name.to_ascii_lowercase().as_str() {
            "webhook-id" => value.clone_into(&mut id),
            "content-length" => length = value.parse().ok()?,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").ok()?;
    sender.send((id, serde_json::from_slice(&body).ok()?)).ok()
}

fn instance_of(message: &Value) -> String {
    message["data"]["instance"].as_str().unwrap().to_owned()
}

#[test]
fn killed_between_a_delivery_and_its_cursor_it_repeats_and_loses_nothing() {
    let data = tempfile::tempdir().unwrap();
    let (port, came) = listen();
    let allow = format!("127.0.0.1:{port}");
    let env = [("HOURGLASS_WEBHOOK_ALLOW", allow.as_str())];
    let mut seen: Vec<Came> = Vec::new();
    let mut repeats = 0;
    let mut server = Server::up(data.path(), &env);
    open_account(&server);
    let hook = json!({"webhook": "all", "url": format!("http://{allow}/"), "events": ["hourglass.instance.registered.v1"]});
    let (status, made) = server.post("/v1/tenants/acme/webhooks", &hook);
    assert_eq!(status, 201, "{made}");
    let mut expected = Vec::new();
    let mut note = |(id, message): Came, seen: &mut Vec<Came>| match seen.iter().find(|known| known.0 == id) {
        Some(known) => {
            assert_eq!(known.1, message, "a repeat says what it said first");
            repeats += 1;
        }
        None => seen.push((id, message)),
    };
    for round in 0..5 {
        for n in 0..4 {
            let id = format!("k-{round}-{n}");
            let instance = json!({"instance": id, "project": "ml", "platform": "gpu-h100-sxm", "model": "on_demand", "gpus": 1});
            let (status, answer) = server.post("/v1/tenants/acme/instances", &instance);
            assert_eq!(status, 201, "{answer}");
            expected.push(id);
        }
        // The first message of the round has come; whatever else is under way is cut off.
        let wanted = format!("k-{round}-0");
        loop {
            let one = came.recv_timeout(PATIENCE).unwrap();
            let is_it = instance_of(&one.1) == wanted;
            note(one, &mut seen);
            if is_it {
                break;
            }
        }
        server.kill();
        server = Server::up(data.path(), &env);
    }
    while seen.len() < expected.len() {
        note(came.recv_timeout(PATIENCE).unwrap(), &mut seen);
    }
    let told: Vec<String> = seen.iter().map(|(_, message)| instance_of(message)).collect();
    assert_eq!(told, expected, "in the order of the ledger, and none is missing");
    assert!(repeats > 0, "nothing was cut off: the test tests nothing");
    // The secret is nowhere in the data directory.
    let secret = made["secret"].as_str().unwrap();
    let secret = secret.strip_prefix("whsec_").unwrap();
    server.kill();
    for file in std::fs::read_dir(data.path()).unwrap() {
        let path = file.unwrap().path();
        let Ok(bytes) = std::fs::read(&path) else { continue };
        let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!found, "{} holds the secret", path.display());
    }
}
