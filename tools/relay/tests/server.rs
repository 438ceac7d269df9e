//! The laws of the relay's socket.

#![expect(clippy::unwrap_used, reason = "a test ends where its world fails")]

use husk::seams::{Channel, ChannelError};
use husk_relay::pipe::{Pipe, PipeError};
use husk_relay::server::{CONNECTIONS_MAX, SocketError, bind, serve};
use husk_vtpmd::platform::SocketChannel;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Answers every frame with itself, but silence to one that ends in 9.
struct Echo;

impl Pipe for Echo {
    fn carry(&self, frame: &[u8]) -> Result<Vec<u8>, PipeError> {
        if frame.last() == Some(&9) { Err(PipeError::Dropped) } else { Ok(frame.to_vec()) }
    }
}

fn served(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("husk-relay-{name}-{}", std::process::id()));
    let listener = bind(&path).unwrap();
    std::thread::spawn(move || {
        let pipe: Arc<dyn Pipe> = Arc::new(Echo);
        serve(&listener, &pipe);
    });
    path
}

#[test]
fn a_connection_carries_exchanges_until_one_fails() {
    let path = served("exchange");
    let mut channel = SocketChannel::new(path.clone(), Duration::from_secs(12));
    let mut reply = [0; 16];
    for _ in 0..3 {
        assert_eq!(channel.exchange(&[2, 0, 0, 0, 7, 8], &mut reply), Ok(6));
        assert_eq!(reply[..6], [2, 0, 0, 0, 7, 8]);
    }
    assert_eq!(channel.exchange(&[2, 0, 0, 0, 7, 9], &mut reply), Err(ChannelError::Unreachable));
    assert_eq!(channel.exchange(&[2, 0, 0, 0, 7, 8], &mut reply), Ok(6), "the next one connects anew");
    let long = [&[20, 0, 0, 0][..], &[1; 20]].concat();
    assert_eq!(channel.exchange(&long, &mut reply), Err(ChannelError::ReplyTooLong));
    std::fs::remove_file(path).unwrap();
}

#[test]
fn what_is_no_frame_closes_the_connection() {
    let path = served("bounds");
    for length in [0u32, 8189, u32::MAX] {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(&length.to_le_bytes()).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "length {length}");
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn connections_are_bounded_and_free_their_seats() {
    let path = served("seats");
    let seated = || {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(&[1, 0, 0, 0, 7]).and_then(|()| stream.read_exact(&mut [0; 5])).map(|()| stream)
    };
    let mut streams: Vec<_> = (0..CONNECTIONS_MAX).map(|_| seated().unwrap()).collect();
    assert!(seated().is_err(), "one more");
    streams.clear();
    while seated().is_err() {
        std::thread::yield_now();
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_socket_is_private_and_takes_nobodys_place() {
    let path = served("bind");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(bind(&path), Err(SocketError::InUse(_))));
    std::fs::remove_file(&path).unwrap();
    drop(bind(&path).unwrap());
    drop(bind(&path).unwrap());
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "a file").unwrap();
    assert!(matches!(bind(&path), Err(SocketError::NotASocket(_))));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "a file");
    std::fs::remove_file(path).unwrap();
}
