//! What a hostile host tries, and what it gets.

use super::stage::{BUSY, Outcome, Stage};
use crate::failure::Failure;
use crate::process::Daemon;
use crate::product::{Vm, blank_disk, text};
use crate::steps::Steps;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Fault codes by what they say (the manual's page on faults).
const SEAL_VOLUME: u32 = 0x0404_0000;
const BLANK: u32 = 0x0404_0010;
const OTHER_VM: u32 = 0x0404_0016;
const ROLLED_BACK: u32 = 0x0404_001A;
const REPLY_REFUSED: u32 = 0x0206_0003;
const BROKER_UNTRUSTED: u32 = 0x0206_0004;
const DENIED_SIMULATED: u32 = 0x0306_0008;
const DENIED_MEASUREMENT: u32 = 0x0306_0009;

/// TPM2_Startup(TPM_SU_CLEAR) (TPM 2.0 part 3, section "TPM2_Startup").
const STARTUP_CLEAR: [u8; 12] = [0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x44, 0, 0];
/// TPM2_Shutdown(TPM_SU_CLEAR).
const SHUTDOWN_CLEAR: [u8; 12] = [0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x45, 0, 0];
const RC_SUCCESS: u32 = 0;
const RC_FAILURE: u32 = 0x101;

/// Hello, report, grant.
const EXCHANGES_BEFORE_GRANTED: usize = 3;
/// A byte that every message of a boot has.
const ALTERED_BYTE: usize = 40;

/// What must be seen for an attack to count as refused.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    /// This very code.
    Code(u32),
    /// Any code of this family and box.
    Box(u32),
    /// Any code of the release protocol, whether the host or the broker is to blame.
    Release,
}

impl Wanted {
    fn meets(self, code: u32) -> bool {
        match self {
            Self::Code(wanted) => code == wanted,
            Self::Box(wanted) => code & 0xFFFF_0000 == wanted,
            Self::Release => matches!(code & 0xFFFF_0000, 0x0206_0000 | 0x0306_0000),
        }
    }
}

/// Tries every attack as a step; after each the honest state must boot.
pub(super) fn into(steps: &mut Steps, stage: &mut Stage) -> Result<(), Failure> {
    let yesterday = stage.product.path("yesterday.disk");
    copy(&stage.vm.disk, &yesterday)?;
    stage.honest_boot()?;
    steps.attempt("refused: one flipped bit", || flipped_bits(stage, &yesterday));
    steps.attempt("refused: yesterday's disk", || on_disk(stage, &yesterday, Wanted::Code(ROLLED_BACK)));
    steps.attempt("refused: another VM's disk", || another_vm(stage));
    steps.attempt("refused: a blank disk", || blank(stage));
    steps.attempt("refused: a second instance", || second_instance(stage));
    steps.attempt("refused: changed firmware", || changed_firmware(stage));
    steps.attempt("refused: another broker's key", || {
        tampered(stage, "swap-broker-key", Wanted::Code(BROKER_UNTRUSTED))
    });
    steps.attempt("refused: yesterday's grant", || yesterdays_grant(stage));
    steps.attempt("refused: altered messages", || altered_messages(stage));
    steps.attempt("refused: simulated silicon", || simulated_silicon(stage));
    Ok(())
}

/// Flips a bit in the first, the middle and the last byte that the last boot wrote: all lie at or before the head.
fn flipped_bits(stage: &mut Stage, yesterday: &Path) -> Result<String, Failure> {
    let (old, new) = (read(yesterday)?, read(&stage.vm.disk)?);
    let changed: Vec<usize> = (0..new.len().min(old.len())).filter(|at| new[*at] != old[*at]).collect();
    let places = [changed.first(), changed.get(changed.len() / 2), changed.last()];
    let mut seen = String::new();
    for place in places.into_iter().flatten() {
        let mut bytes = new.clone();
        bytes[*place] ^= 1;
        let disk = stage.product.path("flipped.disk");
        fs::write(&disk, &bytes).map_err(|error| Failure::io("write", &disk, &error))?;
        seen = refused_on_disk(stage, &disk, Wanted::Box(SEAL_VOLUME))?;
    }
    stage.honest_boot()?;
    if seen.is_empty() { Err(Failure::failed("the last boot wrote nothing")) } else { Ok(seen) }
}

