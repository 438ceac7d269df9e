//! What goes into which PCR before a guest runs, as a firmware's boot does it.
//!
//! | PCR | event | digest of |
//! | ---: | --- | --- |
//! | 0 | EV_S_CRTM_VERSION | the firmware's version, UTF-16 |
//! | 0 | EV_S_CRTM_CONTENTS | the launch measurement, as this VM's own report states it |
//! | 1 | EV_PLATFORM_CONFIG_FLAGS ×3 | vCPUs and memory; the ACPI tables; the launch configuration |
//! | 0–7 | EV_SEPARATOR | four zero bytes |
//! | 4 | EV_IPL | the kernel's file |
//! | 8 | EV_IPL | the kernel's command line, as GRUB measures it |
//! | 9 | EV_IPL | the initrd's file, as GRUB measures it |
//!
//! A guest with a firmware of its own has the separators, the kernel and PCR 2 to 7 from that: before it runs it is itself measured, with all
//! that it cannot vouch for.
//!
//! | PCR | event | digest of |
//! | ---: | --- | --- |
//! | 0 | EV_S_CRTM_VERSION, EV_S_CRTM_CONTENTS | as above |
//! | 0, 8 | EV_EFI_PLATFORM_FIRMWARE_BLOB | the firmware's file, which is what lies below 4 GiB |
//! | 1 | EV_PLATFORM_CONFIG_FLAGS ×3 | as above |
//! | 8, 9 | EV_IPL | as above, where there is a kernel |
//!
//! PCR 0 goes on with what that firmware says of itself, of which a part differs with the machine's size; PCR 8 is left to what it starts. So whoever
//! knows the file knows PCR 8, and by it whose the word of all other PCRs is.
//!
//! Without one, PCR 2, 3, 5, 6 and 7 have nothing but their separator: there are no option ROMs, no partition table is read, and there is
//! no Secure Boot. Event types are those of the TCG PC Client Platform Firmware Profile 1.06, table "Events".

use super::GuestFault;
use super::log::Log;
use core::fmt::Write;
use husk::bytes::Reader;
use husk::engine::{COMMAND_BYTES_MAX, Locality, ResponseCode};
use husk::frontend::Tpm;
use husk_stubs::digest::{Algorithm, Digest};

/// EV_SEPARATOR.
const SEPARATOR: u32 = 0x04;
/// EV_S_CRTM_CONTENTS.
const CRTM_CONTENTS: u32 = 0x07;
/// EV_S_CRTM_VERSION.
const CRTM_VERSION: u32 = 0x08;
/// EV_PLATFORM_CONFIG_FLAGS.
const PLATFORM_CONFIG: u32 = 0x0A;
/// EV_IPL.
const IPL: u32 = 0x0D;
/// EV_EFI_PLATFORM_FIRMWARE_BLOB; its data are UEFI_PLATFORM_FIRMWARE_BLOB.
const FIRMWARE_BLOB: u32 = 0x8000_0008;
/// The data of an EV_SEPARATOR after which all is well.
const SEPARATOR_DATA: [u8; 4] = [0; 4];
/// The PCRs that a separator closes.
const SEPARATED: core::ops::Range<u32> = 0..8;

/// TPM2_Startup(TPM_SU_CLEAR).
pub(super) const STARTUP: [u8; 12] = [0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x44, 0, 0];
/// TPM2_SelfTest(fullTest = NO): whatever was not tested yet.
const SELF_TEST: [u8; 11] = [0x80, 0x01, 0, 0, 0, 11, 0, 0, 0x01, 0x43, 0];
/// TPM2_GetCapability(TPM_CAP_PCRS).
const ACTIVE_BANKS: [u8; 22] =
    [0x80, 0x01, 0, 0, 0, 22, 0, 0, 0x01, 0x7A, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1];
