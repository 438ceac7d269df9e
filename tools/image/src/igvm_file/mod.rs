//! An IGVM file, read without trust.
//!
//! **What.** The fixed header and every variable header (IGVM 1 and 2, as crate `igvm_defs` lays them out), with the file's
//! own bytes borrowed for page data and VMSAs.
//! **Trust.** None. Offsets and lengths are checked before anything is sliced; no more than [`HEADERS_MAX`] headers are
//! kept and no file data is copied, so that memory stays below twice the file's size.
//! **Laws.** What crate `igvm` (and through its C interface QEMU) refuses to read is refused here; what this reads, it reads
//! the same way. That crate is not used for reading because it copies every page, even when thousands of headers
//! share one, and because some offsets make it panic.
//! **Not here.** Which pages a launch measures: [`crate::plan`].

mod directive;
mod error;

pub use directive::{Directive, IdBlockHeader, PageKind, Parameter};
pub use error::{HeaderProblem, IgvmFileError};

use core::mem::{offset_of, size_of};
use igvm_defs::{
    IGVM_FIXED_HEADER, IGVM_FIXED_HEADER_V2, IGVM_FORMAT_VERSION_1, IGVM_FORMAT_VERSION_2, IGVM_MAGIC_VALUE,
    IGVM_VHS_GUEST_POLICY, IGVM_VHS_SUPPORTED_PLATFORM, IGVM_VHS_VARIABLE_HEADER, IGVM_VHT_RANGE_DIRECTIVE,
    IGVM_VHT_RANGE_INIT, IGVM_VHT_RANGE_PLATFORM, IgvmArchitecture, IgvmPlatformType, IgvmVariableHeaderType,
    PAGE_SIZE_4K,
};
use zerocopy::FromBytes;

/// The largest file.
pub const FILE_BYTES_MAX: usize = 256 << 20;
/// The most variable headers.
pub const HEADERS_MAX: usize = 1 << 20;

const _: () = assert!(size_of::<IGVM_FIXED_HEADER>() == 24);
const _: () = assert!(size_of::<IGVM_FIXED_HEADER_V2>() == 32);
const _: () = assert!(offset_of!(IGVM_FIXED_HEADER, checksum) == 20);
const _: () = assert!(offset_of!(IGVM_FIXED_HEADER_V2, checksum) == 20);

/// A platform that the file was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Platform {
    /// Which.
    pub kind: IgvmPlatformType,
    /// The one bit that marks the headers meant for it.
    pub mask: u32,
}

/// A policy that the file asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The platforms that it is meant for.
    pub mask: u32,
    /// SEV-SNP's guest policy.
    pub policy: u64,
}

/// A file, read.
#[derive(Clone, Debug)]
pub struct IgvmFile<'a> {
    /// Format version, 1 or 2.
    pub version: u32,
    /// What it was made for.
    pub platforms: Vec<Platform>,
    /// Which policies it asks for.
    pub policies: Vec<Policy>,
    /// Types of initialization headers other than policies.
    pub other_initializations: Vec<u32>,
    /// What the loader is to do, in the file's order.
    pub directives: Vec<Directive<'a>>,
}

/// The file's two parts.
#[derive(Clone, Copy)]
struct Parts<'a> {
    file: &'a [u8],
    headers: &'a [u8],
    headers_at: usize,
    data_at: usize,
}

impl<'a> IgvmFile<'a> {
    /// Reads a file.
    ///
    /// # Errors
    /// [`IgvmFileError`]; the file is at fault.
    pub fn parse(file: &'a [u8]) -> Result<Self, IgvmFileError> {
        let (version, parts) = fixed_header(file)?;
        let mut parsed = Self {
            version,
            platforms: Vec::new(),
            policies: Vec::new(),
            other_initializations: Vec::new(),
            directives: Vec::new(),
        };
        let mut at = 0;
        let mut count = 0;
        let mut stage = Stage::Platforms;
        while at < parts.headers.len() {
            let (kind, body, next) = parts.header(at)?;
            stage = stage.next(kind).map_err(|problem| parts.blame(at, problem))?;
            parsed.take(stage, kind, body, &parts).map_err(|problem| parts.blame(at, problem))?;
            count += 1;
            if count > HEADERS_MAX {
                return Err(IgvmFileError::TooMany);
            }
            at = next;
        }
        if parsed.platforms.is_empty() { Err(IgvmFileError::NoPlatform) } else { Ok(parsed) }
    }