fn another_vm(stage: &mut Stage) -> Result<String, Failure> {
    let other = stage.product.enrol(&stage.tenant, &stage.measurement, "other-vm")?;
    let Vm { config, disk } = &other;
    let (program, relay) = (stage.product.husk.clone(), stage.relay_socket.clone());
    serves(stage.start_when_free(&program, disk, config, &relay)?)?.stop(Duration::from_secs(30))?;
    on_disk(stage, disk, Wanted::Code(OTHER_VM))
}

fn blank(stage: &mut Stage) -> Result<String, Failure> {
    let disk = stage.product.path("blank.disk");
    blank_disk(&disk)?;
    on_disk(stage, &disk, Wanted::Code(BLANK))
}

/// A clone of the newest disk, started while the VM serves; then again once the first has idled beyond its lease. The
/// second is let in only when the first can answer no more.
fn second_instance(stage: &mut Stage) -> Result<String, Failure> {
    let (program, vm, relay) = (stage.product.husk.clone(), stage.vm.clone(), stage.relay_socket.clone());
    let clone = stage.product.path("clone.disk");
    let first = serves(stage.start_when_free(&program, &vm.disk, &vm.config, &relay)?)?;
    let first_socket = stage.last_socket();
    copy(&vm.disk, &clone)?;
    answers(&first_socket, STARTUP_CLEAR, RC_SUCCESS)?;
    let refused = judged(stage.start(&program, &clone, &vm.config, &relay)?, Wanted::Code(BUSY))?;
    copy(&vm.disk, &clone)?;
    let second = serves(stage.start_when_free(&program, &clone, &vm.config, &relay)?)?;
    answers(&stage.last_socket(), STARTUP_CLEAR, RC_SUCCESS)?;
    answers(&first_socket, SHUTDOWN_CLEAR, RC_FAILURE)?;
    second.stop(Duration::from_secs(30))?;
    first.kill();
    copy(&clone, &vm.disk)?;
    stage.honest_boot()?;
    Ok(format!("{refused}; after the lease the second serves and the first answers TPM_RC_FAILURE"))
}

/// Sends one command and compares the response code.
fn answers(socket: &Path, command: [u8; 12], wanted: u32) -> Result<(), Failure> {
    let fail = |error: std::io::Error| Failure::io("use", socket, &error);
    let mut stream = UnixStream::connect(socket).map_err(fail)?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).map_err(fail)?;
    stream.write_all(&command).map_err(fail)?;
    let mut header = [0; 10];
    stream.read_exact(&mut header).map_err(fail)?;
    let code = u32::from_be_bytes([header[6], header[7], header[8], header[9]]);
    if code == wanted {
        Ok(())
    } else {
        Err(Failure::failed(format!("the TPM answered {code:#x}, not {wanted:#x}")))
    }
}

fn serves(outcome: Outcome) -> Result<Daemon, Failure> {
    match outcome {
        Outcome::Serves(component) => Ok(component),
        Outcome::Refused { sentence, .. } => Err(Failure::failed(sentence)),
    }
}

/// One bit in each message of a boot: hello, report and grant, both ways, must end it; what follows the grant is asked
/// again, so an altered confirmation is harmless.
fn altered_messages(stage: &mut Stage) -> Result<String, Failure> {
    let mut seen = String::new();
    for way in ["request", "reply"] {
        for exchange in 0..EXCHANGES_BEFORE_GRANTED {
            seen = tampered(stage, &format!("flip-{way}:{exchange}:{ALTERED_BYTE}"), Wanted::Release)?;
        }
    }
    let (program, vm) = (stage.product.husk.clone(), stage.vm.clone());
    let mode = format!("flip-reply:{EXCHANGES_BEFORE_GRANTED}:{ALTERED_BYTE}");
    let (relay, socket) = stage.product.relay("relay-confirm", &stage.broker_address, Some(&mode))?;
    serves(stage.start_when_free(&program, &vm.disk, &vm.config, &socket)?)?.stop(Duration::from_secs(30))?;
    drop(relay);
    stage.honest_boot()?;
    Ok(format!(
        "6 messages before the grant refused, the last with {seen}; an altered confirmation is asked again"
    ))
}

