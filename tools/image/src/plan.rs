//! What QEMU measures when it starts an IGVM file under SEV-SNP.
//!
//! **What.** [`Plan`]: the pages in the order in which QEMU (10.1 and later, `backends/igvm.c` and `target/i386/sev.c`) hands
//! them to KVM, and the VMSAs that KVM measures at the end, one for each processor.
//! **Trust.** None.
//! **Laws.** What QEMU refuses is an error. Where the digest would differ from what the file's author may expect, there
//! is a [`Remark`]: nothing is silently put right.
//! **Not here.** Reading the file: [`crate::igvm_file`].
//!
//! QEMU gathers pages that follow one another and hands them over only when the next page does not, or at the end. A
//! parameter area that stands between two pages in the file is therefore measured before the first of them.

mod vmsas;

use crate::digest::{LaunchDigest, PAGE_BYTES, Page, PageType};
use crate::igvm_file::{Directive, IdBlockHeader, IgvmFile, PageKind};
use crate::run::{Content, PAGES_MAX, Run};
use crate::vcpu::{KVM_VMSA_GPA, Vcpus};
use igvm_defs::{IgvmPlatformType, IgvmVariableHeaderType};
use std::collections::BTreeMap;

/// Why QEMU would not start the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Not for SEV-SNP.
    #[error("the file was not made for SEV-SNP; build it with that platform")]
    NotForSnp,
    /// A header that QEMU does not know.
    #[error("QEMU knows no header of type {0:#x} and refuses the file")]
    Unknown(u32),
    /// A parameter area that is not declared, declared twice, used after it was inserted, or too small.
    #[error(
        "parameter area {0} is not declared, declared or inserted twice, or too small for what the host is to put there"
    )]
    Area(u32),
    /// More than 4 GiB of pages.
    #[error("the file asks for more than 4 GiB of pages")]
    TooManyPages,
    /// A VMSA elsewhere than KVM measures it.
    #[error(
        "the VMSA lies at {0:#x}, but KVM measures it at 0xfffffffff000, and QEMU insists on that; build the file for QEMU"
    )]
    VmsaAddress(u64),
    /// Two VMSAs for one processor.
    #[error("processor {0} has two VMSAs")]
    VmsaTwice(u16),
    /// A VMSA for a processor that the launch does not have.
    #[error(
        "the file has a VMSA for processor {0}, which a launch with so few processors does not have; raise --vcpus"
    )]
    NoSuchVcpu(u16),
    /// A VMSA with values that QEMU cannot hand to KVM.
    #[error("the VMSA sets the byte at {0:#x}, which QEMU does not hand to KVM and refuses")]
    VmsaField(usize),
    /// A VMSA whose SEV features lack SNP.
    #[error("SEV_FEATURES of the VMSA is {0:#x}; bit 0 (SNP) must be set")]
    Features(u64),
    /// Processors that would run with different features.
    #[error("the VMSAs ask for different SEV features; KVM has one set for all processors")]
    MixedFeatures,
    /// Two ID blocks.
    #[error("the file has two ID blocks")]
    IdBlockTwice,
}

/// What an author may not expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remark {
    /// QEMU's order is not the file's.
    Order,
    /// No policy: QEMU launches with policy 0, which the processor refuses.
    NoPolicy,
    /// Several policies: the last one counts.
    Policies,
    /// EFER.SVME is clear: KVM sets it, so that another VMSA is measured.
    Svme(u16),
    /// CR0.ET is clear: no processor can clear it, so that another VMSA is measured.
    Et(u16),
    /// No VMSA for the boot processor, which then starts out of reset.
    NoBootVmsa,
    /// The ID block is for another digest: the processor refuses the launch.
    IdBlock,
}

impl Remark {
    /// What it means and what to do, for people.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Order => "QEMU measures parameter areas before the pages that precede them in the file; \
tools that take the file's order (igvmmeasure) give another digest. Put the areas first."
                .to_owned(),
            Self::NoPolicy => {
                "the file has no guest policy: QEMU launches with policy 0, which the processor refuses."
                    .to_owned()
            }
            Self::Policies => "the file has more than one guest policy; QEMU takes the last.".to_owned(),
            Self::Svme(index) => format!(
                "EFER.SVME (bit 12) is clear in the VMSA of processor {index}, but KVM sets it before it measures: set it in the file, or the digest is another."
            ),
            Self::Et(index) => format!(
                "CR0.ET (bit 4) is clear in the VMSA of processor {index}, but the processor sets it: set it in the file, or the digest is another."
            ),
            Self::NoBootVmsa => {
                "the file has no VMSA for the boot processor, which then starts at the reset vector."
                    .to_owned()
            }
            Self::IdBlock => {
                "the file's ID block was signed for another digest: the processor refuses this launch."
                    .to_owned()
            }
        }
    }
}

