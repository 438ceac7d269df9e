//! The whole TPM with the reference engine, on a disk in memory: launched, killed, launched again.
//!
//! There is one reference engine in a process, so there is one bench at a time. Dropping a [`Machine`] is pulling its
//! plug: what lies on the disk is all that is left.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]
#![allow(clippy::allow_attributes, reason = "what is unused differs from test to test")]

#[path = "layout.rs"]
mod layout;

use crate::disk::{Request, SimDisk, Tears, every_crash};
use crate::tpm::{self, Reply};
use husk::engine::reference::ReferenceEngine;
use husk::engine::{COMMAND_BYTES_MAX, Locality};
use husk::fault::Fault;
use husk::frontend::Tpm;
use husk::release::session::SessionMemory;
use husk::seams::{
    Channel, ChannelError, Console, Entropy, EntropyError, Platform, REPORT_BYTES, REPORT_DATA_BYTES,
    Reporter, ReporterError,
};
use husk::volume::suspend::SUSPEND_BYTES_MAX;
use husk::volume::{STATE_BYTES_MAX, Workspace};
use husk::vtpm::{Cold, Memory, Served, Vtpm};
use layout::layout;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use zerocopy::IntoBytes;

/// A volume of the common size.
const DISK_BYTES: usize = 1 << 20;
/// TPM_RC_RETRY: the client is to send the command again.
pub(crate) const RETRY: u32 = 0x922;

static TURN: Mutex<()> = Mutex::new(());
static DRAWS: AtomicU64 = AtomicU64::new(0);

/// SplitMix64 over a counter: every byte of a test comes from its seed.
fn draw(into: &mut [u8]) -> Result<(), EntropyError> {
    for chunk in into.chunks_mut(8) {
        let mut z = DRAWS.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::SeqCst);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
    }
    Ok(())
}

struct Drawn;

impl Entropy for Drawn {
    fn fill(&mut self, into: &mut [u8]) -> Result<(), EntropyError> {
        draw(into)
    }
}

/// A processor whose reports nobody signs.
struct Processor;

impl Reporter for Processor {
    fn report(
        &mut self,
        data: &[u8; REPORT_DATA_BYTES],
        report: &mut [u8; REPORT_BYTES],
    ) -> Result<(), ReporterError> {
        report.copy_from_slice(layout(data).as_bytes());
        Ok(())
    }

    fn certificate(&mut self, _: &mut [u8]) -> usize {
        0
    }
}

/// Broker and console of a test that has none.
struct Nothing;

impl Channel for Nothing {
    fn exchange(&mut self, _: &[u8], _: &mut [u8]) -> Result<usize, ChannelError> {
        Err(ChannelError::Unreachable)
    }
}

impl Console for Nothing {
    fn line(&mut self, _: &'static str, _: u32) {}
}

fn on<R>(disk: &mut SimDisk, act: impl FnOnce(&mut Platform<'_>) -> R) -> R {
    act(&mut Platform {
        disk,
        channel: &mut Nothing,
        reporter: &mut Processor,
        entropy: &mut Drawn,
        clock: None,
        console: &mut Nothing,
    })
}

/// A disk, the memory of one machine, and the process's only permission to have one.
pub(crate) struct Bench {
    pub(crate) disk: SimDisk,
    durable: Box<[u8; STATE_BYTES_MAX]>,
    current: Box<[u8; STATE_BYTES_MAX]>,
    workspace: Box<Workspace>,
    session: Box<SessionMemory>,
    _turn: MutexGuard<'static, ()>,
}

impl Bench {
    /// A blank disk whose physical block has `block` bytes.
    pub(crate) fn new(seed: u64, block: usize) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        DRAWS.store(seed << 32, Ordering::SeqCst);
        Self {
            disk: SimDisk::new(DISK_BYTES, block),
            durable: Box::new([0; STATE_BYTES_MAX]),
            current: Box::new([0; STATE_BYTES_MAX]),
            workspace: Box::new(Workspace::new()),
            session: Box::new(SessionMemory::new()),
            _turn: turn,
        }
    }

    /// Boots; the TPM waits for Startup.
    pub(crate) fn launch(&mut self) -> Machine<'_> {
        let engine = ReferenceEngine::claim(draw).expect("no other engine lives");
        let Self { disk, durable, current, workspace, session, .. } = self;
        let cold = Cold::new(Memory { durable, current, workspace, session }, engine);
        let vtpm = on(disk, |platform| cold.boot_unsealed_for_testing(platform, [1; 16], [2; 16]))
            .expect("an honest disk boots");
        Machine { vtpm, disk }
    }

