//! The other end of the socket: the component's channel through a relay.

use crate::frames;
use husk::seams::{Channel, ChannelError};
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// How long one exchange may take, a little longer than the relay gives the broker.
pub const EXCHANGE_WAIT_MAX: Duration = Duration::from_secs(12);

/// Exchanges through the relay at a unix socket. Connects when needed, and anew after every failure.
#[derive(Debug)]
pub struct RelayChannel {
    socket: PathBuf,
    stream: Option<UnixStream>,
}

impl RelayChannel {
    /// A channel through the relay at `socket`.
    #[must_use]
    pub const fn new(socket: PathBuf) -> Self {
        Self { socket, stream: None }
    }

    fn connected(&mut self) -> io::Result<UnixStream> {
        if let Some(stream) = self.stream.take() {
            return Ok(stream);
        }
        let stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(EXCHANGE_WAIT_MAX))?;
        stream.set_write_timeout(Some(EXCHANGE_WAIT_MAX))?;
        Ok(stream)
    }
}

impl Channel for RelayChannel {
    fn exchange(&mut self, request: &[u8], reply: &mut [u8]) -> Result<usize, ChannelError> {
        let unreachable = |_: io::Error| ChannelError::Unreachable;
        let mut stream = self.connected().map_err(unreachable)?;
        stream.write_all(request).map_err(unreachable)?;
        let frame = frames::read(&mut stream).map_err(unreachable)?.ok_or(ChannelError::Unreachable)?;
        self.stream = Some(stream);
        reply.get_mut(..frame.len()).ok_or(ChannelError::ReplyTooLong)?.copy_from_slice(&frame);
        Ok(frame.len())
    }
}
