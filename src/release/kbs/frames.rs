//! The frames between a VM and its relay that carry RCAR.
//!
//! **What.** Three requests, one for each of RCAR's HTTP requests, and one answer; `protocol.md`, section 11, is normative.
//! **Trust.** None: the host reads and writes all of it.
//! **Laws.** Fixed headers with the lengths of what follows; nothing trails. The session cookie is kept by the VM and handed in with
//! every request, so that the relay remembers nothing.
//! **Not here.** HTTP and the JSON of evidence: `tools/relay`.

#![allow(missing_debug_implementations, reason = "structures of the wire are never printed")]
#![allow(clippy::allow_attributes, reason = "an expectation is not seen inside the macro")]

use super::super::wire::wire;
use zerocopy::byteorder::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The body of RCAR's first request. Another version than exactly 0.4.0 is spoken by nobody here.
pub const AUTH: &[u8] = br#"{"version":"0.4.0","tee":"snp","extra-params":""}"#;
/// The longest session cookie in bytes.
pub const COOKIE_BYTES_MAX: usize = 256;
/// The longest resource path in bytes.
pub const PATH_BYTES_MAX: usize = 128;
/// The repository of the resources; tenant and VM in hexadecimal follow.
pub const REPOSITORY: &str = "husk";

wire! {
    /// Body of a `KbsAttest` frame; cookie, `runtime-data`, launch configuration and certificate follow in this order.
    pub struct KbsAttest {
        /// The report, as the processor signed it.
        pub report: [u8; crate::seams::REPORT_BYTES],
        /// Length of the cookie in bytes.
        pub cookie_bytes: U16,
        /// Length of the `runtime-data` object in bytes.
        pub runtime_bytes: U16,
        /// Length of the launch configuration in bytes: RCAR's `init-data`.
        pub config_bytes: U16,
        /// Length of the certificate of the report's key in bytes; 0 if the host supplied none.
        pub certificate_bytes: U16,
    }

    /// Body of a `KbsResource` frame; cookie and path follow in this order.
    pub struct KbsResource {
        /// Length of the cookie in bytes.
        pub cookie_bytes: U16,
        /// Length of the path in bytes: `repository/type/tag`.
        pub path_bytes: U16,
    }

    /// Body of a `KbsAnswer` frame; the cookie and the answer's body follow in this order. The answer to an attestation has no body:
    /// its token is of no use to the VM.
    pub struct KbsAnswer {
        /// The HTTP status.
        pub status: U16,
        /// Length of the session cookie that was set, in bytes.
        pub cookie_bytes: U16,
    }
}
