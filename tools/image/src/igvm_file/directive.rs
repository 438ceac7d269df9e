//! What a file tells its loader to do.

use super::error::HeaderProblem;
use super::whole;
use crate::digest::{PAGE_BYTES, Page};
use igvm_defs::{
    IGVM_VHS_ERROR_RANGE, IGVM_VHS_PAGE_DATA, IGVM_VHS_PARAMETER, IGVM_VHS_PARAMETER_AREA,
    IGVM_VHS_PARAMETER_INSERT, IGVM_VHS_REQUIRED_MEMORY, IGVM_VHS_SNP_ID_BLOCK, IGVM_VHS_VP_CONTEXT,
    IgvmPageDataType, IgvmVariableHeaderType,
};

/// An ID block as an IGVM file carries it.
pub type IdBlockHeader = IGVM_VHS_SNP_ID_BLOCK;

/// What a page is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// Code or data.
    Normal,
    /// The secrets page.
    Secrets,
    /// The CPUID page.
    Cpuid,
    /// A CPUID page with extended features.
    CpuidExtended,
}

/// What the host is to put into a parameter area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Which value.
    pub kind: IgvmVariableHeaderType,
    /// The area.
    pub area: u32,
    /// Where in it, in bytes.
    pub offset: u32,
}

/// One directive.
#[derive(Clone, Debug)]
pub enum Directive<'a> {
    /// Put a page into memory.
    Page {
        /// Where.
        gpa: u64,
        /// For which platforms.
        mask: u32,
        /// What for.
        kind: PageKind,
        /// Whether the page is left out of the digest.
        unmeasured: bool,
        /// Its content; none: zeros.
        data: Option<&'a Page>,
    },
    /// Give a processor its initial state.
    VpContext {
        /// Where.
        gpa: u64,
        /// For which platforms.
        mask: u32,
        /// Which processor.
        index: u16,
        /// The VMSA, if the state is meant for SEV-SNP.
        vmsa: Option<&'a Page>,
    },
    /// Set room aside for values of the host's.
    ParameterArea {
        /// Its name.
        index: u32,
        /// How large, in bytes: whole pages.
        bytes: u64,
    },
    /// Put an area into memory.
    ParameterInsert {
        /// Where.
        gpa: u64,
        /// For which platforms.
        mask: u32,
        /// Which area.
        index: u32,
    },
    /// Put a value of the host's into an area.
    Parameter(Parameter),
    /// Expect memory there.
    RequiredMemory {
        /// Where.
        gpa: u64,
        /// For which platforms.
        mask: u32,
        /// How much, in bytes: whole pages.
        bytes: u32,
    },
    /// Launch under this ID block.
    IdBlock(Box<IdBlockHeader>),
    /// Share memory with the host for error messages.
    ErrorRange {
        /// Where.
        gpa: u64,
        /// For which platforms.
        mask: u32,
        /// How much, in bytes.
        bytes: u32,
    },
    /// Anything else.
    Other(IgvmVariableHeaderType),
}

/// Yields file data: by file offset and length.
type Data<'a, 'f> = &'f dyn Fn(u32, usize) -> Result<Option<&'a [u8]>, HeaderProblem>;

