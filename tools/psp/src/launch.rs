//! The launch digest.
//!
//! **What.** MEASUREMENT as SNP_LAUNCH_UPDATE builds it (AMD 56860, section "SNP_LAUNCH_UPDATE", table PAGE_INFO): each
//! page extends the digest by its type, address and content.
//! **Trust.** None.
//! **Laws.** Page by page, 4 KiB each; the digest depends on the order.
//! **Not here.** Real images (IGVM, VMSAs): `husk image`.

use sha2::{Digest, Sha384};

/// Size of a page.
pub(crate) const PAGE_BYTES: usize = 4096;
/// Size of PAGE_INFO.
const PAGE_INFO_BYTES: u16 = 0x70;
/// Where a firmware image ends: just below 4 GiB, where the processor's reset vector is.
const FIRMWARE_END: u64 = 1 << 32;
/// Where the secrets page of a launch through this crate lies.
pub const SECRETS_GPA: u64 = 0x80_D000;
/// The largest firmware.
pub(crate) const FIRMWARE_BYTES_MAX: usize = 64 << 20;

/// PAGE_TYPE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PageType {
    /// Content measured.
    Normal = 1,
    /// A VMSA; content measured.
    Vmsa = 2,
    /// Zeros; address measured.
    Zero = 3,
    /// Only the address is measured.
    Unmeasured = 4,
    /// The secrets page; only the address is measured.
    Secrets = 5,
    /// The CPUID page; only the address is measured.
    Cpuid = 6,
}

impl PageType {
    /// The type of that number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Normal,
            2 => Self::Vmsa,
            3 => Self::Zero,
            4 => Self::Unmeasured,
            5 => Self::Secrets,
            6 => Self::Cpuid,
            _ => return None,
        })
    }

    const fn measures_content(self) -> bool {
        matches!(self, Self::Normal | Self::Vmsa)
    }
}

/// A launch digest under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchDigest([u8; 48]);

impl Default for LaunchDigest {
    fn default() -> Self {
        Self([0; 48])
    }
}

impl LaunchDigest {
    /// Extends the digest by one page.
    pub fn extend(&mut self, page_type: PageType, gpa: u64, page: &[u8; PAGE_BYTES]) {
        let content: [u8; 48] =
            if page_type.measures_content() { Sha384::digest(page).into() } else { [0; 48] };
        let mut info = Sha384::new();
        info.update(self.0);
        info.update(content);
        info.update(PAGE_INFO_BYTES.to_le_bytes());
        // PAGE_TYPE; not an IMI page; no permissions for VMPL 3, 2, 1; reserved.
        info.update([page_type as u8, 0, 0, 0, 0, 0]);
        info.update(gpa.to_le_bytes());
        self.0 = info.finalize().into();
    }

    /// The digest so far.
    #[must_use]
    pub const fn value(&self) -> [u8; 48] {
        self.0
    }
}

/// The pages of a firmware image, the last one filled with zeros.
pub(crate) fn pages(firmware: &[u8]) -> impl Iterator<Item = [u8; PAGE_BYTES]> {
    firmware.chunks(PAGE_BYTES).map(|chunk| {
        let mut page = [0; PAGE_BYTES];
        page[..chunk.len()].copy_from_slice(chunk);
        page
    })
}

/// Where a launch through this crate puts the firmware: so that its last page ends at 4 GiB.
#[must_use]
pub fn firmware_gpa(firmware: &[u8]) -> u64 {
    FIRMWARE_END.saturating_sub((firmware.len().div_ceil(PAGE_BYTES) * PAGE_BYTES) as u64)
}

/// The MEASUREMENT that a launch of `firmware` through this crate has.
#[must_use]
pub fn expected_measurement(firmware: &[u8]) -> [u8; 48] {
    let mut digest = LaunchDigest::default();
    let mut gpa = firmware_gpa(firmware);
    for page in pages(firmware) {
        digest.extend(PageType::Normal, gpa, &page);
        gpa += PAGE_BYTES as u64;
    }
    digest.extend(PageType::Secrets, SECRETS_GPA, &[0; PAGE_BYTES]);
    digest.value()
}
