//! The vTPM protocol: SVSM_VTPM_QUERY and SVSM_VTPM_CMD.
//!
//! Of the platform commands of the TPM simulator only TPM_SEND_COMMAND is offered: a guest does not switch its own TPM's power.

use super::memory::{copy_in, copy_out};
use super::{CallMemory, Registers, ResultCode};
use crate::engine::Locality;
use crate::frontend::{Tpm, reply};
use crate::seams::GuestMemory;
use core::mem::offset_of;
use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// SVSM_VTPM_QUERY (AMD 58019, table 14).
const QUERY: u32 = 0;
/// SVSM_VTPM_CMD.
const COMMAND: u32 = 1;
/// TPM_SEND_COMMAND, as the TPM simulator numbers it.
const SEND_COMMAND: u32 = 8;
/// Size of the buffer that RCX names, in bytes; it may lie across two pages.
const BUFFER_BYTES: usize = 4096;

/// Head of a TPM_SEND_COMMAND request (table 16); the command follows.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Request {
    /// 0x00: the platform command.
    platform_command: U32,
    /// 0x04: the locality.
    locality: u8,
    /// 0x05: size of the TPM command.
    command_bytes: U32,
}

const _: () = {
    assert!(offset_of!(Request, platform_command) == 0 && offset_of!(Request, locality) == 4);
    assert!(size_of::<Request>() == 9 && offset_of!(Request, command_bytes) == 5);
};

/// Size of the head of a response (table 17): the size of the TPM response, which follows.
const RESPONSE_HEAD_BYTES: usize = size_of::<U32>();

pub(super) fn call(
    call: u32,
    request: Registers,
    guest: &mut dyn GuestMemory,
    tpm: &mut dyn Tpm,
    memory: &mut CallMemory,
) -> Result<Registers, ResultCode> {
    match call {
        // RCX: the platform commands that there are; RDX: features, of which none are defined.
        QUERY => Ok(Registers { rcx: 1 << SEND_COMMAND, rdx: 0, ..request.with(ResultCode::Success) }),
        COMMAND => send(request.rcx, guest, tpm, memory).map(|()| request.with(ResultCode::Success)),
        _ => Err(ResultCode::UnsupportedCall),
    }
}

fn send(
    address: u64,
    guest: &mut dyn GuestMemory,
    tpm: &mut dyn Tpm,
    memory: &mut CallMemory,
) -> Result<(), ResultCode> {
    if address == 0 {
        return Err(ResultCode::InvalidParameter);
    }
    let mut head = [0; size_of::<Request>()];
    copy_in(guest, address, &mut head)?;
    let head: Request = zerocopy::transmute!(head);
    let locality = admitted(&head)?;
    let bytes = usize::try_from(head.command_bytes.get()).map_err(|_| ResultCode::InvalidParameter)?;
    if bytes > BUFFER_BYTES - size_of::<Request>() {
        return Err(ResultCode::InvalidParameter);
    }
    let command = memory.command.get_mut(..bytes).ok_or(ResultCode::InvalidParameter)?;
    // In one page or two the head was in bounds, so this does not wrap; where it would, the copy is refused.
    copy_in(guest, address.wrapping_add(size_of::<Request>() as u64), command)?;
    let mut bytes = tpm.execute(locality, command, &mut memory.response);
    if bytes > BUFFER_BYTES - RESPONSE_HEAD_BYTES {
        // No command of any engine is known to answer with so much; the guest must not take it for something else.
        bytes = reply::failure(&mut memory.response);
    }
    let response = memory.response.get(..bytes).ok_or(ResultCode::Failed)?;
    let size = u32::try_from(bytes).map_err(|_| ResultCode::Failed)?;
    copy_out(guest, address.wrapping_add(RESPONSE_HEAD_BYTES as u64), response)?;
    copy_out(guest, address, &size.to_le_bytes())
}

/// The locality of a request that is offered. What other localities mean to an SVSM's guest is not defined, so there are none.
fn admitted(head: &Request) -> Result<Locality, ResultCode> {
    match (head.platform_command.get(), head.locality) {
        (SEND_COMMAND, 0) => Ok(Locality::Zero),
        _ => Err(ResultCode::InvalidParameter),
    }
}