    /// Boots, and sends Startup(CLEAR).
    pub(crate) fn start(&mut self) -> Machine<'_> {
        let mut machine = self.launch();
        machine.send(&tpm::startup_clear()).ok();
        machine
    }

    /// As [`start`](Self::start), on another image.
    pub(crate) fn start_on(&mut self, image: &[u8]) -> Machine<'_> {
        self.disk.image.copy_from_slice(image);
        self.start()
    }
}

/// A TPM that serves.
pub(crate) struct Machine<'m> {
    vtpm: Vtpm<'m, ReferenceEngine>,
    pub(crate) disk: &'m mut SimDisk,
}

impl Machine<'_> {
    pub(crate) fn execute(&mut self, command: &[u8]) -> Result<Reply, Fault> {
        let mut buffer = [0; COMMAND_BYTES_MAX];
        let Self { vtpm, disk } = self;
        on(disk, |platform| {
            vtpm.execute(platform, Locality::Zero, command, &mut buffer).map(|bytes| Reply(bytes.to_vec()))
        })
    }

    /// Executes once.
    #[track_caller]
    pub(crate) fn send_once(&mut self, command: &[u8]) -> Reply {
        self.execute(command).expect("an answer")
    }

    /// Executes, and again where the TPM asks for that.
    #[track_caller]
    pub(crate) fn send(&mut self, command: &[u8]) -> Reply {
        let first = self.send_once(command);
        if first.code() == RETRY { self.send_once(command) } else { first }
    }

    /// Resets the TPM with its machine.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        let Self { vtpm, disk } = self;
        on(disk, |platform| vtpm.reset(platform)).expect("it resets");
    }

    /// Saves the running TPM; what the host keeps.
    pub(crate) fn suspend(&mut self) -> Result<Vec<u8>, Fault> {
        let mut bytes = vec![0xEE; SUSPEND_BYTES_MAX];
        let Self { vtpm, disk } = self;
        let sealed = on(disk, |platform| vtpm.suspend(platform, &mut bytes));
        if sealed.is_err() {
            assert!(bytes.iter().all(|byte| *byte == 0), "a save that failed leaves nothing");
        }
        sealed.map(|length| bytes[..length].to_vec())
    }

    /// Resumes from what the host kept.
    pub(crate) fn resume(&mut self, object: &[u8]) -> Result<(), Fault> {
        let mut copy = object.to_vec();
        let Self { vtpm, disk } = self;
        let resumed = on(disk, |platform| vtpm.resume(platform, &mut copy));
        assert!(copy.iter().all(|byte| *byte == 0), "nothing of it is left in memory");
        resumed
    }

    pub(crate) fn is_on(&self) -> bool {
        self.vtpm.is_on()
    }

    pub(crate) fn is_latched(&self) -> bool {
        self.vtpm.latched().is_some()
    }

    /// A hash sequence of locality 4.
    #[track_caller]
    pub(crate) fn measure(&mut self) {
        let Self { vtpm, disk } = self;
        on(disk, |platform| {
            let mut tpm = Served { vtpm, platform };
            tpm.hash_start().and_then(|()| tpm.hash_end()).expect("it measures");
        });
    }

    /// Clears TPM_ESTABLISHED.
    #[track_caller]
    pub(crate) fn reset_established(&mut self) {
        let Self { vtpm, disk } = self;
        on(disk, |platform| Served { vtpm, platform }.reset_established(Locality::Four)).expect("it may");
    }

    /// Resets the TPM with its machine, and sends Startup(CLEAR).
    #[track_caller]
    pub(crate) fn reset(&mut self) {
        self.restart();
        self.send(&tpm::startup_clear()).ok();
    }

    /// The TPM as a front-end sees it.
    pub(crate) fn served<R>(&mut self, act: impl FnOnce(&mut Served<'_, '_, '_, ReferenceEngine>) -> R) -> R {
        let Self { vtpm, disk } = self;
        on(disk, |platform| act(&mut Served { vtpm, platform }))
    }

    /// Offers attestation, which resets the TPM; Startup(CLEAR) follows.
    #[track_caller]
    pub(crate) fn offer_attestation(&mut self) {
        let Self { vtpm, disk } = self;
        on(disk, |platform| vtpm.offer_attestation(platform)).expect("it learns its keys");
        self.send(&tpm::startup_clear()).ok();
    }

    pub(crate) fn power_off(&mut self) {
        self.vtpm.power_off();
    }

    /// Ends in order.
    #[track_caller]
    pub(crate) fn shut_down(self) {
        let Self { mut vtpm, disk } = self;
        on(disk, |platform| vtpm.shutdown(platform)).expect("it shuts down");
    }

    pub(crate) fn clock(&mut self) -> tpm::Clock {
        tpm::clock_of(&self.send(&tpm::read_clock()).ok())
    }

    pub(crate) fn are_banks_due(&self) -> bool {
        self.vtpm.are_banks_due()
    }

    /// A firmware has allocated the first banks.
    pub(crate) fn give_banks_away(&mut self) {
        self.vtpm.give_banks_away();
    }

    pub(crate) fn failed_tries(&mut self) -> u32 {
        tpm::property_of(&self.send(&tpm::capability(6, tpm::PT_LOCKOUT_COUNTER, 1)).ok())
    }

    /// Does something with the disk under watch.
    pub(crate) fn recorded<R>(&mut self, act: impl FnOnce(&mut Self) -> R) -> (R, Recording) {
        let before = self.disk.image.clone();
        self.disk.take_trace();
        let result = act(self);
        (result, Recording { before, trace: self.disk.take_trace() })
    }

    /// How many commits something costs: each is one write and one flush.
    pub(crate) fn commits(&mut self, act: impl FnOnce(&mut Self)) -> usize {
        self.disk.take_counts();
        act(self);
        let counts = self.disk.take_counts();
        assert_eq!(counts.writes, counts.flushes, "a commit is one write and one flush");
        counts.writes
    }
}

