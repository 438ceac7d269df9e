//! MSG_TSC_INFO: how this guest's time stamp counter runs (Secure TSC).

use super::{GuestRequest, MessageKind, Messenger, Payload};
use crate::attest::AttestFault;
use core::mem::offset_of;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Size of MSG_TSC_INFO_REQ and of MSG_TSC_INFO_RSP in bytes.
pub const TSC_INFO_BYTES: usize = 128;

/// TSC_FACTOR counts hundred-thousandths.
const FACTOR_UNIT: u64 = 100_000;

/// What the processor says of this guest's counter. For the VMSA of other virtual processors, and to know how fast it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TscInfo {
    /// GUEST_TSC_SCALE: 8.32 fixed point.
    pub scale: u64,
    /// GUEST_TSC_OFFSET, in ticks of the guest.
    pub offset: u64,
    /// TSC_FACTOR: by how many hundred-thousandths the mean frequency lies below the nominal one.
    pub factor: u32,
}

impl TscInfo {
    /// The mean frequency, given the nominal one of the MSR GUEST_TSC_FREQ (C001_0134), both in kilohertz. `None` if a
    /// clock could not run at it.
    #[must_use]
    pub const fn mean_khz(&self, nominal_khz: u64) -> Option<u64> {
        let less = FACTOR_UNIT.saturating_sub(self.factor as u64);
        match nominal_khz.checked_mul(less) {
            Some(product) if product >= FACTOR_UNIT => Some(product / FACTOR_UNIT),
            Some(_) | None => None,
        }
    }
}

/// MSG_TSC_INFO_RSP.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Response {
    status: U32,
    reserved: U32,
    scale: U64,
    offset: U64,
    factor: U32,
    reserved_1c: [u8; 100],
}

const _: () = {
    assert!(offset_of!(Response, reserved_1c) == 0x1C);
    assert!(offset_of!(Response, scale) == 0x08 && offset_of!(Response, offset) == 0x10);
    assert!(offset_of!(Response, factor) == 0x18 && size_of::<Response>() == TSC_INFO_BYTES);
};

impl Messenger {
    /// Asks how the guest's counter runs.
    ///
    /// # Errors
    /// As [`report`](Self::report). A scale of zero is none: [`AttestFault::MessageRefused`].
    pub fn tsc_info(&mut self, host: &mut dyn GuestRequest) -> Result<TscInfo, AttestFault> {
        let payload = Payload {
            ask: MessageKind::TscInfoRequest,
            answer: MessageKind::TscInfoResponse,
            bytes: &[0; TSC_INFO_BYTES],
        };
        let mut info = None;
        self.exchange(host, payload, &mut |response| {
            info = Some(read(response)?);
            Ok(())
        })?;
        info.ok_or(AttestFault::MessageRefused)
    }
}

fn read(payload: &[u8]) -> Result<TscInfo, AttestFault> {
    let refused = AttestFault::MessageRefused;
    let (status, _) = U32::read_from_prefix(payload).map_err(|_| refused)?;
    if status != U32::ZERO {
        return Err(AttestFault::ProcessorRefused);
    }
    let (response, _) = Response::ref_from_prefix(payload).map_err(|_| refused)?;
    let (scale, offset, factor) = (response.scale.get(), response.offset.get(), response.factor.get());
    if scale == 0 { Err(refused) } else { Ok(TscInfo { scale, offset, factor }) }
}

#[cfg(test)]
mod tests {
    use super::TscInfo;

    #[test]
    fn the_mean_frequency_lies_below_the_nominal_one() {
        let at = |factor| TscInfo { scale: 1, offset: 0, factor };
        assert_eq!(at(0).mean_khz(2_000_000), Some(2_000_000));
        assert_eq!(at(200).mean_khz(2_000_000), Some(1_996_000));
        assert_eq!(at(100_000).mean_khz(2_000_000), None, "a clock that stands still");
        assert_eq!(at(u32::MAX).mean_khz(2_000_000), None);
        assert_eq!(at(0).mean_khz(0), None);
        assert_eq!(at(0).mean_khz(u64::MAX), None);
    }
}
