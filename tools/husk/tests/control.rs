//! The control channel by swtpm_ioctl and QEMU, which others wrote: every switch, state blobs, suspend, migration.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "control/migration.rs"]
mod migration;
#[path = "support/qemu.rs"]
mod qemu;
#[path = "support/running.rs"]
mod running;
#[path = "../../../tests/support/tpm.rs"]
mod tpm;

use running::{Running, is_installed, two_free_ports, until};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;
use tpm::Reply;

const IOCTL: &str = "/usr/bin/swtpm_ioctl";
const SWTPM: &str = "/usr/bin/swtpm";
const PCR: u32 = 16;

/// Whether swtpm_ioctl succeeded, and what it said.
fn ioctl(folder: &Path, way: &str, line: &str) -> (bool, String) {
    let mut command = Command::new(IOCTL);
    let output = command.args(way.split(' ')).args(line.split(' ')).current_dir(folder).output().unwrap();
    (output.status.success(), running::said(&output))
}

impl Running {
    fn ioctl(&self, line: &str) -> (bool, String) {
        ioctl(self.folder.path(), "--unix control", line)
    }

    #[track_caller]
    fn ioctl_ok(&self, line: &str) -> String {
        let (succeeded, said) = self.ioctl(line);
        assert!(succeeded, "swtpm_ioctl {line}: {said}");
        said
    }

    #[track_caller]
    fn ioctl_refused(&self, line: &str) -> String {
        let (succeeded, said) = self.ioctl(line);
        assert!(!succeeded, "swtpm_ioctl {line}: {said}");
        said
    }

    fn send(&self, bytes: &[u8]) -> Reply {
        Reply(self.command(bytes))
    }

    fn pcr(&self) -> Vec<u8> {
        tpm::pcr_of(&self.send(&tpm::pcr_read(PCR)).ok()).to_vec()
    }
}

const UNIX: &str = "--server type=unixio,path=data --ctrl type=unixio,path=control";
const ZEROS: [u8; 32] = [0; 32];

/// A swtpm that dies with this value.
struct Swtpm {
    child: Child,
    folder: TempDir,
}

