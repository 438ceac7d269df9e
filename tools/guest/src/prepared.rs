//! A volume that its owner encrypts before there is a guest: its key is sealed to a TPM that `husk vm prepare` made, or is what the guest earns.
//!
//! **What.** The definition and the script by which systemd-repart makes, fills and encrypts the volume, without a TPM at hand: to seal, it needs the storage root key's
//! public part, and the values that PCRs will have. What the volume is known by goes into the kernel image.
//! **Trust.** The machine that builds. Whoever names the storage root key says whose TPM opens the volume; whoever has the key that is earned opens it.
//! **Laws.** On the disk the owner's files are inside the volume alone; in the open they and every key are in memory that goes with the program.
//! **Not here.** The volume that a guest makes for itself, and what the guest compares: `known`.

use crate::config::{Attested, Prepared, Volume};
use crate::content::place;
use crate::tree::Workplace;
use crate::volume::VOLUME;
use crate::{attested, expect, known, sealing};
use anyhow::Context as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Runs systemd-repart where what lies in the open lies in memory.
const MAKE: &str = include_str!("prepared/make.sh");
/// The largest TPM2B_PUBLIC of a storage key (TPM 2.0 Library, Part 2, section 12.2.5): RSA-4096 has less than 600 bytes.
const PUBLIC_BYTES_MAX: usize = 1024;
/// The initrd, in the workplace, that holds what the volume is known by.
pub(crate) const NAMED: &str = "--initrd=/build/name.cpio";

/// The key of the volume, and who has it afterwards.
#[derive(Debug)]
pub(crate) struct Key<'c> {
    /// A file for the programs, and its name there.
    file: (Named<'c>, &'static str),
    /// What leaves the key in `/run/key`.
    drawn: &'static str,
    /// What becomes of the slot that it opens.
    slot: String,
}

/// Whose content the programs may see.
#[derive(Debug)]
enum Named<'c> {
    /// Anybody's.
    Public(Vec<u8>),
    /// Its owner's: it is copied nowhere.
    Private(&'c Path),
}

impl<'c> Key<'c> {
    /// Drawn here, and sealed to the TPM that `husk vm prepare` made. `certificate` is the SHA-256 of the one that lets the kernel image start.
    ///
    /// The same policy as a guest's own, in words for systemd-cryptenroll: systemd-repart of Debian 13 (257) does it for no volume that a file opens too. No TPM that has the values is at hand: they follow
    /// from the owner's files.
    pub(crate) fn sealed(prepared: &Prepared, certificate: &str) -> anyhow::Result<Self> {
        let public = husk_files::read_public(&prepared.storage_root_key, PUBLIC_BYTES_MAX)?;
        is_public_area(&public).with_context(|| prepared.storage_root_key.display().to_string())?;
        let begun = expect::begun(&prepared.firmware, &prepared.firmware_vars, certificate)?;
        let sealed_to = sealing::elsewhere(&begun)?;
        Ok(Self {
            file: (Named::Public(public), "srk.pub"),
            drawn: "head -c 64 /dev/random > /run/key",
            slot: format!(
                "systemd-cryptenroll --unlock-key-file=/run/key --wipe-slot=password {sealed_to} /run/front >&2"
            ),
        })
    }

    /// The tenant's, which the guest earns. PBKDF2 has nothing to stretch in a key that was drawn, and its guest has little memory.
    pub(crate) fn earned(attested: &'c Attested) -> anyhow::Result<Self> {
        Ok(Self {
            file: (Named::Private(attested::key(attested)?), "volume.key"),
            drawn: "cat /tmp/volume.key > /run/key",
            slot: "cryptsetup luksConvertKey --batch-mode --key-file /run/key --pbkdf pbkdf2 --pbkdf-force-iterations 1000 /run/front"
                .to_owned(),
        })
    }
}