/// How zeros without data are measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZeroPages {
    /// As pages with content, as QEMU does and the format says.
    #[default]
    AsContent,
    /// As the processor's own zero pages, as other loaders do.
    Native,
}

/// Whose VMSAs are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmsaScope {
    /// Every processor's: those without one in the file start out of reset. What KVM does.
    All,
    /// Those in the file alone. What KVMs with support for several privilege levels do, where the boot processor starts the others.
    FileOnly,
}

/// How a file is launched.
#[derive(Clone, Copy, Debug)]
pub struct IgvmLaunch {
    /// The processors.
    pub vcpus: Vcpus,
    /// How zeros are measured.
    pub zeros: ZeroPages,
    /// Whose VMSAs.
    pub vmsas: VmsaScope,
}

/// What a launch measures.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// The pages, in the order of measurement.
    pub runs: Vec<Run<'a>>,
    /// The VMSAs, in the order of measurement.
    pub vmsas: Vec<Run<'a>>,
    /// What an author may not expect, apart from the ID block.
    pub remarks: Vec<Remark>,
    /// The guest policy; none if the file has none.
    pub policy: Option<u64>,
    /// The ID block.
    pub id_block: Option<&'a IdBlockHeader>,
}

/// What a launch measures, in the words of whoever asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measurement {
    /// MEASUREMENT of its report.
    pub digest: [u8; 48],
    /// What an author may not expect.
    pub remarks: Vec<Remark>,
    /// Whether some processors start out of reset, so that their model counts.
    pub from_reset: bool,
}

impl<'a> Plan<'a> {
    /// What the launch measures.
    #[must_use]
    pub fn measurement(&self) -> Measurement {
        let digest = self.digest().value();
        let from_reset = self.vmsas.iter().any(|run| matches!(run.content, Content::Made(_)));
        Measurement { digest, remarks: self.remarks_on(&digest), from_reset }
    }

    /// The plan of launching `file`.
    ///
    /// # Errors
    /// [`PlanError`]: QEMU refuses the file.
    pub fn of(file: &'a IgvmFile<'a>, launch: &IgvmLaunch) -> Result<Self, PlanError> {
        let snp = file.mask_of(IgvmPlatformType::SEV_SNP).ok_or(PlanError::NotForSnp)?;
        if let Some(other) = file.other_initializations.first() {
            return Err(PlanError::Unknown(*other));
        }
        let mut loader = Loader { snp, zeros: launch.zeros, ..Loader::default() };
        for (index, directive) in file.directives.iter().enumerate() {
            loader.take(index, directive)?;
        }
        loader.flush();
        let mut remarks = Vec::new();
        if loader.reordered {
            remarks.push(Remark::Order);
        }
        let policies: Vec<u64> = file
            .policies
            .iter()
            .filter(|policy| policy.mask & snp != 0)
            .map(|policy| policy.policy)
            .collect();
        match policies.len() {
            0 => remarks.push(Remark::NoPolicy),
            1 => {}
            _ => remarks.push(Remark::Policies),
        }
        let vmsas = vmsas::of(file, snp, launch, &mut remarks)?;
        let policy = policies.last().copied();
        Ok(Plan { runs: loader.runs, vmsas, remarks, policy, id_block: loader.id_block })
    }

    /// All remarks, given the plan's digest.
    #[must_use]
    pub fn remarks_on(&self, digest: &[u8; 48]) -> Vec<Remark> {
        let mismatch = self.id_block.is_some_and(|block| block.ld != *digest);
        self.remarks.iter().copied().chain(mismatch.then_some(Remark::IdBlock)).collect()
    }

    /// The launch digest.
    #[must_use]
    pub fn digest(&self) -> LaunchDigest {
        let mut digest = LaunchDigest::default();
        self.runs.iter().chain(&self.vmsas).for_each(|run| run.extend(&mut digest));
        digest
    }
}

/// QEMU's way through the directives.
#[derive(Default)]
struct Loader<'a> {
    snp: u32,
    zeros: ZeroPages,
    runs: Vec<Run<'a>>,
    /// Pages that wait for the next one that does not follow them.
    waiting: Vec<Run<'a>>,
    /// Index of the last waiting page's directive, where the next one would lie, and whether it had data.
    last: Option<(usize, u64, Attributes)>,
    areas: BTreeMap<u32, u64>,
    pages: u64,
    reordered: bool,
    id_block: Option<&'a IdBlockHeader>,
}

