//! Laws of the measurements: the log tells exactly what the TPM was told.

use super::{Bank, Banks, Digests, Facts, Firmware, extend, measure, self_test, start_up};
use crate::guest::GuestFault;
use crate::guest::log::Log;
use husk::engine::Locality;
use husk::fault::Fault;
use husk::frontend::Tpm;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

/// A TPM that answers capabilities and keeps PCRs of the banks it says it has.
pub(crate) struct Pcrs {
    selections: Vec<u8>,
    pub(crate) values: BTreeMap<(u32, u16), Vec<u8>>,
    pub(crate) refuses: Option<u32>,
    /// Whether there is room for the banks that are asked for.
    pub(crate) has_room: bool,
    /// What was asked for last.
    pub(crate) allocates: Vec<u8>,
}

impl Pcrs {
    pub(crate) fn with(selections: &[(u16, [u8; 3])]) -> Self {
        let mut bytes = u32::try_from(selections.len()).unwrap().to_be_bytes().to_vec();
        for (algorithm, select) in selections {
            bytes.extend(algorithm.to_be_bytes());
            bytes.push(3);
            bytes.extend(select);
        }
        Self {
            selections: bytes,
            values: BTreeMap::new(),
            refuses: None,
            has_room: true,
            allocates: Vec::new(),
        }
    }

    fn extend(&mut self, command: &[u8]) {
        let pcr = u32::from_be_bytes(command[10..14].try_into().unwrap());
        let mut rest = &command[31..];
        while !rest.is_empty() {
            let algorithm = u16::from_be_bytes([rest[0], rest[1]]);
            let bytes = bytes_of(algorithm);
            replay(&mut self.values, pcr, algorithm, &rest[2..2 + bytes]);
            rest = &rest[2 + bytes..];
        }
    }
}

fn bytes_of(algorithm: u16) -> usize {
    match algorithm {
        4 => 20,
        0xB => 32,
        0xC => 48,
        _ => 64,
    }
}

fn bank(algorithm: u16) -> Banks {
    Banks(Bank::ALL.into_iter().filter(|bank| bank.algorithm() == algorithm).collect())
}

fn replay(values: &mut BTreeMap<(u32, u16), Vec<u8>>, pcr: u32, algorithm: u16, digest: &[u8]) {
    let value = values.entry((pcr, algorithm)).or_insert_with(|| vec![0; digest.len()]);
    let joined = [value.as_slice(), digest].concat();
    *value = Digests::of(&bank(algorithm), &joined).unwrap().iter().next().unwrap().1.to_vec();
}

impl Tpm for Pcrs {
    fn execute(&mut self, _: Locality, command: &[u8], response: &mut [u8]) -> usize {
        assert_eq!(u32::from_be_bytes(command[2..6].try_into().unwrap()) as usize, command.len());
        let code = u32::from_be_bytes(command[6..10].try_into().unwrap());
        let body = match code {
            0x17A => [&[0u8, 0, 0, 0, 5], self.selections.as_slice()].concat(),
            0x182 => {
                self.extend(command);
                vec![0; 9]
            }
            0x12B => {
                self.allocates = command.to_vec();
                vec![0, 0, 0, 13, u8::from(self.has_room)]
            }
            _ => vec![],
        };
        let refused = self.refuses == Some(code);
        let whole = [&[0x80, 1, 0, 0, 0, 0, 0, 0, u8::from(refused), 0], body.as_slice()].concat();
        response[..whole.len()].copy_from_slice(&whole);
        whole.len()
    }

    fn established(&mut self) -> bool {
        false
    }

    fn reset_established(&mut self, _: Locality) -> Result<(), Fault> {
        Ok(())
    }

