//! A tiny TPM 2.0 client for tests: command bytes out, replies in. Structures are TPM 2.0 part 2 and 3.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]
#![allow(clippy::allow_attributes, reason = "what is unused differs from test to test")]

/// TPM_RH_OWNER.
pub const OWNER: u32 = 0x4000_0001;
/// TPM_RH_NULL.
pub const NULL: u32 = 0x4000_0007;
/// TPM_RS_PW.
pub const PASSWORD: u32 = 0x4000_0009;
/// TPM_RH_LOCKOUT.
pub const LOCKOUT: u32 = 0x4000_000A;
/// TPM_RH_ENDORSEMENT.
pub const ENDORSEMENT: u32 = 0x4000_000B;
/// TPM_RH_PLATFORM.
pub const PLATFORM: u32 = 0x4000_000C;

/// TPM_ALG_SHA256.
pub const SHA256: u16 = 0x000B;
/// TPM_ALG_NULL.
pub const ALG_NULL: u16 = 0x0010;

/// TPMA_NV: written and read with the index's own password, and by the owner.
pub const NV_AUTH_AND_OWNER: u32 = 0x0006_0006;
/// TPMA_NV_NO_DA.
pub const NV_NO_DA: u32 = 0x0200_0000;
/// TPM_NT_COUNTER, in place.
pub const NV_COUNTER: u32 = 0x10;
/// TPM_NT_PIN_FAIL, in place.
pub const NV_PIN_FAIL: u32 = 0x80;
/// TPM_NT_PIN_PASS, in place.
pub const NV_PIN_PASS: u32 = 0x90;

/// Bytes under construction, big-endian.
#[derive(Clone, Debug, Default)]
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    pub fn new() -> Self {
        Self::default()
    }
    pub fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }
    pub fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }
    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
    /// A TPM2B: length and bytes.
    pub fn sized(self, bytes: &[u8]) -> Self {
        self.u16(u16::try_from(bytes.len()).unwrap()).raw(bytes)
    }
}

/// A command without authorizations.
pub fn plain(code: u32, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(10 + body.len()).unwrap();
    Bytes::new().u16(0x8001).u32(size).u32(code).raw(body).0
}

/// A command whose authorizations are passwords, one for each.
pub fn authorized(code: u32, handles: &[u32], passwords: &[&[u8]], parameters: &[u8]) -> Vec<u8> {
    let area =
        passwords.iter().fold(Bytes::new(), |area, password| area.u32(PASSWORD).u16(0).u8(0).sized(password));
    with_area(code, handles, &area.0, parameters)
}

/// A command with the authorization area `area`.
pub fn with_area(code: u32, handles: &[u32], area: &[u8], parameters: &[u8]) -> Vec<u8> {
    let body = handles
        .iter()
        .fold(Bytes::new(), |body, handle| body.u32(*handle))
        .u32(u32::try_from(area.len()).unwrap())
        .raw(area)
        .raw(parameters);
    let mut bytes = plain(code, &body.0);
    bytes[..2].copy_from_slice(&[0x80, 0x02]);
    bytes
}

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply(pub Vec<u8>);

impl Reply {
    /// The response code.
    pub fn code(&self) -> u32 {
        self.u32_at(6)
    }
    /// The response, which must be a success.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code(), 0, "response code 0x{:x}", self.code());
        self
    }
    /// The handle that a successful response carries.
    #[track_caller]
    pub fn handle(&self) -> u32 {
        self.u32_at(10)
    }
    /// Bytes from `at` on, behind the header.
    pub fn after(&self, at: usize) -> &[u8] {
        &self.0[10 + at..]
    }
    /// The TPM2B at `at` behind the header, without its length.
    pub fn sized_at(&self, at: usize) -> &[u8] {
        sized(self.after(at))
    }
    pub fn u32_at(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.0[at..at + 4].try_into().unwrap())
    }
    pub fn u64_at(&self, at: usize) -> u64 {
        u64::from_be_bytes(self.0[at..at + 8].try_into().unwrap())
    }
}

/// The content of the TPM2B at the start of `bytes`.
pub fn sized(bytes: &[u8]) -> &[u8] {
    let len = usize::from(u16::from_be_bytes(bytes[..2].try_into().unwrap()));
    &bytes[2..2 + len]
}

