//! Laws of an adoption: an SVSM that has the glue has a TPM, and what that costs it.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

#[path = "../../../tests/support/attest_op.rs"]
mod attest_op;
#[path = "adoption/board.rs"]
mod board;
#[path = "adoption/costs.rs"]
mod costs;
#[path = "../../../tests/support/guest_ram.rs"]
mod guest_ram;
#[path = "../../../tests/support/tpm.rs"]
mod tpm;

use attest_op::{ALL, CERTIFICATES, MANIFEST, Operation, REPORT, SINGLE};
use board::{Board, Broken, kernel, on_board};
use guest_ram::BASE;
use husk::attest::AttestFault;
use husk::engine::EngineFault;
use husk::fault::Fault;
use husk::frontend::svsm::{ManifestHeader, Persistence, ResultCode};
use husk::release::ReleaseFault;
use husk::volume::VolumeFault;
use husk_evidence::{Manifest, key_certificate_in};
use husk_svsm_example::glue::{self, VTPM};
use husk_svsm_example::kernel::RequestParams;
use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use tpm::Reply;
use zerocopy::FromBytes;

const NONCE: [u8; 64] = [0x5A; 64];
const COUNTER: u32 = 0x0150_0001;
/// The stack that the kernel lends, in bytes.
const STACK_BYTES: usize = 128 * 1024;

/// What is measured of the calls of this thread, and of the latest one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    Nothing,
    /// How many there were.
    Allocations(u64),
    /// How much of it was taken, in bytes.
    Stack(usize),
}

thread_local! {
    static WATCH: Cell<Watch> = const { Cell::new(Watch::Nothing) };
}

/// The SVSM of this process: there is one kernel, one lock, one TPM.
struct Svsm(#[expect(dead_code, reason = "held")] MutexGuard<'static, ()>);

impl Svsm {
    /// On a board of its own, cold.
    fn new() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        static PREPARED: Once = Once::new();
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        Board::insert();
        PREPARED.call_once(|| {
            let (heap, stack) = (vec![0; 1 << 20].leak(), vec![0; STACK_BYTES].leak());
            assert!(glue::prepare(kernel(), heap, stack), "the engine has its memory");
        });
        *VTPM.lock() = None;
        Self(turn)
    }

    fn try_boot(&self) -> Result<(), Fault> {
        let config = on_board(|board| {
            board.launch();
            board.config()
        });
        glue::boot(Box::leak(Box::new(glue::EMPTY)), &config)
    }

    /// Boots, and the guest sends Startup.
    fn boot(&self) {
        self.try_boot().expect("it boots");
        self.send(&tpm::startup_clear()).ok();
    }

    /// The machine is gone from one instant to the next; its lease ends.
    fn cut_power(&self) {
        *VTPM.lock() = None;
        board::pass_ms(120_000);
    }

    /// A call of the guest: what RAX says, and its registers.
    fn call(&self, rax: u64, params: RequestParams) -> (u64, RequestParams) {
        let (mut params, number) = (params, |register: u64| u32::try_from(register).unwrap());
        let mut answer = 0;
        let mut ask = || answer = glue::request(number(rax >> 32), number(rax & 0xFFFF_FFFF), &mut params);
        match WATCH.get() {
            Watch::Nothing => ask(),
            Watch::Allocations(_) => {
                WATCH.set(Watch::Allocations(allocation_counter::measure(ask).count_total))
            }
            Watch::Stack(_) => WATCH.set(Watch::Stack(costs::measured(ask))),
        }
        (answer, params)
    }

    /// A TPM command as Linux' tpm_svsm sends it.
    fn send(&self, command: &[u8]) -> Reply {
        let size = u32::try_from(command.len()).unwrap().to_le_bytes();
        let bytes = [&8_u32.to_le_bytes()[..], &[0], &size, command].concat();
        on_board(|board| board.ram.put(BASE, &bytes));
        let (rax, _) = self.call(2 << 32 | 1, RequestParams { rcx: BASE, ..RequestParams::default() });
        assert_eq!(rax, 0);
        on_board(|board| {
            let size = u32::from_le_bytes(board.ram.get(BASE, 4).try_into().unwrap());
            Reply(board.ram.get(BASE + 4, size as usize).to_vec())
        })
    }

    fn define_counter(&self) {
        let attributes = tpm::NV_AUTH_AND_OWNER | tpm::NV_NO_DA | tpm::NV_COUNTER;
        self.send(&tpm::nv_define(COUNTER, attributes, 8, b"")).ok();
    }

    fn increment(&self) -> u32 {
        self.send(&tpm::nv_increment(COUNTER, b"")).code()
    }

    fn counter(&self) -> u64 {
        let read = self.send(&tpm::nv_read(COUNTER, b"", 8)).ok();
        u64::from_be_bytes(tpm::nv_data_of(&read).try_into().unwrap())
    }

    /// An attestation: manifest, report, certificates.
    fn attest(&self, rax: u64, version: u32) -> [Vec<u8>; 3] {
        let asked = on_board(|board| Operation::of_version(version).place(&mut board.ram, rax, &NONCE));
        let params = RequestParams { rcx: asked.rcx, rdx: asked.rdx, r8: asked.r8 };
        let (code, params) = self.call(rax, params);
        assert_eq!(code, 0);
        on_board(|board| {
            [(MANIFEST, params.rcx), (REPORT, params.r8), (CERTIFICATES, params.rdx)]
                .map(|(at, bytes)| board.ram.get(at, usize::try_from(bytes).unwrap()).to_vec())
        })
    }
}