impl<'a> Directive<'a> {
    /// Reads the body of a directive; `snp` marks what is meant for SEV-SNP.
    pub(super) fn read(
        kind: IgvmVariableHeaderType,
        body: &[u8],
        snp: u32,
        data: Data<'a, '_>,
    ) -> Result<Self, HeaderProblem> {
        use IgvmVariableHeaderType as Kind;
        match kind {
            Kind::IGVM_VHT_PAGE_DATA => page(&whole(body)?, data),
            Kind::IGVM_VHT_VP_CONTEXT => vp_context(&whole(body)?, snp, data),
            Kind::IGVM_VHT_PARAMETER_AREA => parameter_area(&whole(body)?, data),
            Kind::IGVM_VHT_PARAMETER_INSERT => {
                let header: IGVM_VHS_PARAMETER_INSERT = whole(body)?;
                let gpa = aligned(header.gpa, 0)?;
                let (mask, index) = (header.compatibility_mask, header.parameter_area_index);
                Ok(Self::ParameterInsert { gpa, mask, index })
            }
            Kind::IGVM_VHT_REQUIRED_MEMORY => {
                let header: IGVM_VHS_REQUIRED_MEMORY = whole(body)?;
                let (mask, bytes) = (header.compatibility_mask, header.number_of_bytes);
                Ok(Self::RequiredMemory { gpa: aligned(header.gpa, u64::from(bytes))?, mask, bytes })
            }
            Kind::IGVM_VHT_ERROR_RANGE => {
                let header: IGVM_VHS_ERROR_RANGE = whole(body)?;
                let (mask, bytes) = (header.compatibility_mask, header.size_bytes);
                Ok(Self::ErrorRange { gpa: aligned(header.gpa, 0)?, mask, bytes })
            }
            Kind::IGVM_VHT_SNP_ID_BLOCK => Ok(Self::IdBlock(Box::new(whole(body)?))),
            Kind::IGVM_VHT_VP_COUNT_PARAMETER
            | Kind::IGVM_VHT_ENVIRONMENT_INFO_PARAMETER
            | Kind::IGVM_VHT_SRAT
            | Kind::IGVM_VHT_MADT
            | Kind::IGVM_VHT_SLIT
            | Kind::IGVM_VHT_PPTT
            | Kind::IGVM_VHT_MMIO_RANGES
            | Kind::IGVM_VHT_MEMORY_MAP
            | Kind::IGVM_VHT_COMMAND_LINE
            | Kind::IGVM_VHT_DEVICE_TREE => {
                let header: IGVM_VHS_PARAMETER = whole(body)?;
                let (area, offset) = (header.parameter_area_index, header.byte_offset);
                Ok(Self::Parameter(Parameter { kind, area, offset }))
            }
            other => Ok(Self::Other(other)),
        }
    }
}

fn page<'a>(header: &IGVM_VHS_PAGE_DATA, data: Data<'a, '_>) -> Result<Directive<'a>, HeaderProblem> {
    let kind = match header.data_type {
        IgvmPageDataType::NORMAL => PageKind::Normal,
        IgvmPageDataType::SECRETS => PageKind::Secrets,
        IgvmPageDataType::CPUID_DATA => PageKind::Cpuid,
        IgvmPageDataType::CPUID_XF => PageKind::CpuidExtended,
        other => return Err(HeaderProblem::PageKind(other.0)),
    };
    let flags = header.flags;
    if header.reserved != 0 || flags.is_2mb_page() || flags.shared() || flags.reserved() != 0 {
        return Err(HeaderProblem::Reserved);
    }
    Ok(Directive::Page {
        gpa: aligned(header.gpa, PAGE_BYTES as u64)?,
        mask: header.compatibility_mask,
        kind,
        unmeasured: flags.unmeasured(),
        data: one_page(header.file_offset, data)?,
    })
}

fn vp_context<'a>(
    header: &IGVM_VHS_VP_CONTEXT,
    snp: u32,
    data: Data<'a, '_>,
) -> Result<Directive<'a>, HeaderProblem> {
    let mask = header.compatibility_mask;
    let (gpa, vmsa) = if mask & snp == 0 {
        // Meant for another platform, whose state has another form; it must lie in the file all the same.
        data(header.file_offset, 1)?.ok_or(HeaderProblem::Data)?;
        (header.gpa.get(), None)
    } else {
        let vmsa = one_page(header.file_offset, data)?.ok_or(HeaderProblem::Data)?;
        (aligned(header.gpa.get(), PAGE_BYTES as u64)?, Some(vmsa))
    };
    Ok(Directive::VpContext { gpa, mask, index: header.vp_index, vmsa })
}

fn parameter_area<'a>(
    header: &IGVM_VHS_PARAMETER_AREA,
    data: Data<'a, '_>,
) -> Result<Directive<'a>, HeaderProblem> {
    let bytes = aligned(header.number_of_bytes, 0)?;
    if header.file_offset != 0 {
        // QEMU ignores initial data; it must lie in the file all the same.
        data(header.file_offset, usize::try_from(bytes).map_err(|_| HeaderProblem::Data)?)?;
    }
    Ok(Directive::ParameterArea { index: header.parameter_area_index, bytes })
}

fn one_page<'a>(offset: u32, data: Data<'a, '_>) -> Result<Option<&'a Page>, HeaderProblem> {
    let bytes = data(offset, PAGE_BYTES)?;
    bytes.map(|bytes| bytes.first_chunk().ok_or(HeaderProblem::Data)).transpose()
}

/// An address of which `bytes` bytes exist; both whole pages.
fn aligned(gpa: u64, bytes: u64) -> Result<u64, HeaderProblem> {
    let whole = |number: u64| number.is_multiple_of(PAGE_BYTES as u64);
    let fits = gpa.checked_add(bytes).is_some();
    if whole(gpa) && whole(bytes) && fits { Ok(gpa) } else { Err(HeaderProblem::Unaligned) }
}