/// A password session with an empty password, and its size in front.
const EMPTY_PASSWORD: [u8; 13] = [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0];
/// TPM_ST_SESSIONS and the code of TPM2_PCR_Extend.
const SESSIONS: [u8; 2] = [0x80, 0x02];
const PCR_EXTEND: [u8; 4] = [0, 0, 0x01, 0x82];
/// Size of a response's header in bytes.
const HEADER_BYTES: usize = 10;
/// How many banks this firmware can extend.
pub(super) const BANKS_MAX: usize = 4;

/// A PCR bank, by its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bank {
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Bank {
    /// All that this firmware can extend.
    pub const ALL: [Self; BANKS_MAX] = [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512];

    /// Its hash, of nothing yet.
    #[must_use]
    pub fn hash(self) -> Digest {
        Digest::new(match self {
            Self::Sha1 => Algorithm::Sha1,
            Self::Sha256 => Algorithm::Sha256,
            Self::Sha384 => Algorithm::Sha384,
            Self::Sha512 => Algorithm::Sha512,
        })
    }

    /// TPM_ALG_ID (TCG Algorithm Registry).
    #[must_use]
    pub const fn algorithm(self) -> u16 {
        match self {
            Self::Sha1 => 0x0004,
            Self::Sha256 => 0x000B,
            Self::Sha384 => 0x000C,
            Self::Sha512 => 0x000D,
        }
    }
}

/// The banks that are active in this TPM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Banks(heapless::Vec<Bank, BANKS_MAX>);

impl Banks {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Bank> + '_ {
        self.0.iter().copied()
    }

    /// Reads TPML_PCR_SELECTION in the response to [`ACTIVE_BANKS`]. A bank with a PCR in it that is not extended could be
    /// given any value by the guest, so an unknown one is no reason to go on without it.
    fn parse(response: &[u8]) -> Result<Self, GuestFault> {
        let unreadable = |_| GuestFault::NotMeasured;
        let mut reader = Reader::new(response.get(HEADER_BYTES + 5..).unwrap_or_default());
        let mut banks = Self::default();
        for _ in 0..reader.u32_be().map_err(unreadable)? {
            let algorithm = reader.u16_be().map_err(unreadable)?;
            let [select_bytes] = reader.array().map_err(unreadable)?;
            let select = reader.take(usize::from(select_bytes)).map_err(unreadable)?;
            if select.iter().all(|byte| *byte == 0) {
                continue;
            }
            let bank = Bank::ALL.into_iter().find(|bank| bank.algorithm() == algorithm);
            banks.0.push(bank.ok_or(GuestFault::BankUnknown)?).map_err(|_| GuestFault::BankUnknown)?;
        }
        if banks.0.is_empty() { Err(GuestFault::NotMeasured) } else { Ok(banks) }
    }
}

/// One digest; SHA-512's is the longest.
pub type Value = heapless::Vec<u8, 64>;

/// One digest for each active bank.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digests(heapless::Vec<(Bank, Value), BANKS_MAX>);

impl Digests {
    /// The digests of `bytes`.
    ///
    /// # Errors
    /// [`GuestFault::NotMeasured`] if a hash cannot be computed.
    pub fn of(banks: &Banks, bytes: &[u8]) -> Result<Self, GuestFault> {
        Self::each(banks, |bank| {
            let mut hash = bank.hash();
            hash.update(bytes);
            value_of(hash)
        })
    }

    /// What `digest` gives for each bank.
    ///
    /// # Errors
    /// As `digest`.
    pub fn each(
        banks: &Banks,
        digest: impl Fn(Bank) -> Result<Value, GuestFault>,
    ) -> Result<Self, GuestFault> {
        banks.iter().map(|bank| Ok((bank, digest(bank)?))).collect::<Result<_, _>>().map(Self)
    }

    /// Each with its bank.
    pub fn iter(&self) -> impl Iterator<Item = (Bank, &[u8])> + '_ {
        self.0.iter().map(|(bank, digest)| (*bank, digest.as_slice()))
    }
}

