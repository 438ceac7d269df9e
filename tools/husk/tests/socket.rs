//! `husk vtpmd socket`: where swtpm stood, by swtpm's own words and clients.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "support/running.rs"]
mod running;

use running::{Running, husk, said, two_free_ports, until};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

const READ_CLOCK: [u8; 10] = [0x80, 1, 0, 0, 0, 10, 0, 0, 1, 0x81];

fn refused(line: &str, reason: &str) {
    let folder = tempfile::tempdir().unwrap();
    let output = husk(folder.path(), line).output().unwrap();
    assert!(!output.status.success() && said(&output).contains(reason), "{line}: {}", said(&output));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{line} left something");
}

/// The response code to one raw command.
fn code(stream: &mut UnixStream, command: &[u8]) -> u32 {
    u32::from_be_bytes(running::ask(stream, command)[6..10].try_into().unwrap())
}

#[test]
fn words_that_could_not_be_obeyed_are_refused_and_leave_nothing() {
    let base = "--tpm2 --unsealed-for-testing --tpmstate dir=.";
    for (words, reason) in [
        ("--server type=tcp,port=2321,bindaddr=0.0.0.0", "loopback"),
        ("--ctrl type=unixio,path=c --key file=k", "protects nothing from the host"),
        ("--ctrl type=unixio,path=c --migration-key file=k", "migrate cold"),
        ("--ctrl type=unixio,path=c --runas nobody", "start it as that user"),
        ("--ctrl type=unixio,path=c --fd 3", "made here"),
        ("--ctrl type=unixio,path=c --print-states", "--print-states"),
        ("--ctrl type=unixio,path=c --mssim-frames", "--server"),
        ("--ctrl type=unixio,path=c --log file=l,prefix=p", "not taken"),
        ("--ctrl type=unixio,path=c --locality allow-set-locality", "not offered"),
        ("--ctrl type=unixio,path=c --seccomp action=kill", "no system call filter"),
        ("--ctrl type=unixio,path=c --daemon", "--log"),
        ("--server type=unixio,path=d --flags startup-deactivated", "TPM 1.2"),
        ("--server type=unixio,path=d", "nobody could switch this TPM on"),
    ] {
        refused(&format!("{base} {words}"), reason);
    }
    refused("--unsealed-for-testing --tpmstate dir=. --ctrl type=unixio,path=c", "--tpm2");
    refused("--tpm2 --tpmstate dir=. --ctrl type=unixio,path=c", "--config");
    refused("--tpm2 --unsealed-for-testing --ctrl type=unixio,path=c", "--tpmstate");
}

