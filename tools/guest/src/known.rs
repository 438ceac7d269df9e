//! The volume that the TPM knows: made once, named once, and no other is mounted.
//!
//! **What.** Scripts of the guest: in the initrd one that makes the volume and works out what PCR 15 will be, in the root one that has the TPM keep that and compares it at each boot.
//! **Trust.** Both are covered by what the tenant signed. The disk is the host's at every moment, also while the volume is made.
//! **Laws.** What the TPM keeps is written once, and only for a volume that was made at the same boot by a key that no host saw.
//! **Not here.** Where the texts are put: `content` and `disk`.

use crate::content::VOLUME;

/// PCR 0 says which firmware the guest has, of which all others are the word; PCR 7 which keys Secure Boot has; PCR 11 what was started, by values that the tenant signed; PCR 12 and 13 what
/// was given to it beside that: words for its command line, credentials, extensions (systemd's TPM2_PCR_MEASUREMENTS.md), nothing at all; PCR 15 is zero until a volume is open: in one boot there
/// is one. `/.extra` is the kernel image's, which its signature covers (systemd-stub(7)).
const SEALED_TO: &str = "--tpm2-device=auto --tpm2-pcrs=0+7+12+13+15 --tpm2-public-key=/.extra/tpm2-pcr-public-key.pem --tpm2-public-key-pcrs=11";
/// As systemd-repart makes it, and how many bytes its key has (cryptsetup(8), "NOTES ON SUPPORTED CIPHERS": XTS takes two keys).
const CIPHER: &str = "aes-xts-plain64";
const KEY_BYTES: &str = "64";
/// What else systemd-repart and the scripts run in the initrd.
pub(crate) const PROGRAMS: &str = "mkfs.ext4 mke2fs cryptsetup openssl grep head od tr";
/// What the volume's mount asks for.
pub(crate) const CHECKED: &str = "x-systemd.requires=check-volume.service";

/// A file to be put somewhere.
#[derive(Debug)]
pub(crate) struct Text {
    /// Below the root of it.
    pub(crate) path: &'static str,
    pub(crate) text: String,
    pub(crate) mode: u32,
}

/// What the initrd runs.
pub(crate) fn in_initrd() -> [Text; 3] {
    let unit = "[Unit]\nAfter=sysroot.mount tpm2.target\nWants=tpm2.target\n\n[Service]\nExecStart=\nExecStart=/usr/libexec/make-volume\n";
    [
        Text {
            path: "usr/lib/systemd/system/systemd-repart.service.d/50-volume.conf",
            text: unit.into(),
            mode: 0o644,
        },
        script("usr/libexec/make-volume", include_str!("known/make.sh")),
        script("usr/libexec/name-volume", include_str!("known/name.sh")),
    ]
}

/// What the root runs before the volume is mounted.
pub(crate) fn in_root() -> [Text; 2] {
    let opened = format!("systemd-cryptsetup@{VOLUME}.service");
    let unit = format!(
        "[Unit]
Description=Is this the volume that this TPM knows
DefaultDependencies=no
Requires={opened}
After={opened} tpm2.target

[Service]
Type=oneshot
RemainAfterExit=yes
RuntimeDirectory=check-volume
StandardError=journal+console
ExecStart=/usr/libexec/check-volume
"
    );
    [
        Text { path: "usr/lib/systemd/system/check-volume.service", text: unit, mode: 0o644 },
        script("usr/libexec/check-volume", include_str!("known/check.sh")),
    ]
}

fn script(path: &'static str, text: &str) -> Text {
    let words =
        [("@VOLUME@", VOLUME), ("@CIPHER@", CIPHER), ("@KEY_BYTES@", KEY_BYTES), ("@SEALED_TO@", SEALED_TO)];
    let text = words.iter().fold(text.to_owned(), |text, (word, value)| text.replace(word, value));
    Text { path, text, mode: 0o755 }
}

#[cfg(test)]
mod tests {
    use super::{in_initrd, in_root};

    #[test]
    fn no_place_is_left_open_in_a_script() {
        let texts: Vec<String> = in_initrd().into_iter().chain(in_root()).map(|text| text.text).collect();
        assert!(texts.iter().all(|text| !text.contains("@VOL") && !text.contains("@CI")));
        assert!(texts.iter().any(|text| text.contains("--tpm2-pcrs=0+7+12+13+15 ")));
    }
}