    fn take(
        &mut self,
        stage: Stage,
        kind: IgvmVariableHeaderType,
        body: &[u8],
        parts: &Parts<'a>,
    ) -> Result<(), HeaderProblem> {
        match stage {
            Stage::Platforms => self.platform(kind, body),
            Stage::Initializations if kind == IgvmVariableHeaderType::IGVM_VHT_GUEST_POLICY => {
                let header: IGVM_VHS_GUEST_POLICY = whole(body)?;
                self.policies.push(Policy { mask: header.compatibility_mask, policy: header.policy });
                Ok(())
            }
            Stage::Initializations => {
                self.other_initializations.push(kind.0);
                Ok(())
            }
            Stage::Directives => {
                let data = |offset: u32, bytes: usize| parts.data(offset, bytes);
                let snp = self.mask_of(IgvmPlatformType::SEV_SNP).unwrap_or(0);
                self.directives.push(Directive::read(kind, body, snp, &data)?);
                Ok(())
            }
        }
    }

    fn platform(&mut self, kind: IgvmVariableHeaderType, body: &[u8]) -> Result<(), HeaderProblem> {
        if kind != IgvmVariableHeaderType::IGVM_VHT_SUPPORTED_PLATFORM {
            return Err(HeaderProblem::Unknown(kind.0));
        }
        let header: IGVM_VHS_SUPPORTED_PLATFORM = whole(body)?;
        let (kind, mask) = (header.platform_type, header.compatibility_mask);
        let known = self.platforms.iter().any(|platform| platform.kind == kind || platform.mask == mask);
        if mask.count_ones() != 1 || known || header.platform_version != 1 {
            return Err(HeaderProblem::Platform);
        }
        self.platforms.push(Platform { kind, mask });
        Ok(())
    }

    /// The bit that marks the headers for a platform, if the file was made for it.
    #[must_use]
    pub fn mask_of(&self, kind: IgvmPlatformType) -> Option<u32> {
        self.platforms.iter().find(|platform| platform.kind == kind).map(|platform| platform.mask)
    }
}

/// Which section of the headers a type belongs to; sections come in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Platforms,
    Initializations,
    Directives,
}

impl Stage {
    fn next(self, kind: IgvmVariableHeaderType) -> Result<Self, HeaderProblem> {
        let stage = if IGVM_VHT_RANGE_PLATFORM.contains(&kind.0) {
            Self::Platforms
        } else if IGVM_VHT_RANGE_INIT.contains(&kind.0) {
            Self::Initializations
        } else if IGVM_VHT_RANGE_DIRECTIVE.contains(&kind.0) {
            Self::Directives
        } else {
            return Err(HeaderProblem::Unknown(kind.0));
        };
        if stage < self { Err(HeaderProblem::Order) } else { Ok(stage) }
    }
}

impl<'a> Parts<'a> {
    /// The header at `at`: its type, its body, and where the next one starts.
    fn header(&self, at: usize) -> Result<(IgvmVariableHeaderType, &'a [u8], usize), IgvmFileError> {
        let cut = || self.blame(at, HeaderProblem::Cut);
        let rest = self.headers.get(at..).ok_or_else(cut)?;
        let (head, rest) = IGVM_VHS_VARIABLE_HEADER::read_from_prefix(rest).map_err(|_| cut())?;
        let bytes = usize::try_from(head.length).map_err(|_| cut())?;
        let body = rest.get(..bytes).ok_or_else(cut)?;
        let padded = bytes.checked_next_multiple_of(8).filter(|padded| *padded <= rest.len());
        let next = at + size_of::<IGVM_VHS_VARIABLE_HEADER>() + padded.ok_or_else(cut)?;
        Ok((head.typ, body, next))
    }

