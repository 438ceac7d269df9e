//! What the image says about itself when nothing is to be run: the TPM from manufacture to a power cut, on a disk in memory.
//!
//! **What.** [`run`] boots the component without a broker, sends a handful of commands, cuts the power, boots again from the
//! same disk, and shows each response code.
//! **Trust.** Nobody is served: the TPM's keys are public, its disk is forgotten, and the machine stops afterwards. The host may
//! ask for this on the loader's command line, and gains nothing by it.
//! **Laws.** A guest never runs in this mode.
//! **Not here.** The TPM that a guest gets: `service`.

use crate::clock::{self, Counter};
use crate::console::{self, Serial};
use crate::entropy::Processor;
use crate::memory::{Physical, Reach};
use crate::stop::{Stop, stop, stop_for};
use husk::engine::reference::ReferenceEngine;
use husk::engine::{COMMAND_BYTES_MAX, Locality, ResponseCode};
use husk::fault::Fault;
use husk::seams::{
    Channel, ChannelError, Disk, DiskError, Geometry, Platform, REPORT_BYTES, REPORT_DATA_BYTES, Reporter,
    ReporterError,
};
use husk::vtpm::{Cold, Memory, Vtpm};

/// Where the disk lies: memory that a guest would have, right behind the layer.
const DISK_ADDRESS: u64 = crate::memory::LAYER.end;
const DISK_BYTES: u64 = 1024 * 1024;
const DISK_BLOCK_BYTES: u32 = 512;

/// A volume without a broker belongs to nobody in particular.
const NOBODY: [u8; 16] = [0; 16];
/// Blank disk, then the same disk again.
const BOOTS: u32 = 2;

const STARTUP: &[u8] = &[0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x44, 0, 0];
const SELF_TEST_FULL: &[u8] = &[0x80, 1, 0, 0, 0, 11, 0, 0, 1, 0x43, 1];
const GET_RANDOM: &[u8] = &[0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x7B, 0, 16];
/// A counter's index under the owner: TPMA_NV with AUTHREAD, AUTHWRITE, NT = counter, NO_DA.
const DEFINE_COUNTER: &[u8] = &[
    0x80, 2, 0, 0, 0, 45, 0, 0, 1, 0x2A, 0x40, 0, 0, 1, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0,
    14, 1, 0x80, 0, 1, 0, 0x0B, 0x02, 0x04, 0x00, 0x14, 0, 0, 0, 8,
];
const INCREMENT: &[u8] = &[
    0x80, 2, 0, 0, 0, 31, 0, 0, 1, 0x34, 1, 0x80, 0, 1, 1, 0x80, 0, 1, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0,
    0,
];
const READ: &[u8] = &[
    0x80, 2, 0, 0, 0, 35, 0, 0, 1, 0x4E, 1, 0x80, 0, 1, 1, 0x80, 0, 1, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0,
    0, 0, 8, 0, 0,
];
/// Where the counter's value begins in the response to [`READ`].
const READ_VALUE: usize = 16;

/// Each line of the script: what the console shows, and the command.
const SCRIPT: [(&str, &[u8]); 6] = [
    ("husk: self-test: Startup", STARTUP),
    ("husk: self-test: SelfTest", SELF_TEST_FULL),
    ("husk: self-test: GetRandom", GET_RANDOM),
    // TPM_RC_NV_DEFINED after the power cut: the index is still there.
    ("husk: self-test: NV_DefineSpace", DEFINE_COUNTER),
    ("husk: self-test: NV_Increment", INCREMENT),
    ("husk: self-test: NV_Read", READ),
];

