//! The volume: how the guest makes it, opens it, and where it lies.
//!
//! **What.** Texts for the tools of systemd and cryptsetup, in the guest's root and in the initrd, by what the configuration asks for.
//! **Trust.** As the modules that write them: all of it is covered by the root's hash or by the kernel image's signature.
//! **Laws.** A volume is made only where the partition table has none, or one that was never finished. Nothing that fails here lets a boot go on without the volume.
//! **Not here.** Which volume the TPM knows: `known`. Where the texts are put: `content` and `disk`.

use crate::attested;
use crate::config::Volume;
use crate::known::{self, CHECKED};
use crate::sealing;

/// The name of the volume's partition, and of what it opens to.
pub(crate) const VOLUME: &str = "encrypted";
/// The name of a partition whose volume is being made.
const UNFINISHED: &str = "encrypted-unfinished";
const MAKER: &str = "usr/libexec/make-tagged-volume";
const OVER_ROOT: &str = "volume-over-root.service";
/// What that runs beside what [`known`] has for every volume.
const MAKERS_PROGRAMS: &str = "systemd-cryptenroll sfdisk readlink";
/// dm-integrity, and what dm-crypt takes HMAC-SHA-256 from beside (Linux, Documentation/admin-guide/device-mapper/dm-crypt.rst, "integrity").
const TAGS_DRIVERS: &str = "dm_integrity authenc hmac sha256_generic";
const OVER_ROOT_PROGRAMS: &str =
    "/usr/lib/systemd/systemd-cryptsetup /usr/lib/systemd/system-generators/systemd-cryptsetup-generator";
const OVER_ROOT_DRIVERS: &str = "overlay";
/// Of what waits in the initrd until the volume is made and named.
const AFTER_MAKING: &str = "[Unit]\nAfter=systemd-repart.service\n";

/// A file to be put somewhere.
#[derive(Debug)]
pub(crate) struct Text {
    /// Below the root of it.
    pub(crate) path: &'static str,
    pub(crate) text: String,
    pub(crate) mode: u32,
}

impl Text {
    /// A file that nobody runs.
    pub(crate) fn of(path: &'static str, text: String) -> Self {
        Self { path, text, mode: 0o644 }
    }
}

/// What the guest's root says of its volume.
pub(crate) fn in_root(volume: &Volume) -> Vec<Text> {
    let mut texts = vec![
        Text::of("usr/lib/repart.d/50-encrypted.conf", definition(volume)),
        Text::of("etc/crypttab", crypttab(volume)),
        Text::of("etc/fstab", fstab(&volume.mount)),
    ];
    if !volume.is_over_root() {
        texts.extend(known::checker(volume));
    }
    texts
}

/// What the initrd says of it.
pub(crate) fn in_initrd(volume: &Volume) -> Vec<Text> {
    let maker = if volume.integrity {
        Text { path: MAKER, text: maker(), mode: 0o755 }
    } else {
        known::maker(volume)
    };
    let mut texts = vec![
        // The unit asks whether there is a definition here; it reads the one in the root.
        Text::of("usr/lib/repart.d/50-encrypted.conf", definition(volume)),
        Text::of("usr/lib/systemd/system/systemd-repart.service.d/50-volume.conf", repart_unit(maker.path)),
        maker,
        known::namer(volume),
    ];
    if volume.is_over_root() {
        texts.extend(over_root(volume));
        texts.extend(known::checker(volume));
    }
    texts
}

/// Programs that the initrd needs for it.
pub(crate) fn programs(volume: &Volume) -> String {
    let over_root = format!("{OVER_ROOT_PROGRAMS} {}", known::CHECKERS_PROGRAMS);
    needed(volume, known::PROGRAMS, MAKERS_PROGRAMS, &over_root)
}

/// Drivers that the initrd needs for it.
pub(crate) fn drivers(volume: &Volume) -> String {
    needed(volume, "", TAGS_DRIVERS, OVER_ROOT_DRIVERS)
}