#[test]
fn startup_clear_serves_a_started_tpm_and_terminate_ends_with_its_client() {
    let mut running = Running::start(
        "--server type=unixio,path=data,mode=0600 --flags startup-clear --terminate --seccomp action=none",
    );
    for name in ["data", "tpm2.husk", "log", "pid"] {
        let mode = fs::metadata(running.path(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(fs::read_to_string(running.path("pid")).unwrap(), format!("{}\n", running.child.id()));
    drop(UnixStream::connect(running.path("data")).unwrap());
    let mut stream = UnixStream::connect(running.path("data")).unwrap();
    assert_eq!(code(&mut stream, &READ_CLOCK), 0, "TPM2_Startup was sent already");
    drop(stream);
    assert!(running.child.wait().unwrap().success());
    assert!(!running.path("pid").exists() && !running.path("data").exists());
    let log = fs::read_to_string(running.path("log")).unwrap();
    assert!(log.contains("UNSEALED FOR TESTING") && log.contains("vtpmd: ready"), "{log}");
}

#[test]
fn what_is_said_goes_into_descriptors_that_were_open_and_a_volume_may_be_named() {
    let folder = tempfile::tempdir().unwrap();
    let line = format!(
        "exec {} vtpmd socket --tpm2 --unsealed-for-testing --tpmstate backend-uri=file://named.husk \
         --ctrl type=unixio,path=ctrl --pid fd=3 --log fd=4 3>>pid 4>>log",
        env!("CARGO_BIN_EXE_husk")
    );
    let mut child = Command::new("/bin/sh").arg("-c").arg(line).current_dir(folder.path()).spawn().unwrap();
    let read = |name| fs::read_to_string(folder.path().join(name)).unwrap_or_default();
    until(|| read("pid").ends_with('\n'));
    assert_eq!(read("pid"), format!("{}\n", child.id()));
    UnixStream::connect(folder.path().join("ctrl")).unwrap().write_all(&[0, 0, 0, 3]).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(read("log").contains("vtpmd: ready"), "{}", read("log"));
    assert!(folder.path().join("named.husk").exists() && folder.path().join("pid").exists());
}

#[test]
fn a_state_that_was_not_kept_is_not_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let line =
        "--tpm2 --unsealed-for-testing --tpmstate dir=. --server type=unixio,path=data --flags startup-state";
    let output = husk(folder.path(), line).output().unwrap();
    assert!(!output.status.success() && said(&output).contains("refused to start up"), "{}", said(&output));
}

#[test]
fn a_daemon_is_there_when_its_starter_returns_and_ends_at_a_shutdown() {
    let folder = tempfile::tempdir().unwrap();
    let line = "-d --tpm2 --unsealed-for-testing --tpmstate dir=.,mode=0600 --ctrl type=unixio,path=ctrl,mode=0600 \
                --log file=log,level=5,truncate --pid file=pid --locality reject-locality-4";
    let output = husk(folder.path(), line).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let mut control = UnixStream::connect(folder.path().join("ctrl")).unwrap();
    let mut ask = |message: &[u8]| {
        control.write_all(message).unwrap();
        let mut outcome = [0xFF; 4];
        control.read_exact(&mut outcome).unwrap();
        u32::from_be_bytes(outcome)
    };
    assert_eq!(ask(&[0, 0, 0, 2, 0, 0, 0, 0]), 0, "INIT");
    assert_eq!(ask(&[0, 0, 0, 5, 3, 0, 0, 0]), 0, "locality 3");
    assert_eq!(ask(&[0, 0, 0, 5, 4, 0, 0, 0]), 0x3D, "locality 4 is refused");
    let again = husk(folder.path(), line).output().unwrap();
    assert!(!again.status.success() && said(&again).contains("its log says why"), "{}", said(&again));
    assert_eq!(ask(&[0, 0, 0, 3]), 0, "SHUTDOWN");
    until(|| !folder.path().join("pid").exists());
}

#[test]
fn the_capabilities_are_swtpms_json() {
    let folder = tempfile::tempdir().unwrap();
    let by_swtpms_words = husk(folder.path(), "--tpm2 --print-capabilities").output().unwrap();
    let by_our_own =
        Command::new(env!("CARGO_BIN_EXE_husk")).args(["vtpmd", "--print-capabilities"]).output().unwrap();
    assert!(by_our_own.status.success(), "{}", said(&by_our_own));
    assert_eq!(by_swtpms_words.stdout, by_our_own.stdout);
    let json: serde_json::Value = serde_json::from_slice(&by_our_own.stdout).unwrap();
    assert_eq!(json["type"], "swtpm");
    assert_eq!(
        json["features"],
        serde_json::json!(["tpm-2.0", "flags-opt-startup", "nvram-backend-dir", "nvram-backend-file"])
    );
}

#[test]
fn tpm2_tools_find_the_tpm_where_swtpm_stood_and_what_they_wrote_outlives_the_process() {
    if !Path::new("/usr/bin/tpm2_getrandom").exists() {
        eprintln!("SKIPPED: /usr/bin/tpm2_getrandom is not installed");
        return;
    }
    let port = two_free_ports();
    let words =
        format!("--port {port} --ctrl type=tcp,port={} --flags not-need-init,startup-clear", port + 1);
    let running = Running::start(&words);
    let tool = |line: &str| {
        let mut words = line.split(' ');
        let mut command = Command::new(Path::new("/usr/bin").join(words.next().unwrap()));
        command.args(words).current_dir(running.folder.path());
        command.env("TPM2TOOLS_TCTI", format!("swtpm:host=127.0.0.1,port={port}"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{line}: {}", said(&output));
        output.stdout
    };
    fs::write(running.path("eight"), b"8 bytes!").unwrap();
    tool("tpm2_nvdefine 0x1500020 -s 8 -a ownerwrite|ownerread");
    tool("tpm2_nvwrite 0x1500020 -C o -i eight");
    let id = running.child.id().to_string();
    assert!(Command::new("/bin/kill").args(["-s", "KILL", &id]).status().unwrap().success());
    until(|| TcpStream::connect(("127.0.0.1", port)).is_err());
    let line =
        format!("--tpm2 --unsealed-for-testing --tpmstate dir=. --pid file=pid2 --log file=log {words}");
    let child = husk(running.folder.path(), &line).stdin(Stdio::null()).spawn().unwrap();
    let second = Running { child, folder: tempfile::tempdir().unwrap() };
    until(|| running.path("pid2").exists());
    assert_eq!(tool("tpm2_nvread 0x1500020 -C o -s 8"), b"8 bytes!");
    drop(second);
}