/// What pages must have in common to be gathered: kind, unmeasured, mask, data.
type Attributes = (PageKind, bool, u32, bool);

impl<'a> Loader<'a> {
    fn take(&mut self, index: usize, directive: &'a Directive<'a>) -> Result<(), PlanError> {
        use IgvmVariableHeaderType as Kind;
        match directive {
            Directive::Page { gpa, mask, kind, unmeasured, data } if mask & self.snp != 0 => {
                let attributes = (*kind, *unmeasured, *mask, data.is_some());
                self.page(index, *gpa, attributes, *data)
            }
            Directive::ParameterInsert { gpa, mask, index } if mask & self.snp != 0 => {
                self.insert(*gpa, *index)
            }
            Directive::ParameterArea { index, bytes } => match self.areas.insert(*index, *bytes) {
                None => self.count(bytes / PAGE_BYTES as u64),
                Some(_) => Err(PlanError::Area(*index)),
            },
            Directive::Parameter(parameter) => match parameter.kind {
                Kind::IGVM_VHT_VP_COUNT_PARAMETER
                | Kind::IGVM_VHT_ENVIRONMENT_INFO_PARAMETER
                | Kind::IGVM_VHT_MEMORY_MAP
                | Kind::IGVM_VHT_MADT => self.parameter(parameter.area, parameter.offset),
                other => Err(PlanError::Unknown(other.0)),
            },
            Directive::IdBlock(block) if block.compatibility_mask & self.snp != 0 => {
                match self.id_block.replace(block) {
                    None => Ok(()),
                    Some(_) => Err(PlanError::IdBlockTwice),
                }
            }
            Directive::ErrorRange { .. } => Err(PlanError::Unknown(Kind::IGVM_VHT_ERROR_RANGE.0)),
            Directive::Other(kind) => Err(PlanError::Unknown(kind.0)),
            // Memory that is required is made private, and never measured. VMSAs come last, by themselves.
            Directive::RequiredMemory { .. }
            | Directive::VpContext { .. }
            | Directive::Page { .. }
            | Directive::ParameterInsert { .. }
            | Directive::IdBlock(_) => Ok(()),
        }
    }

    fn page(
        &mut self,
        index: usize,
        gpa: u64,
        attributes: Attributes,
        data: Option<&'a Page>,
    ) -> Result<(), PlanError> {
        let follows = index.checked_sub(1).map(|previous| (previous, gpa, attributes));
        if self.last != follows {
            self.flush();
        }
        self.last = Some((index, gpa + PAGE_BYTES as u64, attributes));
        self.count(1)?;
        let page_type = match attributes {
            (PageKind::Secrets, ..) => PageType::Secrets,
            (PageKind::Cpuid | PageKind::CpuidExtended, ..) => PageType::Cpuid,
            (PageKind::Normal, true, ..) => PageType::Unmeasured,
            (PageKind::Normal, ..) if data.is_none() && self.zeros == ZeroPages::Native => PageType::Zero,
            (PageKind::Normal, ..) => PageType::Normal,
        };
        let content = data.map_or(Content::Blank(1), |page| Content::Pages(core::slice::from_ref(page)));
        self.waiting.push(Run { page_type, gpa, content });
        Ok(())
    }

    fn insert(&mut self, gpa: u64, index: u32) -> Result<(), PlanError> {
        let bytes = self.areas.remove(&index).ok_or(PlanError::Area(index))?;
        gpa.checked_add(bytes).ok_or(PlanError::Area(index))?;
        self.reordered |= !self.waiting.is_empty();
        let content = Content::Blank(bytes / PAGE_BYTES as u64);
        self.runs.push(Run { page_type: PageType::Unmeasured, gpa, content });
        Ok(())
    }

    /// The host's values are at least four bytes long.
    fn parameter(&self, area: u32, offset: u32) -> Result<(), PlanError> {
        let bytes = self.areas.get(&area).ok_or(PlanError::Area(area))?;
        if u64::from(offset) + 4 > *bytes { Err(PlanError::Area(area)) } else { Ok(()) }
    }

    fn count(&mut self, pages: u64) -> Result<(), PlanError> {
        self.pages = self.pages.saturating_add(pages);
        if self.pages > PAGES_MAX { Err(PlanError::TooManyPages) } else { Ok(()) }
    }

    fn flush(&mut self) {
        self.runs.append(&mut self.waiting);
        self.last = None;
    }
}

/// A VMSA as KVM measures it.
fn vmsa_run(content: Content<'_>) -> Run<'_> {
    Run { page_type: PageType::Vmsa, gpa: KVM_VMSA_GPA, content }
}