pub fn startup_clear() -> Vec<u8> {
    plain(0x144, &[0, 0])
}
pub fn startup_state() -> Vec<u8> {
    plain(0x144, &[0, 1])
}
pub fn shutdown_clear() -> Vec<u8> {
    plain(0x145, &[0, 0])
}
pub fn shutdown_state() -> Vec<u8> {
    plain(0x145, &[0, 1])
}
pub fn self_test() -> Vec<u8> {
    plain(0x143, &[1])
}
/// Parameters: number of bytes.
pub fn random(count: u16) -> Vec<u8> {
    plain(0x17B, &count.to_be_bytes())
}
pub fn flush(handle: u32) -> Vec<u8> {
    plain(0x165, &handle.to_be_bytes())
}
pub fn capability(capability: u32, property: u32, count: u32) -> Vec<u8> {
    plain(0x17A, &Bytes::new().u32(capability).u32(property).u32(count).0)
}
/// The value of one TPM_PT: the reply to [`capability`]`(6, property, 1)`.
pub fn property_of(reply: &Reply) -> u32 {
    reply.u32_at(23)
}
/// TPM_PT_LOCKOUT_COUNTER: failedTries.
pub const PT_LOCKOUT_COUNTER: u32 = 0x20E;

pub fn clear() -> Vec<u8> {
    authorized(0x126, &[PLATFORM], &[b""], &[])
}
pub fn read_clock() -> Vec<u8> {
    plain(0x181, &[])
}

/// TPMS_TIME_INFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    pub time_ms: u64,
    pub clock_ms: u64,
    pub reset_count: u32,
    pub restart_count: u32,
    pub safe: bool,
}

/// Reads the reply to [`read_clock`].
pub fn clock_of(reply: &Reply) -> Clock {
    Clock {
        time_ms: reply.u64_at(10),
        clock_ms: reply.u64_at(18),
        reset_count: reply.u32_at(26),
        restart_count: reply.u32_at(30),
        safe: reply.0[34] != 0,
    }
}

/// TPMT_SENSITIVE_CREATE and so on: a sensitive area with `auth` and `data`.
fn sensitive(auth: &[u8], data: &[u8]) -> Vec<u8> {
    Bytes::new().sized(&Bytes::new().sized(auth).sized(data).0).0
}

/// TPMS_NV_PUBLIC with empty policy, as a TPM2B.
pub fn nv_public(index: u32, attributes: u32, size: u16) -> Vec<u8> {
    let public = Bytes::new().u32(index).u16(SHA256).u32(attributes).u16(0).u16(size).0;
    Bytes::new().sized(&public).0
}
pub fn nv_define(index: u32, attributes: u32, size: u16, auth: &[u8]) -> Vec<u8> {
    let parameters = Bytes::new().sized(auth).raw(&nv_public(index, attributes, size)).0;
    authorized(0x12A, &[OWNER], &[b""], &parameters)
}
pub fn nv_undefine(index: u32) -> Vec<u8> {
    authorized(0x122, &[OWNER, index], &[b""], &[])
}
pub fn nv_write(index: u32, auth: &[u8], data: &[u8]) -> Vec<u8> {
    authorized(0x137, &[index, index], &[auth], &Bytes::new().sized(data).u16(0).0)
}
/// As [`nv_write`], by the owner.
pub fn nv_write_by_owner(index: u32, data: &[u8]) -> Vec<u8> {
    authorized(0x137, &[OWNER, index], &[b""], &Bytes::new().sized(data).u16(0).0)
}
pub fn nv_read(index: u32, auth: &[u8], size: u16) -> Vec<u8> {
    authorized(0x14E, &[index, index], &[auth], &Bytes::new().u16(size).u16(0).0)
}
/// As [`nv_read`], by the owner.
pub fn nv_read_by_owner(index: u32, size: u16) -> Vec<u8> {
    authorized(0x14E, &[OWNER, index], &[b""], &Bytes::new().u16(size).u16(0).0)
}
/// The data in the reply to [`nv_read`].
pub fn nv_data_of(reply: &Reply) -> &[u8] {
    reply.sized_at(4)
}
pub fn nv_increment(index: u32, auth: &[u8]) -> Vec<u8> {
    authorized(0x134, &[index, index], &[auth], &[])
}
/// pinCount and pinLimit of a PIN index.
pub fn pin(count: u32, limit: u32) -> Vec<u8> {
    Bytes::new().u32(count).u32(limit).0
}
pub fn nv_read_public(index: u32) -> Vec<u8> {
    plain(0x169, &index.to_be_bytes())
}

