//! A volume that opens under a key which its guest earns: `husk-unlock` in the initrd, and whom it believes.
//!
//! **What.** The files of the initrd that earn the key before systemd-cryptsetup looks for it.
//! **Trust.** All of them are covered by the kernel image's signature, so that PCR 11 says them. The key is the tenant's, and is in no file of the disk.
//! **Laws.** The volume opens by that key alone: no TPM is sealed to, and nothing else is asked for.
//! **Not here.** How the volume is made: `prepared`. What the broker wants to see: its tenant says.

use crate::config::Attested;
use crate::content::place;
use crate::volume::VOLUME;
use std::path::{Path, PathBuf};

/// The program that earns, and a word beside it.
const PROGRAM_BYTES_MAX: usize = 64 << 20;
/// As `tools/attester` has it for every distribution.
const UNIT: &str = include_str!("../../attester/guest/husk-unlock@.service");
/// What an ELF file begins with (System V ABI, "ELF Header").
const ELF: &[u8] = b"\x7FELF";
/// Below it a passphrase could be found by trying: nothing is stretched (32 random bytes).
const KEY_BYTES_MIN: usize = 32;
/// The most that a broker keeps (`src/release/protocol.md`, section 14).
const KEY_BYTES_MAX: usize = husk::release::wire::UNLOCK_SECRET_BYTES_MAX;

/// Puts into the initrd's files at `root` what earns the key.
pub(crate) fn place_in(root: &Path, attested: &Attested) -> anyhow::Result<()> {
    let shown = |file: &Path| file.display().to_string();
    let program = husk_files::read_public(&attested.program, PROGRAM_BYTES_MAX)?;
    anyhow::ensure!(program.starts_with(ELF), "{} is no program", shown(&attested.program));
    husk_files::read_config(&attested.config)?;
    let config = husk_files::read_public(&attested.config, husk::attest::launch::CONFIG_BYTES_MAX)?;
    let options = format!("HUSK_UNLOCK_OPTIONS=\"{}\"\n", attested.options.join(" "));
    let files: [(&str, &[u8], u32); 5] = [
        ("usr/bin/husk-unlock", &program, 0o755),
        ("etc/husk/unlock/config", &config, 0o644),
        ("etc/husk/unlock/options", options.as_bytes(), 0o644),
        ("usr/lib/systemd/system/husk-unlock@.service", UNIT.as_bytes(), 0o644),
        (
            "usr/lib/systemd/system/systemd-cryptsetup@encrypted.service.d/50-key.conf",
            b"[Unit]\nRequires=husk-unlock@encrypted.service\nAfter=husk-unlock@encrypted.service\n",
            0o644,
        ),
    ];
    files.into_iter().try_for_each(|(path, bytes, mode)| place(root, Path::new(path), bytes, mode))
}

/// The key's file, if it holds what can be one.
pub(crate) fn key(attested: &Attested) -> anyhow::Result<&Path> {
    let key = husk_files::read(&attested.key)?;
    let fits = (KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&key.len());
    anyhow::ensure!(
        fits,
        "{} has {} bytes, and a key has {KEY_BYTES_MIN} to {KEY_BYTES_MAX}: draw one, as by `openssl rand -hex 32`",
        attested.key.display(),
        key.len()
    );
    Ok(&attested.key)
}

/// The line of crypttab(5). The key's file is removed once the volume is open, and PCR 15 says which one it was.
pub(crate) fn crypttab() -> String {
    format!(
        "{VOLUME} /dev/disk/by-partlabel/{VOLUME} /run/cryptsetup-keys.d/{VOLUME}.key keyfile-erase,tpm2-measure-pcr=yes,headless=yes,noauto,x-initrd.attach\n"
    )
}

/// All files that such a volume is made of.
pub(crate) fn named_files(attested: &Attested) -> impl Iterator<Item = &PathBuf> {
    let Attested { key, program, config, files, .. } = attested;
    [key, program, config].into_iter().chain(files.iter().map(|extra| &extra.from))
}

#[cfg(test)]
mod tests {
    use super::{UNIT, crypttab, key};
    use crate::config::Attested;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_that_could_be_guessed_or_that_no_broker_keeps_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        let attested = Attested {
            key: path.clone(),
            program: "program".into(),
            config: "config".into(),
            options: vec![],
            files: vec![],
        };
        for (bytes, holds) in [(31, false), (32, true), (1024, true), (1025, false)] {
            std::fs::write(&path, vec![b'a'; bytes]).expect("written");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("private");
            assert_eq!(key(&attested).is_ok(), holds, "{bytes}");
        }
    }

    #[test]
    fn the_key_is_where_the_unit_puts_it_and_is_removed() {
        assert!(UNIT.contains("--name %I --out /run/cryptsetup-keys.d/%I.key"));
        assert!(crypttab().contains(" /run/cryptsetup-keys.d/encrypted.key keyfile-erase,"));
    }
}
