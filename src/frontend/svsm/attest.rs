//! The attestation protocol: SVSM_ATTEST_SERVICES and SVSM_ATTEST_SINGLE_SERVICE.

use super::manifest::{Form, VTPM_GUID, write};
use super::memory::{copy_in, copy_out, is_aligned, is_in_one_page};
use super::{Attested, CallMemory, Registers, ResultCode, certificates};
use crate::attest::binding::{NONCE_BYTES, Reserved, services_data};
use crate::attest::report::{Report, SigningKey};
use crate::frontend::reply;
use crate::seams::{GuestMemory, REPORT_BYTES};
use core::mem::offset_of;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// SVSM_ATTEST_SERVICES (AMD 58019, table 10).
const SERVICES: u32 = 0;
/// SVSM_ATTEST_SINGLE_SERVICE.
const SINGLE_SERVICE: u32 = 1;

/// The alignment of the operation that RCX names, in bytes; it lies in one page.
const OPERATION_ALIGNMENT: u64 = 8;
/// The alignment of the buffers for report, manifest and certificates, in bytes. They may be longer than a page.
const BUFFER_ALIGNMENT: u64 = 4096;

/// A buffer of the guest.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Buffer {
    address: U64,
    bytes: U32,
    reserved: U32,
}

/// The Attest Services operation (table 11).
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Operation {
    /// 0x00
    report: Buffer,
    /// 0x10
    nonce_address: U64,
    /// 0x18
    nonce_bytes: U16,
    nonce_reserved: [u8; 6],
    /// 0x20
    manifest: Buffer,
    /// 0x30: no bytes where no certificates are wanted.
    certificates: Buffer,
}

/// The Attest Single Service operation (table 13).
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct SingleOperation {
    operation: Operation,
    /// 0x40
    service: [u8; 16],
    /// 0x50
    manifest_version: U32,
    reserved: U32,
}

const _: () = {
    assert!(size_of::<Buffer>() == 0x10 && size_of::<Operation>() == 0x40);
    assert!(offset_of!(Buffer, bytes) == 0x08 && offset_of!(Buffer, reserved) == 0x0C);
    assert!(offset_of!(Operation, nonce_reserved) == 0x1A && offset_of!(Operation, report) == 0x00);
    assert!(offset_of!(Operation, nonce_address) == 0x10 && offset_of!(Operation, nonce_bytes) == 0x18);
    assert!(offset_of!(Operation, manifest) == 0x20 && offset_of!(Operation, certificates) == 0x30);
    assert!(offset_of!(SingleOperation, service) == 0x40 && size_of::<SingleOperation>() == 0x58);
    assert!(offset_of!(SingleOperation, manifest_version) == 0x50);
    assert!(offset_of!(SingleOperation, reserved) == 0x54);
};

pub(super) fn call(
    call: u32,
    request: Registers,
    guest: &mut dyn GuestMemory,
    tpm: &mut dyn Attested,
    memory: &mut CallMemory,
) -> Result<Registers, ResultCode> {
    let (form, operation) = match call {
        SERVICES => {
            let mut bytes = [0; size_of::<Operation>()];
            take(request.rcx, guest, &mut bytes)?;
            (Form::All, zerocopy::transmute!(bytes))
        }
        SINGLE_SERVICE => {
            let mut bytes = [0; size_of::<SingleOperation>()];
            take(request.rcx, guest, &mut bytes)?;
            single(&zerocopy::transmute!(bytes))?
        }
        _ => return Err(ResultCode::UnsupportedCall),
    };
    check(&operation)?;
    serve(form, &operation, guest, tpm, memory).map(|sizes| sizes.answer(request))
}

/// Copies the operation out of the guest's reach.
fn take(address: u64, guest: &mut dyn GuestMemory, into: &mut [u8]) -> Result<(), ResultCode> {
    if !is_aligned(address, OPERATION_ALIGNMENT) || !is_in_one_page(address, into.len() as u64) {
        return Err(ResultCode::InvalidParameter);
    }
    copy_in(guest, address, into)
}

/// The service and the version that are asked for.
fn single(single: &SingleOperation) -> Result<(Form, Operation), ResultCode> {
    if single.service != VTPM_GUID || single.reserved != U32::ZERO {
        return Err(ResultCode::InvalidParameter);
    }
    match single.manifest_version.get() {
        0 => Ok((Form::Version0, single.operation)),
        1 => Ok((Form::Version1, single.operation)),
        _ => Err(ResultCode::InvalidParameter),
    }
}

