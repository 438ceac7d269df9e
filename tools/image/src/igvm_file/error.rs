//! Why a file is not read.

/// What is wrong with one header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderProblem {
    /// It reaches beyond the headers.
    #[error("it is cut off")]
    Cut,
    /// Its length is not that of its type.
    #[error("its length is not that of its type")]
    Length,
    /// A type that the format does not have, or that has no place there.
    #[error("type {0:#x} is unknown")]
    Unknown(u32),
    /// A section that is over.
    #[error("platforms come first, then initialization, then directives; this one comes too late")]
    Order,
    /// A platform twice, with another version, or with a mask that is not one bit.
    #[error("the platform is named twice, is of another version, or its mask is not one bit")]
    Platform,
    /// Its data does not lie in the file's data section.
    #[error("its data does not lie in the file's data section")]
    Data,
    /// Addresses and sizes are multiples of a page.
    #[error("its address or size is not a multiple of 4 KiB, or reaches beyond the address space")]
    Unaligned,
    /// Reserved bits, or flags of which QEMU knows nothing.
    #[error("it sets reserved bits, or flags that QEMU does not know")]
    Reserved,
    /// Data of a page of a kind that SEV-SNP does not have.
    #[error("page data of the unknown kind {0:#x}")]
    PageKind(u16),
}

/// Why a file is not read: whose fault is always the file's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IgvmFileError {
    /// Another kind of file.
    #[error("this is no IGVM file; check the path")]
    NotIgvm,
    /// A later format.
    #[error("IGVM format version {0} is unknown; versions 1 and 2 are read")]
    Version(u32),
    /// Not for x86-64 with pages of 4 KiB.
    #[error("the file is not for x86-64 with pages of 4 KiB")]
    Architecture,
    /// It claims to have another length.
    #[error(
        "the file says that it has {said} bytes and has {is}: it was truncated, or something was appended"
    )]
    Size {
        /// By its header.
        said: u32,
        /// In truth.
        is: usize,
    },
    /// Larger than anything that is booted.
    #[error("{0} bytes are more than an IGVM file may have here (256 MiB)")]
    TooLarge(usize),
    /// More headers than anything that is booted.
    #[error("the file has more than a million headers")]
    TooMany,
    /// The variable headers do not follow the fixed one, or leave no file data.
    #[error("the variable headers do not lie between fixed header and file data")]
    Headers,
    /// Headers that were altered.
    #[error("the headers' checksum is wrong: the file was altered or damaged; build it anew")]
    Checksum,
    /// No platform at all.
    #[error("the file names no platform that it was made for")]
    NoPlatform,
    /// One header.
    #[error("the header at offset {at:#x} is refused: {problem}")]
    Header {
        /// Its offset in the file, in bytes.
        at: usize,
        /// Why.
        problem: HeaderProblem,
    },
}
