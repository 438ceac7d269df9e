//! Laws of a volume whose key takes a broker's secret *and* the static key of a KBS: neither alone opens anything, and nothing that
//! the host says in the place of a KBS makes or opens a TPM.
#![expect(clippy::expect_used, reason = "a test says what it expects")]

#[path = "world/stage.rs"]
mod stage;
#[path = "world/toy.rs"]
mod toy;

use husk::attest::launch::{LaunchConfig, Serve};
use husk::fault::Fault;
use husk::keys::Mode;
use husk::release::ReleaseFault;
use husk::release::wire::FrameKind;
use husk::volume::VolumeFault;
use stage::kbs_end::{KbsEnd, Said};
use stage::{LEASE_MS, Machine, RamDisk, Stage, envelope};
use std::cell::RefCell;
use toy::{INCREMENT, SHOW};

/// Where a checkpoint's mode stands in its area (`volume/format.md` §3).
const MODE_AT: usize = 10;
const DISK_BYTES: usize = 64 * 1024;

fn blank() -> RefCell<RamDisk> {
    RefCell::new(RamDisk { image: vec![0; DISK_BYTES] })
}

/// A machine that was launched, counted once, and was killed; its lease is over.
fn counted(stage: &Stage, disk: &RefCell<RamDisk>) {
    let mut machine = Machine::launch(stage, disk);
    machine.boot_at_once().expect("it boots");
    machine.ask(INCREMENT).expect("it counts");
    machine.kill();
    stage.pass_ms(LEASE_MS.into());
}

#[track_caller]
fn refused(stage: &Stage, disk: &RefCell<RamDisk>, fault: impl Into<Fault>) {
    let before = disk.borrow().image.clone();
    assert_eq!(Machine::launch(stage, disk).boot_at_once(), Err(fault.into()));
    assert!(disk.borrow().image == before, "a launch that is refused writes nothing");
    stage.pass_ms(LEASE_MS.into());
}

fn stores(stage: &Stage, resource: Vec<u8>) {
    stage.kbs.replace(Some(KbsEnd::new(resource)));
}

#[test]
fn a_tpm_under_a_kbs_key_comes_back() {
    for (on_chip, mode) in [(false, Mode::SealedWithKbs), (true, Mode::SealedWithKbsOnChip)] {
        let (stage, disk) = (Stage::with_kbs(1, on_chip), blank());
        counted(&stage, &disk);
        assert_eq!(disk.borrow().image[MODE_AT], mode as u8);
        let mut machine = Machine::launch(&stage, &disk);
        machine.boot_at_once().expect("it opens");
        assert_eq!(machine.ask(SHOW), Ok(1));
    }
}

#[test]
fn the_brokers_secret_without_the_kbs_key_opens_nothing() {
    let (stage, disk) = (Stage::with_kbs(2, false), blank());
    counted(&stage, &disk);
    // The tenant's word, for this very VM, of another key.
    stores(&stage, stage.envelope(0x4C));
    refused(&stage, &disk, VolumeFault::Damaged);
    stage.kbs.replace(None);
    refused(&stage, &disk, ReleaseFault::KbsAbsent);
    stores(&stage, stage.envelope(0x4B));
    let mut machine = Machine::launch(&stage, &disk);
    machine.boot_at_once().expect("it opens with the right one");
    assert_eq!(machine.ask(SHOW), Ok(1));
}

#[test]
fn the_kbs_key_without_the_brokers_secret_opens_nothing() {
    let (stage, disk) = (Stage::with_kbs(3, false), blank());
    counted(&stage, &disk);
    let old = disk.borrow().image.clone();
    counted(&stage, &disk);
    counted(&stage, &disk);
    // The secret of that epoch is gone at the broker; the KBS's key is what it was.
    disk.borrow_mut().image = old;
    refused(&stage, &disk, VolumeFault::RolledBack);
}

/// Which inputs there are is a mode of the volume, and a header that was rewritten opens nothing.
#[test]
fn a_volume_with_another_mode_than_the_configuration_names_does_not_open() {
    for (stage, others) in [
        (Stage::with_kbs(4, false), [Mode::Sealed, Mode::SealedOnChip, Mode::SealedWithKbsOnChip]),
        (
            Stage::serving(4, Serve::Lease),
            [Mode::SealedWithKbs, Mode::SealedOnChip, Mode::SealedWithKbsOnChip],
        ),
    ] {
        let disk = blank();
        counted(&stage, &disk);
        let image = disk.borrow().image.clone();
        for mode in others {
            for area in [0, DISK_BYTES / 2] {
                let header = area + MODE_AT;
                if image[header] != 0 {
                    disk.borrow_mut().image[header] = mode as u8;
                }
            }
            refused(&stage, &disk, VolumeFault::OtherInputs);
        }
    }
}