/// The same program with one byte more is other firmware.
fn changed_firmware(stage: &mut Stage) -> Result<String, Failure> {
    let changed = stage.product.path("husk-changed");
    copy(&stage.product.husk, &changed)?;
    let appended = fs::File::options().append(true).open(&changed).and_then(|mut file| file.write_all(b"\n"));
    appended.map_err(|error| Failure::io("change", &changed, &error))?;
    let (vm, relay) = (stage.vm.clone(), stage.relay_socket.clone());
    let outcome = stage.start_when_free(&changed, &vm.disk, &vm.config, &relay)?;
    let seen = judged(outcome, Wanted::Code(DENIED_MEASUREMENT))?;
    stage.honest_boot()?;
    Ok(seen)
}

/// Everything that the broker said on one boot, said again on the next.
fn yesterdays_grant(stage: &mut Stage) -> Result<String, Failure> {
    let recording = stage.product.path("recorded");
    let (program, vm) = (stage.product.husk.clone(), stage.vm.clone());
    let mode = format!("record:{}", text(&recording));
    let (relay, socket) = stage.product.relay("relay-record", &stage.broker_address, Some(&mode))?;
    serves(stage.start_when_free(&program, &vm.disk, &vm.config, &socket)?)?.stop(Duration::from_secs(30))?;
    drop(relay);
    tampered(stage, &format!("replay:{}", text(&recording)), Wanted::Code(REPLY_REFUSED))
}

/// A broker that was not told to accept simulated silicon.
fn simulated_silicon(stage: &mut Stage) -> Result<String, Failure> {
    stage.restart_broker(false)?;
    let own_disk = stage.vm.disk.clone();
    let seen = refused_on_disk(stage, &own_disk, Wanted::Code(DENIED_SIMULATED));
    stage.restart_broker(true)?;
    stage.honest_boot()?;
    seen
}

/// A boot through a relay that does this to the frames.
fn tampered(stage: &mut Stage, mode: &str, wanted: Wanted) -> Result<String, Failure> {
    let (program, vm) = (stage.product.husk.clone(), stage.vm.clone());
    let name = format!("relay-{}", mode.split(':').next().unwrap_or_default());
    let (relay, socket) = stage.product.relay(&name, &stage.broker_address, Some(mode))?;
    let seen = judged(stage.start_when_free(&program, &vm.disk, &vm.config, &socket)?, wanted)?;
    drop(relay);
    stage.honest_boot()?;
    Ok(seen)
}

/// A boot on another disk; afterwards the honest one boots.
fn on_disk(stage: &mut Stage, disk: &Path, wanted: Wanted) -> Result<String, Failure> {
    let seen = refused_on_disk(stage, disk, wanted)?;
    stage.honest_boot()?;
    Ok(seen)
}

fn refused_on_disk(stage: &mut Stage, disk: &Path, wanted: Wanted) -> Result<String, Failure> {
    let (program, config, relay) =
        (stage.product.husk.clone(), stage.vm.config.clone(), stage.relay_socket.clone());
    judged(stage.start_when_free(&program, disk, &config, &relay)?, wanted)
}

fn judged(outcome: Outcome, wanted: Wanted) -> Result<String, Failure> {
    match outcome {
        Outcome::Refused { code, sentence } if wanted.meets(code) => Ok(sentence),
        Outcome::Refused { sentence, .. } => {
            Err(Failure::failed(format!("refused, but not for that: {sentence}")))
        }
        Outcome::Serves(_) => Err(Failure::failed("IT SERVED")),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| Failure::io("read", path, &error))
}

fn copy(from: &Path, to: &PathBuf) -> Result<(), Failure> {
    fs::copy(from, to).map(|_| ()).map_err(|error| Failure::io("copy", from, &error))
}