/// Runs systemd-repart, whose line this is, so that it makes the volume too; what it tells.
pub(crate) fn make(
    at: &Workplace<'_>,
    volume: &Volume,
    key: &Key<'_>,
    (settings, line): (&[String], &[&str]),
) -> anyhow::Result<String> {
    let places = [("@VOLUME@", VOLUME), ("@DRAWN@", key.drawn), ("@SLOT@", &key.slot)];
    let script = places.iter().fold(MAKE.to_owned(), |text, (place, words)| text.replace(place, words));
    let (naming, defined) = (known::namer(volume).text, definition(volume));
    let texts = [
        ("make-volume", script.as_bytes(), 0o755),
        ("name-volume", naming.as_bytes(), 0o755),
        (DEFINITION, defined.as_bytes(), 0o644),
    ];
    for (path, bytes, mode) in texts {
        place(at.shared, Path::new(path), bytes, mode)?;
    }
    let owners = volume.owners_files().unwrap_or_default();
    let names: Vec<String> = (0..owners.len()).map(|number| format!("file-{number}")).collect();
    let named = || owners.iter().zip(&names);
    let mut files: Vec<(&Path, &str)> =
        named().map(|(extra, name)| (extra.from.as_path(), name.as_str())).collect();
    match &key.file {
        (Named::Public(bytes), name) => place(at.shared, Path::new(name), bytes, 0o644)?,
        (Named::Private(file), name) => files.push((file, name)),
    }
    let mut words = vec!["/build/make-volume".to_owned()];
    for (extra, name) in named() {
        let mode = if extra.executable { "755" } else { "644" };
        words.extend([mode.to_owned(), name.clone(), extra.to.to_string_lossy().into_owned()]);
    }
    words.push("--".into());
    words.extend(line.iter().map(|word| (*word).to_owned()));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let memory = ["TMPDIR=/tmp".to_owned()];
    let told = at.run_with(&files, &[settings, &memory].concat(), &words)?;
    // So that nothing looks for its key again.
    fs::remove_file(at.shared.join(DEFINITION))?;
    Ok(told)
}

const DEFINITION: &str = "partitions/50-encrypted.conf";

/// As the guest's own (repart.d(5)), with content and a size. What lies over the root lies there as the guest puts it (`volume`).
fn definition(volume: &Volume) -> String {
    let (size_mib, root) = (volume.size_mib, if volume.is_over_root() { "/upper" } else { "/" });
    format!(
        "[Partition]\nType=linux-generic\nLabel={VOLUME}\nFormat=ext4\nEncrypt=key-file\nCopyFiles=/volume:{root}\n\
         SizeMinBytes={size_mib}M\nSizeMaxBytes={size_mib}M\n"
    )
}

/// A size, and as many bytes behind it (TPM 2.0 Library, Part 2, section 12.2.5 "TPM2B_PUBLIC").
fn is_public_area(bytes: &[u8]) -> anyhow::Result<()> {
    let stated = bytes.first_chunk().map(|size| usize::from(u16::from_be_bytes(*size)));
    anyhow::ensure!(
        stated.is_some_and(|stated| stated > 0 && stated + 2 == bytes.len()),
        "no TPM2B_PUBLIC; `husk vm prepare` writes one as `srk.pub`"
    );
    Ok(())
}

/// All files that a prepared volume is made of.
pub(crate) fn named_files(prepared: &Prepared) -> impl Iterator<Item = &PathBuf> {
    let Prepared { storage_root_key, firmware, firmware_vars, files } = prepared;
    [storage_root_key, firmware, firmware_vars].into_iter().chain(files.iter().map(|extra| &extra.from))
}

#[cfg(test)]
mod tests {
    use super::{definition, is_public_area};
    use crate::config::Volume;

    #[test]
    fn a_key_is_told_from_what_is_none() {
        assert!(is_public_area(&[0, 2, 7, 7]).is_ok());
        for wrong in [&[][..], &[0], &[0, 0], &[0, 2, 7], &[0, 1, 7, 7], b"-----BEGIN PUBLIC KEY-----"] {
            assert!(is_public_area(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_volume_has_the_size_that_was_asked_for() {
        let volume = |mount: &str| Volume {
            size_mib: 64,
            mount: mount.into(),
            integrity: false,
            prepared: None,
            attested: None,
        };
        assert!(definition(&volume("/var")).contains("=/volume:/\nSizeMinBytes=64M\nSizeMaxBytes=64M\n"));
        assert!(definition(&volume("/")).contains("=/volume:/upper\n"));
    }
}
