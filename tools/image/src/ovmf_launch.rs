//! What QEMU measures when it starts OVMF under SEV-SNP.
//!
//! **What.** [`OvmfLaunch::digest`]: the image, then the sections of its metadata in their order, then the VMSAs.
//! **Trust.** None.
//! **Laws.** What QEMU would refuse is an error; a digest that no launch can have is never printed.
//! **Not here.** Launches of IGVM files: [`crate::plan`].

use crate::digest::{LaunchDigest, PAGE_BYTES, Page, PageType};
use crate::hashes::KernelHashes;
use crate::ovmf::{Ovmf, Section, SectionKind};
use crate::run::{Content, Run};
use crate::vcpu::{KVM_VMSA_GPA, RESET_VECTOR, Vcpus, reset_vmsa};

/// Why there is no such launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OvmfLaunchError {
    /// A kernel is given, but the firmware would not check it.
    #[error(
        "a kernel is given, but this firmware has no place for its hashes and would not check it; use an image built for that (edk2's AmdSev package)"
    )]
    NoPlaceForHashes,
    /// The firmware does not support SEV-ES.
    #[error(
        "the firmware names no reset address for application processors: it was not built for SEV-ES or SEV-SNP"
    )]
    NoResetAddress,
    /// The firmware has no SEV metadata.
    #[error(
        "the firmware has no SEV metadata, so QEMU cannot start it under SEV-SNP (Debian's 4M builds have none: take OVMF_CODE.fd)"
    )]
    NoMetadata,
}

/// A launch.
#[derive(Clone, Copy, Debug)]
pub struct OvmfLaunch<'a> {
    /// The firmware.
    pub ovmf: &'a Ovmf<'a>,
    /// The digest of the image's pages if it is known already: the image itself is then not read.
    pub image_digest: Option<[u8; 48]>,
    /// The kernel that the firmware is handed, if any.
    pub kernel: Option<KernelHashes>,
    /// Its processors.
    pub vcpus: Vcpus,
}

impl<'a> OvmfLaunch<'a> {
    /// The launch digest.
    ///
    /// # Errors
    /// [`OvmfLaunchError`].
    pub fn digest(&self) -> Result<LaunchDigest, OvmfLaunchError> {
        let mut digest = match self.image_digest {
            Some(value) => LaunchDigest::from_value(value),
            None => image_digest(self.ovmf),
        };
        self.sections()?.iter().for_each(|run| run.extend(&mut digest));
        for vmsa in self.vmsas()? {
            digest.extend(PageType::Vmsa, KVM_VMSA_GPA, &vmsa);
        }
        Ok(digest)
    }

    /// The pages that the metadata asks for.
    ///
    /// # Errors
    /// [`OvmfLaunchError`].
    pub fn sections(&self) -> Result<Vec<Run<'a>>, OvmfLaunchError> {
        let sections = &self.ovmf.sections;
        if sections.is_empty() {
            return Err(OvmfLaunchError::NoMetadata);
        }
        let has_place = sections.iter().any(|section| section.kind == SectionKind::KernelHashes);
        if self.kernel.is_some() && !has_place {
            return Err(OvmfLaunchError::NoPlaceForHashes);
        }
        sections.iter().map(|section| self.section(section)).collect()
    }

    fn section(&self, section: &Section) -> Result<Run<'a>, OvmfLaunchError> {
        let blank = Content::Blank(section.pages);
        let (page_type, content) = match (section.kind, self.kernel) {
            (SectionKind::Secrets, _) => (PageType::Secrets, blank),
            (SectionKind::Cpuid, _) => (PageType::Cpuid, blank),
            (SectionKind::KernelHashes, Some(hashes)) => {
                (PageType::Normal, Content::Made(self.hashes_page(&hashes)?))
            }
            (SectionKind::Memory | SectionKind::SvsmCallingArea | SectionKind::KernelHashes, _) => {
                (PageType::Zero, blank)
            }
        };
        Ok(Run { page_type, gpa: u64::from(section.gpa), content })
    }

    fn hashes_page(&self, hashes: &KernelHashes) -> Result<Box<Page>, OvmfLaunchError> {
        let gpa = self.ovmf.hashes_gpa.ok_or(OvmfLaunchError::NoPlaceForHashes)?;
        let offset = usize::try_from(gpa).map_or(0, |gpa| gpa % PAGE_BYTES);
        hashes.page(offset).ok_or(OvmfLaunchError::NoPlaceForHashes)
    }

    /// The VMSA of each processor: the boot processor at the reset vector, the others where the firmware says.
    ///
    /// # Errors
    /// [`OvmfLaunchError::NoResetAddress`].
    pub fn vmsas(&self) -> Result<impl Iterator<Item = Box<Page>>, OvmfLaunchError> {
        let address = self.ovmf.reset_address.ok_or(OvmfLaunchError::NoResetAddress)?;
        let boot = reset_vmsa(RESET_VECTOR, &self.vcpus);
        let other = reset_vmsa(address, &self.vcpus);
        let count = self.vcpus.count as usize;
        Ok(core::iter::once(boot).chain(core::iter::repeat(other)).take(count))
    }
}

/// The digest of the image's pages alone.
#[must_use]
pub fn image_digest(ovmf: &Ovmf<'_>) -> LaunchDigest {
    let mut digest = LaunchDigest::default();
    Run { page_type: PageType::Normal, gpa: ovmf.gpa(), content: Content::Pages(ovmf.image) }
        .extend(&mut digest);
    digest
}