impl Swtpm {
    fn start(words: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(SWTPM);
        command.args("socket --tpm2 --tpmstate dir=. --pid file=pid".split(' ')).args(words.split(' '));
        let child = command.current_dir(folder.path()).stderr(Stdio::null()).spawn().unwrap();
        let pid = folder.path().join("pid");
        until(|| fs::read_to_string(&pid).is_ok_and(|text| !text.is_empty()));
        Self { child, folder }
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}

/// What swtpm_ioctl can ask, in an order in which swtpm's answer and ours must be the same, to the byte.
const LINES: &[&str] = &[
    // Off.
    "--info 1",
    "-g",
    "-e",
    "-r 3",
    "-h early",
    "-v",
    "--save permanent early",
    "-l 0",
    "-i",
    // On.
    "-e",
    "-h measured",
    "-e",
    "-r 2",
    "-r 3",
    "-e",
    "-h -",
    "-l 3",
    "-l 4",
    "-l 5",
    "-l 0",
    "-C",
    "-g",
    "-b 4000",
    "--info 1",
    "--save permanent permanent",
    "--save volatile volatile",
    "--save savestate savestate",
    "--load permanent permanent",
    "--stop",
    // Off again.
    "-b 4000",
    "--load permanent permanent",
    "--load volatile volatile",
    "--load savestate savestate",
    "-i",
    "-e",
    "-v",
    "--stop",
    "-i",
    "--version",
    "-s",
];

#[test]
fn swtpm_ioctl_hears_the_same_from_husk_and_from_swtpm_over_both_kinds_of_sockets() {
    if !is_installed(IOCTL) || !is_installed(SWTPM) {
        return;
    }
    for tcp in [false, true] {
        let way = || {
            let port = two_free_ports();
            if tcp {
                let words = format!(
                    "--server type=tcp,port={port} --ctrl type=tcp,port={},bindaddr=127.0.0.1",
                    port + 1
                );
                (words, format!("--tcp 127.0.0.1:{}", port + 1))
            } else {
                (UNIX.to_owned(), "--unix control".to_owned())
            }
        };
        let ((our_words, our_way), (their_words, their_way)) = (way(), way());
        let mut ours = Running::start(&format!("{our_words} --suspend-file saved"));
        let theirs = Swtpm::start(&their_words);
        for line in LINES {
            let (ok, said) = ioctl(ours.folder.path(), &our_way, line);
            let (their_ok, they_said) = ioctl(theirs.folder.path(), &their_way, line);
            // The smallest buffer is another: what a CRB page holds.
            let same = |text: &str| !text.starts_with("minimum size");
            let lines = |text: &str| text.lines().filter(|line| same(line)).collect::<Vec<_>>().join("\n");
            assert_eq!((ok, lines(&said)), (their_ok, lines(&they_said)), "{line}; {}", ours.log());
        }
        assert!(ours.child.wait().unwrap().success(), "-s is an orderly end");
        assert!(!ours.path("saved").exists() && !ours.path("pid").exists());
    }
}

#[test]
fn capabilities_and_buffer_sizes_are_what_there_is() {
    if !is_installed(IOCTL) {
        return;
    }
    for (words, bits) in [("", "0x17fbf"), ("--suspend-file saved", "0x17fff"), ("--mssim-frames", "0x1ffbf")]
    {
        let running = Running::start(&format!("{UNIX} {words}"));
        assert!(running.ioctl_ok("-c").contains(&format!("is {bits}")), "{}", running.ioctl_ok("-c"));
        let sizes = running.ioctl_ok("-b 100");
        assert!(sizes.contains("buffersize: 3968") && sizes.contains("maximum size  : 4096"), "{sizes}");
        assert!(running.ioctl_ok("--info 2").contains(r#""manufacturer":"husk","version":""#));
        assert_eq!(running.ioctl_ok("--info 4").trim(), "{}");
    }
}

#[test]
fn a_test_tpm_that_was_saved_goes_on_in_another_process() {
    if !is_installed(IOCTL) {
        return;
    }
    let source = Running::start(UNIX);
    source.ioctl_ok("-i");
    source.send(&tpm::startup_clear()).ok();
    source.send(&tpm::pcr_extend(PCR, &[7; 32])).ok();
    source.send(&tpm::nv_define(0x0150_0001, tpm::NV_AUTH_AND_OWNER, 8, b"pin")).ok();
    let (value, clock) = (source.pcr(), tpm::clock_of(&source.send(&tpm::read_clock())));
    for kind in ["permanent", "volatile", "savestate"] {
        source.ioctl_ok(&format!("--save {kind} {kind}"));
    }
    assert_eq!(fs::read(source.path("savestate")).unwrap(), b"");

    let target = Running::start(UNIX);
    for kind in ["permanent", "volatile"] {
        fs::copy(source.path(kind), target.path(kind)).unwrap();
        target.ioctl_ok(&format!("--load {kind} {kind}"));
    }
    target.ioctl_ok("-i");
    assert_eq!(target.pcr(), value, "no Startup is needed");
    let moved = tpm::clock_of(&target.send(&tpm::read_clock()));
    assert_eq!((moved.reset_count, moved.restart_count), (clock.reset_count, clock.restart_count));
    target.send(&tpm::nv_read_public(0x0150_0001)).ok();
    // What was moved is durable there, and a plain power cycle is a reset as ever.
    target.ioctl_ok("-i");
    assert_ne!(target.send(&tpm::startup_state()).code(), 0);
    target.send(&tpm::startup_clear()).ok();
    assert_eq!(target.pcr(), ZEROS);
    assert!(tpm::clock_of(&target.send(&tpm::read_clock())).reset_count > clock.reset_count);
    let again = Running::start_in(target.killed(), UNIX);
    again.ioctl_ok("-i");
    again.send(&tpm::startup_clear()).ok();
    again.send(&tpm::nv_read_public(0x0150_0001)).ok();
    // Permanent alone is a TPM after a power cut.
    again.ioctl_ok("--stop");
    again.ioctl_ok("--load permanent permanent");
    again.ioctl_ok("-i");
    assert_eq!(again.send(&tpm::pcr_read(PCR)).code(), 0x100, "TPM_RC_INITIALIZE");
}

#[test]
fn what_is_no_blob_changes_nothing() {
    if !is_installed(IOCTL) {
        return;
    }
    let running = Running::start(UNIX);
    running.ioctl_ok("-i");
    running.send(&tpm::startup_clear()).ok();
    running.send(&tpm::nv_define(0x0150_0001, tpm::NV_AUTH_AND_OWNER, 8, b"")).ok();
    running.ioctl_ok("--save permanent good");
    running.ioctl_ok("--stop");
    let good = fs::read(running.path("good")).unwrap();
    let forgeries = [vec![7; 2000], good[..100].to_vec(), [&[0; 8], &good[8..]].concat()];
    for forged in forgeries {
        fs::write(running.path("forged"), forged).unwrap();
        running.ioctl_ok("--load permanent forged");
        assert!(running.ioctl_refused("-i").contains("0x9"));
        running.ioctl_ok("-i");
        running.send(&tpm::startup_clear()).ok();
        running.send(&tpm::nv_read_public(0x0150_0001)).ok();
        running.ioctl_ok("--stop");
    }
    fs::write(running.path("huge"), vec![0; 1 << 20]).unwrap();
    running.ioctl_refused("--load permanent huge");
    fs::write(running.path("some"), b"some").unwrap();
    running.ioctl_refused("--load savestate some");
    running.ioctl_ok("-i");
    running.send(&tpm::startup_clear()).ok();
}

/// Powers a started TPM with a measurement on, over a file for what is suspended.
fn measured() -> (Running, Vec<u8>) {
    let running = Running::start(&format!("{UNIX} --suspend-file saved"));
    running.ioctl_ok("-i");
    running.send(&tpm::startup_clear()).ok();
    running.send(&tpm::pcr_extend(PCR, &[7; 32])).ok();
    let value = running.pcr();
    (running, value)
}

#[test]
fn what_is_suspended_into_a_file_is_resumed_once_and_only_if_nothing_happened() {
    if !is_installed(IOCTL) {
        return;
    }
    let (running, value) = measured();
    running.ioctl_ok("-v");
    let kept = fs::read(running.path("saved")).unwrap();
    running.ioctl_ok("--stop");
    running.ioctl_ok("-i");
    assert_eq!(running.pcr(), value);
    assert!(!running.path("saved").exists(), "it is used up");
    // The host puts it back.
    fs::write(running.path("saved"), &kept).unwrap();
    running.ioctl_refused("-i");
    assert!(running.log().contains("0x04080004 seal"), "{}", running.log());
    assert_eq!(running.send(&tpm::pcr_read(PCR)).code(), 0x101, "the TPM is off");
    assert!(!running.path("saved").exists());
    running.ioctl_ok("-i");
    running.send(&tpm::startup_clear()).ok();
    assert_eq!(running.pcr(), ZEROS, "a reset, by an INIT of its own");
    // The host edits it.
    running.ioctl_ok("-v");
    let mut edited = fs::read(running.path("saved")).unwrap();
    edited[1000] ^= 1;
    fs::write(running.path("saved"), &edited).unwrap();
    running.ioctl_refused("-i");
    assert!(running.log().contains("0x0404001e seal"), "{}", running.log());
    running.ioctl_ok("-i");
    running.send(&tpm::startup_clear()).ok();
    // The guest goes on.
    running.ioctl_ok("-v");
    assert!(running.path("saved").exists());
    running.pcr();
    assert!(!running.path("saved").exists(), "what is void vanishes");
    running.ioctl_ok("-i");
}

#[test]
fn what_a_killed_process_left_is_nobodys() {
    if !is_installed(IOCTL) {
        return;
    }
    let (running, _) = measured();
    running.ioctl_ok("-v");
    let folder = running.killed();
    let line = format!("--tpm2 --unsealed-for-testing --tpmstate dir=. {UNIX} --suspend-file saved");
    let output = running::husk(folder.path(), &line).output().unwrap();
    assert!(!output.status.success() && running::said(&output).contains("resumed by nobody"));
    // Put there later, it is refused too.
    fs::rename(folder.path().join("saved"), folder.path().join("kept")).unwrap();
    let running = Running::start_in(folder, &format!("{UNIX} --suspend-file saved"));
    fs::rename(running.path("kept"), running.path("saved")).unwrap();
    running.ioctl_refused("-i");
    running.ioctl_ok("-i");
    running.send(&tpm::startup_clear()).ok();
    assert_eq!(running.pcr(), ZEROS);
}
