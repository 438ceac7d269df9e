//! What a host puts on a guest's disk beside what the tenant signed.

use super::parts::{bytes, overwritten, partition};
use super::{copied, value};
use crate::failure::Failure;
use crate::process;
use crate::product::text;
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

/// Where systemd-stub looks for credentials (systemd-stub(7)), of the kernel image's own name.
const BESIDE: &str = "::/EFI/BOOT/BOOTX64.EFI.extra.d";
/// The credential that the guest of the test makes, by which systemd(7) has more lines for a unit.
const CREDENTIAL: &str = "systemd.unit-dropin.report.service.cred";
/// A partition's type by which systemd-gpt-auto-generator(8) knows one to swap to, and its size.
const SWAP: &str = "size=32MiB, type=0657FD6D-A4AB-43C4-84E5-0933C84B4F4F";
const SWAP_BYTES: u64 = 32 << 20;
/// A header of LUKS2 (LUKS2 On-Disk Format Specification 1.1, sections 2 and 2.1): where its size is, and its checksum; what the specification's default leaves before the data.
const HEADER_SIZE_AT: usize = 8;
const CHECKSUM: std::ops::Range<usize> = 448..512;
const DATA_AT: u64 = 16 << 20;
/// Of a volume that the host makes: enough for its header.
const VOLUME_BYTES: u64 = 64 << 20;
/// The volume's cipher, and one of as many letters that does nothing (Linux, crypto/crypto_null.c).
const CIPHERS: [&[u8; 15]; 2] = [b"aes-xts-plain64", b"cipher_null-ecb"];

/// A copy of the disk with a credential beside the kernel image: one that is sealed to the guest's TPM, as the guest told it.
pub(super) fn credential(disk: &Path, first_boot: &str, copy: &Path) -> Result<(), Failure> {
    let sealed = value(first_boot, "credential ").filter(|sealed| !sealed.is_empty());
    let sealed = sealed.ok_or_else(|| Failure::failed("peers: the guest made no credential"))?;
    let file = copy.with_extension("cred");
    fs::write(&file, sealed).map_err(|error| Failure::io("write", &file, &error))?;
    copied(disk, copy)?;
    let image = format!("{}@@{}", text(copy), partition(copy, 0)?);
    process::output(Command::new("mmd").args(["-i", &image, BESIDE]))?;
    process::output(Command::new("mcopy").args([
        "-i",
        &image,
        &text(&file),
        &format!("{BESIDE}/{CREDENTIAL}"),
    ]))?;
    Ok(())
}

/// A copy of the disk with one more partition, to swap to.
pub(super) fn swap(disk: &Path, copy: &Path) -> Result<(), Failure> {
    copied(disk, copy)?;
    let io = |error| Failure::io("lengthen", copy, &error);
    let file = File::options().write(true).open(copy).map_err(io)?;
    let before = file.metadata().map_err(io)?.len();
    // Its ends are aligned, and the table's copy moves to the end of all.
    file.set_len(before + SWAP_BYTES + (4 << 20)).map_err(io)?;
    process::output(Command::new("sfdisk").args(["--quiet", "--relocate", "gpt-bak-std"]).arg(copy))?;
    let script = copy.with_extension("script");
    fs::write(&script, SWAP).map_err(|error| Failure::io("write", &script, &error))?;
    let script = File::open(&script).map_err(|error| Failure::io("read", &script, &error))?;
    process::output(Command::new("sfdisk").args(["--quiet", "--append"]).arg(copy).stdin(script))?;
    let area = copy.with_extension("swap");
    let io = |error| Failure::io("write", &area, &error);
    File::create(&area).and_then(|file| file.set_len(SWAP_BYTES)).map_err(io)?;
    process::output(Command::new("mkswap").arg(&area))?;
    let to = format!("seek={}", partition(copy, 4)? / 512);
    let [from, onto] = [format!("if={}", text(&area)), format!("of={}", text(copy))];
    process::output(Command::new("dd").args([&from, &onto, "bs=512", &to, "conv=notrunc"]))?;
    Ok(())
}