/// What every volume needs, what one with tags does, and what one over the root does.
fn needed(volume: &Volume, all: &str, tagged: &str, over_root: &str) -> String {
    let wanted = [(true, all), (volume.integrity, tagged), (volume.is_over_root(), over_root)];
    let words = wanted.into_iter().filter(|(needed, _)| *needed).flat_map(|(_, words)| words.split(' '));
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// repart.d(5). Without tags the key is made there and sealed to the TPM, and opens by a file too that nobody keeps; which PCRs, the initrd's script says.
fn definition(volume: &Volume) -> String {
    let (label, content) =
        if volume.integrity { (UNFINISHED, "") } else { (VOLUME, "Format=ext4\nEncrypt=key-file+tpm2\n") };
    format!("[Partition]\nType=linux-generic\nLabel={label}\n{content}")
}

fn repart_unit(maker: &str) -> String {
    format!(
        "[Unit]\nAfter=sysroot.mount tpm2.target\nWants=tpm2.target\n\n[Service]\nExecStart=\nExecStart=/{maker}\n"
    )
}

/// systemd-repart of Debian 13 (257) makes no volume with tags, so it makes the partition alone. Its passphrase lives in the initrd's memory until the TPM has its own. Blocks of 4096 bytes are
/// the file system's; PBKDF2 has nothing to stretch in 64 random bytes (as systemd-cryptenroll(1) has it of recovery keys).
fn maker() -> String {
    let sealed_to = sealing::in_the_guest();
    format!(
        "#!/bin/sh
# The partition has a name of its own until its volume is whole: a boot that was cut makes it anew. What is whole is never touched, whatever it holds.
set -eu
names=/dev/disk/by-partlabel
systemd-repart --dry-run=no
udevadm settle
if ! [ -b $names/{UNFINISHED} ]; then
    [ -b $names/{VOLUME} ]
    exit
fi
device=$(readlink -f $names/{UNFINISHED})
entry=/sys/class/block/${{device##*/}}
read -r number < \"$entry/partition\"
disk=$(cd -P \"$entry/..\" && pwd)
umask 077
key=/run/volume.key
head -c 64 /dev/random > $key
cryptsetup luksFormat --batch-mode --type luks2 --cipher aes-xts-plain64 --integrity hmac-sha256 --sector-size 4096 \\
    --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file $key \"$device\"
cryptsetup open --key-file $key \"$device\" {UNFINISHED}
mkfs.ext4 -q /dev/mapper/{UNFINISHED}
cryptsetup close {UNFINISHED}
/usr/libexec/name-volume \"$device\" $key
systemd-cryptenroll --unlock-key-file=$key --wipe-slot=password {sealed_to} \"$device\"
rm $key
sfdisk --quiet --part-label \"/dev/${{disk##*/}}\" \"$number\" {VOLUME}
udevadm trigger --settle --action=change \"$entry\"
"
    )
}

/// crypttab(5): opened by the TPM, with PCR 15 extended by the volume's key. One that lies over the root is opened in the initrd, where what needs it asks for it.
fn crypttab(volume: &Volume) -> String {
    if volume.attested.is_some() {
        return attested::crypttab();
    }
    let when = if volume.is_over_root() { ",noauto,x-initrd.attach" } else { "" };
    format!(
        "{VOLUME} /dev/disk/by-partlabel/{VOLUME} - tpm2-device=auto,tpm2-measure-pcr=yes,headless=yes{when}\n"
    )
}

/// The root cannot be written; where the volume is neither over it nor `/var`, that is memory.
fn fstab(mount: &str) -> String {
    let volume = format!("/dev/mapper/{VOLUME} {mount} ext4 nodev,nosuid,{CHECKED} 0 0\n");
    match mount {
        "/" => String::new(),
        "/var" => volume,
        _ => format!("tmpfs /var tmpfs nodev,nosuid 0 0\n{volume}"),
    }
}

/// What opens the volume in the initrd and lays it over the root, or ends the boot. dracut's own (`overlayfs`, `overlay-root`) and systemd's (`systemd.volatile=overlay`) take memory where there is no volume. The
/// volume's partition is waited for when it can be there: making it may take longer than a device may. It has its last name before the volume that is made there has one, so nobody opens it until then.
fn over_root(volume: &Volume) -> [Text; 5] {
    [
        Text::of("etc/crypttab", crypttab(volume)),
        Text::of("usr/lib/systemd/system/volume-over-root.service", over_root_unit()),
        Text::of(
            "usr/lib/systemd/system/initrd-root-fs.target.d/50-volume.conf",
            format!("[Unit]\nRequires={OVER_ROOT}\nAfter={OVER_ROOT}\n"),
        ),
        Text::of(
            "usr/lib/systemd/system/dev-disk-by\\x2dpartlabel-encrypted.device.d/50-volume.conf",
            AFTER_MAKING.into(),
        ),
        Text::of(
            "usr/lib/systemd/system/systemd-cryptsetup@encrypted.service.d/40-volume.conf",
            AFTER_MAKING.into(),
        ),
    ]
}

/// What runs from the volume runs with the TPM, so none is used that the TPM does not know.
///
/// Linux, Documentation/filesystems/overlayfs.rst, "Changes to underlying filesystems": with these four off, another root may lie beneath the same volume, as after an update.
fn over_root_unit() -> String {
    let (at, off) = ("/run/volume/root", "index=off,metacopy=off,redirect_dir=off,xino=off");
    format!(
        "[Unit]
Description=The encrypted volume over the root
DefaultDependencies=no
Requires=sysroot.mount check-volume.service
After=sysroot.mount systemd-repart.service check-volume.service
Before=initrd-root-fs.target
Conflicts=shutdown.target
Before=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=mkdir -m 0700 /run/volume
ExecStart=mkdir {at}
ExecStart=mount -t ext4 /dev/mapper/{VOLUME} {at}
ExecStart=mkdir -p {at}/upper {at}/work
ExecStart=mount -t overlay -o lowerdir=/sysroot,upperdir={at}/upper,workdir={at}/work,{off} overlay /sysroot
"
    )
}

#[cfg(test)]
mod tests {
    use super::{
        UNFINISHED, VOLUME, crypttab, definition, drivers, fstab, in_initrd, in_root, maker, programs,
    };
    use crate::config::Volume;

    const CHECK: &str = "usr/lib/systemd/system/check-volume.service";

    fn volume(integrity: bool) -> Volume {
        Volume { size_mib: 64, mount: "/var".into(), integrity, prepared: None, attested: None }
    }

    fn paths(volume: &Volume) -> Vec<&'static str> {
        in_initrd(volume).iter().map(|text| text.path).collect()
    }

    #[test]
    fn a_root_that_cannot_be_written_has_a_var_all_the_same() {
        assert_eq!(fstab("/var").lines().count(), 1);
        assert!(fstab("/srv").starts_with("tmpfs /var "));
        assert!(fstab("/").is_empty(), "all of it can be written");
    }

    #[test]
    fn a_volume_over_the_root_is_opened_by_the_initrd_which_ends_without_it() {
        let over = Volume { mount: "/".into(), ..volume(false) };
        let [plain_paths, over_paths] = [paths(&volume(false)), paths(&over)];
        assert!(over_paths.contains(&CHECK) && !plain_paths.contains(&CHECK));
        let root: Vec<&str> = in_root(&over).iter().map(|text| text.path).collect();
        assert!(!root.contains(&CHECK), "the initrd has done it");
        assert!(in_initrd(&over).iter().any(|text| text.text.contains("Requires=volume-over-root.service")));
        assert!(
            crypttab(&over).trim().ends_with("x-initrd.attach")
                && !crypttab(&volume(false)).contains("noauto")
        );
        let opener = "usr/lib/systemd/system/systemd-cryptsetup@encrypted.service.d/40-volume.conf";
        let opener = in_initrd(&over).into_iter().find(|text| text.path == opener);
        assert!(opener.is_some_and(|text| text.text.contains("After=systemd-repart.service")));
        assert!(programs(&over).contains("tpm2_nvread") && drivers(&over) == "overlay");
    }

    #[test]
    fn a_volume_with_tags_is_made_by_the_script_and_any_other_by_systemd_repart() {
        let [plain, tagged] = [false, true].map(volume);
        assert!(definition(&plain).contains("Encrypt=key-file+tpm2"));
        assert!(!definition(&tagged).contains("Encrypt="), "there would be no tags");
        assert!(paths(&tagged).contains(&super::MAKER) && !paths(&plain).contains(&super::MAKER));
        assert!(programs(&tagged).contains("sfdisk") && !programs(&plain).contains("sfdisk"));
        assert!(drivers(&tagged).contains("dm_integrity") && drivers(&plain).is_empty());
    }

    #[test]
    fn a_volume_gets_its_name_after_all_else_and_only_one_without_it_is_made() {
        let script = maker();
        let at = |text: &str| script.find(text).unwrap_or_else(|| panic!("{text} is not there"));
        let steps =
            ["exit\n", "luksFormat", "mkfs.ext4", "name-volume", "--wipe-slot=password", "--part-label"];
        assert!(steps.map(at).is_sorted());
        assert!(definition(&volume(true)).contains(&format!("Label={UNFINISHED}\n")));
        assert!(script.contains(&format!("\"$number\" {VOLUME}\n")));
    }
}