/// No grant is taken, and nothing is made, before the KBS has answered.
#[test]
fn nothing_is_made_while_the_kbs_is_away() {
    let (stage, disk) = (Stage::with_kbs(5, false), blank());
    let kbs = stage.kbs.replace(None);
    refused(&stage, &disk, ReleaseFault::KbsAbsent);
    stage.cut_off.set(true);
    refused(&stage, &disk, ReleaseFault::KbsUnreachable);
    stage.cut_off.set(false);
    stage.kbs.replace(kbs);
    counted(&stage, &disk);
}

#[test]
fn a_configuration_without_a_kbs_asks_none() {
    let (stage, disk) = (Stage::serving(6, Serve::Lease), blank());
    stage.kbs.replace(Some(KbsEnd::new(Vec::new())));
    stage.kbs.borrow_mut().as_mut().expect("a KBS").bend = |kind, _| panic!("{kind:?}");
    counted(&stage, &disk);
    assert_eq!(disk.borrow().image[MODE_AT], Mode::Sealed as u8);
}

#[test]
fn an_envelope_that_is_not_the_tenants_for_this_vm_makes_nothing() {
    let (stage, disk) = (Stage::with_kbs(7, false), blank());
    let another_vm = LaunchConfig { vm: [9; 16], ..stage.launch };
    let another_tenant = LaunchConfig { tenant: [9; 16], ..stage.launch };
    let mut altered = stage.envelope(0x4B);
    altered[70] ^= 1;
    let mut later = stage.envelope(0x4B);
    later[8] = 2;
    let whole = stage.envelope(0x4B);
    for (resource, fault) in [
        (envelope(&stage.launch, &stage.another_root(), 0x4B), ReleaseFault::EnvelopeUntrusted),
        (altered, ReleaseFault::EnvelopeUntrusted),
        (envelope(&another_vm, &stage.root, 0x4B), ReleaseFault::EnvelopeOfAnother),
        (envelope(&another_tenant, &stage.root, 0x4B), ReleaseFault::EnvelopeOfAnother),
        (later, ReleaseFault::EnvelopeMalformed),
        (whole[..whole.len() - 1].to_vec(), ReleaseFault::EnvelopeMalformed),
        ([&whole[..], &[0]].concat(), ReleaseFault::EnvelopeMalformed),
        (Vec::new(), ReleaseFault::EnvelopeMalformed),
        (vec![7; 3000], ReleaseFault::EnvelopeMalformed),
    ] {
        stores(&stage, resource);
        refused(&stage, &disk, fault);
    }
    stores(&stage, stage.envelope(0x4B));
    counted(&stage, &disk);
}

