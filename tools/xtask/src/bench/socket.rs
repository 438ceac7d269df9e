//! The way to a machine of QEMU's that waits to be told: a socket that is there once QEMU is.

use crate::failure::Failure;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(2);

/// Waits for QEMU to listen there. No answer is waited for longer than that either.
pub(super) fn connected(socket: &Path) -> Result<UnixStream, Failure> {
    let failed = |error| unreachable(socket, &error);
    let deadline = Instant::now() + PATIENCE;
    let stream = loop {
        match UnixStream::connect(socket) {
            Ok(stream) => break stream,
            Err(_) if Instant::now() < deadline => sleep(POLL),
            Err(error) => return Err(failed(error)),
        }
    };
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    Ok(stream)
}

/// Why nothing came of it.
pub(super) fn unreachable(socket: &Path, error: &std::io::Error) -> Failure {
    Failure::io("talk to QEMU at", socket, error)
}
