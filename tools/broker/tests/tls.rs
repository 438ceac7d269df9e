//! The laws of the broker's TLS: what a client of it takes, and what a server of it shows.

#![expect(clippy::unwrap_used, reason = "a test ends where its world fails")]

#[path = "support/service.rs"]
mod service;
#[path = "support/world.rs"]
mod world;

use husk_broker::http::{Limits, Speech};
use husk_broker::tls::{Credentials, Issuer, Term, TlsError};
use husk_broker::world::Machine;
use husk_relay::client::Roots;
use husk_relay::pipe::{HttpPipe, Pipe, PipeError};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

const DAY: Duration = Duration::from_hours(24);
const NO_FRAME: &[u8] = &[0, 0, 0, 0, 9];
/// What a broker says to it.
const REFUSAL: &[u8] = &[3, 0, 0, 0, 0xFF, 1, 0];

fn today() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap()
}

/// An authority's certificate in `authority`, and what it issued for a term in `certificate` and `key`.
struct Files(TempDir);

impl Files {
    fn of(name: &str, term: Term) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        let issuer =
            Issuer::generate(&Machine::start(), Term { begin: Duration::ZERO, length: DAY * 36_500 })
                .unwrap();
        std::fs::write(files.path("authority"), issuer.issued().unwrap().certificate).unwrap();
        let issued = issuer.issue(&Machine::start(), &[name.parse().unwrap()], term).unwrap();
        std::fs::write(files.path("certificate"), issued.certificate).unwrap();
        husk_files::create(&files.path("key"), &issued.key).unwrap();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, now: Duration) -> Result<std::sync::Arc<Credentials>, TlsError> {
        Credentials::read(self.path("certificate"), self.path("key"), now)
    }
}

/// What a client says of a server that shows a certificate of that name and term, read at a moment when it held.
fn said(name: &str, term: Term) -> Result<Vec<u8>, PipeError> {
    let files = Files::of(name, term);
    let credentials = files.read(term.begin + term.length / 2).unwrap();
    let speech = Speech::Tls(credentials.config().unwrap().into());
    let (_runtime, address) = service::served((speech, Limits::default()));
    let roots = Roots::of_file(&files.path("authority")).unwrap();
    HttpPipe::new(&format!("https://{address}"), roots).carry(NO_FRAME)
}

#[test]
fn a_client_takes_a_certificate_of_the_address_in_its_time_and_no_other() {
    let now = today();
    let good = Term { begin: now - DAY, length: DAY * 2 };
    assert_eq!(said("127.0.0.1", good).as_deref(), Ok(REFUSAL));
    let cases = [
        ("127.0.0.1", Term { begin: now - DAY * 2, length: DAY }, "expired"),
        ("127.0.0.1", Term { begin: now + DAY, length: DAY }, "not valid yet"),
        ("127.0.0.2", good, "another name"),
        ("localhost", good, "another name"),
    ];
    for (name, term, words) in cases {
        let said = said(name, term);
        let refused = matches!(&said, Err(PipeError::NotTrusted(why)) if why.contains(words));
        assert!(refused, "{name} {term:?}: {said:?}");
    }
}

#[test]
fn a_server_shows_no_certificate_out_of_its_time() {
    let term = Term { begin: DAY * 20_000, length: DAY };
    let files = Files::of("localhost", term);
    assert!(matches!(files.read(term.begin - Duration::from_secs(1)), Err(TlsError::NotYet { .. })));
    let over = term.begin + term.length + Duration::from_secs(1);
    assert!(matches!(files.read(over), Err(TlsError::Expired { .. })));
    let credentials = files.read(term.begin).unwrap();
    assert_eq!(credentials.end(), term.begin + term.length);
    assert!(matches!(credentials.reload(over), Err(TlsError::Expired { .. })));
    assert_eq!(credentials.end(), term.begin + term.length, "what was shown before is shown on");
}

/// Whoever connects and says nothing, or plain HTTP, has its connection for so long and no longer.
#[test]
fn a_slow_handshake_holds_its_connection_for_a_bounded_time() {
    let files = Files::of("127.0.0.1", Term { begin: today() - DAY, length: DAY * 2 });
    let speech = Speech::Tls(files.read(today()).unwrap().config().unwrap().into());
    let limits = Limits { head_wait: Duration::from_secs(2), connections: 2, ..Limits::default() };
    let (_runtime, address) = service::served((speech, limits));
    let mut silent = TcpStream::connect(address).unwrap();
    let mut plain = TcpStream::connect(address).unwrap();
    plain.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let roots = Roots::of_file(&files.path("authority")).unwrap();
    let said = HttpPipe::new(&format!("https://{address}"), roots).carry(NO_FRAME);
    assert_eq!(said.as_deref(), Ok(REFUSAL), "a place is free again");
    let mut answer = Vec::new();
    silent.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    assert!(matches!(silent.read_to_end(&mut answer), Ok(0)));
    plain.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // An alert of TLS, or a reset: never an answer of HTTP.
    let closed = plain.read_to_end(&mut answer);
    assert!(closed.is_err() || !answer.starts_with(b"HTTP"), "{answer:?}");
}
