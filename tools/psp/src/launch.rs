//! What a launch through this crate measures.
//!
//! **What.** For a firmware that is one blob: its pages below 4 GiB, then the secrets page. For an image of many parts: those.
//! **Trust.** None.
//! **Laws.** The digest is [`LaunchDigest`]'s; only the choice of pages is here.
//! **Not here.** Real images (IGVM, VMSAs): `husk image`.

pub(crate) use husk_image::digest::PAGE_BYTES;
pub use husk_image::digest::{LaunchDigest, PageType};

/// Where a firmware image ends: just below 4 GiB, where the processor's reset vector is.
const FIRMWARE_END: u64 = 1 << 32;
/// Where the secrets page of a firmware that is one blob lies.
pub const SECRETS_GPA: u64 = 0x80_D000;
/// The largest firmware.
pub(crate) const FIRMWARE_BYTES_MAX: usize = 64 << 20;

/// The pages of a firmware image, the last one filled with zeros.
pub(crate) fn pages(firmware: &[u8]) -> impl Iterator<Item = [u8; PAGE_BYTES]> {
    firmware.chunks(PAGE_BYTES).map(|chunk| {
        let mut page = [0; PAGE_BYTES];
        page[..chunk.len()].copy_from_slice(chunk);
        page
    })
}

/// Memory that a launch begins with: whole pages of one type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// What is measured of it.
    pub page_type: PageType,
    /// Guest-physical address of its first page.
    pub gpa: u64,
    /// Its pages, a multiple of 4 KiB.
    pub bytes: Vec<u8>,
}

impl Stretch {
    /// The secrets page, at this address: the processor fills it when the launch is finished.
    #[must_use]
    pub fn secrets(gpa: u64) -> Self {
        Self { page_type: PageType::Secrets, gpa, bytes: vec![0; PAGE_BYTES] }
    }
}

/// The stretches of a firmware that is one blob: it ends at 4 GiB.
pub(crate) fn blob(firmware: &[u8]) -> [Stretch; 2] {
    let bytes = pages(firmware).flatten().collect();
    let code = Stretch { page_type: PageType::Normal, gpa: firmware_gpa(firmware), bytes };
    [code, Stretch::secrets(SECRETS_GPA)]
}

/// The MEASUREMENT that a launch with these stretches, in this order, has.
#[must_use]
pub fn expected_measurement_of(stretches: &[Stretch]) -> [u8; 48] {
    let mut digest = LaunchDigest::default();
    for stretch in stretches {
        for (page, gpa) in pages(&stretch.bytes).zip((stretch.gpa..).step_by(PAGE_BYTES)) {
            digest.extend(stretch.page_type, gpa, &page);
        }
    }
    digest.value()
}

/// Where a launch through this crate puts the firmware: so that its last page ends at 4 GiB.
#[must_use]
pub fn firmware_gpa(firmware: &[u8]) -> u64 {
    FIRMWARE_END.saturating_sub((firmware.len().div_ceil(PAGE_BYTES) * PAGE_BYTES) as u64)
}

/// The MEASUREMENT that a launch of `firmware` through this crate has.
#[must_use]
pub fn expected_measurement(firmware: &[u8]) -> [u8; 48] {
    expected_measurement_of(&blob(firmware))
}
