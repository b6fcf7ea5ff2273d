//! A receiver of webhooks: a socket of this machine that takes requests and answers as it is told.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use axum::http::{HeaderMap, HeaderName, HeaderValue};

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Taken {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Taken {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn kind(&self) -> String {
        let message: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        message["type"].as_str().unwrap().to_owned()
    }
}

/// What to answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    /// Never: the connection stays open until the sender hangs up.
    pub(crate) is_silent: bool,
}

impl Answer {
    pub(crate) fn status(status: u16) -> Self {
        Self { status, head: String::new(), is_silent: false }
    }
}

type Says = Box<dyn FnMut(&Taken) -> Answer + Send>;

pub(crate) struct Receiver {
    port: u16,
    authority: Option<String>,
    taken: Arc<Mutex<Vec<Taken>>>,
}

impl Receiver {
    pub(crate) fn start(says: impl FnMut(&Taken) -> Answer + Send + 'static) -> Self {
        Self::listen(Box::new(says), None, None)
    }

    /// By TLS, with a certificate of an authority of its own.
    pub(crate) fn start_tls(says: impl FnMut(&Taken) -> Answer + Send + 'static) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut of_authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
        of_authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = of_authority.self_signed(&key).unwrap();
        let issuer = rcgen::Issuer::new(of_authority, key);
        let own = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&own, &issuer).unwrap();
        let secret = rustls::pki_types::PrivateKeyDer::try_from(own.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], secret)
            .unwrap();
        Self::listen(Box::new(says), Some(Arc::new(config)), Some(pem_of(authority.der())))
    }

    fn listen(says: Says, tls: Option<Arc<rustls::ServerConfig>>, authority: Option<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let (into, says) = (Arc::clone(&taken), Arc::new(Mutex::new(says)));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(stream), into, says, tls) =
                    (stream, Arc::clone(&into), Arc::clone(&says), tls.clone())
                else {
                    return;
                };
                std::thread::spawn(move || match tls {
                    None => serve(stream, &into, &says),
                    Some(config) => {
                        let connection = rustls::ServerConnection::new(config).unwrap();
                        serve(rustls::StreamOwned::new(connection, stream), &into, &says)
                    }
                });
            }
        });
        Self { port, authority, taken }
    }

    /// Host and port, as the operator names them.
    pub(crate) fn address(&self) -> String {
        let host = if self.authority.is_some() { "localhost" } else { "127.0.0.1" };
        format!("{host}:{}", self.port)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.address())
    }

    pub(crate) fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    pub(crate) fn taken(&self) -> Vec<Taken> {
        self.taken.lock().unwrap().clone()
    }
}

fn pem_of(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

trait Stream: Read + Write {}
impl Stream for TcpStream {}
impl Stream for rustls::StreamOwned<rustls::ServerConnection, TcpStream> {}

/// Takes one request, and closes. Whoever hangs up is let go.
fn serve(stream: impl Stream, into: &Mutex<Vec<Taken>>, says: &Mutex<Says>) {
    let mut reader = BufReader::new(stream);
    let Some(taken) = read(&mut reader) else { return };
    let answer = {
        let mut says = says.lock().unwrap();
        let answer = says(&taken);
        into.lock().unwrap().push(taken);
        answer
    };
    if answer.is_silent {
        let _hung_up = reader.read_to_end(&mut Vec::new());
        return;
    }
    let text = format!(
        "HTTP/1.1 {} X\r\n{}content-length: 2\r\nconnection: close\r\n\r\nok",
        answer.status, answer.head
    );
    // 204 has no body.
    let text =
        if answer.status == 204 { "HTTP/1.1 204 X\r\nconnection: close\r\n\r\n".to_owned() } else { text };
    let _gone = reader.get_mut().write_all(text.as_bytes()).and_then(|()| reader.get_mut().flush());
}

fn read(reader: &mut impl BufRead) -> Option<Taken> {
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let path = first.split(' ').nth(1)?.to_owned();
    let mut headers = HeaderMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        headers.insert(name, HeaderValue::from_str(value).ok()?);
    }
    let length = headers.get("content-length")?.to_str().ok()?.parse().ok()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Taken { path, headers, body: String::from_utf8(body).ok()? })
}