    fn hash_start(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    fn hash_data(&mut self, _: &[u8]) -> Result<(), Fault> {
        Ok(())
    }

    fn hash_end(&mut self) -> Result<(), Fault> {
        Ok(())
    }
}

pub(crate) const ALL: [(u16, [u8; 3]); 4] =
    [(4, [0xFF; 3]), (0xB, [0xFF; 3]), (0xC, [0xFF; 3]), (0xD, [0xFF; 3])];

fn facts<'f>(kernel: &'f Digests, initrd: &'f Digests) -> Facts<'f> {
    Facts {
        version: "husk 0",
        launch_measurement: &[7; 48],
        guest_cpus: 2,
        guest_bytes: 1 << 29,
        tables: b"tables",
        config: b"config",
        command_line: b"console=ttyS0",
        kernel,
        initrd,
        firmware: None,
    }
}

fn measured(tpm: &mut Pcrs) -> (Log, Banks) {
    let banks = start_up(tpm).unwrap();
    let mut log = Log::empty();
    let [kernel, initrd] = [b"K", b"I"].map(|bytes| Digests::of(&banks, bytes).unwrap());
    measure(tpm, &banks, &mut log, &facts(&kernel, &initrd)).unwrap();
    (log, banks)
}

/// Reads the log as the TCG specification has it, and extends what it says.
fn replayed(log: &[u8]) -> BTreeMap<(u32, u16), Vec<u8>> {
    let number = |at: usize| u32::from_le_bytes(log[at..at + 4].try_into().unwrap()) as usize;
    assert_eq!((number(0), number(4), &log[32..48]), (0, 3, &b"Spec ID Event03\0"[..]));
    let mut values = BTreeMap::new();
    let mut at = 32 + number(28);
    while at < log.len() {
        let (pcr, count) = (u32::try_from(number(at)).unwrap(), number(at + 8));
        at += 12;
        for _ in 0..count {
            let algorithm = u16::from_le_bytes([log[at], log[at + 1]]);
            let bytes = bytes_of(algorithm);
            replay(&mut values, pcr, algorithm, &log[at + 2..at + 2 + bytes]);
            at += 2 + bytes;
        }
        at += 4 + number(at);
    }
    assert_eq!(at, log.len());
    values
}

#[test]
fn the_log_replays_to_the_pcrs_in_every_active_bank() {
    for selections in [&ALL[..], &ALL[1..2], &[(4, [0; 3]), (0xB, [0xFF; 3]), (0x12, [0; 3])]] {
        let mut tpm = Pcrs::with(selections);
        let (log, banks) = measured(&mut tpm);
        assert_eq!(replayed(log.bytes()), tpm.values);
        let pcrs: Vec<u32> = tpm.values.keys().map(|(pcr, _)| *pcr).collect();
        for pcr in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] {
            assert_eq!(pcrs.iter().filter(|other| **other == pcr).count(), banks.iter().count(), "PCR {pcr}");
        }
    }
}

#[test]
fn every_fact_reaches_the_pcr_that_the_plan_names() {
    let value = |change: &dyn Fn(&mut Facts<'_>), pcr: u32| {
        let mut tpm = Pcrs::with(&ALL[1..2]);
        let banks = start_up(&mut tpm).unwrap();
        let [kernel, initrd] = [b"K", b"I"].map(|bytes| Digests::of(&banks, bytes).unwrap());
        let mut facts = facts(&kernel, &initrd);
        change(&mut facts);
        measure(&mut tpm, &banks, &mut Log::empty(), &facts).unwrap();
        tpm.values[&(pcr, 0xB)].clone()
    };
    let other = Digests::of(&bank(0xB), b"other").unwrap();
    let same = |_: &mut Facts<'_>| {};
    assert_ne!(value(&same, 0), value(&|facts| facts.launch_measurement = &[8; 48], 0));
    assert_ne!(value(&same, 1), value(&|facts| facts.guest_cpus = 3, 1));
    assert_ne!(value(&same, 1), value(&|facts| facts.tables = b"tablet", 1));
    assert_ne!(value(&same, 1), value(&|facts| facts.config = b"other", 1));
    assert_ne!(value(&same, 8), value(&|facts| facts.command_line = b"init=/bin/sh", 8));
    let [kernel, initrd] = [4, 9].map(|pcr| {
        let mut tpm = Pcrs::with(&ALL[1..2]);
        let banks = start_up(&mut tpm).unwrap();
        measure(&mut tpm, &banks, &mut Log::empty(), &facts(&other, &other)).unwrap();
        tpm.values[&(pcr, 0xB)].clone()
    });
    assert!(kernel != value(&same, 4) && initrd != value(&same, 9));
}

