//! The launch digest.
//!
//! **What.** MEASUREMENT as SNP_LAUNCH_UPDATE builds it (AMD 56860, section "SNP_LAUNCH_UPDATE", table PAGE_INFO): each
//! page extends the digest by its type, its address and, for some types, its content.
//! **Trust.** None.
//! **Laws.** Page by page, 4 KiB each; the digest depends on the order.
//! **Not here.** Which pages a launch has: [`crate::ovmf_launch`] and [`crate::plan`].

use sha2::{Digest, Sha384};

/// Size of a page.
pub const PAGE_BYTES: usize = 4096;
/// Size of PAGE_INFO.
const PAGE_INFO_BYTES: u16 = 0x70;

/// A page's content.
pub type Page = [u8; PAGE_BYTES];

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

    /// Whether what is in the page counts, and not only where it lies.
    #[must_use]
    pub const fn measures_content(self) -> bool {
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
    /// A digest that goes on from `value`.
    #[must_use]
    pub const fn from_value(value: [u8; 48]) -> Self {
        Self(value)
    }

    /// Extends the digest by one page.
    pub fn extend(&mut self, page_type: PageType, gpa: u64, page: &Page) {
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

#[cfg(test)]
mod tests {
    use super::{LaunchDigest, PAGE_BYTES, PageType};

    #[test]
    fn content_counts_for_normal_pages_and_vmsas_alone() {
        for number in 1..=6 {
            let page_type = PageType::from_number(number).unwrap();
            let mut digests = [[0; PAGE_BYTES], [1; PAGE_BYTES]].map(|page| {
                let mut digest = LaunchDigest::default();
                digest.extend(page_type, 0x1000, &page);
                digest.value()
            });
            assert_eq!(digests[0] != digests[1], page_type.measures_content());
            let mut elsewhere = LaunchDigest::default();
            elsewhere.extend(page_type, 0x2000, &[0; PAGE_BYTES]);
            digests[1] = elsewhere.value();
            assert_ne!(digests[0], digests[1], "the address always counts");
        }
        assert!(PageType::from_number(0).is_none() && PageType::from_number(7).is_none());
    }
}
