//! The guest's disk: a raw file of the host's, behind a device that the firmware drives for the guest.

use crate::machine::escaped;
use anyhow::{Context, bail};
use husk_firmware::guest_disk::SLOTS;
use husk_firmware::virtio::GUEST_DISK_SLOT;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A sector in bytes.
const SECTOR_BYTES: u64 = 512;

/// Checks the file before a machine is made.
///
/// # Errors
/// One line: what is wrong with it, and what to do.
pub(crate) fn check(disk: &Path, volume: Option<&Path>) -> anyhow::Result<()> {
    let shown = disk.display();
    let found = std::fs::metadata(disk).with_context(|| format!("cannot open the guest's disk {shown}"))?;
    if !found.is_file() {
        bail!("the guest's disk {shown} is no file; give a raw image's");
    }
    if found.len() == 0 || !found.len().is_multiple_of(SECTOR_BYTES) {
        bail!(
            "the guest's disk {shown} has {} bytes, which are no sectors of 512; give a raw image",
            found.len()
        );
    }
    let of_volume = volume.and_then(|volume| std::fs::metadata(volume).ok());
    let of_volume = of_volume.map(|volume| (volume.dev(), volume.ino()));
    if of_volume == Some((found.dev(), found.ino())) {
        bail!("{shown} is given as the guest's disk and as the volume; the volume is the TPM's alone");
    }
    Ok(())
}

/// QEMU's words for it. The device writes memory: the firmware drives it itself, and refuses one elsewhere.
pub(crate) fn words(disk: &Path) -> [String; 4] {
    let (disk, slot) = (escaped(disk), GUEST_DISK_SLOT.0);
    [
        "-drive".into(),
        format!("if=none,id=disk,format=raw,cache=writeback,file={disk}"),
        "-device".into(),
        format!(
            "virtio-blk-pci,bus=pcie.0,addr={slot:#x},disable-legacy=on,vectors=0,num-queues=1,queue-size={SLOTS},write-cache=on,drive=disk"
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::{check, words};
    use std::fs;
    use std::path::Path;

    #[test]
    fn what_is_no_disk_is_refused_before_anything_starts() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        fs::write(path("disk"), [0; 1024]).expect("written");
        fs::write(path("odd"), [0; 1000]).expect("written");
        fs::write(path("empty"), []).expect("written");
        fs::write(path("volume"), [0; 4096]).expect("written");
        fs::hard_link(path("volume"), path("same")).expect("linked");
        let checked =
            |name: &str| check(&path(name), Some(&path("volume"))).map_err(|error| format!("{error:#}"));
        assert_eq!(checked("disk"), Ok(()));
        for (name, words) in [
            ("odd", "no sectors"),
            ("empty", "no sectors"),
            ("same", "as the volume"),
            ("none", "cannot open"),
            ("", "no file"),
        ] {
            assert!(checked(name).is_err_and(|said| said.contains(words)), "{name}");
        }
        assert!(words(Path::new("a,b"))[1].contains("file=a,,b"));
    }
}