/// One way in which an answer is bent, and what comes of it.
type Case = (&'static str, fn(FrameKind, &mut Said), ReleaseFault);

fn replace(said: &mut Said, from: &str, to: &str) {
    let text = String::from_utf8(said.body.clone()).expect("it is text");
    said.body = text.replace(from, to).into_bytes();
}

/// Bends one member of the JWE.
fn member(said: &mut Said, name: &str, bend: impl FnOnce(&mut serde_json::Value)) {
    let mut jwe: serde_json::Value = serde_json::from_slice(&said.body).expect("a JWE");
    bend(&mut jwe[name]);
    said.body = jwe.to_string().into_bytes();
}

fn flip(value: &mut serde_json::Value) {
    let text = value.as_str().expect("a string");
    let first = if text.starts_with('A') { 'B' } else { 'A' };
    *value = format!("{first}{}", &text[1..]).into();
}

const CASES: [Case; 19] = [
    (
        "the KBS refuses the request",
        |kind, said| on(kind, FrameKind::KbsAuth, || said.status = 401),
        ReleaseFault::KbsRefused,
    ),
    (
        "the KBS refuses the report",
        |kind, said| on(kind, FrameKind::KbsAttest, || said.status = 401),
        ReleaseFault::KbsRefused,
    ),
    (
        "there is no such resource",
        |kind, said| on(kind, FrameKind::KbsResource, || said.status = 404),
        ReleaseFault::KbsRefused,
    ),
    (
        "the KBS has a defect",
        |kind, said| on(kind, FrameKind::KbsAttest, || said.status = 503),
        ReleaseFault::KbsUnreachable,
    ),
    ("no status", |kind, said| on(kind, FrameKind::KbsAuth, || said.status = 0), ReleaseFault::KbsRefused),
    (
        "a cookie of a thousand bytes",
        |kind, said| on(kind, FrameKind::KbsAuth, || said.cookie = vec![b'c'; 1000]),
        ReleaseFault::KbsAnswerRefused,
    ),
    (
        "no cookie",
        |kind, said| on(kind, FrameKind::KbsAuth, || said.cookie.clear()),
        ReleaseFault::KbsRefused,
    ),
    (
        "a nonce of 31 bytes",
        |kind, said| on(kind, FrameKind::KbsAuth, || replace(said, "paWlpaWl", "paU=")),
        ReleaseFault::KbsAnswerRefused,
    ),
    (
        "another nonce than the session's",
        |kind, said| on(kind, FrameKind::KbsAuth, || replace(said, "\"paWl", "\"AAAA")),
        ReleaseFault::KbsRefused,
    ),
    (
        "a nonce that is a key",
        |kind, said| on(kind, FrameKind::KbsAuth, || replace(said, "\"paWl", "\\\",\\\"tee-pubkey\\\":{}")),
        ReleaseFault::KbsAnswerRefused,
    ),
    (
        "no JSON",
        |kind, said| on(kind, FrameKind::KbsResource, || said.body.truncate(100)),
        ReleaseFault::KbsAnswerRefused,
    ),
    (
        "a deep list",
        |kind, said| {
            on(kind, FrameKind::KbsAuth, || said.body = [vec![b'['; 4000], vec![b']'; 4000]].concat())
        },
        ReleaseFault::KbsAnswerRefused,
    ),
    (
        "another content",
        |kind, said| on(kind, FrameKind::KbsResource, || member(said, "ciphertext", flip)),
        ReleaseFault::KbsAnswerRefused,
    ),
    (
        "another tag",
        |kind, said| on(kind, FrameKind::KbsResource, || member(said, "tag", flip)),
        ReleaseFault::KbsAnswerRefused,
    ),
    (
        "another IV",
        |kind, said| on(kind, FrameKind::KbsResource, || member(said, "iv", flip)),
        ReleaseFault::KbsAnswerRefused,
    ),
    (
        "another wrapped key",
        |kind, said| on(kind, FrameKind::KbsResource, || member(said, "encrypted_key", flip)),
        ReleaseFault::KbsAnswerRefused,
    ),
    (
        "another header",
        |kind, said| {
            on(kind, FrameKind::KbsResource, || member(said, "protected", |value| *value = "e30".into()))
        },
        ReleaseFault::KbsAnswerRefused,
    ),
    (
        "additional data beside the header",
        |kind, said| on(kind, FrameKind::KbsResource, || member(said, "aad", |value| *value = "AAAA".into())),
        ReleaseFault::KbsAnswerRefused,
    ),
    (
        "an empty answer",
        |kind, said| on(kind, FrameKind::KbsResource, || said.body.clear()),
        ReleaseFault::KbsAnswerRefused,
    ),
];

fn on(kind: FrameKind, wanted: FrameKind, bend: impl FnOnce()) {
    if kind == wanted {
        bend();
    }
}

#[test]
fn a_hostile_kbs_makes_nothing_whatever_it_answers() {
    let (stage, disk) = (Stage::with_kbs(8, false), blank());
    for (what, bend, fault) in CASES {
        stage.kbs.borrow_mut().as_mut().expect("a KBS").bend = bend;
        let booted = Machine::launch(&stage, &disk).boot_at_once();
        assert_eq!(booted, Err(fault.into()), "{what}");
        assert!(disk.borrow().image.iter().all(|byte| *byte == 0), "{what}: nothing was written");
    }
}

/// What an answer to one launch is worth to the next: each draws a TEE key of its own.
#[test]
fn a_resource_of_another_conversation_is_refused() {
    thread_local!(static KEPT: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) });
    let (stage, disk) = (Stage::with_kbs(9, false), blank());
    stage.kbs.borrow_mut().as_mut().expect("a KBS").bend = |kind, said| {
        if kind == FrameKind::KbsResource {
            KEPT.with_borrow_mut(|kept| said.body = kept.get_or_insert_with(|| said.body.clone()).clone());
        }
    };
    counted(&stage, &disk);
    refused(&stage, &disk, ReleaseFault::KbsAnswerRefused);
}
