//! What the guest boots into: busybox, tpm2-tools with the libraries they load, and the scripts.

use super::archive::Archive;
use crate::failure::Failure;
use crate::{house, process, setup};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The library through which tpm2-tools reach the kernel's TPM; it is loaded by name at run time.
const DEVICE_TCTI: &str = "libtss2-tcti-device.so.0";
const LIBRARY_FOLDER: &str = "/usr/lib/x86_64-linux-gnu";

/// Writes the initramfs into `target/husk/guest` and returns its path.
pub(crate) fn image() -> Result<PathBuf, Failure> {
    image_with(&[])
}

/// As [`image`], for a guest in a UEFI firmware: with this kernel's modules for that.
pub(crate) fn image_for_uefi(kernel: &setup::Kernel) -> Result<PathBuf, Failure> {
    packed(&[], &kernel.uefi_modules()?)
}

/// As [`image`], for a guest with a disk: with this kernel's modules for that.
pub(crate) fn image_for_disk(kernel: &setup::Kernel) -> Result<PathBuf, Failure> {
    packed(&[], &kernel.disk_modules()?)
}

/// As [`image`], with this program of the guest's beside the scripts.
pub(crate) fn image_for_unlock(program: &Path) -> Result<PathBuf, Failure> {
    packed(&[], &[program.to_owned()])
}

/// As [`image`], with more of this machine's programs.
pub(crate) fn image_with(more: &[&str]) -> Result<PathBuf, Failure> {
    packed(more, &[])
}

fn packed(more: &[&str], beside: &[PathBuf]) -> Result<PathBuf, Failure> {
    let mut archive = Archive::default();
    let guest = house::root().join("tools/xtask/guest");
    archive.file("/init", &read(&guest.join("init"))?);
    archive.file("/bin/busybox", &read(&setup::program("busybox")?)?);
    let tcti = Path::new(LIBRARY_FOLDER).join(DEVICE_TCTI);
    let mut linked = vec![tcti.clone()];
    for name in ["tpm2"].iter().chain(more) {
        let program = setup::program(name)?;
        archive.file(&format!("/usr/bin/{name}"), &read(&program)?);
        linked.push(program);
    }
    for library in libraries(&linked)? {
        archive.file(&library.to_string_lossy(), &read(&library)?);
    }
    archive.file(&tcti.to_string_lossy(), &read(&tcti)?);
    for script in scripts()? {
        let name = script.file_name().unwrap_or_default().to_string_lossy().into_owned();
        archive.file(&format!("/husk/{name}"), &read(&script)?);
    }
    for file in beside {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        archive.file(&format!("/husk/{name}"), &read(file)?);
    }
    store(&archive.finish())
}

/// The scripts of `tests/peers/guest`.
fn scripts() -> Result<BTreeSet<PathBuf>, Failure> {
    let folder = house::root().join("tests/peers/guest");
    let entries = fs::read_dir(&folder).map_err(|error| Failure::io("read", &folder, &error))?;
    let paths = entries.flatten().map(|entry| entry.path());
    Ok(paths.filter(|path| path.extension().is_some_and(|ending| ending == "sh")).collect())
}

/// The files that the dynamic linker would load for `programs`, itself among them.
fn libraries(programs: &[PathBuf]) -> Result<BTreeSet<PathBuf>, Failure> {
    let mut found = BTreeSet::new();
    for program in programs {
        let listing = process::output(Command::new("ldd").arg(program))?;
        found.extend(listing.lines().filter_map(listed).map(PathBuf::from));
    }
    Ok(found)
}

/// The path in one line of `ldd`: `name => path (address)` or `path (address)`.
fn listed(line: &str) -> Option<&str> {
    let (before, _) = line.trim().rsplit_once(" (")?;
    let path = before.rsplit(" => ").next()?;
    path.starts_with('/').then_some(path)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| Failure::io("read", path, &error))
}

fn store(bytes: &[u8]) -> Result<PathBuf, Failure> {
    let folder = house::workshop("guest")?;
    let [partial, whole] = ["initramfs.partial", "initramfs"].map(|name| folder.join(name));
    fs::write(&partial, bytes).map_err(|error| Failure::io("write", &partial, &error))?;
    fs::rename(&partial, &whole).map_err(|error| Failure::io("write", &whole, &error))?;
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::listed;

    #[test]
    fn paths_are_found_in_what_ldd_says() {
        assert_eq!(listed("\tlibc.so.6 => /lib/libc.so.6 (0x00007f)"), Some("/lib/libc.so.6"));
        assert_eq!(listed("\t/lib64/ld-linux-x86-64.so.2 (0x00007f)"), Some("/lib64/ld-linux-x86-64.so.2"));
        assert_eq!(listed("\tlinux-vdso.so.1 (0x00007f)"), None);
        assert_eq!(listed("\tlibmissing.so => not found"), None);
    }
}
