//! MSG_REPORT: an attestation report, plainly or with the host's certificates.

use super::{GuestRequest, GuestRequestError, MessageKind, Messenger, PAGE_BYTES, Payload};
use crate::attest::AttestFault;
use crate::attest::report::Layout;
use crate::seams::{REPORT_BYTES, REPORT_DATA_BYTES};
use core::mem::offset_of;
use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Size of MSG_REPORT_REQ.
pub const REPORT_REQUEST_BYTES: usize = 96;
/// Size of MSG_REPORT_RSP with a report in it.
pub const REPORT_RESPONSE_BYTES: usize = 0x20 + REPORT_BYTES;

/// MSG_REPORT_REQ. KEY_SEL 0: the VLEK where one is installed, else the VCEK; firmware that has no KEY_SEL takes it too.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ReportRequest {
    report_data: [u8; REPORT_DATA_BYTES],
    vmpl: U32,
    key_select: U32,
    reserved: [u8; 24],
}

const _: () = {
    assert!(size_of::<ReportRequest>() == REPORT_REQUEST_BYTES && offset_of!(ReportRequest, vmpl) == 0x40);
    assert!(offset_of!(ReportRequest, key_select) == 0x44);
};

impl ReportRequest {
    const fn new(data: &[u8; REPORT_DATA_BYTES], vmpl: u32) -> Self {
        Self { report_data: *data, vmpl: U32::new(vmpl), key_select: U32::ZERO, reserved: [0; 24] }
    }
}

/// MSG_REPORT_RSP.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ReportResponse {
    status: U32,
    report_bytes: U32,
    reserved: [u8; 24],
    report: [u8; REPORT_BYTES],
}

const _: () = {
    assert!(size_of::<ReportResponse>() == REPORT_RESPONSE_BYTES);
    assert!(offset_of!(ReportResponse, report_bytes) == 0x04 && offset_of!(ReportResponse, report) == 0x20);
};

/// MSG_REPORT_REQ for a report that carries `data` and `vmpl`, in clear: for an SVSM that speaks to the processor with a driver of its
/// own, in place of a [`Messenger`].
#[must_use]
pub fn report_request(data: &[u8; REPORT_DATA_BYTES], vmpl: u32) -> [u8; REPORT_REQUEST_BYTES] {
    zerocopy::transmute!(ReportRequest::new(data, vmpl))
}

/// Reads the MSG_REPORT_RSP that such a driver decrypted and authenticated, and writes the report into `out`.
///
/// # Errors
/// [`AttestFault::ProcessorRefused`]; [`AttestFault::MessageRefused`] if it is not the answer to [`report_request`] with this
/// `data` and `vmpl`.
pub fn read_report_response(
    response: &[u8],
    data: &[u8; REPORT_DATA_BYTES],
    vmpl: u32,
    out: &mut [u8; REPORT_BYTES],
) -> Result<(), AttestFault> {
    read_report(response, &ReportRequest::new(data, vmpl), out)
}

impl Messenger {
    /// Asks for a report that carries `data` and `vmpl`, and writes it into `out`.
    ///
    /// # Errors
    /// [`AttestFault::ProcessorRefused`] leaves the key usable. [`AttestFault::NoReport`] (the host did not carry the
    /// request) and [`AttestFault::MessageRefused`] (what came back is not the answer) leave it wiped;
    /// [`AttestFault::KeyWiped`] says that it was wiped before.
    pub fn report(
        &mut self,
        host: &mut dyn GuestRequest,
        data: &[u8; REPORT_DATA_BYTES],
        vmpl: u32,
        out: &mut [u8; REPORT_BYTES],
    ) -> Result<(), AttestFault> {
        self.extended_report(host, (data, vmpl), out, &mut []).map(drop)
    }

    /// As [`report`](Self::report) for the caller data and VMPL in `asked`, with what the host has by way of certificates: writes their table
    /// into `certificates` and yields its length in bytes, 0 where the host has none or `certificates` is too short. Not having them costs
    /// no report.
    ///
    /// # Errors
    /// As [`report`](Self::report).
    pub fn extended_report(
        &mut self,
        host: &mut dyn GuestRequest,
        asked: (&[u8; REPORT_DATA_BYTES], u32),
        out: &mut [u8; REPORT_BYTES],
        certificates: &mut [u8],
    ) -> Result<usize, AttestFault> {
        let (data, vmpl) = asked;
        let request = ReportRequest::new(data, vmpl);
        let payload = Payload {
            ask: MessageKind::ReportRequest,
            answer: MessageKind::ReportResponse,
            bytes: request.as_bytes(),
        };
        let mut host = Carrier { host, certificates, table_bytes: 0 };
        self.exchange(&mut host, payload, &mut |payload| read_report(payload, &request, out))?;
        Ok(host.table_bytes)
    }
}

/// A host that is asked for certificates along with the first delivery, until it says that they do not fit.
struct Carrier<'h> {
    host: &'h mut dyn GuestRequest,
    certificates: &'h mut [u8],
    table_bytes: usize,
}

impl GuestRequest for Carrier<'_> {
    fn exchange(
        &mut self,
        request: &[u8; PAGE_BYTES],
        response: &mut [u8; PAGE_BYTES],
    ) -> Result<(), GuestRequestError> {
        if self.certificates.is_empty() {
            return self.host.exchange(request, response);
        }
        match self.host.exchange_extended(request, response, self.certificates) {
            Ok(bytes) => {
                self.table_bytes = bytes.min(self.certificates.len());
                Ok(())
            }
            Err(GuestRequestError::InvalidLength) => {
                self.certificates = &mut [];
                self.host.exchange(request, response)
            }
            Err(other) => Err(other),
        }
    }
}

/// Reads MSG_REPORT_RSP: a status, and a report that answers exactly this request.
fn read_report(
    payload: &[u8],
    request: &ReportRequest,
    out: &mut [u8; REPORT_BYTES],
) -> Result<(), AttestFault> {
    let refused = AttestFault::MessageRefused;
    let (status, _) = U32::read_from_prefix(payload).map_err(|_| refused)?;
    if status != U32::ZERO {
        return Err(AttestFault::ProcessorRefused);
    }
    let (response, _) = ReportResponse::ref_from_prefix(payload).map_err(|_| refused)?;
    let report: &Layout = zerocopy::transmute_ref!(&response.report);
    let answers = report.report_data == request.report_data && report.vmpl == request.vmpl;
    if !answers || usize::try_from(response.report_bytes.get()) != Ok(REPORT_BYTES) {
        return Err(refused);
    }
    out.copy_from_slice(&response.report);
    Ok(())
}
