//! The command that leads into the guest, its input and its output.

use anyhow::{Context as _, bail};
use husk_attester::wire::{Kind, WireError, receive, send};
use std::ffi::OsString;
use std::io::{self, Read};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

/// How much is read at once, and how many such pieces wait.
const PIECE_BYTES: usize = 4096;
const PIECES_MAX: usize = 8;
/// How long the command may take to end when all is said, or when it is not listened to any more.
const END_PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(10);

/// A guest at the other end of a command.
pub(super) struct Guest {
    child: Child,
    input: Option<ChildStdin>,
    heard: Heard,
}

/// What it says, up to a deadline.
struct Heard {
    pieces: Receiver<io::Result<Vec<u8>>>,
    rest: Vec<u8>,
    deadline: Instant,
}

impl Read for Heard {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            let left = self.deadline.saturating_duration_since(Instant::now());
            match self.pieces.recv_timeout(left) {
                Ok(piece) => self.rest = piece?,
                Err(RecvTimeoutError::Timeout) => return Err(io::ErrorKind::TimedOut.into()),
                // It ended.
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
            }
        }
        let length = into.len().min(self.rest.len());
        into[..length].copy_from_slice(&self.rest[..length]);
        self.rest.drain(..length);
        Ok(length)
    }
}

impl Guest {
    /// Runs the command; its complaints go where this process' go.
    pub(super) fn start(words: &[OsString], patience: Duration) -> anyhow::Result<Self> {
        let (program, arguments) = words.split_first().context("name a command that runs `husk-attest`")?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child =
            command.spawn().with_context(|| format!("cannot run {}", program.to_string_lossy()))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the command has no input or output");
        };
        let (to, pieces) = sync_channel(PIECES_MAX);
        spawn(move || carry(output, &to));
        let heard = Heard { pieces, rest: Vec::new(), deadline: Instant::now() + patience };
        Ok(Self { child, input: Some(input), heard })
    }

    /// Sends a frame. Frames are shorter than what a pipe holds, so this does not wait for the guest.
    pub(super) fn say(&mut self, kind: Kind, body: &[u8]) -> Result<(), WireError> {
        match &mut self.input {
            Some(input) => send(input, kind, body),
            None => Err(WireError::Unexpected),
        }
    }

    /// Reads the next frame, which must be of that kind.
    pub(super) fn hear(&mut self, wanted: Kind) -> Result<Vec<u8>, WireError> {
        receive(&mut self.heard, wanted)
    }
}

impl Drop for Guest {
    /// Lets the command end by itself for a while, so that the guest leaves nothing in its TPM.
    fn drop(&mut self) {
        drop(self.input.take());
        let patience = Instant::now() + END_PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() >= patience {
                if self.child.kill().is_ok() {
                    self.child.wait().ok();
                }
                return;
            }
            sleep(PAUSE);
        }
    }
}

/// Ends with the output, or when nobody listens any more.
fn carry(mut output: ChildStdout, to: &SyncSender<io::Result<Vec<u8>>>) {
    loop {
        let mut piece = vec![0; PIECE_BYTES];
        let sent = match output.read(&mut piece) {
            Ok(0) => return,
            Ok(length) => {
                piece.truncate(length);
                to.send(Ok(piece))
            }
            Err(error) => to.send(Err(error)),
        };
        if sent.is_err() {
            return;
        }
    }
}
