//! QEMU's monitor: a machine that waits to be let go (QEMU's "QEMU Machine Protocol Specification").

use super::socket::{connected, unreachable};
use crate::failure::Failure;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

/// Lets a machine run that waits (`-S -qmp unix:SOCKET,server=on,wait=off`). Returns when it runs.
pub(super) fn let_go(socket: &Path) -> Result<Instant, Failure> {
    let failed = |error| unreachable(socket, &error);
    let mut monitor = BufReader::new(connected(socket)?);
    heard(&mut monitor, "\"QMP\"").map_err(failed)?;
    for line in [r#"{"execute":"qmp_capabilities"}"#, r#"{"execute":"cont"}"#] {
        monitor.get_mut().write_all(line.as_bytes()).map_err(failed)?;
        heard(&mut monitor, "\"return\"").map_err(failed)?;
    }
    Ok(Instant::now())
}

/// The next line with that word; events come between.
fn heard(monitor: &mut BufReader<UnixStream>, word: &str) -> std::io::Result<()> {
    let mut line = String::new();
    while !line.contains(word) {
        line.clear();
        if monitor.read_line(&mut line)? == 0 || line.contains("\"error\"") {
            return Err(std::io::Error::other(format!("it says: {}", line.trim())));
        }
    }
    Ok(())
}