/// What can be told from the operation alone.
fn check(operation: &Operation) -> Result<(), ResultCode> {
    let Operation { report, manifest, certificates, .. } = operation;
    let nonce_bytes = operation.nonce_bytes.get();
    let buffers = [report, manifest, certificates];
    let reserved = buffers.iter().all(|buffer| buffer.reserved == U32::ZERO);
    let aligned = |buffer: &&Buffer| is_aligned(buffer.address.get(), BUFFER_ALIGNMENT);
    let placed = [report, manifest].iter().all(aligned) && (!wanted(certificates) || aligned(&certificates));
    let nonce = usize::from(nonce_bytes) == NONCE_BYTES
        && is_in_one_page(operation.nonce_address.get(), nonce_bytes.into());
    if reserved && operation.nonce_reserved == [0; 6] && placed && nonce {
        Ok(())
    } else {
        Err(ResultCode::InvalidParameter)
    }
}

/// Whether the guest wants certificates.
fn wanted(certificates: &Buffer) -> bool {
    certificates.bytes != U32::ZERO
}

/// What is there for the guest, in bytes, and whether it fits.
struct Sizes {
    manifest: usize,
    certificates: usize,
    code: ResultCode,
}

impl Sizes {
    fn new(operation: &Operation, manifest: usize, certificates: usize) -> Self {
        let holds = |buffer: &Buffer, bytes: usize| u64::from(buffer.bytes.get()) >= bytes as u64;
        let fits = holds(&operation.report, REPORT_BYTES)
            && holds(&operation.manifest, manifest)
            && holds(&operation.certificates, certificates);
        let code = if fits { ResultCode::Success } else { ResultCode::InvalidParameter };
        Self { manifest, certificates, code }
    }

    /// The registers: what was written, or how large the buffers must be.
    fn answer(&self, request: Registers) -> Registers {
        Registers {
            rcx: self.manifest as u64,
            rdx: self.certificates as u64,
            r8: REPORT_BYTES as u64,
            ..request.with(self.code)
        }
    }
}

fn serve(
    form: Form,
    operation: &Operation,
    guest: &mut dyn GuestMemory,
    tpm: &mut dyn Attested,
    memory: &mut CallMemory,
) -> Result<Sizes, ResultCode> {
    tpm.permit().map_err(reply::result)?;
    let CallMemory { manifest, certificates, report, .. } = memory;
    let manifest_bytes = write(form, tpm, manifest).map_err(reply::result)?;
    let certificate_bytes =
        if wanted(&operation.certificates) { certificates::fetch(tpm, certificates) } else { 0 };
    let sizes = Sizes::new(operation, manifest_bytes, certificate_bytes);
    if sizes.code != ResultCode::Success {
        return Ok(sizes);
    }
    let short = ResultCode::InvalidParameter;
    let manifest = manifest.get(..manifest_bytes).ok_or(short)?;
    let certificates = certificates.get_mut(..certificate_bytes).ok_or(short)?;
    let mut nonce = [0; NONCE_BYTES];
    copy_in(guest, operation.nonce_address.get(), &mut nonce)?;
    let signer = fetch_report(&nonce, manifest, tpm, report)?;
    certificates::name(certificates, signer);
    tpm.permit().map_err(reply::result)?;
    copy_out(guest, operation.report.address.get(), report)?;
    copy_out(guest, operation.manifest.address.get(), manifest)?;
    copy_out(guest, operation.certificates.address.get(), certificates)?;
    Ok(sizes)
}

/// Has the processor report, checks that it reports this, and says who signed.
fn fetch_report(
    nonce: &[u8; NONCE_BYTES],
    manifest: &[u8],
    tpm: &mut dyn Attested,
    report: &mut [u8; REPORT_BYTES],
) -> Result<SigningKey, ResultCode> {
    let data = services_data(nonce, manifest).map_err(|Reserved| ResultCode::InvalidParameter)?;
    tpm.report(&data, report).map_err(reply::result)?;
    match Report::parse(report) {
        Ok(report) if *report.report_data() == data && report.vmpl() == 0 => Ok(report.signing_key()),
        Ok(_) | Err(_) => Err(ResultCode::NoReport),
    }
}
