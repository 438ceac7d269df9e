//! What is put into the guest's root.
//!
//! **What.** What every guest has, what its volume needs, the tenant's files and units.
//! **Trust.** As the configuration's author.
//! **Laws.** Every file has the same owner and date in each build. Nothing secret is written: the volume's key is made by the guest.
//! **Not here.** The texts of the volume: `volume`. The initrd that reads them: `disk`.

use crate::config::GuestConfig;
use crate::tree::{Tree, Workplace, empty};
use crate::volume::{self, Text};
use anyhow::Context as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What every guest has.
const PACKAGES: [&str; 12] = [
    "systemd",
    "systemd-sysv",
    "systemd-cryptsetup",
    "udev",
    "dbus",
    "dmsetup",
    "kmod",
    "e2fsprogs",
    "tpm2-tools",
    "libtss2-esys-3.0.2-0t64",
    "libtss2-rc0t64",
    "libtss2-tcti-device0t64",
];

/// What is installed in the guest.
pub(crate) fn packages(config: &GuestConfig) -> Vec<&str> {
    let mut packages: Vec<&str> = PACKAGES.to_vec();
    packages.extend(config.packages.iter().map(String::as_str));
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// Makes the root in `work/guest`, from the guest's tree and the kernel's modules among the tools.
pub(crate) fn put(config: &GuestConfig, guest: &Tree, at: &Workplace<'_>) -> anyhow::Result<()> {
    let root = at.shared.join("guest");
    copied(&guest.folder, &root)?;
    let kernel = at.tools.kernel()?;
    let modules = root.join("usr/lib/modules");
    fs::create_dir_all(&modules).with_context(|| modules.display().to_string())?;
    copied(&at.tools.folder.join("usr/lib/modules").join(&kernel), &modules.join(&kernel))?;
    // machine-id(5), "Initialization": an empty file is a first boot at each, of a root that cannot be written.
    write(&root, "etc/machine-id", "")?;
    write(&root, "etc/hostname", "guest\n")?;
    for Text { path, text, mode } in volume::in_root(&config.volume) {
        place(&root, Path::new(path), text.as_bytes(), mode)?;
    }
    // What a host says there is nothing for a guest; and below the image its driver waits for ever for ACPI's global lock.
    write(&root, "etc/modprobe.d/husk.conf", "blacklist qemu_fw_cfg\n")?;
    // It would extend PCR 15 by the machine's identity, which is another at each boot of such a root.
    let masked = root.join("etc/systemd/system/systemd-pcrmachine.service");
    symlink("/dev/null", &masked).with_context(|| masked.display().to_string())?;
    if config.volume.mount == "/var" {
        empty(&root.join("var/log"))?;
    }
    for extra in &config.files {
        let to = extra.to.strip_prefix("/").unwrap_or(&extra.to);
        let bytes = fs::read(&extra.from).with_context(|| extra.from.display().to_string())?;
        let mode = if extra.executable { 0o755 } else { 0o644 };
        place(&root, to, &bytes, mode)?;
    }
    for unit in &config.units {
        at.run(&[], &["systemctl", "--quiet", "--root=/build/guest", "enable", unit])?;
    }
    Ok(())
}

/// Copies a folder with everything that a package sets on a file.
fn copied(from: &Path, to: &Path) -> anyhow::Result<()> {
    let status = Command::new("cp").args(["-a", "--reflink=auto", "--"]).arg(from).arg(to).status()?;
    anyhow::ensure!(status.success(), "cp of {} failed ({status})", from.display());
    Ok(())
}

fn write(root: &Path, path: &str, text: &str) -> anyhow::Result<()> {
    place(root, Path::new(path), text.as_bytes(), 0o644)
}

/// Writes a file below `root`; links on the way are not followed out of it.
pub(crate) fn place(root: &Path, path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let mut folder: PathBuf = root.to_owned();
    for part in path.parent().into_iter().flat_map(Path::components) {
        folder.push(part);
        let kind = fs::symlink_metadata(&folder).map(|found| found.is_dir());
        match kind {
            Ok(true) => {}
            Ok(false) => anyhow::bail!("/{} lies behind a link or a file of the guest's", path.display()),
            Err(_) => fs::create_dir(&folder).with_context(|| folder.display().to_string())?,
        }
    }
    let file = root.join(path);
    if fs::symlink_metadata(&file).is_ok() {
        fs::remove_file(&file).with_context(|| file.display().to_string())?;
    }
    fs::write(&file, bytes)
        .and_then(|()| fs::set_permissions(&file, fs::Permissions::from_mode(mode)))
        .with_context(|| file.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::place;
    use std::path::Path;

    #[test]
    fn a_file_is_not_put_where_a_link_leads_out_of_the_root() {
        let root = tempfile::tempdir().expect("folder");
        std::os::unix::fs::symlink("/tmp", root.path().join("out")).expect("link");
        assert!(place(root.path(), Path::new("out/husk-never"), b"", 0o644).is_err());
        place(root.path(), Path::new("a/b"), b"x", 0o644).expect("written");
        assert_eq!(std::fs::read(root.path().join("a/b")).expect("read"), b"x");
    }
}
