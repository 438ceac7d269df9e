//! An IGVM file with something added.
//!
//! **What.** [`with_page`] adds a measured page, [`with_id_block`] an ID block; the rest stays as it was.
//! **Trust.** The file is the tenant's, but is read without trust first.
//! **Laws.** What is added lies where nothing lay. The same input gives the same bytes.
//! **Not here.** Building an image from nothing: the firmware's.

use crate::digest::{PAGE_BYTES, Page};
use crate::id_block::{EcdsaKey, EcdsaSignature, IdAuth, IdBlock};
use crate::igvm_file::{Directive, FILE_BYTES_MAX, IgvmFile, IgvmFileError};
use crate::plan::PlanError;
use igvm::{Arch, IgvmDirectiveHeader, IgvmRevision};
use igvm_defs::{
    IGVM_VHS_SNP_ID_BLOCK_PUBLIC_KEY, IGVM_VHS_SNP_ID_BLOCK_SIGNATURE, IgvmPageDataFlags, IgvmPageDataType,
    IgvmPlatformType, PAGE_SIZE_4K,
};

/// Why a file was not rewritten.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    /// The file is not one.
    #[error(transparent)]
    File(#[from] IgvmFileError),
    /// QEMU refuses the file as it is.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Something lies there.
    #[error("the file puts something at {0:#x} already; choose another address")]
    Taken(u64),
    /// Not the address of a page.
    #[error("{0:#x} is not the address of a page")]
    Unaligned(u64),
    /// It has one.
    #[error("the file has an ID block already; take the file from before it was signed")]
    HasIdBlock,
    /// Platforms whose headers are not rewritten.
    #[error(
        "the file is also for Hyper-V's VBS, or has initialization headers that QEMU does not know; such files are not rewritten"
    )]
    OtherPlatform,
    /// Many headers share few pages, each of which would become a copy.
    #[error("the file's pages come to more than 256 MiB when each is written by itself")]
    TooLarge,
    /// Crate `igvm` refuses it.
    #[error("the file was read but cannot be written: {0}")]
    Library(igvm::Error),
}

/// `file` with `page` at `gpa`, measured.
///
/// # Errors
/// [`RewriteError`].
pub fn with_page(file: &[u8], gpa: u64, page: &Page) -> Result<Vec<u8>, RewriteError> {
    if !gpa.is_multiple_of(PAGE_SIZE_4K) {
        return Err(RewriteError::Unaligned(gpa));
    }
    let parsed = IgvmFile::parse(file)?;
    let mask = parsed.mask_of(IgvmPlatformType::SEV_SNP).ok_or(PlanError::NotForSnp)?;
    if is_taken(&parsed, gpa) {
        return Err(RewriteError::Taken(gpa));
    }
    rebuild(file, &parsed, |directives| {
        let states =
            |directive: &IgvmDirectiveHeader| matches!(directive, IgvmDirectiveHeader::SnpVpContext { .. });
        let at = directives.iter().position(states).unwrap_or(directives.len());
        let added = IgvmDirectiveHeader::PageData {
            gpa,
            compatibility_mask: mask,
            flags: IgvmPageDataFlags::new(),
            data_type: IgvmPageDataType::NORMAL,
            data: page.to_vec(),
        };
        directives.insert(at, added);
    })
}