/// TPML_PCR_SELECTION of one SHA-256 PCR below 24.
pub fn pcr_selection(pcr: u32) -> Vec<u8> {
    let bits = 1_u32 << pcr;
    Bytes::new().u32(1).u16(SHA256).u8(3).raw(&bits.to_le_bytes()[..3]).0
}
pub fn pcr_extend(pcr: u32, digest: &[u8; 32]) -> Vec<u8> {
    authorized(0x182, &[pcr], &[b""], &Bytes::new().u32(1).u16(SHA256).raw(digest).0)
}
pub fn pcr_event(pcr: u32, event: &[u8]) -> Vec<u8> {
    authorized(0x13C, &[pcr], &[b""], &Bytes::new().sized(event).0)
}
pub fn pcr_read(pcr: u32) -> Vec<u8> {
    plain(0x17E, &pcr_selection(pcr))
}
/// The digest in the reply to [`pcr_read`].
pub fn pcr_of(reply: &Reply) -> &[u8] {
    &reply.0[reply.0.len() - 32..]
}

/// TPMA_OBJECT of a storage parent: fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, decrypt.
const STORAGE: u32 = 0x0003_0472;
/// TPMA_OBJECT of a signing key: fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, sign.
const SIGNING: u32 = 0x0004_0472;

/// TPMT_PUBLIC of a P-256 storage key.
pub fn ecc_storage_template() -> Vec<u8> {
    let key = Bytes::new().u16(0x23).u16(SHA256).u32(STORAGE).u16(0);
    key.u16(6).u16(128).u16(0x43).u16(ALG_NULL).u16(3).u16(ALG_NULL).u16(0).u16(0).0
}
/// TPMT_PUBLIC of a P-256 ECDSA signing key; `restricted` for an attestation key.
pub fn ecc_signing_template(restricted: bool) -> Vec<u8> {
    let attributes = SIGNING | if restricted { 0x0001_0000 } else { 0 };
    let key = Bytes::new().u16(0x23).u16(SHA256).u32(attributes).u16(0).u16(ALG_NULL);
    key.u16(0x18).u16(SHA256).u16(3).u16(ALG_NULL).u16(0).u16(0).0
}
/// TPMT_PUBLIC of an RSA-2048 storage key.
pub fn rsa_storage_template(unique: &[u8]) -> Vec<u8> {
    let key = Bytes::new().u16(1).u16(SHA256).u32(STORAGE).u16(0);
    key.u16(6).u16(128).u16(0x43).u16(ALG_NULL).u16(2048).u32(0).sized(unique).0
}
pub fn create_primary(hierarchy: u32, template: &[u8]) -> Vec<u8> {
    let parameters = Bytes::new().raw(&sensitive(b"", b"")).sized(template).u16(0).u32(0).0;
    authorized(0x131, &[hierarchy], &[b""], &parameters)
}
fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}
/// TPMT_PUBLIC of an endorsement key by the TCG EK Credential Profile: L-1 (RSA-2048), L-2 (P-256) or H-3 (P-384).
pub fn endorsement_template(name: &str) -> Vec<u8> {
    let policy_a = "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa";
    let policy_b = "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419ca\
                    cb47ba09699646150f9fc000f3f80e12";
    let low = |kind| Bytes::new().u16(kind).u16(SHA256).u32(0x0003_00B2).sized(&unhex(policy_a));
    let high = Bytes::new().u16(0x23).u16(0x0C).u32(0x0003_00F2).sized(&unhex(policy_b));
    let aes = |bytes: Bytes, bits| bytes.u16(6).u16(bits).u16(0x43).u16(ALG_NULL);
    match name {
        "L-1" => aes(low(1), 128).u16(2048).u32(0).sized(&[0; 256]).0,
        "L-2" => aes(low(0x23), 128).u16(3).u16(ALG_NULL).sized(&[0; 32]).sized(&[0; 32]).0,
        "H-3" => aes(high, 256).u16(4).u16(ALG_NULL).u16(0).u16(0).0,
        other => panic!("no template {other}"),
    }
}
/// The TPMT_PUBLIC in the reply to [`create_primary`].
pub fn created_public(reply: &Reply) -> &[u8] {
    reply.sized_at(8)
}
/// A new endorsement primary seed, by the platform.
pub fn change_eps() -> Vec<u8> {
    authorized(0x124, &[PLATFORM], &[b""], &[])
}
/// Enables or disables a hierarchy, by the platform.
pub fn hierarchy_control(hierarchy: u32, enable: bool) -> Vec<u8> {
    authorized(0x121, &[PLATFORM], &[b""], &Bytes::new().u32(hierarchy).u8(u8::from(enable)).0)
}
/// Forbids or allows TPM2_Clear, by the platform.
pub fn clear_control(forbid: bool) -> Vec<u8> {
    authorized(0x127, &[PLATFORM], &[b""], &[u8::from(forbid)])
}
/// Seals `data` under `parent`; `attributes` is TPMA_OBJECT (0x52 with DA protection, 0x452 without).
pub fn create_sealed(parent: u32, attributes: u32, auth: &[u8], policy: &[u8], data: &[u8]) -> Vec<u8> {
    let template = Bytes::new().u16(8).u16(SHA256).u32(attributes).sized(policy).u16(ALG_NULL).u16(0).0;
    let parameters = Bytes::new().raw(&sensitive(auth, data)).sized(&template).u16(0).u32(0).0;
    authorized(0x153, &[parent], &[b""], &parameters)
}
/// Loads what the reply to [`create_sealed`] holds.
pub fn load(parent: u32, created: &Reply) -> Vec<u8> {
    let private = created.sized_at(4);
    let public = created.sized_at(4 + 2 + private.len());
    authorized(0x157, &[parent], &[b""], &Bytes::new().sized(private).sized(public).0)
}
pub fn unseal(object: u32, auth: &[u8]) -> Vec<u8> {
    authorized(0x15E, &[object], &[auth], &[])
}
/// As [`unseal`], with a policy session.
pub fn unseal_by_policy(object: u32, session: u32) -> Vec<u8> {
    let area = Bytes::new().u32(session).u16(0).u8(0).u16(0).0;
    with_area(0x15E, &[object], &area, &[])
}
/// The data in the reply to [`unseal`].
pub fn unsealed_of(reply: &Reply) -> &[u8] {
    reply.sized_at(4)
}
pub fn evict(object: u32, persistent: u32) -> Vec<u8> {
    authorized(0x120, &[OWNER, object], &[b""], &persistent.to_be_bytes())
}
pub fn read_public(object: u32) -> Vec<u8> {
    plain(0x173, &object.to_be_bytes())
}
/// Quotes one PCR with `key`.
pub fn quote(key: u32, nonce: &[u8], pcr: u32) -> Vec<u8> {
    let parameters = Bytes::new().sized(nonce).u16(ALG_NULL).raw(&pcr_selection(pcr)).0;
    authorized(0x158, &[key], &[b""], &parameters)
}

