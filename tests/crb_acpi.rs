//! Peer: Intel's `iasl` reads our ACPI tables as what they are meant to be.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use husk::frontend::acpi::{EventLog, TABLE_BYTES_MAX, ssdt, tpm2_table};
use husk::frontend::crb::{Buffer, Identity, Layout, Localities};
use std::path::{Path, PathBuf};
use std::process::Command;

const IASL: &str = "/usr/bin/iasl";

fn layout() -> Layout {
    let identity = Identity { vendor: 0x1AF4, device: 0x4B48, revision: 0 };
    Layout::new(0x3C00_0000, Localities::All, Buffer::OwnPage, identity).unwrap()
}

/// Disassembles `table`; none, with a loud line, where the peer is not installed.
fn disassembled(name: &str, table: &[u8]) -> Option<String> {
    if !Path::new(IASL).exists() {
        eprintln!("SKIPPED: {IASL} is not installed (package acpica-tools)");
        return None;
    }
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let file = folder.join(format!("{name}.aml"));
    std::fs::write(&file, table).unwrap();
    let output = Command::new(IASL).arg("-d").arg(&file).current_dir(&folder).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("Incorrect checksum") && !said.contains("rror"), "{said}");
    Some(std::fs::read_to_string(folder.join(format!("{name}.dsl"))).unwrap())
}

fn has(text: &str, line: &str) {
    let squeezed = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(squeezed.contains(line), "{line:?} is not in {text}");
}

#[test]
fn iasl_reads_the_tpm2_table() {
    let mut table = [0; TABLE_BYTES_MAX];
    let log = EventLog { address: 0x7F00_1000, area_bytes: 0x1_0000 };
    let length = tpm2_table(&layout(), Some(log), &mut table).unwrap();
    let Some(text) = disassembled("tpm2", &table[..length]) else { return };
    has(&text, "Control Address : 000000003C000040");
    has(&text, "Start Method : 07 [Command Response Buffer]");
    has(&text, "Minimum Log Length : 00010000");
    has(&text, "Log Address : 000000007F001000");
}

#[test]
fn iasl_reads_the_tpm2_table_without_a_log() {
    let mut table = [0; TABLE_BYTES_MAX];
    let length = tpm2_table(&layout(), None, &mut table).unwrap();
    let Some(text) = disassembled("tpm2-nolog", &table[..length]) else { return };
    has(&text, "Control Address : 000000003C000040");
}

#[test]
fn iasl_reads_the_device() {
    let mut table = [0; TABLE_BYTES_MAX];
    let length = ssdt(&layout(), &mut table).unwrap();
    let Some(text) = disassembled("ssdt", &table[..length]) else { return };
    has(&text, "Scope (\\_SB)");
    has(&text, "Device (TPM0)");
    has(&text, "Name (_HID, \"MSFT0101\"");
    has(&text, "Name (_STR, Unicode (\"TPM 2.0\"))");
    has(&text, "Name (_UID, One)");
    has(&text, "Memory32Fixed (ReadWrite, 0x3C000000, // Address Base 0x00006000, // Address Length");
    has(&text, "Name (_STA, 0x0F)");
}
