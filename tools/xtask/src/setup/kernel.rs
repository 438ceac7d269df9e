//! The guest's kernel: Debian's cloud kernel, fetched as a package and unpacked, never installed.

use crate::failure::Failure;
use crate::{house, process};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The package whose dependency is the newest cloud kernel of the release.
const META: &str = "linux-image-cloud-amd64";

/// An unmodified distribution kernel.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// Where the bootable image lies.
    pub(crate) image: PathBuf,
    /// Its Debian package's name.
    pub(crate) version: String,
}

/// The kernel in `target/husk/kernel`, fetched if it is not there.
pub(crate) fn fetched_kernel() -> Result<Kernel, Failure> {
    let home = house::root().join("target/husk/kernel");
    if let Ok(version) = fs::read_to_string(home.join("package")) {
        return Ok(Kernel { image: home.join("vmlinuz"), version: version.trim().to_owned() });
    }
    let package = newest()?;
    println!("setup: fetching {package}");
    let temporary = house::fresh_workshop("kernel.partial")?;
    unpack(&package, &temporary)?;
    if home.exists() {
        fs::remove_dir_all(&home).map_err(|error| Failure::io("remove", &home, &error))?;
    }
    fs::rename(&temporary, &home).map_err(|error| Failure::io("make", &home, &error))?;
    Ok(Kernel { image: home.join("vmlinuz"), version: package })
}

/// The kernel package that the meta package depends on.
fn newest() -> Result<String, Failure> {
    let depends = process::output(Command::new("apt-cache").args(["depends", META]))?;
    dependency(&depends)
        .ok_or_else(|| Failure::lacking(format!("setup: apt knows no {META}; run: sudo apt-get update")))
}

fn dependency(listing: &str) -> Option<String> {
    let mut names = listing.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    names.find(|name| name.starts_with("linux-image-")).map(str::to_owned)
}

/// Leaves `vmlinuz`, `config` and, last, `package` in `folder`.
fn unpack(package: &str, folder: &Path) -> Result<(), Failure> {
    let download = Command::new("apt-get")
        .args(["-q", "-o", "APT::Sandbox::User=root", "download", package])
        .current_dir(folder)
        .output();
    let downloaded =
        download.map_err(|error| Failure::lacking(format!("setup: apt-get does not start: {error}")))?;
    if !downloaded.status.success() {
        let complaint = String::from_utf8_lossy(&downloaded.stderr).trim().to_owned();
        return Err(Failure::failed(format!("setup: cannot fetch {package}: {complaint}")));
    }
    let archive = only_file(folder, |name| name.ends_with(".deb"))?;
    let tree = folder.join("tree");
    process::output(Command::new("dpkg-deb").arg("-x").args([&archive, &tree]))?;
    let boot = tree.join("boot");
    for (prefix, kept) in [("vmlinuz-", "vmlinuz"), ("config-", "config")] {
        let found = only_file(&boot, |name| name.starts_with(prefix))?;
        fs::rename(&found, folder.join(kept)).map_err(|error| Failure::io("move", &found, &error))?;
    }
    has_built_in_crb(&folder.join("config"))?;
    fs::remove_dir_all(&tree).map_err(|error| Failure::io("remove", &tree, &error))?;
    fs::remove_file(&archive).map_err(|error| Failure::io("remove", &archive, &error))?;
    let mark = folder.join("package");
    fs::write(&mark, package).map_err(|error| Failure::io("write", &mark, &error))
}

/// The guest has no modules: the CRB driver must be part of the kernel.
fn has_built_in_crb(config: &Path) -> Result<(), Failure> {
    let text = fs::read_to_string(config).map_err(|error| Failure::io("read", config, &error))?;
    if text.lines().any(|line| line == "CONFIG_TCG_CRB=y") {
        return Ok(());
    }
    Err(Failure::failed("setup: this release's cloud kernel has no built-in tpm_crb; use Debian 12 or 13"))
}

fn only_file(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf, Failure> {
    let entries = fs::read_dir(folder).map_err(|error| Failure::io("read", folder, &error))?;
    let mut paths = entries.flatten().map(|entry| entry.path());
    let found = paths.find(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(&wanted));
    found.ok_or_else(|| {
        Failure::failed(format!("setup: {} does not hold what the package should bring", folder.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::dependency;

    #[test]
    fn the_newest_kernel_is_the_meta_packages_dependency() {
        let listing = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        assert_eq!(dependency(listing).as_deref(), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(dependency("linux-image-cloud-amd64\n"), None);
    }
}