/// A copy of the disk whose volume says that its data are in clear, with a file system in clear; the key and the TPM's part of the header are as they were.
pub(super) fn null_cipher(disk: &Path, copy: &Path) -> Result<(), Failure> {
    copied(disk, copy)?;
    let volume = partition(copy, 3)?;
    let size = bytes(copy, volume + HEADER_SIZE_AT as u64, 8)?;
    let size = size.iter().fold(0, |size, byte| size << 8 | u64::from(*byte));
    for at in [volume, volume + size] {
        let header = unciphered(bytes(copy, at, size)?, Cleared::Data);
        let header = header.ok_or_else(|| Failure::failed("peers: the volume has another header"))?;
        overwritten(copy, at, &header)?;
    }
    let offset = format!("offset={}", volume + DATA_AT);
    process::output(Command::new("mkfs.ext4").args(["-q", "-F", "-E", &offset]).arg(copy).arg("100M"))
        .map(drop)
}

/// A copy of the disk with a volume of the host's own in the place of the guest's, of that type of LUKS and with a key that the host knows.
pub(super) fn own_volume(disk: &Path, luks: &str, copy: &Path) -> Result<(), Failure> {
    copied(disk, copy)?;
    let (volume, key) = (copy.with_extension("luks"), copy.with_extension("key"));
    let io = |error| Failure::io("write", &key, &error);
    fs::write(&key, [0x30; 64]).map_err(io)?;
    formatted(&volume, VOLUME_BYTES, luks, &key)?;
    overwritten(copy, partition(copy, 3)?, &bytes(&volume, 0, DATA_AT)?)?;
    fs::remove_file(&volume).map_err(|error| Failure::io("remove", &volume, &error))
}

/// Makes `volume`, a file of so many bytes, with the header of that type of LUKS and one slot, for the key in that file.
pub(in crate::peers) fn formatted(volume: &Path, size: u64, luks: &str, key: &Path) -> Result<(), Failure> {
    let made = File::create(volume).and_then(|file| file.set_len(size));
    made.map_err(|error| Failure::io("write", volume, &error))?;
    let line =
        ["luksFormat", "--batch-mode", "--cipher", "aes-xts-plain64", "--key-size", "512", "--type", luks];
    let slot = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file"];
    process::output(Command::new("cryptsetup").args(line).args(slot).arg(key).arg(volume)).map(drop)
}

/// What a header says to be in clear.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cleared {
    Data,
    KeySlots,
}

/// A header with another cipher there, and the checksum of that.
pub(super) fn unciphered(mut header: Vec<u8>, cleared: Cleared) -> Option<Vec<u8>> {
    let [cipher, null] = CIPHERS;
    let place = |header: &[u8], text: &[u8]| header.windows(text.len()).position(|found| found == text);
    let begins = match cleared {
        Cleared::Data => place(&header, b"\"segments\"")?,
        Cleared::KeySlots => place(&header, b"\"keyslots\"")?,
    };
    let at = begins + place(header.get(begins..)?, cipher)?;
    header.get_mut(at..at + null.len())?.copy_from_slice(null);
    header.get_mut(CHECKSUM)?.fill(0);
    let sum = Sha256::digest(&header);
    header.get_mut(CHECKSUM)?.get_mut(..sum.len())?.copy_from_slice(&sum);
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::{Cleared, unciphered};
    use sha2::{Digest as _, Sha256};

    #[test]
    fn the_data_alone_lose_their_cipher_and_the_checksum_holds() {
        let mut header = vec![0x5A; 448];
        header.extend([0; 64]);
        header.extend(
            br#"{"keyslots":{"encryption":"aes-xts-plain64"},"segments":{"encryption":"aes-xts-plain64"}}"#,
        );
        let changed = unciphered(header.clone(), Cleared::Data).expect("a header");
        let json = String::from_utf8_lossy(&changed[512..]).into_owned();
        assert!(json.starts_with(r#"{"keyslots":{"encryption":"aes-xts-plain64"}"#));
        assert!(json.ends_with(r#""segments":{"encryption":"cipher_null-ecb"}}"#));
        let mut summed = changed.clone();
        summed[448..512].fill(0);
        assert_eq!(changed[448..480], *Sha256::digest(&summed));
        let slots = unciphered(header, Cleared::KeySlots).expect("a header");
        assert!(slots[512..].starts_with(br#"{"keyslots":{"encryption":"cipher_null-ecb"}"#));
        assert!(unciphered(b"short".to_vec(), Cleared::Data).is_none());
    }
}
