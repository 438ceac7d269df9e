//! The guest's kernel: Debian's cloud kernel, fetched as packages and unpacked, never installed.

use super::apt::Apt;
use crate::failure::Failure;
use crate::house;
use std::fs;
use std::path::{Path, PathBuf};

/// The package whose dependency is the newest cloud kernel of a release.
const META: &str = "linux-image-cloud-amd64";

/// Kernel and configuration lie in the image's package, or since Linux 7 in packages of these names that it needs.
const PARTS: [&str; 2] = ["linux-binary-", "linux-base-"];

/// The modules that guests need: in a UEFI firmware for its variables and the configuration device, and in their order for a disk.
const UEFI_MODULES: [&str; 2] = ["efivarfs.ko", "qemu_fw_cfg.ko"];
const DISK_MODULES: [&str; 6] = [
    "virtio_ring.ko",
    "virtio.ko",
    "virtio_pci_legacy_dev.ko",
    "virtio_pci_modern_dev.ko",
    "virtio_pci.ko",
    "virtio_blk.ko",
];

/// An unmodified distribution kernel.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// Where the bootable image lies.
    pub(crate) image: PathBuf,
    /// The folder with its modules.
    pub(crate) home: PathBuf,
    /// Its Debian package's name.
    pub(crate) version: String,
}

impl Kernel {
    /// Its modules for a guest in a UEFI firmware.
    pub(crate) fn uefi_modules(&self) -> Result<Vec<PathBuf>, Failure> {
        UEFI_MODULES.iter().map(|name| self.module(name)).collect()
    }

    /// Its modules for a disk, in the order in which they are loaded.
    pub(crate) fn disk_modules(&self) -> Result<Vec<PathBuf>, Failure> {
        DISK_MODULES.iter().map(|name| self.module(name)).collect()
    }

    fn has_modules(&self) -> bool {
        self.uefi_modules().and(self.disk_modules()).is_ok()
    }

    /// A module, if it lies there as `insmod` takes it.
    fn module(&self, name: &str) -> Result<PathBuf, Failure> {
        let module = self.home.join(name);
        let missing = || Failure::failed(format!("setup: that kernel came without {name}"));
        if module.exists() { Ok(module) } else { Err(missing()) }
    }
}

/// This release's kernel in `target/husk/kernel`, fetched if it is not there.
pub(crate) fn fetched_kernel() -> Result<Kernel, Failure> {
    let kernel = kept_or_fetched("kernel", || Ok(Apt::of_this_release()))?;
    if kernel.has_modules() {
        return Ok(kernel);
    }
    fetched("kernel", &Apt::of_this_release())
}

/// The newest kernel that Debian has (of sid) in `target/husk/kernel-newest`, fetched if none is there.
pub(crate) fn newest_kernel() -> Result<Kernel, Failure> {
    kept_or_fetched("kernel-newest", Apt::of_the_newest)
}

fn kept_or_fetched(name: &str, apt: impl FnOnce() -> Result<Apt, Failure>) -> Result<Kernel, Failure> {
    let home = house::root().join("target/husk").join(name);
    match fs::read_to_string(home.join("package")) {
        Ok(version) => Ok(in_folder(&home, version.trim())),
        Err(_) => fetched(name, &apt()?),
    }
}

fn in_folder(home: &Path, version: &str) -> Kernel {
    Kernel { image: home.join("vmlinuz"), home: home.to_owned(), version: version.to_owned() }
}

fn fetched(name: &str, apt: &Apt) -> Result<Kernel, Failure> {
    let home = house::root().join("target/husk").join(name);
    let package = image_package(&apt.dependencies(META)?)
        .ok_or_else(|| Failure::lacking(format!("setup: apt knows no {META}; run: sudo apt-get update")))?;
    println!("setup: fetching {package}");
    let temporary = house::fresh_workshop(&format!("{name}.partial"))?;
    unpack(apt, &package, &temporary)?;
    if home.exists() {
        fs::remove_dir_all(&home).map_err(|error| Failure::io("remove", &home, &error))?;
    }
    fs::rename(&temporary, &home).map_err(|error| Failure::io("make", &home, &error))?;
    Ok(in_folder(&home, &package))
}

