//! Traces leave the process where a collector is named, and only there.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::support::Server;

/// What one HTTP request asks for, with its body.
fn request(stream: &mut std::net::TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut chunk = [0_u8; 4_096];
    loop {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
            });
            let length: usize = length.unwrap_or(0);
            if bytes.len() >= end + 4 + length {
                return Some((head, bytes[end + 4..end + 4 + length].to_vec()));
            }
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return None,
            Ok(read) => bytes.extend_from_slice(&chunk[..read]),
        }
    }
}

fn holds(body: &[u8], text: &str) -> bool {
    body.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn a_request_and_its_commit_are_traced() {
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", collector.local_addr().unwrap());
    let (send, spans) = channel();
    std::thread::spawn(move || {
        for stream in collector.incoming() {
            let mut stream = stream.unwrap();
            while let Some(request) = request(&mut stream) {
                let answer =
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
                stream.write_all(answer).unwrap();
                if send.send(request).is_err() {
                    return;
                }
            }
        }
    });
    let data = tempfile::tempdir().unwrap();
    let server = Server::up(data.path(), &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]);
    let tenant = serde_json::json!({"tenant": "acme", "currency": "USD", "display_name": "Acme"});
    assert_eq!(server.post("/v1/tenants", &tenant).0, 201);
    // What is left is sent when the process ends.
    assert!(server.stop());
    let mut seen = Vec::new();
    while let Ok((head, body)) = spans.recv_timeout(Duration::from_secs(5)) {
        assert!(head.starts_with("POST /v1/traces "), "{head}");
        seen.extend(body);
        if ["POST /v1/tenants", "ledger.commit", "http.response.status_code", "service.name"]
            .iter()
            .all(|text| holds(&seen, text))
        {
            return;
        }
    }
    panic!("no such spans: {}", String::from_utf8_lossy(&seen));
}
