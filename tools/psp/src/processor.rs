//! The processor itself.
//!
//! **What.** [`Processor`] launches guests, answers their messages and signs their reports, as AMD 56860 says.
//! **Trust.** None is deserved: see the crate's head. It in turn trusts nothing that comes in.
//! **Laws.** Each message key meets each sequence number once, in order. A guest's measurement, HOST_DATA and policy
//! never change after launch; its REPORT_ID and message keys are fresh random bytes and end with it.
//! **Not here.** Sockets and threads: `server.rs`.

use crate::identity::{CPUID, Entropy, Identity, TCB};
use crate::keys::{self, GuestFields};
use crate::launch::{LaunchDigest, PAGE_BYTES, PageType};
use crate::protocol::{PAGES_MAX, Page, Refusal, Reply, Request};
use husk::attest::guest_message::{
    Envelope, KEY_RESPONSE_BYTES, MessageKind, REPORT_REQUEST_BYTES, REPORT_RESPONSE_BYTES, TSC_INFO_BYTES,
    open, seal,
};
use husk::attest::report::{Layout, PlatformInfo, Policy, SIGNATURE_ALGO_ECDSA_P384_SHA384};
use husk::seams::REPORT_BYTES;
use husk::secret::Secret;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use zerocopy::{FromZeros, IntoBytes};
use zeroize::Zeroizing;

/// The most guests at one time, launching or running.
pub const GUESTS_MAX: usize = 256;
/// How many message keys a guest has.
const VMPCKS: usize = 4;
/// Offset of VMPCK0 in the secrets page; the others follow.
const SECRETS_VMPCK0: usize = 0x20;
/// VERSION of the secrets page.
const SECRETS_VERSION: u8 = 3;
/// VERSION of reports.
const REPORT_VERSION: u32 = 5;
/// ABI of the firmware: build, minor, major; the newest guest policy it satisfies is 1.55.
const FIRMWARE: [u8; 3] = [43, 55, 1];
/// STATUS of MSG_REPORT_RSP.
pub(crate) const STATUS_INVALID_PARAMETER: u32 = 0x16;
pub(crate) const STATUS_INVALID_KEY: u32 = 0x27;
/// GUEST_TSC_SCALE of every guest: 1 in 8.32 fixed point; and TSC_FACTOR.
const TSC_SCALE: u64 = 1 << 32;
const TSC_FACTOR: u32 = 200;
/// Offset of TSC_FACTOR in the secrets page.
const SECRETS_TSC_FACTOR: usize = 0x160;
/// LAUNCH_MIT_VECTOR of every guest.
const LAUNCH_MIT_VECTOR: u64 = 1;

/// A processor that several owners share.
pub type SharedProcessor = Arc<Mutex<Processor>>;

/// What a launched guest is.
struct Running {
    policy: u64,
    measurement: [u8; 48],
    host_data: [u8; 32],
    report_id: [u8; 32],
    vmpcks: [Secret<32>; VMPCKS],
    /// MSG_SEQNO that the next request under each key must have.
    sequences: [u64; VMPCKS],
}

impl Running {
    fn fields(&self) -> GuestFields {
        GuestFields {
            policy: self.policy,
            measurement: self.measurement,
            launch_mit_vector: LAUNCH_MIT_VECTOR,
        }
    }
}

enum Guest {
    Launching { policy: u64, digest: LaunchDigest },
    Running(Box<Running>),
}

/// The simulated processor: see the crate's head.
pub struct Processor {
    identity: Identity,
    entropy: Entropy,
    guests: BTreeMap<u64, Guest>,
    next_guest: u64,
}

impl std::fmt::Debug for Processor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Processor({:?}, {} guests)", self.identity, self.guests.len())
    }
}

impl Processor {
    /// A processor without guests. `entropy` is the only source of what is random: with a counter in its place a world
    /// is deterministic, with the system's it is not.
    #[must_use]
    pub fn new(identity: Identity, entropy: Entropy) -> Self {
        Self { identity, entropy, guests: BTreeMap::new(), next_guest: 1 }
    }

    /// The same, to be shared by [`LocalGuest`](crate::LocalGuest)s or a server.
    #[must_use]
    pub fn shared(identity: Identity, entropy: Entropy) -> SharedProcessor {
        Arc::new(Mutex::new(Self::new(identity, entropy)))
    }

    /// Who it is.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// How many guests there are.
    #[must_use]
    pub fn guests(&self) -> usize {
        self.guests.len()
    }

    /// Answers one request.
    pub fn answer(&mut self, request: &Request) -> Reply {
        let outcome = match request {
            Request::LaunchStart { policy } => self.launch_start(*policy),
            Request::LaunchUpdate { guest, page_type, gpa, bytes } => {
                self.launch_update(*guest, *page_type, *gpa, bytes)
            }
            Request::LaunchFinish { guest, host_data } => self.launch_finish(*guest, host_data),
            Request::GuestRequest { guest, page } => self.guest_request(*guest, page),
            Request::Certificate => Ok(Reply::Certificate(self.identity.certificate().to_vec())),
            Request::End { guest } => {
                self.guests.remove(guest).map(|_| Reply::Done).ok_or(Refusal::UnknownGuest)
            }
        };
        outcome.unwrap_or_else(Reply::Refused)
    }

