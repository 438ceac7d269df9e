//! One build, from the configuration to the folder with what came out.
//!
//! **What.** The order: trees, content, disk, manifest, and the move to where the operator wants it.
//! **Trust.** As the modules that it calls.
//! **Laws.** The output is there as a whole, or not at all.
//! **Not here.** Any of the steps.

use crate::config::GuestConfig;
use crate::tree::{Tree, Wish, Workplace};
use crate::{attested, content, disk, manifest, prepared};
use anyhow::{Context as _, bail};
use husk_files::PrivateFileError;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// What makes the disk: Debian's own programs, of the guest's release.
const TOOLS: [&str; 24] = [
    "cryptsetup-bin",
    "dosfstools",
    "dracut",
    "e2fsprogs",
    "erofs-utils",
    "faketime",
    "fdisk",
    "kmod",
    "libtss2-esys-3.0.2-0t64",
    "libtss2-rc0t64",
    "libtss2-tcti-device0t64",
    "linux-image-cloud-amd64",
    "mtools",
    "openssl",
    "sbsigntool",
    "systemd",
    "systemd-boot-efi",
    "systemd-cryptsetup",
    "systemd-repart",
    "systemd-sysv",
    "systemd-ukify",
    "tpm2-tools",
    "udev",
    "zstd",
];

/// Builds into `output`, which is made; trees are kept in `cache`.
///
/// # Errors
/// What is missing, or which program failed.
pub(crate) fn build(config: &GuestConfig, output: &Path, cache: &Path) -> anyhow::Result<Value> {
    if output.exists() {
        return Err(PrivateFileError::Exists(output.to_owned()).into());
    }
    named_files_are_there(config)?;
    if !rustix::process::geteuid().is_root() {
        bail!("trees are installed, and programs run in them, as root: run it with sudo");
    }
    fs::create_dir_all(cache).with_context(|| cache.display().to_string())?;
    let cache = cache.canonicalize().with_context(|| cache.display().to_string())?;
    let tools =
        Tree::made(config, &Wish { name: "tools", variant: "apt", packages: TOOLS.to_vec() }, &cache)?;
    let packages = content::packages(config);
    let guest = Tree::made(config, &Wish { name: "guest", variant: "essential", packages }, &cache)?;
    let shared = tempfile::Builder::new().prefix("build-").tempdir_in(&cache)?;
    let at = Workplace { tools: &tools, shared: shared.path(), epoch: config.epoch };
    content::put(config, &guest, &at)?;
    let made = disk::make(config, &at)?;
    let manifest = manifest::manifest(config, &made, &[guest.packages()?, tools.packages()?], shared.path())?;
    moved(shared.path(), output, &manifest)?;
    Ok(manifest)
}

fn named_files_are_there(config: &GuestConfig) -> anyhow::Result<()> {
    let keys = &config.keys;
    let keys = [&keys.secure_boot_key, &keys.secure_boot_certificate, &keys.pcr_key];
    let prepared = config.volume.prepared.iter().flat_map(prepared::named_files);
    let attested = config.volume.attested.iter().flat_map(attested::named_files);
    for file in
        keys.into_iter().chain(config.files.iter().map(|extra| &extra.from)).chain(prepared).chain(attested)
    {
        if !file.is_file() {
            return Err(PrivateFileError::Missing(file.clone()).into());
        }
    }
    Ok(())
}

/// Gathers what came out in a folder beside the output, and gives it its name when it is whole.
fn moved(from: &Path, output: &Path, manifest: &Value) -> anyhow::Result<()> {
    let shown = || output.display().to_string();
    let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).with_context(shown)?;
    let gathered = tempfile::Builder::new().prefix(".husk-guest-").tempdir_in(parent).with_context(shown)?;
    for name in ["disk.raw", "uki.efi"] {
        let to = gathered.path().join(name);
        // Another file system takes a copy.
        if fs::rename(from.join(name), &to).is_err() {
            fs::copy(from.join(name), &to).with_context(shown)?;
        }
    }
    let text = format!("{}\n", serde_json::to_string_pretty(manifest)?);
    husk_files::write_new(&gathered.path().join("manifest.json"), text.as_bytes(), 0o644)?;
    fs::set_permissions(gathered.path(), fs::Permissions::from_mode(0o755)).with_context(shown)?;
    let whole = gathered.keep();
    fs::rename(&whole, output).with_context(shown)
}
