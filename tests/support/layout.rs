//! What a report of SEV-SNP says at least, for processors of tests whose reports nobody signs.

use husk::attest::report::Layout;
use husk::seams::REPORT_DATA_BYTES;
use zerocopy::FromZeros as _;

/// A report of version 2 over `data`: bit 17 of the policy is one always (SNP ABI, "Guest Policy"), algorithm 1 is ECDSA P-384 with SHA-384.
pub(crate) fn layout(data: &[u8; REPORT_DATA_BYTES]) -> Layout {
    let mut layout = Layout::new_zeroed();
    layout.version.set(2);
    layout.policy.set(1 << 17);
    layout.signature_algo.set(1);
    layout.report_data = *data;
    layout
}
