//! The guest's script that names a volume which was just made, run here on headers in files: what a host exchanges in that moment.
//!
//! **What.** An honest header is named; one whose key slot, or whose data, are in clear is refused, and so is one of the older format, which says nothing of its slots' ciphers.
//! **Trust.** This machine's cryptsetup and openssl.
//! **Laws.** The script is the guest's to the letter, but for where it keeps what it writes.
//! **Not here.** Who calls it: `tools/guest`.

use super::planted::{Cleared, formatted, unciphered};
use crate::failure::Failure;
use crate::peers::step;
use crate::process;
use crate::steps::Step;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SCRIPT: &str = include_str!("../../../../guest/src/known/name.sh");
/// What the script says before it ends.
const REFUSED: &str = "the volume is refused: it was exchanged while it was made";
/// LUKS2's header with its key slots, as cryptsetup makes it.
const HEADER_BYTES: u64 = 16 << 20;
/// Both copies of the metadata (LUKS2 On-Disk Format Specification 1.1, section 2), 16 KiB each.
const METADATA_BYTES: usize = 16 << 10;

/// The script as steps.
pub(super) fn steps(folder: &Path) -> Vec<Step> {
    let honest = named(folder, "honest", "luks2", None);
    let refused = |name, luks, cleared| match named(folder, name, luks, cleared) {
        Ok(name) => Err(Failure::failed(format!("it is named {name}"))),
        Err(failure) if failure.to_string().contains(REFUSED) => Ok(REFUSED.to_owned()),
        Err(other) => Err(other),
    };
    vec![
        step("new-volume-is-named", honest),
        step("key-slot-in-clear-is-not-named", refused("slot", "luks2", Some(Cleared::KeySlots))),
        step("data-in-clear-are-not-named", refused("data", "luks2", Some(Cleared::Data))),
        step("older-format-is-not-named", refused("older", "luks1", None)),
    ]
}

/// A volume in a file, exchanged or not, and the name that the script gives to it.
fn named(folder: &Path, name: &str, luks: &str, cleared: Option<Cleared>) -> Result<String, Failure> {
    let at = folder.join(format!("naming-{name}"));
    fs::create_dir_all(&at).map_err(|error| Failure::io("make", &at, &error))?;
    let [volume, key, script] = ["volume", "key", "script"].map(|name| at.join(name));
    let write = |path: &PathBuf, bytes: &[u8]| {
        fs::write(path, bytes).map_err(|error| Failure::io("write", path, &error))
    };
    write(&key, &[0x31; 64])?;
    write(
        &script,
        SCRIPT.replace("@VOLUME@", "encrypted").replace("/run/", &format!("{}/", at.display())).as_bytes(),
    )?;
    formatted(&volume, 4 * HEADER_BYTES, luks, &key)?;
    if let Some(cleared) = cleared {
        let mut bytes = fs::read(&volume).map_err(|error| Failure::io("read", &volume, &error))?;
        for metadata in bytes.chunks_exact_mut(METADATA_BYTES).take(2) {
            let changed = unciphered(metadata.to_vec(), cleared);
            let changed =
                changed.ok_or_else(|| Failure::failed("peers: this cryptsetup makes another header"))?;
            metadata.copy_from_slice(&changed);
        }
        write(&volume, &bytes)?;
    }
    process::output(Command::new("sh").arg(&script).arg(&volume).arg(&key))?;
    let name = at.join("volume.name");
    let name = fs::read(&name).map_err(|error| Failure::io("read", &name, &error))?;
    let digits: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
    if name.len() == 32 { Ok(digits) } else { Err(Failure::failed(format!("its name is {digits}"))) }
}
