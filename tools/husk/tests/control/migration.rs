//! A machine of QEMU's moves from one test TPM to another, by QEMU's own migration.

use super::qemu::{Machine, QEMU};
use super::{PCR, Running, UNIX, ZEROS, is_installed, tpm};

#[test]
fn qemu_migrates_a_machine_with_a_test_tpm() {
    if !is_installed(QEMU) {
        return;
    }
    let source = Running::start(UNIX);
    let mut machine = Machine::start(source.folder.path(), "control", &[]);
    machine.until(r#"{"execute":"query-status"}"#, r#""running": true"#);
    // The machine's own firmware may have started the TPM already.
    source.command(&tpm::startup_clear());
    source.send(&tpm::pcr_extend(PCR, &[7; 32])).ok();
    let value = source.pcr();
    assert_ne!(value, ZEROS);
    machine.ask(r#"{"execute":"stop"}"#, "return");
    let stream = source.path("stream");
    let question =
        format!(r#"{{"execute":"migrate","arguments":{{"uri":"exec:cat > {}"}}}}"#, stream.display());
    machine.ask(&question, "return");
    machine.until(r#"{"execute":"query-migrate"}"#, r#""status": "completed""#);
    drop(machine);

    let target = Running::start(UNIX);
    let incoming = format!("exec:cat {}", stream.display());
    let mut machine = Machine::start(target.folder.path(), "control", &["-incoming", &incoming]);
    machine.until(r#"{"execute":"query-migrate"}"#, r#""status": "completed""#);
    machine.ask(r#"{"execute":"cont"}"#, "return");
    assert_eq!(target.pcr(), value, "{}", target.log());
    machine.ask(r#"{"execute":"system_reset"}"#, "RESET");
    machine.until(r#"{"execute":"query-status"}"#, r#""running": true"#);
    target.command(&tpm::startup_clear());
    assert_eq!(target.pcr(), ZEROS);
}