/// What the disk saw.
pub(crate) struct Recording {
    before: Vec<u8>,
    trace: Vec<Request>,
}

impl Recording {
    /// How many commits there were.
    pub(crate) fn commits(&self) -> usize {
        self.trace.iter().filter(|request| matches!(request, Request::Flush)).count()
    }

    /// Where each write went, and its length in bytes.
    pub(crate) fn writes(&self) -> Vec<(usize, usize)> {
        let write = |request: &Request| match request {
            Request::Write(at, data) => Some((*at, data.len())),
            Request::Flush => None,
        };
        self.trace.iter().filter_map(write).collect()
    }

    /// The disk as it was when the first `commits` of them were on it, and nothing after.
    pub(crate) fn after(&self, commits: usize) -> Vec<u8> {
        let (mut image, mut flushed) = (self.before.clone(), 0);
        for request in &self.trace {
            match request {
                Request::Write(at, data) if flushed < commits => {
                    image[*at..*at + data.len()].copy_from_slice(data);
                }
                Request::Write(..) => break,
                Request::Flush => flushed += 1,
            }
        }
        image
    }

    /// Calls `check` once for every image that a crash may leave, with the number of commits that had been flushed.
    pub(crate) fn crashes(&self, block: usize, mut check: impl FnMut(&[u8], usize)) {
        let mut seen = BTreeSet::new();
        every_crash(&self.before, &self.trace, Tears { block, step: block }, |image, flushes| {
            if seen.insert((self.changes(&image), flushes)) {
                check(&image, flushes);
            }
        });
    }

    /// What tells an image from the one before, cheap to keep.
    fn changes(&self, image: &[u8]) -> Vec<(usize, Vec<u8>)> {
        let blocks = image.chunks(512).zip(self.before.chunks(512)).enumerate();
        blocks.filter(|(_, (new, old))| new != old).map(|(at, (new, _))| (at, new.to_vec())).collect()
    }
}
