//! The kernel guest: an unmodified distribution kernel that runs a script against the TPM it finds.
//!
//! **What.** [`image`] packs busybox, tpm2-tools and `tests/peers/guest` into an initramfs;
//! [`Guest`] runs QEMU on it; [`Report`] is what the script said, read from the serial console.
//! **Trust.** Debian's kernel, QEMU and tpm2-tools as peers: they did not learn from us what a TPM is.
//! **Laws.** A guest that says nothing has failed: every script must come to its `HUSK-END PASS`.
//! **Not here.** The TPM: [`Wiring`] says where it is.

mod archive;
mod initramfs;
mod qemu;
mod report;

pub(crate) use initramfs::{image, image_for_disk, image_for_uefi, image_for_unlock, image_with};
pub(crate) use qemu::{Device, Guest, Launch, MEMORY_MIB, OnReset, QUIET, SHARED_PAGE_BASE, Wiring};
pub(crate) use report::Report;
