//! One connection to the TPM that may be killed at any time.

use super::wire::{HEADER_BYTES, Reply, be32, hex, rc};
use crate::failure::Failure;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

/// The largest response in bytes.
const RESPONSE_BYTES_MAX: usize = 4096;

/// Longer than any command takes on a loaded machine; a verdict never depends on it.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often a TPM may ask to be asked again, and how long it is left alone in between.
const RETRIES_MAX: usize = 400;
const RETRY_AFTER: Duration = Duration::from_millis(25);

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Answered(Reply),
    /// The TPM was killed: it may have been executed or not.
    Lost,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Link<'s> {
    stream: UnixStream,
    /// Set before the TPM is killed.
    killed: &'s AtomicBool,
}

impl<'s> Link<'s> {
    pub(super) fn connect(path: &Path, killed: &'s AtomicBool) -> Result<Self, Failure> {
        let failed = |error| Failure::io("connect to", path, &error);
        let stream = UnixStream::connect(path).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        Ok(Self { stream, killed })
    }

    /// Sends a command, does something else `meanwhile`, and waits for the answer; again where the TPM asks for it.
    pub(super) fn ask(&mut self, command: &[u8], meanwhile: impl FnOnce()) -> Result<Fate, Failure> {
        let mut fate = self.exchange(command, meanwhile)?;
        for _ in 0..RETRIES_MAX {
            match &fate {
                Fate::Answered(reply)
                    if [rc::RETRY, rc::NV_RATE, rc::NV_UNAVAILABLE, rc::TESTING].contains(&reply.code()) =>
                {
                    sleep(RETRY_AFTER);
                    fate = self.exchange(command, || ())?;
                }
                Fate::Answered(reply) if reply.code() == rc::FAILURE => {
                    return Err(failed(&format!("TPM_RC_FAILURE answers {}", hex(command))));
                }
                Fate::Answered(_) | Fate::Lost => return Ok(fate),
            }
        }
        Err(failed("the TPM asks to be asked again without end"))
    }

    fn exchange(&mut self, command: &[u8], meanwhile: impl FnOnce()) -> Result<Fate, Failure> {
        let sent = self.stream.write_all(command);
        meanwhile();
        match sent.and_then(|()| self.receive()) {
            Ok(bytes) => {
                let said = hex(&bytes);
                let reply = Reply::new(bytes);
                reply.map(Fate::Answered).ok_or_else(|| failed(&format!("no response: {said}")))
            }
            Err(_) if self.killed.load(Ordering::SeqCst) => Ok(Fate::Lost),
            Err(error) => Err(failed(&format!("it does not answer {}: {error}", hex(command)))),
        }
    }

    fn receive(&mut self) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; HEADER_BYTES];
        self.stream.read_exact(&mut bytes)?;
        let total = (be32(&bytes, 2) as usize).clamp(HEADER_BYTES, RESPONSE_BYTES_MAX);
        bytes.resize(total, 0);
        self.stream.read_exact(&mut bytes[HEADER_BYTES..])?;
        Ok(bytes)
    }

    /// Sends what begins like a command of no possible size: one refusal, and the connection ends.
    pub(super) fn talk_nonsense(mut self, stated: u32) -> Result<(), Failure> {
        let header = [&[0x80, 1][..], &stated.to_be_bytes(), &[0, 0, 1, 0x7B]].concat();
        let mut back = Vec::new();
        let done = self.stream.write_all(&header).and_then(|()| self.stream.read_to_end(&mut back));
        let refused = Reply::new(back).is_some_and(|reply| !reply.is_success());
        if refused || self.killed.load(Ordering::SeqCst) {
            return Ok(());
        }
        Err(failed(&format!("a size of {stated} is not refused: {done:?}")))
    }
}

fn failed(what: &str) -> Failure {
    Failure::failed(format!("soak: {what}"))
}
