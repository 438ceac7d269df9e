use crate::sys;
use husk::release::wire::FRAME_BYTES_MAX;
use husk::seams::{Channel, ChannelError};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Size of the field that says how long the rest of a frame is (`release/wire.rs`, `FrameHeader`).
const LENGTH_BYTES: usize = 4;

/// The relay's Unix socket as a channel: one whole frame out, one whole frame back, length field included.
///
/// The connection is kept between exchanges and made anew where it broke. After a timeout it is given up, so that a
/// late reply is never read as the reply to a later request.
#[derive(Debug)]
pub struct SocketChannel {
    path: PathBuf,
    timeout: Duration,
    stream: Option<UnixStream>,
}

impl SocketChannel {
    /// A channel to the relay that listens at `path`; nothing is connected yet. Each exchange, connecting included,
    /// takes no longer than about `timeout`.
    #[must_use]
    pub const fn new(path: PathBuf, timeout: Duration) -> Self {
        Self { path, timeout, stream: None }
    }

    /// Sends on the kept connection, or on a new one where there is none or it broke.
    fn send(&mut self, request: &[u8], deadline: Instant) -> io::Result<UnixStream> {
        if let Some(mut kept) = self.stream.take()
            && is_open(&kept)
            && kept.set_write_timeout(Some(left(deadline)?)).is_ok()
            && kept.write_all(request).is_ok()
        {
            return Ok(kept);
        }
        let mut fresh = sys::connect(&self.path, left(deadline)?)?;
        fresh.set_write_timeout(Some(left(deadline)?))?;
        fresh.write_all(request)?;
        Ok(fresh)
    }
}

impl Channel for SocketChannel {
    fn exchange(&mut self, request: &[u8], reply: &mut [u8]) -> Result<usize, ChannelError> {
        let deadline = Instant::now() + self.timeout;
        let mut stream = self.send(request, deadline).map_err(|_| ChannelError::Unreachable)?;
        let length = receive(&mut stream, reply, deadline)?;
        self.stream = Some(stream);
        Ok(length)
    }
}

/// Whether the other side has neither closed nor said anything unasked.
fn is_open(stream: &UnixStream) -> bool {
    let mut byte = [0];
    let quiet = stream.set_nonblocking(true).is_ok()
        && matches!((&mut &*stream).read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
    quiet && stream.set_nonblocking(false).is_ok()
}

fn receive(stream: &mut UnixStream, reply: &mut [u8], deadline: Instant) -> Result<usize, ChannelError> {
    let mut length = [0; LENGTH_BYTES];
    fill(stream, &mut length, deadline)?;
    let rest = usize::try_from(u32::from_le_bytes(length)).map_err(|_| ChannelError::ReplyTooLong)?;
    let whole = rest.checked_add(LENGTH_BYTES).ok_or(ChannelError::ReplyTooLong)?;
    if whole > FRAME_BYTES_MAX {
        return Err(ChannelError::ReplyTooLong);
    }
    let frame = reply.get_mut(..whole).ok_or(ChannelError::ReplyTooLong)?;
    frame[..LENGTH_BYTES].copy_from_slice(&length);
    fill(stream, &mut frame[LENGTH_BYTES..], deadline)?;
    Ok(whole)
}

/// Reads all of `into` before the deadline, however slowly it drips.
fn fill(stream: &mut UnixStream, into: &mut [u8], deadline: Instant) -> Result<(), ChannelError> {
    let mut filled = 0;
    while filled < into.len() {
        let step = left(deadline)
            .and_then(|left| stream.set_read_timeout(Some(left)))
            .and_then(|()| stream.read(&mut into[filled..]));
        match step {
            Ok(0) => return Err(ChannelError::Unreachable),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(ChannelError::Unreachable),
        }
    }
    Ok(())
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::Error::from(io::ErrorKind::TimedOut)) } else { Ok(left) }
}

#[cfg(test)]
mod tests {
    use super::SocketChannel;
    use husk::seams::{Channel, ChannelError};
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    const REQUEST: [u8; 6] = [2, 0, 0, 0, 2, 9];

    /// A relay that does with each connection what its script says: a list of replies, each to one request.
    fn relay(script: Vec<Vec<Vec<u8>>>) -> (tempfile::TempDir, SocketChannel) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("relay");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let mut kept = vec![];
            for replies in script {
                let (mut stream, _) = listener.accept().unwrap();
                for reply in replies {
                    let mut request = [0; 6];
                    stream.read_exact(&mut request).unwrap();
                    assert_eq!(request, REQUEST);
                    stream.write_all(&reply).unwrap();
                }
                kept.push(stream);
                if kept.len() == 2 {
                    kept.remove(0);
                }
            }
            std::thread::sleep(Duration::from_secs(2));
        });
        (folder, SocketChannel::new(path, Duration::from_millis(300)))
    }

    fn ask(channel: &mut SocketChannel) -> Result<Vec<u8>, ChannelError> {
        let mut reply = [0; 64];
        channel.exchange(&REQUEST, &mut reply).map(|length| reply[..length].to_vec())
    }

    #[test]
    fn an_exchange_is_one_whole_frame_each_way_on_a_kept_connection() {
        let (_folder, mut channel) = relay(vec![vec![vec![1, 0, 0, 0, 7], vec![2, 0, 0, 0, 8, 9]]]);
        assert_eq!(ask(&mut channel), Ok(vec![1, 0, 0, 0, 7]));
        assert_eq!(ask(&mut channel), Ok(vec![2, 0, 0, 0, 8, 9]));
    }

    #[test]
    fn a_reply_longer_than_the_buffer_or_the_protocol_is_refused() {
        for length in [61, 8189, u32::MAX] {
            let (_folder, mut channel) = relay(vec![vec![length.to_le_bytes().to_vec()]]);
            assert_eq!(ask(&mut channel), Err(ChannelError::ReplyTooLong));
        }
    }

    #[test]
    fn a_relay_that_says_half_is_given_up_in_time_and_asked_anew() {
        let (_folder, mut channel) = relay(vec![vec![vec![9, 0, 0, 0, 7]], vec![vec![1, 0, 0, 0, 7]]]);
        assert_eq!(ask(&mut channel), Err(ChannelError::Unreachable));
        assert_eq!(ask(&mut channel), Ok(vec![1, 0, 0, 0, 7]));
    }

    #[test]
    fn no_relay_is_unreachable() {
        let mut channel = SocketChannel::new("/nonexistent/relay".into(), Duration::from_millis(100));
        assert_eq!(ask(&mut channel), Err(ChannelError::Unreachable));
    }
}