    fn launch_start(&mut self, policy: u64) -> Result<Reply, Refusal> {
        let said = Policy::from_bits_retain(policy);
        let [_, minor, major] = FIRMWARE;
        if !said.is_well_formed() || said.contains(Policy::MIGRATE_MA) || said.abi() > (major, minor) {
            return Err(Refusal::Policy);
        }
        if self.guests.len() >= GUESTS_MAX {
            return Err(Refusal::Full);
        }
        let guest = self.next_guest;
        self.next_guest = guest.checked_add(1).ok_or(Refusal::Full)?;
        self.guests.insert(guest, Guest::Launching { policy, digest: LaunchDigest::default() });
        Ok(Reply::Guest(guest))
    }

    fn launch_update(
        &mut self,
        guest: u64,
        page_type: PageType,
        gpa: u64,
        bytes: &[u8],
    ) -> Result<Reply, Refusal> {
        let Guest::Launching { digest, .. } = self.guests.get_mut(&guest).ok_or(Refusal::UnknownGuest)?
        else {
            return Err(Refusal::Order);
        };
        let (pages, rest) = bytes.as_chunks::<PAGE_BYTES>();
        let aligned = gpa.is_multiple_of(PAGE_BYTES as u64);
        if !rest.is_empty() || pages.is_empty() || pages.len() > PAGES_MAX || !aligned {
            return Err(Refusal::Pages);
        }
        gpa.checked_add(bytes.len() as u64).ok_or(Refusal::Pages)?;
        for (index, page) in pages.iter().enumerate() {
            digest.extend(page_type, gpa + (index * PAGE_BYTES) as u64, page);
        }
        Ok(Reply::Done)
    }

    fn launch_finish(&mut self, guest: u64, host_data: &[u8; 32]) -> Result<Reply, Refusal> {
        let slot = self.guests.get_mut(&guest).ok_or(Refusal::UnknownGuest)?;
        let Guest::Launching { policy, digest } = slot else { return Err(Refusal::Order) };
        let entropy = &mut self.entropy;
        let mut secrets = Zeroizing::new([0; PAGE_BYTES]);
        secrets[0] = SECRETS_VERSION;
        secrets[SECRETS_TSC_FACTOR..SECRETS_TSC_FACTOR + 4].copy_from_slice(&TSC_FACTOR.to_le_bytes());
        let keys = &mut secrets[SECRETS_VMPCK0..SECRETS_VMPCK0 + 32 * VMPCKS];
        entropy(keys).map_err(|_| Refusal::Failed)?;
        let (keys, _) = keys.as_chunks::<32>();
        let mut vmpcks = keys.iter().map(|key| Secret::take(&mut Zeroizing::new(*key)));
        let mut next = || vmpcks.next().ok_or(Refusal::Failed);
        let vmpcks = [next()?, next()?, next()?, next()?];
        let mut report_id = [0; 32];
        entropy(&mut report_id).map_err(|_| Refusal::Failed)?;
        *slot = Guest::Running(Box::new(Running {
            policy: *policy,
            measurement: digest.value(),
            host_data: *host_data,
            report_id,
            vmpcks,
            sequences: [1; VMPCKS],
        }));
        Ok(Reply::Secrets(Box::new(*secrets)))
    }

    fn guest_request(&mut self, guest: u64, request: &Page) -> Result<Reply, Refusal> {
        let Guest::Running(running) = self.guests.get_mut(&guest).ok_or(Refusal::UnknownGuest)? else {
            return Err(Refusal::Order);
        };
        let claimed = Envelope::claimed(request).map_err(|_| Refusal::Message)?;
        let index = usize::from(claimed.vmpck);
        let (Some(key), Some(sequence)) = (running.vmpcks.get(index), running.sequences.get(index).copied())
        else {
            return Err(Refusal::Message);
        };
        let answer = answer_to(claimed.kind).ok_or(Refusal::Message)?;
        let expected = Envelope { kind: claimed.kind, sequence, vmpck: claimed.vmpck };
        let mut page = *request;
        let payload = open(key, &expected, &mut page).map_err(|_| Refusal::Message)?;
        let next = sequence.checked_add(2).ok_or(Refusal::Message)?;
        let response = match claimed.kind {
            MessageKind::ReportRequest => report_response(&self.identity, running, claimed.vmpck, payload),
            MessageKind::TscInfoRequest => tsc_response(payload),
            _ => key_response(&self.identity, running, &claimed, payload),
        };
        let answer = Envelope { kind: answer, sequence: sequence + 1, vmpck: claimed.vmpck };
        let mut out = [0; PAGE_BYTES];
        seal(key, &answer, &response, &mut out).map_err(|_| Refusal::Failed)?;
        running.sequences[index] = next;
        Ok(Reply::Response(Box::new(out)))
    }
}