/// Runs the script on a blank disk, and again after a power cut.
pub(crate) fn run(memory: Physical, mut engine: ReferenceEngine, tpm: Memory<'_>) {
    let mut disk = MemoryDisk(memory);
    if disk.blank().is_err() {
        stop(Stop::BootInfo, line!());
    }
    for boot in 0..BOOTS {
        console::line("husk: self-test: boot", boot);
        let lent = Memory {
            durable: &mut *tpm.durable,
            current: &mut *tpm.current,
            workspace: &mut *tpm.workspace,
            session: &mut *tpm.session,
        };
        let cold = Cold::new(lent, engine);
        let began = clock::now_ms();
        let booted = disk.lend(|platform| cold.boot_unsealed_for_testing(platform, NOBODY, NOBODY));
        let mut vtpm = match booted {
            Ok(vtpm) => vtpm,
            Err(fault) => stop_for(fault),
        };
        console::line("husk: self-test: booted in ms", took(began));
        for (text, command) in SCRIPT {
            step(&mut disk, &mut vtpm, text, command);
        }
        drop(vtpm);
        let Some(again) = ReferenceEngine::claim(crate::entropy::fill) else { stop(Stop::Engine, line!()) };
        engine = again;
    }
}

fn took(began: u64) -> u32 {
    u32::try_from(clock::now_ms() - began).unwrap_or(u32::MAX)
}

fn step(disk: &mut MemoryDisk, vtpm: &mut Vtpm<'_, ReferenceEngine>, text: &'static str, command: &[u8]) {
    let mut response = [0; COMMAND_BYTES_MAX];
    let began = clock::now_ms();
    match disk
        .lend(|platform| vtpm.execute(platform, Locality::Zero, command, &mut response).map(<[u8]>::len))
    {
        Ok(bytes) => {
            console::line(text, ResponseCode::of(&response[..bytes]).0);
            console::line("husk: self-test:   in ms", took(began));
            if let (READ, Some(value)) = (command, response[READ_VALUE..].first_chunk::<8>()) {
                let [.., a, b, c, d] = *value;
                console::line("husk: self-test:   counter", u32::from_be_bytes([a, b, c, d]));
            }
        }
        Err(fault) => failed(text, fault),
    }
}

fn failed(text: &'static str, fault: Fault) -> ! {
    console::line(text, fault.code());
    stop_for(fault)
}

/// A disk in memory that no guest has.
struct MemoryDisk(Physical);

impl MemoryDisk {
    fn blank(&mut self) -> Result<(), DiskError> {
        let zeros = [0; 4096];
        (0..DISK_BYTES).step_by(zeros.len()).try_for_each(|offset| self.write(offset, &zeros))
    }

    fn lend<T>(&mut self, act: impl FnOnce(&mut Platform<'_>) -> T) -> T {
        act(&mut Platform {
            disk: self,
            channel: &mut Nothing,
            reporter: &mut Nothing,
            entropy: &mut Processor,
            clock: Some(&Counter),
            console: &mut Serial,
        })
    }

    fn place(offset: u64, bytes: usize) -> Result<u64, DiskError> {
        let end = offset.checked_add(bytes as u64).ok_or(DiskError)?;
        if end <= DISK_BYTES { Ok(DISK_ADDRESS + offset) } else { Err(DiskError) }
    }
}

impl Disk for MemoryDisk {
    fn geometry(&self) -> Geometry {
        Geometry { size_bytes: DISK_BYTES, block_bytes: DISK_BLOCK_BYTES }
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.0.copy_in(Self::place(offset, into.len())?, into).map_err(|_| DiskError)
    }

    fn write(&mut self, offset: u64, from: &[u8]) -> Result<(), DiskError> {
        self.0.copy_out(Self::place(offset, from.len())?, from).map_err(|_| DiskError)
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        Ok(())
    }
}

/// A broker and a processor that are not there.
struct Nothing;

impl Channel for Nothing {
    fn exchange(&mut self, _request: &[u8], _reply: &mut [u8]) -> Result<usize, ChannelError> {
        Err(ChannelError::Unreachable)
    }
}

impl Reporter for Nothing {
    fn report(
        &mut self,
        _data: &[u8; REPORT_DATA_BYTES],
        _report: &mut [u8; REPORT_BYTES],
    ) -> Result<(), ReporterError> {
        Err(ReporterError::Unsupported)
    }

    fn certificate(&mut self, _into: &mut [u8]) -> usize {
        0
    }
}