/// A hash's digest.
pub(super) fn value_of(hash: Digest) -> Result<Value, GuestFault> {
    let (digest, bytes) = hash.finish().ok_or(GuestFault::NotMeasured)?;
    Ok(digest.into_iter().take(bytes).collect())
}

/// What a start measures, besides what is constant.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'f> {
    /// The firmware's version.
    pub version: &'f str,
    /// MEASUREMENT of this VM's own report.
    pub launch_measurement: &'f [u8; 48],
    /// How many processors the guest has.
    pub guest_cpus: u32,
    /// How much memory it may use, in bytes.
    pub guest_bytes: u64,
    /// The ACPI tables as the guest reads them.
    pub tables: &'f [u8],
    /// The launch configuration's bytes.
    pub config: &'f [u8],
    /// The kernel's command line.
    pub command_line: &'f [u8],
    /// Digests of the kernel's file.
    pub kernel: &'f Digests,
    /// Digests of the initrd's file.
    pub initrd: &'f Digests,
    /// The guest's own firmware, if it has one.
    pub firmware: Option<Firmware<'f>>,
}

/// The guest's own firmware.
#[derive(Clone, Copy, Debug)]
pub struct Firmware<'f> {
    /// Digests of its file.
    pub file: &'f Digests,
    /// Where the guest finds it.
    pub base: u64,
    /// How long it is in bytes.
    pub bytes: u64,
    /// Whether it is given a kernel.
    pub has_kernel: bool,
}

/// Starts the TPM up, as firmware does, and asks which banks are active.
///
/// # Errors
/// [`GuestFault::NotMeasured`] or [`GuestFault::BankUnknown`].
pub fn start_up(tpm: &mut dyn Tpm) -> Result<Banks, GuestFault> {
    let mut response = [0; COMMAND_BYTES_MAX];
    execute(tpm, &STARTUP, &mut response)?;
    Banks::parse(execute(tpm, &ACTIVE_BANKS, &mut response)?)
}

/// Has the TPM test whatever no command has needed yet, before it answers its guest anything (decision 11).
///
/// The tests take longer than any command of a guest's start. A driver that asked for them would wait for two seconds of its own clock,
/// which may be a wrong one; when it comes, there is nothing left to test.
///
/// # Errors
/// [`GuestFault::TestsFailed`]; nothing may be answered then.
pub fn self_test(tpm: &mut dyn Tpm) -> Result<(), GuestFault> {
    execute(tpm, &SELF_TEST, &mut [0; COMMAND_BYTES_MAX]).map(|_| ()).map_err(|_| GuestFault::TestsFailed)
}

/// Measures a start by the plan above; `log` is the log of it then.
///
/// # Errors
/// [`GuestFault::NotMeasured`] or [`GuestFault::LogFull`].
pub fn measure(tpm: &mut dyn Tpm, banks: &Banks, log: &mut Log, facts: &Facts<'_>) -> Result<(), GuestFault> {
    log.begin(banks)?;
    let mut measurer = Measurer { tpm, banks, log };
    measurer.crtm(facts)?;
    if let Some(firmware) = facts.firmware {
        measurer.firmware(&firmware)?;
        measurer.configuration(facts)?;
        return if firmware.has_kernel { measurer.parameters(facts) } else { Ok(()) };
    }
    measurer.configuration(facts)?;
    for pcr in SEPARATED {
        measurer.bytes(pcr, SEPARATOR, &SEPARATOR_DATA)?;
    }
    measurer.digests(4, IPL, facts.kernel, &[b"kernel\0"])?;
    measurer.parameters(facts)
}

struct Measurer<'m> {
    tpm: &'m mut dyn Tpm,
    banks: &'m Banks,
    log: &'m mut Log,
}