/// The response that answers a request; `None` for what is no request.
const fn answer_to(request: MessageKind) -> Option<MessageKind> {
    match request {
        MessageKind::ReportRequest => Some(MessageKind::ReportResponse),
        MessageKind::KeyRequest => Some(MessageKind::KeyResponse),
        MessageKind::KeyRequest2 => Some(MessageKind::KeyResponse2),
        MessageKind::TscInfoRequest => Some(MessageKind::TscInfoResponse),
        MessageKind::ReportResponse
        | MessageKind::KeyResponse
        | MessageKind::KeyResponse2
        | MessageKind::TscInfoResponse => None,
    }
}

/// MSG_TSC_INFO_RSP: a counter of this machine's own speed.
fn tsc_response(payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; TSC_INFO_BYTES];
    if payload.len() == TSC_INFO_BYTES && payload.iter().all(|byte| *byte == 0) {
        out[0x08..0x10].copy_from_slice(&TSC_SCALE.to_le_bytes());
        out[0x18..0x1C].copy_from_slice(&TSC_FACTOR.to_le_bytes());
    } else {
        out[..4].copy_from_slice(&STATUS_INVALID_PARAMETER.to_le_bytes());
    }
    out
}

/// MSG_KEY_RSP: a key, or a status and nothing.
fn key_response(identity: &Identity, guest: &Running, asked: &Envelope, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; KEY_RESPONSE_BYTES];
    match keys::derive(identity, &guest.fields(), asked, payload) {
        Ok(key) => out[0x20..].copy_from_slice(&key[..]),
        Err(status) => out[..4].copy_from_slice(&status.to_le_bytes()),
    }
    out
}

/// MSG_REPORT_RSP to the payload of a MSG_REPORT_REQ: a report, or a status and nothing.
fn report_response(identity: &Identity, guest: &Running, vmpck: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; REPORT_RESPONSE_BYTES];
    match report(identity, guest, vmpck, payload) {
        Ok(report) => {
            out[4..8].copy_from_slice(&(REPORT_BYTES as u64).to_le_bytes()[..4]);
            out[0x20..].copy_from_slice(report.as_bytes());
        }
        Err(status) => out[..4].copy_from_slice(&status.to_le_bytes()),
    }
    out
}

/// Makes and signs a report, or says with which status the request is refused.
fn report(identity: &Identity, guest: &Running, vmpck: u8, payload: &[u8]) -> Result<Layout, u32> {
    let request: &[u8; REPORT_REQUEST_BYTES] = payload.try_into().map_err(|_| STATUS_INVALID_PARAMETER)?;
    let number =
        |offset: usize| request[offset..].first_chunk().map_or(u32::MAX, |bytes| u32::from_le_bytes(*bytes));
    // VMPL at 0x40, KEY_SEL at 0x44 (bits 1:0), the rest reserved.
    let (vmpl, key_select) = (number(0x40), number(0x44));
    let reserved = key_select >> 2 != 0 || request[0x48..].iter().any(|byte| *byte != 0);
    if reserved || vmpl > 3 || vmpl < u32::from(vmpck) {
        return Err(STATUS_INVALID_PARAMETER);
    }
    // 0: the VLEK if there is one, else the VCEK; 1: the VCEK; there is no VLEK here.
    if key_select > 1 {
        return Err(STATUS_INVALID_KEY);
    }
    let mut layout = unsigned_report(identity, guest);
    layout.vmpl.set(vmpl);
    layout.report_data.copy_from_slice(&request[..0x40]);
    identity.sign(&mut layout).map_err(|_| STATUS_INVALID_KEY)?;
    Ok(layout)
}

/// All of a report that the request does not decide.
fn unsigned_report(identity: &Identity, guest: &Running) -> Layout {
    let mut layout = Layout::new_zeroed();
    let tcb = TCB.to_bytes();
    layout.version.set(REPORT_VERSION);
    layout.policy.set(guest.policy);
    layout.signature_algo.set(SIGNATURE_ALGO_ECDSA_P384_SHA384);
    layout
        .platform_info
        .set((PlatformInfo::SMT_EN | PlatformInfo::ECC_EN | PlatformInfo::ALIAS_CHECK_COMPLETE).bits());
    layout.measurement = guest.measurement;
    layout.host_data = guest.host_data;
    layout.report_id = guest.report_id;
    layout.report_id_ma = [0xFF; 32];
    layout.current_tcb = tcb;
    layout.reported_tcb = tcb;
    layout.committed_tcb = tcb;
    layout.launch_tcb = tcb;
    layout.cpuid = CPUID;
    layout.chip_id = *identity.hwid();
    layout.current_firmware = FIRMWARE;
    layout.committed_firmware = FIRMWARE;
    layout.launch_mit_vector.set(LAUNCH_MIT_VECTOR);
    layout.current_mit_vector.set(1);
    layout
}
