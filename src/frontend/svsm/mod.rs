//! The SVSM calls of a vTPM: what a guest on SEV-SNP asks of VMPL 0 (AMD 58019 r1.00).
//!
//! **What.** [`call`] serves one call of the vTPM protocol (protocol 2, chapter 8) or of the attestation protocol (protocol 1,
//! chapter 7): registers in, registers out, guest memory through [`GuestMemory`]. [`manifest_format`] is what an attestation
//! report covers. [`versions`] answers SVSM_CORE_QUERY_PROTOCOL for the two.
//! **Trust.** None in registers or guest memory. The host of this component says through [`GuestMemory`] what the caller may name.
//! **Laws.** Each byte of guest memory is copied once, before anything is decided by it. A call that fails changes no register but
//! RAX, except to say how large buffers must be. No report leaves that covers anything but the caller's nonce and a
//! manifest made here, and none without the right to answer.
//! **Not here.** Waking up for a call, the calling area, the core protocol: the SVSM's own. How a report is made: `attest`.

mod attest;
mod certificates;
mod manifest;
#[doc = include_str!("manifest.md")]
pub mod manifest_format {}
mod memory;
mod vtpm;

pub use manifest::{
    Facts, HEADER_GUID, KEYS, MANIFEST_BYTES_MAX, ManifestHeader, ManifestKey, Persistence, Serving,
    VTPM_GUID,
};

use super::Tpm;
use crate::engine::{COMMAND_BYTES_MAX, EndorsementKey};
use crate::fault::Fault;
use crate::seams::{GuestMemory, REPORT_BYTES, REPORT_DATA_BYTES};
use zeroize::Zeroize;

/// Protocol numbers, RAX bits 63:32 (AMD 58019, table "protocols").
pub const ATTEST_PROTOCOL: u32 = 1;
/// The vTPM protocol.
pub const VTPM_PROTOCOL: u32 = 2;

/// What RAX says after a call (AMD 58019, section 4 "result codes").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ResultCode {
    /// SVSM_SUCCESS.
    Success = 0,
    /// SVSM_ERR_UNSUPPORTED_PROTOCOL: not one of the two.
    UnsupportedProtocol = 0x8000_0001,
    /// SVSM_ERR_UNSUPPORTED_CALL: the protocol has no such call, or this machine does not offer it.
    UnsupportedCall = 0x8000_0002,
    /// SVSM_ERR_INVALID_ADDRESS: the guest may not name that memory.
    InvalidAddress = 0x8000_0003,
    /// SVSM_ERR_INVALID_PARAMETER: a field is out of its range, or a buffer is too small.
    InvalidParameter = 0x8000_0005,
    /// SVSM_ERR_INVALID_REQUEST: not in this state of the TPM.
    InvalidRequest = 0x8000_0006,
    /// SVSM_ERR_BUSY: nothing happened, the same call may succeed later.
    Busy = 0x8000_0007,
    /// The first code that a protocol may define: the processor gave no report. Final until the guest is started again.
    NoReport = 0x8000_1000,
    /// The TPM does not answer any more.
    Failed = 0x8000_1001,
}

/// The registers of a call that matter to these protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Registers {
    /// In: protocol (bits 63:32) and call (bits 31:0). Out: a [`ResultCode`].
    pub rax: u64,
    /// In: the guest-physical address of a structure. Out: by the call.
    pub rcx: u64,
    /// Out: by the call.
    pub rdx: u64,
    /// Out: by the call.
    pub r8: u64,
    /// Used by no call of these protocols.
    pub r9: u64,
}

impl Registers {
    fn with(self, code: ResultCode) -> Self {
        Self { rax: u64::from(code as u32), ..self }
    }
}

/// What the attestation protocol shows of a TPM and of the machine that it runs in.
pub trait Attested: Tpm {
    /// Who this TPM is and which state it has, durably.
    ///
    /// # Errors
    /// A [`Fault`] while that is not known, or for ever.
    fn facts(&mut self) -> Result<Facts, Fault>;

    /// Writes the public area of an endorsement key into `into`, which has at least
    /// [`ENDORSEMENT_BYTES_MAX`](crate::engine::ENDORSEMENT_BYTES_MAX) bytes; returns its length in bytes.
    ///
    /// # Errors
    /// As [`Engine::endorsement_key`](crate::engine::Engine::endorsement_key), or that nobody offers attestation.
    fn endorsement_key(&mut self, key: EndorsementKey, into: &mut [u8]) -> Result<usize, Fault>;

    /// The right to answer now, asked for right before an answer leaves.
    ///
    /// # Errors
    /// The [`Fault`] for which there is none.
    fn permit(&mut self) -> Result<(), Fault>;

    /// Writes a report at VMPL 0 that carries `data` into `report`.
    ///
    /// # Errors
    /// The [`Fault`] for which there is none.
    fn report(
        &mut self,
        data: &[u8; REPORT_DATA_BYTES],
        report: &mut [u8; REPORT_BYTES],
    ) -> Result<(), Fault>;

    /// The DER certificate of the key that signs reports, as [`Reporter::certificate`](crate::seams::Reporter::certificate).
    fn certificate(&mut self, into: &mut [u8]) -> usize;
}

/// Private memory for one call, about 15 KiB. The firmware hands it in; it holds nothing between calls.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "commands carry passwords")]
pub struct CallMemory {
    command: [u8; COMMAND_BYTES_MAX],
    response: [u8; COMMAND_BYTES_MAX],
    manifest: [u8; MANIFEST_BYTES_MAX],
    certificates: [u8; certificates::TABLE_BYTES_MAX],
    report: [u8; REPORT_BYTES],
}

impl CallMemory {
    /// Empty memory, also for a static.
    pub const EMPTY: Self = Self {
        command: [0; COMMAND_BYTES_MAX],
        response: [0; COMMAND_BYTES_MAX],
        manifest: [0; MANIFEST_BYTES_MAX],
        certificates: [0; certificates::TABLE_BYTES_MAX],
        report: [0; REPORT_BYTES],
    };
}

/// The lowest and the highest version of a protocol that [`call`] serves (SVSM_CORE_QUERY_PROTOCOL).
#[must_use]
pub const fn versions(protocol: u32) -> Option<(u32, u32)> {
    match protocol {
        ATTEST_PROTOCOL | VTPM_PROTOCOL => Some((1, 1)),
        _ => None,
    }
}

/// Serves one call, and yields the registers that the guest goes on with.
pub fn call(
    request: Registers,
    guest: &mut dyn GuestMemory,
    tpm: &mut dyn Attested,
    memory: &mut CallMemory,
) -> Registers {
    let [protocol, call] = halves(request.rax);
    let answer = match protocol {
        ATTEST_PROTOCOL => attest::call(call, request, guest, tpm, memory),
        VTPM_PROTOCOL => vtpm::call(call, request, guest, tpm, memory),
        _ => Err(ResultCode::UnsupportedProtocol),
    };
    // What passed through may be passwords and what they opened.
    memory.command.zeroize();
    memory.response.zeroize();
    answer.unwrap_or_else(|code| request.with(code))
}

/// The upper and the lower 32 bits.
fn halves(register: u64) -> [u32; 2] {
    let [a, b, c, d, rest @ ..] = register.to_be_bytes();
    [u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes(rest)]
}