impl Measurer<'_> {
    fn crtm(&mut self, facts: &Facts<'_>) -> Result<(), GuestFault> {
        let mut version = heapless::Vec::<u8, 128>::new();
        for unit in facts.version.encode_utf16().chain([0]) {
            version.extend_from_slice(&unit.to_le_bytes()).map_err(|_| GuestFault::LogFull)?;
        }
        self.bytes(0, CRTM_VERSION, &version)?;
        self.bytes(0, CRTM_CONTENTS, facts.launch_measurement)
    }

    fn firmware(&mut self, firmware: &Firmware<'_>) -> Result<(), GuestFault> {
        let place = [firmware.base.to_le_bytes(), firmware.bytes.to_le_bytes()];
        self.digests(0, FIRMWARE_BLOB, firmware.file, &[place.as_flattened()])?;
        self.digests(8, FIRMWARE_BLOB, firmware.file, &[place.as_flattened()])
    }

    /// What a kernel is told, and its initrd.
    fn parameters(&mut self, facts: &Facts<'_>) -> Result<(), GuestFault> {
        let command_line = Digests::of(self.banks, facts.command_line)?;
        self.digests(8, IPL, &command_line, &[b"kernel_cmdline: ", facts.command_line, b"\0"])?;
        self.digests(9, IPL, facts.initrd, &[b"initrd\0"])
    }

    fn configuration(&mut self, facts: &Facts<'_>) -> Result<(), GuestFault> {
        let mut text = heapless::String::<64>::new();
        write!(text, "vcpus={} memory={}", facts.guest_cpus, facts.guest_bytes)
            .map_err(|_| GuestFault::LogFull)?;
        self.bytes(1, PLATFORM_CONFIG, text.as_bytes())?;
        let tables = Digests::of(self.banks, facts.tables)?;
        self.digests(1, PLATFORM_CONFIG, &tables, &[b"ACPI tables"])?;
        self.bytes(1, PLATFORM_CONFIG, facts.config)
    }

    /// Measures `data`, which is the event's data too.
    fn bytes(&mut self, pcr: u32, kind: u32, data: &[u8]) -> Result<(), GuestFault> {
        self.digests(pcr, kind, &Digests::of(self.banks, data)?, &[data])
    }

    fn digests(&mut self, pcr: u32, kind: u32, digests: &Digests, data: &[&[u8]]) -> Result<(), GuestFault> {
        self.log.event(pcr, kind, digests, data)?;
        let mut response = [0; COMMAND_BYTES_MAX];
        execute(self.tpm, &extend(pcr, digests)?, &mut response).map(|_| ())
    }
}

/// TPM2_PCR_Extend (TPM 2.0 part 3, section "TPM2_PCR_Extend").
fn extend(pcr: u32, digests: &Digests) -> Result<heapless::Vec<u8, 256>, GuestFault> {
    let mut command = heapless::Vec::new();
    let mut put = |bytes: &[u8]| command.extend_from_slice(bytes).map_err(|_| GuestFault::NotMeasured);
    put(&SESSIONS)?;
    put(&[0; 4])?;
    put(&PCR_EXTEND)?;
    put(&pcr.to_be_bytes())?;
    put(&EMPTY_PASSWORD)?;
    let count = u32::try_from(digests.iter().count()).map_err(|_| GuestFault::NotMeasured)?;
    put(&count.to_be_bytes())?;
    for (bank, digest) in digests.iter() {
        put(&bank.algorithm().to_be_bytes())?;
        put(digest)?;
    }
    let bytes = u32::try_from(command.len()).map_err(|_| GuestFault::NotMeasured)?;
    command[2..6].copy_from_slice(&bytes.to_be_bytes());
    Ok(command)
}

pub(super) fn execute<'r>(
    tpm: &mut dyn Tpm,
    command: &[u8],
    response: &'r mut [u8; COMMAND_BYTES_MAX],
) -> Result<&'r [u8], GuestFault> {
    let bytes = tpm.execute(Locality::Zero, command, response);
    let response = response.get(..bytes).ok_or(GuestFault::NotMeasured)?;
    if ResponseCode::of(response) == ResponseCode::SUCCESS {
        Ok(response)
    } else {
        Err(GuestFault::NotMeasured)
    }
}

#[cfg(test)]
#[path = "tests/measure.rs"]
pub(crate) mod tests;
