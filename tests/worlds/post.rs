//! One frame to the broker and its answer, over HTTP on a connection of its own.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

/// Longer than any answer takes on a machine that does much else.
const WAIT_MAX: Duration = Duration::from_secs(60);

pub(crate) fn post(port: u16, frame: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(WAIT_MAX))?;
    let head = format!(
        "POST /husk/v1/frame HTTP/1.1\r\nhost: broker\r\ncontent-type: application/octet-stream\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n",
        frame.len()
    );
    stream.write_all(&[head.as_bytes(), frame].concat())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    if !answer.starts_with(b"HTTP/1.1 200 ") {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(answer.split_off(end + 4))
}
