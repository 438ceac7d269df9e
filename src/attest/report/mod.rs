//! The attestation report as the processor signed it.
//!
//! **What.** [`Layout`] is ATTESTATION_REPORT of AMD 56860 (SEV-SNP firmware ABI), versions 2 to 5, byte for byte;
//! [`Report`] is a checked view of one.
//! **Trust.** None: a report that parses is still an allegation until its signature was verified over the raw bytes.
//! **Laws.** Bytes are never re-encoded: what was signed is what is hashed. Reserved fields are zero where the
//! table says so; PLATFORM_INFO may carry bits that nobody here knows (real silicon sets such bits). Every byte that
//! the signature does not cover is required to be zero, so that no two byte strings are the same report.
//! **Not here.** Signatures and certificates: `tools/evidence`.

mod platform;

pub use platform::{Generation, PlatformInfo, Policy, Tcb};

use super::AttestFault;
use crate::seams::{REPORT_BYTES, REPORT_DATA_BYTES};
use core::fmt;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// How many bytes from the start the signature covers (offset of SIGNATURE in ATTESTATION_REPORT).
pub const SIGNED_BYTES: usize = 0x2A0;
/// SIGNATURE_ALGO: ECDSA on P-384 with SHA-384, the only one defined.
pub const SIGNATURE_ALGO_ECDSA_P384_SHA384: u32 = 1;
/// Size of r or s as the report stores them, little-endian; a P-384 scalar fills the first 48 bytes.
const STORED_SCALAR_BYTES: usize = 72;
/// Size of a P-384 scalar.
const SCALAR_BYTES: usize = 48;

/// ATTESTATION_REPORT, all integers little-endian. Offsets as in the table, checked below.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[expect(missing_debug_implementations, reason = "structures of the wire are never printed")]
pub struct Layout {
    /// 0x000 VERSION: 2 to 5.
    pub version: U32,
    /// 0x004 GUEST_SVN, from the ID block.
    pub guest_svn: U32,
    /// 0x008 POLICY, see [`Policy`].
    pub policy: U64,
    /// 0x010 FAMILY_ID, from the ID block.
    pub family_id: [u8; 16],
    /// 0x020 IMAGE_ID, from the ID block.
    pub image_id: [u8; 16],
    /// 0x030 VMPL that asked.
    pub vmpl: U32,
    /// 0x034 SIGNATURE_ALGO.
    pub signature_algo: U32,
    /// 0x038 CURRENT_TCB.
    pub current_tcb: [u8; 8],
    /// 0x040 PLATFORM_INFO, see [`PlatformInfo`].
    pub platform_info: U64,
    /// 0x048 AUTHOR_KEY_EN, MASK_CHIP_KEY, SIGNING_KEY.
    pub key_flags: U32,
    /// 0x04C zero.
    pub reserved_04c: [u8; 4],
    /// 0x050 REPORT_DATA, the guest's.
    pub report_data: [u8; REPORT_DATA_BYTES],
    /// 0x090 MEASUREMENT, the launch digest.
    pub measurement: [u8; 48],
    /// 0x0C0 HOST_DATA, set once by the hypervisor at SNP_LAUNCH_FINISH.
    pub host_data: [u8; 32],
    /// 0x0E0 ID_KEY_DIGEST.
    pub id_key_digest: [u8; 48],
    /// 0x110 AUTHOR_KEY_DIGEST.
    pub author_key_digest: [u8; 48],
    /// 0x140 REPORT_ID, one per launched guest.
    pub report_id: [u8; 32],
    /// 0x160 REPORT_ID_MA, of the migration agent; all ones without one.
    pub report_id_ma: [u8; 32],
    /// 0x180 REPORTED_TCB, which the signing key was derived for.
    pub reported_tcb: [u8; 8],
    /// 0x188 family, model and stepping of CPUID; zero in version 2.
    pub cpuid: [u8; 3],
    /// 0x18B zero.
    pub reserved_18b: [u8; 21],
    /// 0x1A0 CHIP_ID; zero if masked or signed by a VLEK.
    pub chip_id: [u8; 64],
    /// 0x1E0 COMMITTED_TCB.
    pub committed_tcb: [u8; 8],
    /// 0x1E8 CURRENT_BUILD, CURRENT_MINOR, CURRENT_MAJOR.
    pub current_firmware: [u8; 3],
    /// 0x1EB zero.
    pub reserved_1eb: u8,
    /// 0x1EC COMMITTED_BUILD, COMMITTED_MINOR, COMMITTED_MAJOR.
    pub committed_firmware: [u8; 3],
    /// 0x1EF zero.
    pub reserved_1ef: u8,
    /// 0x1F0 LAUNCH_TCB.
    pub launch_tcb: [u8; 8],
    /// 0x1F8 LAUNCH_MIT_VECTOR; zero before version 5.
    pub launch_mit_vector: U64,
    /// 0x200 CURRENT_MIT_VECTOR; zero before version 5.
    pub current_mit_vector: U64,
    /// 0x208 zero.
    pub reserved_208: [u8; 152],
    /// 0x2A0 r of the signature, little-endian; bytes from 48 zero.
    pub signature_r: [u8; STORED_SCALAR_BYTES],
    /// 0x2E8 s of the signature, little-endian; bytes from 48 zero.
    pub signature_s: [u8; STORED_SCALAR_BYTES],
    /// 0x330 zero; not signed.
    pub unsigned: [u8; 368],
}