    /// `bytes` bytes of file data at a file offset; none at offset zero.
    fn data(&self, offset: u32, bytes: usize) -> Result<Option<&'a [u8]>, HeaderProblem> {
        if offset == 0 {
            return Ok(None);
        }
        let start = usize::try_from(offset).map_err(|_| HeaderProblem::Data)?;
        let end = start.checked_add(bytes).ok_or(HeaderProblem::Data)?;
        let found = self.file.get(start..end).filter(|_| start >= self.data_at);
        found.map(Some).ok_or(HeaderProblem::Data)
    }

    fn blame(&self, at: usize, problem: HeaderProblem) -> IgvmFileError {
        IgvmFileError::Header { at: self.headers_at + at, problem }
    }
}

/// A header's body as a structure of exactly its size.
fn whole<T: FromBytes>(body: &[u8]) -> Result<T, HeaderProblem> {
    T::read_from_bytes(body).map_err(|_| HeaderProblem::Length)
}

fn fixed_header(file: &[u8]) -> Result<(u32, Parts<'_>), IgvmFileError> {
    if file.len() > FILE_BYTES_MAX {
        return Err(IgvmFileError::TooLarge(file.len()));
    }
    let (fixed, _) = IGVM_FIXED_HEADER::read_from_prefix(file).map_err(|_| IgvmFileError::NotIgvm)?;
    if fixed.magic != IGVM_MAGIC_VALUE {
        return Err(IgvmFileError::NotIgvm);
    }
    let fixed_bytes = match fixed.format_version {
        IGVM_FORMAT_VERSION_1 => size_of::<IGVM_FIXED_HEADER>(),
        IGVM_FORMAT_VERSION_2 => second_version(file)?,
        other => return Err(IgvmFileError::Version(other)),
    };
    if usize::try_from(fixed.total_file_size) != Ok(file.len()) {
        return Err(IgvmFileError::Size { said: fixed.total_file_size, is: file.len() });
    }
    let start = usize::try_from(fixed.variable_header_offset).map_err(|_| IgvmFileError::Headers)?;
    let bytes = usize::try_from(fixed.variable_header_size).map_err(|_| IgvmFileError::Headers)?;
    let end = start.checked_add(bytes).filter(|end| start == fixed_bytes && *end < file.len());
    let end = end.ok_or(IgvmFileError::Headers)?;
    let headers = file.get(start..end).ok_or(IgvmFileError::Headers)?;
    checksum(file, fixed_bytes, headers, fixed.checksum)?;
    Ok((fixed.format_version, Parts { file, headers, headers_at: start, data_at: end }))
}

fn second_version(file: &[u8]) -> Result<usize, IgvmFileError> {
    let (fixed, _) = IGVM_FIXED_HEADER_V2::read_from_prefix(file).map_err(|_| IgvmFileError::NotIgvm)?;
    if fixed.architecture != IgvmArchitecture::X64 || u64::from(fixed.page_size) != PAGE_SIZE_4K {
        return Err(IgvmFileError::Architecture);
    }
    Ok(size_of::<IGVM_FIXED_HEADER_V2>())
}

/// The checksum spans fixed and variable headers, with its own field taken as zero.
fn checksum(file: &[u8], fixed_bytes: usize, headers: &[u8], said: u32) -> Result<(), IgvmFileError> {
    let at = offset_of!(IGVM_FIXED_HEADER, checksum);
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(file.get(..at).unwrap_or_default());
    hasher.update(&[0; size_of::<u32>()]);
    hasher.update(file.get(at + size_of::<u32>()..fixed_bytes).unwrap_or_default());
    hasher.update(headers);
    if hasher.finalize() == said { Ok(()) } else { Err(IgvmFileError::Checksum) }
}
