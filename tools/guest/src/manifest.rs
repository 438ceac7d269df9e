//! What came out of a build, for who judges the guest from outside.
//!
//! **What.** Versions of packages, the root's hash, digests of disk and kernel image, what PCR 11 will hold, and what else its PCRs follow from.
//! **Trust.** Whoever holds a manifest trusts who gave it to them: it is not signed.
//! **Laws.** Nothing in it differs between two builds that gave the same bytes.
//! **Not here.** Comparing it with a running guest: `expect`.

use crate::config::GuestConfig;
use crate::disk::Made;
use anyhow::Context as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// The manifest of a disk and a kernel image that lie in `folder`.
pub(crate) fn manifest(
    config: &GuestConfig,
    made: &Made,
    packages: &[Vec<String>; 2],
    folder: &Path,
) -> anyhow::Result<Value> {
    let [guest, tools] = packages;
    Ok(json!({
        "suite": config.suite,
        "archive": config.archive(),
        "epoch": config.epoch,
        "command_line": made.command_line,
        "root_hash": made.root_hash,
        "disk_sha256": sha256(&folder.join("disk.raw"))?,
        "kernel_image_sha256": sha256(&folder.join("uki.efi"))?,
        "kernel_image_authenticode_sha256": made.authenticode,
        "secure_boot_certificate_sha256": made.certificate,
        "pcr_11": made.pcr_11,
        "packages": guest,
        "build_packages": tools,
    }))
}

fn sha256(path: &Path) -> anyhow::Result<String> {
    let shown = || path.display().to_string();
    let mut file = File::open(path).with_context(shown)?;
    let (mut digest, mut piece) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        let len = file.read(&mut piece).with_context(shown)?;
        let Some(read) = piece.get(..len).filter(|read| !read.is_empty()) else { break };
        digest.update(read);
    }
    Ok(hex::encode(digest.finalize()))
}