const _: () = {
    assert!(size_of::<Layout>() == REPORT_BYTES);
    assert!(core::mem::offset_of!(Layout, report_data) == 0x050);
    assert!(core::mem::offset_of!(Layout, host_data) == 0x0C0);
    assert!(core::mem::offset_of!(Layout, report_id) == 0x140);
    assert!(core::mem::offset_of!(Layout, chip_id) == 0x1A0);
    assert!(core::mem::offset_of!(Layout, launch_tcb) == 0x1F0);
    assert!(core::mem::offset_of!(Layout, signature_r) == SIGNED_BYTES);
};

/// Which rule of the table a report breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportDefect {
    /// VERSION is none of 2 to 5.
    Version,
    /// POLICY has a bit that this code does not know, or lacks the bit that must be one.
    Policy,
    /// SIGNING_KEY is a reserved value, or a reserved bit beside it is set.
    KeyFlags,
    /// SIGNATURE_ALGO is not 1.
    SignatureAlgo,
    /// A reserved field is not zero.
    Reserved,
    /// A scalar of the signature is longer than the curve's, or bytes after the signature are not zero.
    Unsigned,
}

impl fmt::Display for ReportDefect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Version => "its version is none of 2 to 5",
            Self::Policy => "its guest policy has unknown bits",
            Self::KeyFlags => "its key flags have reserved values",
            Self::SignatureAlgo => "its signature algorithm is not ECDSA P-384 with SHA-384",
            Self::Reserved => "a reserved field is not zero",
            Self::Unsigned => "bytes that the signature does not cover are not zero",
        })
    }
}

impl core::error::Error for ReportDefect {}

impl From<ReportDefect> for AttestFault {
    fn from(_: ReportDefect) -> Self {
        Self::ReportMalformed
    }
}

/// SIGNING_KEY: which key signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SigningKey {
    /// 0: the key of this chip.
    Vcek,
    /// 1: a key that AMD gave to a cloud provider.
    Vlek,
    /// 7: nobody signed.
    None,
}

/// A well-formed report, by reference to its raw bytes.
#[derive(Clone, Copy)]
pub struct Report<'a> {
    raw: &'a [u8; REPORT_BYTES],
    layout: &'a Layout,
}

impl fmt::Debug for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Report(version {})", self.layout.version)
    }
}