/// The kernel package that the meta package depends on.
fn image_package(dependencies: &[String]) -> Option<String> {
    dependencies.iter().find(|name| name.starts_with("linux-image-")).cloned()
}

/// Leaves `vmlinuz`, `config` and, last, `package` in `folder`.
fn unpack(apt: &Apt, package: &str, folder: &Path) -> Result<(), Failure> {
    let tree = folder.join("tree");
    let mut packages = vec![package.to_owned()];
    packages.extend(apt.dependencies(package)?.into_iter().filter(|name| is_part(name)));
    for package in &packages {
        apt.unpack(package, &tree)?;
    }
    for kept in ["vmlinuz", "config"] {
        let found = only_file(&tree, kept)?;
        fs::rename(&found, folder.join(kept)).map_err(|error| Failure::io("move", &found, &error))?;
    }
    // The newest kernels have them compressed, which busybox cannot load; nothing runs those in a UEFI firmware, or with a disk.
    for module in UEFI_MODULES.into_iter().chain(DISK_MODULES) {
        if let Ok(found) = only_file(&tree, module) {
            fs::rename(&found, folder.join(module)).map_err(|error| Failure::io("move", &found, &error))?;
        }
    }
    has_built_in_crb(&folder.join("config"))?;
    fs::remove_dir_all(&tree).map_err(|error| Failure::io("remove", &tree, &error))?;
    let mark = folder.join("package");
    fs::write(&mark, package).map_err(|error| Failure::io("write", &mark, &error))
}

/// A part belongs to one version: `linux-base` alone is another package.
fn is_part(name: &str) -> bool {
    PARTS
        .iter()
        .any(|part| name.strip_prefix(part).is_some_and(|version| version.starts_with(char::is_numeric)))
}

/// The guest has no modules: the CRB driver must be part of the kernel.
fn has_built_in_crb(config: &Path) -> Result<(), Failure> {
    let text = fs::read_to_string(config).map_err(|error| Failure::io("read", config, &error))?;
    if text.lines().any(|line| line == "CONFIG_TCG_CRB=y") {
        return Ok(());
    }
    Err(Failure::failed(
        "setup: that cloud kernel has no built-in tpm_crb: the guest has no modules, so it cannot be used",
    ))
}

/// The one file below `folder` whose name is `wanted`, alone or before a version.
fn only_file(folder: &Path, wanted: &str) -> Result<PathBuf, Failure> {
    let (mut folders, mut found) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).map_err(|error| Failure::io("read", &folder, &error))?;
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            match name.strip_prefix(wanted) {
                _ if is_folder => folders.push(entry.path()),
                Some(rest) if rest.is_empty() || rest.starts_with('-') => found.push(entry.path()),
                _ => {}
            }
        }
    }
    match <[PathBuf; 1]>::try_from(found) {
        Ok([found]) => Ok(found),
        Err(found) => {
            let (count, place) = (found.len(), folder.display());
            Err(Failure::failed(format!("setup: {count} files are a {wanted} below {place}, one should be")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{image_package, is_part};

    #[test]
    fn the_newest_kernel_is_the_meta_packages_dependency() {
        let named = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let listed = named(&["linux-base-cloud-amd64", "linux-image-7.2.13+deb14-cloud-amd64"]);
        assert_eq!(image_package(&listed).as_deref(), Some("linux-image-7.2.13+deb14-cloud-amd64"));
        assert_eq!(image_package(&named(&["linux-base"])), None);
    }

    #[test]
    fn a_kernels_parts_are_told_from_what_it_runs_beside() {
        assert!(
            is_part("linux-binary-7.2.13+deb14-cloud-amd64")
                && is_part("linux-base-7.2.13+deb14-cloud-amd64")
        );
        assert!(
            !is_part("linux-base") && !is_part("linux-base-cloud-amd64") && !is_part("linux-modules-7.2")
        );
    }
}