#[test]
fn what_a_guest_was_told_outlives_the_power_and_a_reset() {
    let svsm = Svsm::new();
    svsm.boot();
    svsm.define_counter();
    assert_eq!(svsm.increment(), 0);
    svsm.cut_power();
    svsm.boot();
    assert_eq!((svsm.counter(), svsm.increment(), svsm.counter()), (1, 0, 2));
    glue::end_of_guest(true).unwrap();
    assert_eq!(svsm.send(&tpm::random(8)).code(), 0x100, "TPM_RC_INITIALIZE");
    svsm.send(&tpm::startup_clear()).ok();
    assert_eq!(svsm.counter(), 2);
    glue::end_of_guest(false).unwrap();
    *VTPM.lock() = None;
    svsm.boot();
    assert_eq!(svsm.counter(), 2, "who shut down in order need not wait for a lease");
}

#[test]
fn a_relying_party_believes_what_the_attestation_protocol_shows() {
    let svsm = Svsm::new();
    svsm.boot();
    let verifier = on_board(|board| board.verifier());
    for (rax, version) in [(ALL, 0), (SINGLE, 0), (SINGLE, 1)] {
        let [manifest, report, certificates] = svsm.attest(rax, version);
        let report = report.try_into().unwrap();
        let certificate = key_certificate_in(&certificates).unwrap();
        let verified = verifier.verify(&report, &certificate).unwrap();
        verified.covers(&manifest, &NONCE).unwrap();
        Manifest::parse(&manifest).unwrap();
        if version == 1 {
            let (header, _) = ManifestHeader::ref_from_prefix(&manifest).unwrap();
            assert_eq!(header.persistence, Persistence::Strict as u8);
        }
    }
}

#[test]
fn a_boot_that_something_fails_leaves_no_tpm_and_says_what() {
    let cases = [
        (Broken::DiskWrites, VolumeFault::Write.fault()),
        (Broken::Flushes, VolumeFault::Flush.fault()),
        (Broken::Relay, ReleaseFault::Unreachable.fault()),
        (Broken::Replies, ReleaseFault::Unreachable.fault()),
        (Broken::ReplyLengths, ReleaseFault::ReplyRefused.fault()),
        (Broken::Processor, AttestFault::NoReport.fault()),
        (Broken::Generator, ReleaseFault::Entropy.fault()),
    ];
    for (broken, fault) in cases {
        let svsm = Svsm::new();
        on_board(|board| board.broken = broken);
        assert_eq!(svsm.try_boot(), Err(fault), "{broken:?}");
        assert_eq!([0, 1, 2].map(glue::versions), [None; 3], "{broken:?}");
        let unsupported = u64::from(ResultCode::UnsupportedProtocol as u32);
        assert_eq!(svsm.call(2 << 32, RequestParams::default()).0, unsupported, "{broken:?}");
    }
    let svsm = Svsm::new();
    svsm.boot();
    svsm.cut_power();
    on_board(|board| board.broken = Broken::DiskReads);
    assert_eq!(svsm.try_boot(), Err(VolumeFault::Read.fault()));
    assert_eq!(glue::versions(2), None);
}

#[test]
fn there_is_one_tpm_and_it_answers_two_protocols() {
    let svsm = Svsm::new();
    svsm.boot();
    assert_eq!([0, 1, 2, 3].map(glue::versions), [None, Some((1, 1)), Some((1, 1)), None]);
    assert_eq!(svsm.try_boot(), Err(EngineFault::Failed.fault()), "a second one");
    assert_eq!(svsm.send(&tpm::random(8)).ok().sized_at(0).len(), 8, "the first one still answers");
}

/// The relay is gone and comes back: the guest is told to try again, and what it was told before stands.
#[test]
fn a_broker_that_is_silent_for_a_while_costs_a_guest_patience_only() {
    let svsm = Svsm::new();
    svsm.boot();
    svsm.define_counter();
    board::pass_ms(120_000);
    on_board(|board| board.broken = Broken::Relay);
    assert_eq!(svsm.increment(), 0x923, "TPM_RC_NV_UNAVAILABLE");
    on_board(|board| board.broken = Broken::Nothing);
    assert_eq!((svsm.increment(), svsm.counter()), (0, 1));
}