/// `file` with an ID block. QEMU takes the block's policy from the file's own.
///
/// # Errors
/// [`RewriteError`].
pub fn with_id_block(file: &[u8], block: &IdBlock, auth: &IdAuth) -> Result<Vec<u8>, RewriteError> {
    let parsed = IgvmFile::parse(file)?;
    let mask = parsed.mask_of(IgvmPlatformType::SEV_SNP).ok_or(PlanError::NotForSnp)?;
    if parsed.directives.iter().any(|directive| matches!(directive, Directive::IdBlock(_))) {
        return Err(RewriteError::HasIdBlock);
    }
    rebuild(file, &parsed, |directives| {
        directives.push(IgvmDirectiveHeader::SnpIdBlock {
            compatibility_mask: mask,
            author_key_enabled: u8::from(auth.author_key.curve.get() != 0),
            reserved: [0; 3],
            ld: block.launch_digest,
            family_id: block.family_id,
            image_id: block.image_id,
            version: block.version.get(),
            guest_svn: block.guest_svn.get(),
            id_key_algorithm: auth.id_key_algorithm.get(),
            author_key_algorithm: auth.author_key_algorithm.get(),
            id_key_signature: Box::new(signature(&auth.id_block_signature)),
            id_public_key: Box::new(public(&auth.id_key)),
            author_key_signature: Box::new(signature(&auth.id_key_signature)),
            author_public_key: Box::new(public(&auth.author_key)),
        });
    })
}

fn signature(signed: &EcdsaSignature) -> IGVM_VHS_SNP_ID_BLOCK_SIGNATURE {
    IGVM_VHS_SNP_ID_BLOCK_SIGNATURE { r_comp: signed.r, s_comp: signed.s }
}

fn public(key: &EcdsaKey) -> IGVM_VHS_SNP_ID_BLOCK_PUBLIC_KEY {
    IGVM_VHS_SNP_ID_BLOCK_PUBLIC_KEY { curve: key.curve.get(), reserved: 0, qx: key.qx, qy: key.qy }
}

/// Whether a page or a parameter area lies at `gpa`.
fn is_taken(file: &IgvmFile<'_>, gpa: u64) -> bool {
    let area_bytes = |wanted: u32| {
        let sizes = file.directives.iter().filter_map(|directive| match directive {
            Directive::ParameterArea { index, bytes } if *index == wanted => Some(*bytes),
            _ => None,
        });
        sizes.max().unwrap_or(0)
    };
    file.directives.iter().any(|directive| match directive {
        Directive::Page { gpa: start, .. } => *start == gpa,
        Directive::ParameterInsert { gpa: start, index, .. } => {
            gpa.checked_sub(*start).is_some_and(|offset| offset < area_bytes(*index))
        }
        Directive::ErrorRange { gpa: start, bytes, .. } => {
            gpa.checked_sub(*start).is_some_and(|offset| offset < u64::from(*bytes))
        }
        _ => false,
    })
}

/// Reads the file once more with crate `igvm`, now that its offsets are known to be good, changes it and writes it.
fn rebuild(
    file: &[u8],
    parsed: &IgvmFile<'_>,
    change: impl FnOnce(&mut Vec<IgvmDirectiveHeader>),
) -> Result<Vec<u8>, RewriteError> {
    let vbs = parsed.mask_of(IgvmPlatformType::VSM_ISOLATION).is_some();
    if vbs || !parsed.other_initializations.is_empty() {
        return Err(RewriteError::OtherPlatform);
    }
    let with_data = |directive: &&Directive<'_>| matches!(directive, Directive::Page { data: Some(_), .. });
    if parsed.directives.iter().filter(with_data).count() > FILE_BYTES_MAX / PAGE_BYTES {
        return Err(RewriteError::TooLarge);
    }
    let read = igvm::IgvmFile::new_from_binary(file, None).map_err(RewriteError::Library)?;
    let mut directives = read.directives().to_vec();
    change(&mut directives);
    let revision = match parsed.version {
        1 => IgvmRevision::V1,
        _ => IgvmRevision::V2 { arch: Arch::X64, page_size: 4096 },
    };
    let platforms = read.platforms().to_vec();
    let initializations = read.initializations().to_vec();
    let written = igvm::IgvmFile::new(revision, platforms, initializations, directives);
    let mut bytes = Vec::new();
    written.and_then(|file| file.serialize(&mut bytes)).map_err(RewriteError::Library)?;
    Ok(bytes)
}
