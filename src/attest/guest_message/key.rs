//! MSG_KEY: a key that the processor derives for this guest alone.

use super::{MessageKind, Messenger, Payload};
use crate::attest::AttestFault;
use crate::attest::guest_message::GuestRequest;
use crate::seams::DerivedKeyRequest;
use crate::secret::Secret;
use bitflags::bitflags;
use core::mem::offset_of;
use subtle::ConstantTimeEq;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Size of MSG_KEY_REQ in bytes, version 1 and version 2.
pub const KEY_REQUEST_BYTES: [usize; 2] = [0x20, 0x28];
/// Size of MSG_KEY_RSP in bytes.
pub const KEY_RESPONSE_BYTES: usize = 0x40;

bitflags! {
    /// GUEST_FIELD_SELECT: what is mixed into the key. HOST_DATA and REPORT_ID cannot be: two VMs that run the same image on
    /// the same chip derive the same key, so it is only ever one input among others.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct KeyFields: u64 {
        /// POLICY.
        const POLICY = 1 << 0;
        /// IMAGE_ID of the ID block.
        const IMAGE_ID = 1 << 1;
        /// FAMILY_ID of the ID block.
        const FAMILY_ID = 1 << 2;
        /// MEASUREMENT.
        const MEASUREMENT = 1 << 3;
        /// GUEST_SVN.
        const GUEST_SVN = 1 << 4;
        /// TCB_VERSION.
        const TCB_VERSION = 1 << 5;
        /// LAUNCH_MIT_VECTOR; only in version 2 of the message.
        const LAUNCH_MIT_VECTOR = 1 << 6;
    }
}

/// What a key is derived from (ROOT_KEY_SELECT and KEY_SEL).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum KeyRoot {
    /// The provider's key where one is installed, else the chip's: which of the two is the host's choice.
    Installed = 0b000,
    /// The chip's.
    Vcek = 0b010,
    /// The cloud provider's, the same on all its chips.
    Vlek = 0b100,
    /// The VM root key that a migration agent carries along.
    Vmrk = 0b001,
}

/// Which key is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRequest {
    /// What it is derived from.
    pub root: KeyRoot,
    /// What is mixed in, beside the VMPL.
    pub fields: KeyFields,
    /// At least the VMPL of the VMPCK, at most 3; mixed in. What asks with 0 derives keys that no guest beneath can.
    pub vmpl: u32,
    /// At most the guest's.
    pub guest_svn: u32,
    /// At most COMMITTED_TCB, part by part; raw.
    pub tcb: [u8; 8],
    /// At most the guest's LAUNCH_MIT_VECTOR. `None` asks by version 1 of the message, which older firmware has too.
    pub launch_mit_vector: Option<u64>,
}

impl From<&DerivedKeyRequest> for KeyRequest {
    /// The chip's own key at VMPL 0 over POLICY and MEASUREMENT, so that no guest beneath, no other image and no weaker
    /// policy derives it; over GUEST_SVN and TCB_VERSION where asked.
    fn from(asked: &DerivedKeyRequest) -> Self {
        let mut fields = KeyFields::POLICY | KeyFields::MEASUREMENT;
        fields.set(KeyFields::GUEST_SVN, asked.guest_svn.is_some());
        fields.set(KeyFields::TCB_VERSION, asked.tcb.is_some());
        Self {
            root: KeyRoot::Vcek,
            fields,
            vmpl: 0,
            guest_svn: asked.guest_svn.unwrap_or(0),
            tcb: asked.tcb.unwrap_or([0; 8]),
            launch_mit_vector: None,
        }
    }
}

impl KeyRequest {
    /// Whether the version of the message and the fields agree.
    const fn is_consistent(&self) -> bool {
        self.launch_mit_vector.is_some() || !self.fields.contains(KeyFields::LAUNCH_MIT_VECTOR)
    }
}

/// MSG_KEY_REQ, version 2; version 1 ends before the last field.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Request {
    select: U32,
    reserved: U32,
    fields: U64,
    vmpl: U32,
    guest_svn: U32,
    tcb: [u8; 8],
    launch_mit_vector: U64,
}

/// MSG_KEY_RSP.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Response {
    status: U32,
    reserved: [u8; 28],
    key: [u8; 32],
}

const _: () = {
    assert!(offset_of!(Request, fields) == 0x08 && offset_of!(Request, vmpl) == 0x10);
    assert!(offset_of!(Request, guest_svn) == 0x14 && offset_of!(Request, tcb) == 0x18);
    assert!(offset_of!(Request, launch_mit_vector) == KEY_REQUEST_BYTES[0]);
    assert!(size_of::<Request>() == KEY_REQUEST_BYTES[1]);
    assert!(offset_of!(Response, key) == 0x20 && size_of::<Response>() == KEY_RESPONSE_BYTES);
};

impl Messenger {
    /// Asks for a derived key.
    ///
    /// # Errors
    /// As [`report`](Self::report); [`AttestFault::ProcessorRefused`] also for a request that asks version 1 for a field of version 2,
    /// which is not sent. A key of zeros is none: [`AttestFault::MessageRefused`].
    pub fn derive_key(
        &mut self,
        host: &mut dyn GuestRequest,
        asked: &KeyRequest,
    ) -> Result<Secret<32>, AttestFault> {
        if !asked.is_consistent() {
            return Err(AttestFault::ProcessorRefused);
        }
        let request = Request {
            select: U32::new(asked.root as u32),
            reserved: U32::ZERO,
            fields: U64::new(asked.fields.bits()),
            vmpl: U32::new(asked.vmpl),
            guest_svn: U32::new(asked.guest_svn),
            tcb: asked.tcb,
            launch_mit_vector: U64::new(asked.launch_mit_vector.unwrap_or(0)),
        };
        let [version_1, version_2] = KEY_REQUEST_BYTES;
        let (ask, answer, bytes) = match asked.launch_mit_vector {
            None => (MessageKind::KeyRequest, MessageKind::KeyResponse, version_1),
            Some(_) => (MessageKind::KeyRequest2, MessageKind::KeyResponse2, version_2),
        };
        let payload = Payload { ask, answer, bytes: &request.as_bytes()[..bytes] };
        let mut key = None;
        self.exchange(host, payload, &mut |response| {
            key = Some(read(response)?);
            Ok(())
        })?;
        key.ok_or(AttestFault::MessageRefused)
    }
}

/// Reads MSG_KEY_RSP; the page that it lies in is wiped by the caller.
fn read(payload: &[u8]) -> Result<Secret<32>, AttestFault> {
    let refused = AttestFault::MessageRefused;
    let (status, _) = U32::read_from_prefix(payload).map_err(|_| refused)?;
    if status != U32::ZERO {
        return Err(AttestFault::ProcessorRefused);
    }
    let (response, _) = Response::ref_from_prefix(payload).map_err(|_| refused)?;
    if bool::from(response.key.ct_eq(&[0; 32])) {
        return Err(refused);
    }
    Secret::try_fill(|key| {
        key.copy_from_slice(&response.key);
        Ok(())
    })
}
