//! The instant at which a kernel is entered in QEMU alone: a breakpoint at its 32-bit entry, set through QEMU's own stub for debuggers
//! (GDB manual, appendix "GDB Remote Serial Protocol").

use super::socket::{connected, unreachable};
use crate::failure::Failure;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

/// Where QEMU's loader puts a bzImage's protected-mode part (Linux, Documentation/arch/x86/boot.rst, "code32_start").
const ENTRY: u32 = 0x10_0000;
/// How a stop at a breakpoint begins: signal 5.
const STOPPED: &str = "T05";

/// Lets a machine run that waits to be told (`-S -gdb unix:SOCKET,server=on,wait=off`), and returns when its kernel was entered; it runs on.
pub(super) fn await_entry(socket: &Path) -> Result<Instant, Failure> {
    let failed = |error| unreachable(socket, &error);
    let mut stub = Stub(connected(socket)?);
    stub.ask(&format!("Z1,{ENTRY:x},1")).map_err(failed)?;
    let stopped = stub.ask("c").map_err(failed)?;
    let entered = Instant::now();
    if !stopped.starts_with(STOPPED) {
        return Err(Failure::failed(format!("bench: QEMU stopped for another reason: {stopped}")));
    }
    stub.ask(&format!("z1,{ENTRY:x},1")).map_err(failed)?;
    // Detached, QEMU goes on.
    stub.ask("D").map_err(failed)?;
    Ok(entered)
}

struct Stub(UnixStream);

impl Stub {
    /// Sends a packet and reads the next one, which is acknowledged.
    fn ask(&mut self, packet: &str) -> std::io::Result<String> {
        self.0.write_all(framed(packet).as_bytes())?;
        let mut answer = Vec::new();
        while !answer.starts_with(b"$") {
            answer = vec![self.byte()?];
        }
        while answer.last() != Some(&b'#') {
            answer.push(self.byte()?);
        }
        let _checksum = [self.byte()?, self.byte()?];
        self.0.write_all(b"+")?;
        Ok(String::from_utf8_lossy(&answer[1..answer.len() - 1]).into_owned())
    }

    fn byte(&mut self) -> std::io::Result<u8> {
        let mut byte = [0];
        self.0.read_exact(&mut byte)?;
        Ok(byte[0])
    }
}

/// A packet with its sum.
fn framed(packet: &str) -> String {
    let sum = packet.bytes().fold(0_u8, u8::wrapping_add);
    format!("${packet}#{sum:02x}")
}

#[cfg(test)]
mod tests {
    use super::framed;

    /// The example of the manual's section "Overview": a sum modulo 256 in two digits.
    #[test]
    fn a_packet_carries_the_sum_of_its_bytes() {
        assert_eq!(framed("OK"), "$OK#9a");
        assert_eq!(framed("?"), "$?#3f");
    }
}