macro_rules! plain_fields {
    ($($(#[$doc:meta])* $name:ident: $ty:ty;)+) => {$(
        $(#[$doc])*
        #[must_use]
        pub const fn $name(&self) -> &'a $ty { &self.layout.$name }
    )+};
}

impl<'a> Report<'a> {
    /// Checks the layout of `raw`: version, reserved fields, reserved values, bytes that nobody signs.
    ///
    /// # Errors
    /// [`ReportDefect`] names the rule; the processor never breaks one.
    pub fn parse(raw: &'a [u8; REPORT_BYTES]) -> Result<Self, ReportDefect> {
        let layout: &'a Layout = zerocopy::transmute_ref!(raw);
        let report = Self { raw, layout };
        if !(2..=5).contains(&report.version()) {
            return Err(ReportDefect::Version);
        }
        if !report.policy().is_well_formed() {
            return Err(ReportDefect::Policy);
        }
        if layout.signature_algo.get() != SIGNATURE_ALGO_ECDSA_P384_SHA384 {
            return Err(ReportDefect::SignatureAlgo);
        }
        // Bits 31:5 are reserved; of SIGNING_KEY (bits 4:2), 2 to 6.
        if layout.key_flags.get() >> 5 != 0 || !matches!(report.signing_key_number(), 0 | 1 | 7) {
            return Err(ReportDefect::KeyFlags);
        }
        if !report.reserved_is_zero() {
            return Err(ReportDefect::Reserved);
        }
        if !report.unsigned_is_zero() {
            return Err(ReportDefect::Unsigned);
        }
        Ok(report)
    }

    /// The report as it came.
    #[must_use]
    pub const fn raw(&self) -> &'a [u8; REPORT_BYTES] {
        self.raw
    }

    /// The bytes that the signature covers, as they came.
    #[must_use]
    pub fn signed(&self) -> &'a [u8] {
        &self.raw[..SIGNED_BYTES]
    }

    /// The signature as the world outside AMD writes it: r then s, 48 bytes each, big-endian.
    #[must_use]
    pub fn signature(&self) -> [u8; 2 * SCALAR_BYTES] {
        let mut out = [0; 2 * SCALAR_BYTES];
        let (r, s) = out.split_at_mut(SCALAR_BYTES);
        r.copy_from_slice(&self.layout.signature_r[..SCALAR_BYTES]);
        r.reverse();
        s.copy_from_slice(&self.layout.signature_s[..SCALAR_BYTES]);
        s.reverse();
        out
    }

    /// VERSION, 2 to 5.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.layout.version.get()
    }

    /// GUEST_SVN: what the ID block says, else zero.
    #[must_use]
    pub fn guest_svn(&self) -> u32 {
        self.layout.guest_svn.get()
    }

    /// POLICY that the guest was launched with.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy::from_bits_retain(self.layout.policy.get())
    }

    /// PLATFORM_INFO.
    #[must_use]
    pub fn platform_info(&self) -> PlatformInfo {
        PlatformInfo::from_bits_retain(self.layout.platform_info.get())
    }

    /// VMPL of the code that asked: 0 to 3, or all ones for a report that the host asked for.
    #[must_use]
    pub fn vmpl(&self) -> u32 {
        self.layout.vmpl.get()
    }

    /// AUTHOR_KEY_EN: AUTHOR_KEY_DIGEST means something.
    #[must_use]
    pub fn author_key_enabled(&self) -> bool {
        self.layout.key_flags.get() & 1 != 0
    }

    /// MASK_CHIP_KEY: the host forbade the chip's key, and the signature is zeros.
    #[must_use]
    pub fn chip_key_masked(&self) -> bool {
        self.layout.key_flags.get() & 2 != 0
    }

    /// Which key signed.
    #[must_use]
    pub fn signing_key(&self) -> SigningKey {
        match self.signing_key_number() {
            0 => SigningKey::Vcek,
            1 => SigningKey::Vlek,
            _ => SigningKey::None,
        }
    }

    /// Family, model and stepping of CPUID; version 2 does not say.
    #[must_use]
    pub fn cpuid(&self) -> Option<(u8, u8, u8)> {
        let [family, model, stepping] = self.layout.cpuid;
        (self.version() >= 3).then_some((family, model, stepping))
    }

    /// The generation that CPUID names; `None` in version 2 (ask the certificate) and for a chip not known here.
    #[must_use]
    pub fn generation(&self) -> Option<Generation> {
        self.cpuid().and_then(|(family, model, _)| Generation::from_cpuid(family, model))
    }

    /// LAUNCH_MIT_VECTOR; version 5.
    #[must_use]
    pub fn launch_mit_vector(&self) -> Option<u64> {
        (self.version() >= 5).then(|| self.layout.launch_mit_vector.get())
    }

    /// CURRENT_MIT_VECTOR; version 5.
    #[must_use]
    pub fn current_mit_vector(&self) -> Option<u64> {
        (self.version() >= 5).then(|| self.layout.current_mit_vector.get())
    }

    plain_fields! {
        /// FAMILY_ID.
        family_id: [u8; 16];
        /// IMAGE_ID.
        image_id: [u8; 16];
        /// REPORT_DATA: what the guest gave.
        report_data: [u8; REPORT_DATA_BYTES];
        /// MEASUREMENT: the launch digest.
        measurement: [u8; 48];
        /// HOST_DATA: what the hypervisor gave at launch, unchangeable since.
        host_data: [u8; 32];
        /// ID_KEY_DIGEST: SHA-384 of the key that signed the ID block; zero without one.
        id_key_digest: [u8; 48];
        /// AUTHOR_KEY_DIGEST: SHA-384 of the key that signed the ID key; see [`author_key_enabled`](Self::author_key_enabled).
        author_key_digest: [u8; 48];
        /// REPORT_ID: one per launched guest.
        report_id: [u8; 32];
        /// REPORT_ID_MA: of the migration agent; all ones without one.
        report_id_ma: [u8; 32];
        /// CHIP_ID: zero if masked or signed by a VLEK.
        chip_id: [u8; 64];
        /// CURRENT_TCB, raw; see [`Tcb::from_bytes`].
        current_tcb: [u8; 8];
        /// REPORTED_TCB, raw: what the signing key was derived for.
        reported_tcb: [u8; 8];
        /// COMMITTED_TCB, raw: below which this chip cannot go back.
        committed_tcb: [u8; 8];
        /// LAUNCH_TCB, raw: when the guest was launched.
        launch_tcb: [u8; 8];
        /// CURRENT_BUILD, CURRENT_MINOR, CURRENT_MAJOR of the firmware.
        current_firmware: [u8; 3];
        /// COMMITTED_BUILD, COMMITTED_MINOR, COMMITTED_MAJOR of the firmware.
        committed_firmware: [u8; 3];
    }

    fn signing_key_number(&self) -> u32 {
        (self.layout.key_flags.get() >> 2) & 0b111
    }

    fn reserved_is_zero(&self) -> bool {
        let layout = self.layout;
        let always = is_zero(&layout.reserved_04c)
            && is_zero(&layout.reserved_18b)
            && layout.reserved_1eb == 0
            && layout.reserved_1ef == 0
            && is_zero(&layout.reserved_208);
        let before_3 = self.version() >= 3 || is_zero(&layout.cpuid);
        let before_5 = self.version() >= 5
            || (layout.launch_mit_vector.get() == 0 && layout.current_mit_vector.get() == 0);
        always && before_3 && before_5
    }

    fn unsigned_is_zero(&self) -> bool {
        is_zero(&self.layout.signature_r[SCALAR_BYTES..])
            && is_zero(&self.layout.signature_s[SCALAR_BYTES..])
            && is_zero(&self.layout.unsigned)
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}
