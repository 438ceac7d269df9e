//! The client: raw TPM commands on a Unix socket, nothing between.

use super::commands::Reply;
use crate::failure::Failure;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Size of a response's header in bytes (TPM 2.0 part 1, section "Command/Response Header Fields").
const HEADER_BYTES: usize = 10;

/// The largest response in bytes (libtpms, MAX_RESPONSE_SIZE).
const RESPONSE_BYTES_MAX: usize = 4096;

/// How often a socket that is not there yet is tried.
const POLL: Duration = Duration::from_micros(200);

/// How long a TPM may take until it listens, and for one command.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to a TPM.
#[derive(Debug)]
pub(super) struct Client {
    stream: UnixStream,
    /// Responses so far.
    pub(super) replies: u64,
    /// Bytes in them.
    pub(super) reply_bytes: u64,
}

impl Client {
    /// Connects as soon as somebody listens at `path`.
    pub(super) fn connect(path: &Path) -> Result<Self, Failure> {
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > deadline => {
                    return Err(Failure::io("connect to", path, &error));
                }
                Err(_) => sleep(POLL),
            }
        };
        stream.set_read_timeout(Some(PATIENCE)).map_err(lost)?;
        Ok(Self { stream, replies: 0, reply_bytes: 0 })
    }

    /// Sends a command and returns its response, whatever it says.
    pub(super) fn exchange(&mut self, command: &[u8]) -> Result<Reply, Failure> {
        self.stream.write_all(command).map_err(lost)?;
        let mut buffer = [0; RESPONSE_BYTES_MAX];
        let mut filled = 0;
        loop {
            match self.stream.read(&mut buffer[filled..]).map_err(lost)? {
                0 => return Err(Failure::failed("bench: a TPM hung up in the middle of a response")),
                count => filled += count,
            }
            if filled >= HEADER_BYTES {
                let stated = u32::from_be_bytes([buffer[2], buffer[3], buffer[4], buffer[5]]);
                if usize::try_from(stated).is_ok_and(|stated| stated <= filled) {
                    break;
                }
            }
        }
        self.replies += 1;
        self.reply_bytes += filled as u64;
        Ok(Reply(buffer[..filled].to_vec()))
    }

    /// Sends a command that must succeed.
    pub(super) fn call(&mut self, command: &[u8]) -> Result<Reply, Failure> {
        let reply = self.exchange(command)?;
        match reply.code() {
            0 => Ok(reply),
            code => {
                let ordinal = command.get(6..10).unwrap_or_default();
                Err(Failure::failed(format!("bench: the command {ordinal:02x?} failed with 0x{code:x}")))
            }
        }
    }

    /// As [`Self::call`], and how long it took.
    pub(super) fn timed(&mut self, command: &[u8]) -> Result<(Duration, Reply), Failure> {
        let started = Instant::now();
        let reply = self.call(command)?;
        Ok((started.elapsed(), reply))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "as map_err hands it over")]
fn lost(error: std::io::Error) -> Failure {
    Failure::failed(format!("bench: a TPM does not answer: {error}"))
}
