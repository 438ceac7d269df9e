//! A sealed TPM's state: never in clear with the host, and suspended for its own launch alone.

use crate::qemu::Machine;
use crate::stack::{Serving, Stack, Start};
use std::fs;

const EXTEND: &str = "pcrextend 16:sha256=00000000000000000000000000000000000000000000000000000000000000aa";
const READ: &str = "pcrread sha256:16";

#[track_caller]
fn ioctl_ok(tpm: &Serving<'_>, line: &str) -> String {
    let (succeeded, said) = tpm.ioctl(line);
    assert!(succeeded, "swtpm_ioctl {line}: {said}{}", tpm.log());
    said
}

#[track_caller]
fn ioctl_refused(tpm: &Serving<'_>, line: &str) -> String {
    let (succeeded, said) = tpm.ioctl(line);
    assert!(!succeeded, "swtpm_ioctl {line}: {said}");
    said
}

pub(crate) fn no_state_leaves_or_enters(stack: &Stack) {
    let tpm = stack.boot();
    assert!(ioctl_ok(&tpm, "-c").contains("is 0x17cbf"), "neither state blobs nor suspend are offered");
    tpm.run_line(EXTEND);
    let value = tpm.run_line(READ);
    for kind in ["permanent", "volatile", "savestate"] {
        assert!(ioctl_refused(&tpm, &format!("--save {kind} stolen")).contains("0xa"));
        assert!(fs::read(tpm.path("stolen")).unwrap_or_default().is_empty());
        fs::write(tpm.path("forged"), [7; 5000]).unwrap();
        assert!(ioctl_refused(&tpm, &format!("--load {kind} forged")).contains("0xa"));
    }
    assert!(ioctl_refused(&tpm, "-v").contains("0xa"));
    let log = tpm.log();
    assert!(
        log.contains("0x02080005 host") && log.contains("migrate cold") && log.contains("--suspend-file")
    );
    assert_eq!(tpm.run_line(READ), value, "and nothing happened to it");
    // QEMU asks first, and does not even begin.
    let mut machine = Machine::start(tpm.path("").as_path(), "tpm.ctrl", &[]);
    machine.until(r#"{"execute":"query-status"}"#, r#""running": true"#);
    let question = r#"{"execute":"migrate","arguments":{"uri":"exec:cat > /dev/null"}}"#;
    let answer = machine.ask(question, r#""error""#);
    assert!(answer.contains("migration") && answer.to_lowercase().contains("tpm"), "{answer}");
    drop(machine);
    tpm.shut_down();
}

pub(crate) fn a_suspension_is_of_one_launch(stack: &Stack) {
    let start = Start { suspend_file: Some("saved"), ..Start::default() };
    let tpm = stack.boot_as(start);
    assert!(ioctl_ok(&tpm, "-c").contains("is 0x17cff"));
    tpm.run_line(EXTEND);
    let value = tpm.run_line(READ);
    ioctl_ok(&tpm, "-v");
    let kept = fs::read(tpm.path("saved")).unwrap();
    assert!(kept.starts_with(b"HUSKSUSP"));
    ioctl_ok(&tpm, "--stop");
    ioctl_ok(&tpm, "-i");
    assert_eq!(tpm.run_line(READ), value, "no Startup was needed");
    fs::write(tpm.path("saved"), &kept).unwrap();
    ioctl_refused(&tpm, "-i");
    assert!(tpm.log().contains("0x04080004 seal"), "{}", tpm.log());
    tpm.refused(READ);
    ioctl_ok(&tpm, "-i");
    tpm.refused("startup");
    tpm.run_line("startup -c");
    assert_ne!(tpm.run_line(READ), value, "a reset, by an INIT of its own");
    ioctl_ok(&tpm, "-v");
    tpm.kill();
    // The next launch has neither the secret nor the right to it.
    match stack.start(start) {
        crate::stack::Started::Refused(1, said) => assert!(said.contains("resumed by nobody"), "{said}"),
        crate::stack::Started::Refused(code, said) => panic!("{code}: {said}"),
        crate::stack::Started::Serves(_) => panic!("IT SERVED"),
    }
    fs::rename(stack.path("saved"), stack.path("kept")).unwrap();
    let tpm = stack.boot_as(start);
    fs::rename(stack.path("kept"), stack.path("saved")).unwrap();
    ioctl_refused(&tpm, "-i");
    ioctl_ok(&tpm, "-i");
    tpm.run_line("startup -c");
    tpm.shut_down();
}