/// Separators, Secure Boot and the program that is started are the firmware's own to measure.
#[test]
fn before_a_firmware_only_what_it_cannot_vouch_for_is_measured() {
    let started = |firmware_bytes: &[u8], has_kernel, command_line: &'static [u8]| {
        let mut tpm = Pcrs::with(&ALL[1..3]);
        let banks = start_up(&mut tpm).unwrap();
        let [kernel, file] = [b"K", firmware_bytes].map(|bytes| Digests::of(&banks, bytes).unwrap());
        let mut facts = facts(&kernel, &kernel);
        facts.command_line = command_line;
        facts.firmware = Some(Firmware { file: &file, base: 0xFFC8_4000, bytes: 0x37_C000, has_kernel });
        let mut log = Log::empty();
        measure(&mut tpm, &banks, &mut log, &facts).unwrap();
        assert_eq!(replayed(log.bytes()), tpm.values);
        tpm.values
    };
    let pcrs = |values: &BTreeMap<(u32, u16), Vec<u8>>| -> Vec<u32> {
        values.keys().filter(|(_, bank)| *bank == 0xB).map(|(pcr, _)| *pcr).collect()
    };
    let first = started(b"F", true, b"quiet");
    assert_eq!(pcrs(&first), [0, 1, 8, 9]);
    let without_kernel = started(b"F", false, b"");
    assert_eq!(pcrs(&without_kernel), [0, 1, 8]);
    let alone = Sha256::digest([&[0; 32][..], &Sha256::digest(b"F")].concat());
    assert_eq!(without_kernel[&(8, 0xB)], alone.as_slice(), "PCR 8 is the file's, whatever the machine");
    assert_ne!(first[&(0, 0xB)], started(b"G", true, b"quiet")[&(0, 0xB)]);
    assert_ne!(first[&(8, 0xB)], started(b"F", true, b"loud")[&(8, 0xB)]);
    assert_eq!(first[&(1, 0xB)], started(b"G", true, b"loud")[&(1, 0xB)]);
}

#[test]
fn a_bank_that_cannot_be_extended_or_a_tpm_that_refuses_stops_the_start() {
    assert_eq!(start_up(&mut Pcrs::with(&[(0x12, [1, 0, 0])])), Err(GuestFault::BankUnknown));
    assert_eq!(start_up(&mut Pcrs::with(&[])), Err(GuestFault::NotMeasured));
    for code in [0x144, 0x17A, 0x182] {
        let mut tpm = Pcrs::with(&ALL);
        tpm.refuses = Some(code);
        let banks = bank(0xB);
        let nothing = Digests::default();
        let outcome = start_up(&mut tpm)
            .and_then(|_| measure(&mut tpm, &banks, &mut Log::empty(), &facts(&nothing, &nothing)));
        assert_eq!(outcome, Err(GuestFault::NotMeasured), "{code:#x}");
    }
}

/// TPM2_SelfTest is left for when the guest runs: what is measured before has its own algorithms tested by the TPM.
#[test]
fn a_tpm_that_fails_its_tests_is_told_from_one_that_passes() {
    for (refuses, outcome) in [(None, Ok(())), (Some(0x143), Err(GuestFault::TestsFailed))] {
        let mut tpm = Pcrs::with(&ALL);
        tpm.refuses = refuses;
        assert!(start_up(&mut tpm).is_ok());
        assert_eq!(self_test(&mut tpm), outcome);
    }
}

#[test]
fn the_largest_extend_fits_its_buffer() {
    let banks = start_up(&mut Pcrs::with(&ALL)).unwrap();
    let command = extend(23, &Digests::of(&banks, b"").unwrap()).unwrap();
    assert_eq!(command.len(), 10 + 4 + 13 + 4 + 4 * 2 + 20 + 32 + 48 + 64);
}
