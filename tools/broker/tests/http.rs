//! The laws of the broker on HTTP: only frames are looked at, and everything is bounded.

#![expect(clippy::unwrap_used, reason = "a test ends where its world fails")]

#[path = "support/service.rs"]
mod service;
#[path = "support/world.rs"]
mod world;

use husk::release::wire::FRAME_BYTES_MAX;
use husk_broker::http::{Limits, Speech};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use tokio::runtime::Runtime;

fn served() -> (Runtime, SocketAddr) {
    let limits = Limits { head_wait: Duration::from_millis(300), connections: 2, ..Limits::default() };
    service::served((Speech::Plain, limits))
}

/// The status and body of one request.
fn ask(address: SocketAddr, head: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    write!(stream, "{head}\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n").unwrap();
    // The server may close before it took all of a body that is too long.
    let sent = stream.write_all(body);
    assert!(sent.is_ok() || length > FRAME_BYTES_MAX);
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    assert!(read.is_ok() || length > FRAME_BYTES_MAX);
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let status = std::str::from_utf8(&answer[9..12]).unwrap().parse().unwrap();
    (status, answer[end + 4..].to_vec())
}

const OCTETS: &str = "POST /husk/v1/frame HTTP/1.1\r\ncontent-type: application/octet-stream";

#[test]
fn only_frames_are_looked_at() {
    let (_runtime, address) = served();
    assert_eq!(ask(address, "GET /healthz HTTP/1.1", &[]), (200, b"ok\n".to_vec()));
    assert_eq!(ask(address, OCTETS, b"no frame"), (200, vec![3, 0, 0, 0, 0xFF, 1, 0]), "a refusal");
    assert_eq!(ask(address, OCTETS, &[0; FRAME_BYTES_MAX]).0, 200);
    assert_eq!(ask(address, OCTETS, &[0; FRAME_BYTES_MAX + 1]).0, 413);
    let text = "POST /husk/v1/frame HTTP/1.1\r\ncontent-type: text/plain";
    assert_eq!(ask(address, text, b"x").0, 415);
    assert_eq!(ask(address, "GET /husk/v1/frame HTTP/1.1", &[]).0, 405);
    assert_eq!(ask(address, "GET /admin HTTP/1.1", &[]).0, 404);
}

/// Whoever sends its head byte by byte, or none at all, has its connection for so long and no longer; meanwhile others
/// wait, and are served then.
#[test]
fn a_slow_head_holds_its_connection_for_a_bounded_time() {
    let (_runtime, address) = served();
    let mut slow: Vec<TcpStream> = (0..2).map(|_| TcpStream::connect(address).unwrap()).collect();
    slow[0].write_all(b"POST /husk/v1/frame HT").unwrap();
    assert_eq!(
        ask(address, "GET /healthz HTTP/1.1", &[]),
        (200, b"ok\n".to_vec()),
        "both places are free again"
    );
    for stream in &mut slow {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut said = Vec::new();
        let closed = stream.read_to_end(&mut said);
        assert!(closed.is_ok_and(|bytes| bytes == 0) || said.starts_with(b"HTTP/1.1 408"), "{said:?}");
    }
}