/// TPM_SE of [`start_session`].
pub const SE_HMAC: u8 = 0;
pub const SE_POLICY: u8 = 1;
pub const SE_TRIAL: u8 = 3;

/// An unsalted, unbound session.
pub fn start_session(kind: u8) -> Vec<u8> {
    let nonce = [1; 16];
    plain(0x176, &Bytes::new().u32(NULL).u32(NULL).sized(&nonce).u16(0).u8(kind).u16(ALG_NULL).u16(SHA256).0)
}
/// A session bound to `bind`.
pub fn start_bound_session(kind: u8, bind: u32) -> Vec<u8> {
    let mut bytes = start_session(kind);
    bytes[14..18].copy_from_slice(&bind.to_be_bytes());
    bytes
}
pub fn policy_pcr(session: u32, pcr: u32) -> Vec<u8> {
    plain(0x17F, &Bytes::new().u32(session).u16(0).raw(&pcr_selection(pcr)).0)
}
pub fn policy_digest(session: u32) -> Vec<u8> {
    plain(0x189, &session.to_be_bytes())
}
pub fn policy_secret(entity: u32, session: u32, auth: &[u8]) -> Vec<u8> {
    authorized(0x151, &[entity, session], &[auth], &Bytes::new().u16(0).u16(0).u16(0).u32(0).0)
}
pub fn change_auth_of_hierarchy(hierarchy: u32, old: &[u8], new: &[u8]) -> Vec<u8> {
    authorized(0x129, &[hierarchy], &[old], &Bytes::new().sized(new).0)
}
/// Sets maxTries, recoveryTime and lockoutRecovery (seconds).
pub fn lockout_parameters(auth: &[u8], max_tries: u32, recovery_s: u32, lockout_s: u32) -> Vec<u8> {
    let parameters = Bytes::new().u32(max_tries).u32(recovery_s).u32(lockout_s).0;
    authorized(0x13A, &[LOCKOUT], &[auth], &parameters)
}
pub fn lockout_reset(auth: &[u8]) -> Vec<u8> {
    authorized(0x139, &[LOCKOUT], &[auth], &[])
}
