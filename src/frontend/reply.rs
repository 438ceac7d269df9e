//! The mouth: what a fault looks like to a guest.
//!
//! **What.** [`write()`] turns a [`Fault`] and the command that met it into a TPM response; `result` turns one into the result of an
//! attestation call.
//! **Trust.** The command is a private copy of guest bytes, nothing more.
//! **Laws.** A guest reads 'try again' only where nothing was executed; all that is not plainly the guest's doing or
//! plainly retryable reads TPM_RC_FAILURE. No response carries any detail of a fault.
//! **Not here.** Whether the machine goes on after a fault: `vtpm` decides that.

use super::FrontendFault;
use super::svsm::ResultCode;
use crate::attest::AttestFault;
use crate::engine::{EngineFault, ResponseCode};
use crate::fault::{Family, Fault};
use crate::release::ReleaseFault;

/// TPM_RC_BAD_TAG (TPM 2.0 part 2, table TPM_RC): the tag is no command's.
const BAD_TAG: ResponseCode = ResponseCode(0x01E);
/// TPM_RC_COMMAND_SIZE: the size field is not the number of bytes that arrived.
const COMMAND_SIZE: ResponseCode = ResponseCode(0x142);
/// TPM_RC_LOCALITY: not from this locality.
const LOCALITY: ResponseCode = ResponseCode(0x907);
/// TPM_RC_CANCELED: the command was cancelled and had no effect.
const CANCELED: ResponseCode = ResponseCode(0x909);
/// TPM_ST_RSP_COMMAND: the tag that answers a bad tag, as a TPM 1.2 would (part 2, table TPM_ST).
const TPM_ST_RSP_COMMAND: [u8; 2] = [0x00, 0xC4];

/// Writes the response for `fault`, met by `command`, and returns its length in bytes (10, or 0 if `response` is
/// shorter than that).
pub fn write(fault: Fault, command: &[u8], response: &mut [u8]) -> usize {
    put(code(fault, command), response)
}

/// Writes the response to a command that was cancelled before it began.
pub(super) fn cancelled(response: &mut [u8]) -> usize {
    put(CANCELED, response)
}

/// Writes the response of last resort.
pub(super) fn failure(response: &mut [u8]) -> usize {
    put(ResponseCode::FAILURE, response)
}

fn code(fault: Fault, command: &[u8]) -> ResponseCode {
    match fault.family() {
        Family::Guest if fault == EngineFault::Malformed.fault() => malformed(command),
        Family::Guest if fault == EngineFault::LocalityRefused.fault() => LOCALITY,
        Family::Broker if nothing_was_executed(fault) => ResponseCode::NV_UNAVAILABLE,
        Family::Guest | Family::Host | Family::Broker | Family::Seal | Family::Engine | Family::Bug => {
            ResponseCode::FAILURE
        }
    }
}

/// The result of an attestation call that met `fault`.
pub(super) fn result(fault: Fault) -> ResultCode {
    match fault.family() {
        Family::Broker if fault == ReleaseFault::Undecided.fault() || nothing_was_executed(fault) => {
            ResultCode::Busy
        }
        Family::Host if fault == AttestFault::NoReport.fault() => ResultCode::NoReport,
        Family::Guest if fault == FrontendFault::NotOffered.fault() => ResultCode::UnsupportedCall,
        Family::Guest => ResultCode::InvalidRequest,
        Family::Host | Family::Broker | Family::Seal | Family::Engine | Family::Bug => ResultCode::Failed,
    }
}

/// The faults that `vtpm` meets before it lets a command run.
fn nothing_was_executed(fault: Fault) -> bool {
    [ReleaseFault::Unreachable, ReleaseFault::SessionLost, ReleaseFault::Busy, ReleaseFault::LeaseOver]
        .iter()
        .any(|leaf| leaf.fault() == fault)
}

/// Which of the header's fields is wrong (TPM 2.0 part 3, section "Command Header Validation": the tag comes first).
fn malformed(command: &[u8]) -> ResponseCode {
    match command.first_chunk::<2>() {
        Some([0x80, 0x01 | 0x02]) | None => COMMAND_SIZE,
        Some(_) => BAD_TAG,
    }
}

fn put(code: ResponseCode, response: &mut [u8]) -> usize {
    let mut bytes = code.response();
    if code == BAD_TAG {
        bytes[..2].copy_from_slice(&TPM_ST_RSP_COMMAND);
    }
    match response.get_mut(..bytes.len()) {
        Some(room) => {
            room.copy_from_slice(&bytes);
            bytes.len()
        }
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::{ResponseCode, code, write};
    use crate::engine::EngineFault;
    use crate::nv::NvFault;
    use crate::release::ReleaseFault;

    #[test]
    fn a_guest_reads_try_again_only_where_nothing_was_executed() {
        assert_eq!(code(ReleaseFault::Unreachable.fault(), &[]), ResponseCode::NV_UNAVAILABLE);
        assert_eq!(code(ReleaseFault::Undecided.fault(), &[]), ResponseCode::FAILURE);
        assert_eq!(code(NvFault::NotCommitted.fault(), &[]), ResponseCode::FAILURE);
        assert_eq!(code(EngineFault::Failed.fault(), &[]), ResponseCode::FAILURE);
    }

    #[test]
    fn a_bad_tag_is_answered_as_a_tpm_1_2_would() {
        let mut response = [0; 16];
        assert_eq!(write(EngineFault::Malformed.fault(), &[0x00, 0xC1, 0, 0], &mut response), 10);
        assert_eq!(response[..10], [0x00, 0xC4, 0, 0, 0, 10, 0, 0, 0, 0x1E]);
        assert_eq!(write(EngineFault::Malformed.fault(), &[0x80], &mut response), 10);
        assert_eq!(response[..10], [0x80, 0x01, 0, 0, 0, 10, 0, 0, 1, 0x42]);
        assert_eq!(write(EngineFault::Malformed.fault(), &[], &mut [0; 9]), 0);
    }
}
