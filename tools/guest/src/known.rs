//! The volume that the TPM knows: made once, named once, and no other is mounted.
//!
//! **What.** Scripts of the guest: in the initrd one that makes the volume and works out what PCR 15 will be, in the root one that has the TPM keep that and compares it at each boot.
//! **Trust.** Both are covered by what the tenant signed. The disk is the host's at every moment, also while the volume is made.
//! **Laws.** What the TPM keeps is written once, and only for a volume that was made at the same boot by a key that no host saw.
//! **Not here.** How a volume with tags is made, and what else the texts are with: `volume`.

use crate::config::Volume;
use crate::sealing;
use crate::volume::{Text, VOLUME};

/// As systemd-repart makes it, and how many bytes its key has (cryptsetup(8), "NOTES ON SUPPORTED CIPHERS": XTS takes two keys).
const PLAIN: [&str; 2] = ["aes-xts-plain64", "64"];
/// The same of a volume with tags, which has a key for these beside (Linux, Documentation/admin-guide/device-mapper/dm-crypt.rst, "integrity").
const TAGGED: [&str; 2] = ["capi:authenc(hmac(sha256),xts(aes))-plain64", "96"];
/// What systemd-repart and the scripts that make and name a volume run.
pub(crate) const PROGRAMS: &str = "mkfs.ext4 mke2fs cryptsetup openssl grep head od tr udevadm";
/// What the script that compares runs, where it does so in the initrd.
pub(crate) const CHECKERS_PROGRAMS: &str = "cmp dmsetup sed tail wc tpm2_flushcontext tpm2_nvdefine tpm2_nvread tpm2_nvreadpublic tpm2_nvwrite tpm2_nvwritelock tpm2_pcrread tpm2_policypcr tpm2_startauthsession";
/// What the volume's mount asks for.
pub(crate) const CHECKED: &str = "x-systemd.requires=check-volume.service";

/// What makes a volume without tags.
pub(crate) fn maker(volume: &Volume) -> Text {
    script(volume, "usr/libexec/make-volume", include_str!("known/make.sh"))
}

/// What works out the name of a volume that was just made.
pub(crate) fn namer(volume: &Volume) -> Text {
    script(volume, "usr/libexec/name-volume", include_str!("known/name.sh"))
}

/// What runs before the volume is mounted.
pub(crate) fn checker(volume: &Volume) -> [Text; 2] {
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
        Text::of("usr/lib/systemd/system/check-volume.service", unit),
        script(volume, "usr/libexec/check-volume", include_str!("known/check.sh")),
    ]
}

fn script(volume: &Volume, path: &'static str, text: &str) -> Text {
    let [cipher, key_bytes] = if volume.integrity { TAGGED } else { PLAIN };
    let (sealed_to, opened) = (sealing::in_the_guest(), sealing::while_it_is_open());
    let words = [
        ("@VOLUME@", VOLUME),
        ("@CIPHER@", cipher),
        ("@KEY_BYTES@", key_bytes),
        ("@SEALED_TO@", &sealed_to),
        ("@PCRS@", &opened),
    ];
    let text = words.iter().fold(text.to_owned(), |text, (word, value)| text.replace(word, value));
    Text { path, text, mode: 0o755 }
}

#[cfg(test)]
mod tests {
    use super::{checker, maker, namer};
    use crate::config::Volume;

    #[test]
    fn no_place_is_left_open_in_a_script() {
        for integrity in [false, true] {
            let volume =
                Volume { size_mib: 64, mount: "/var".into(), integrity, prepared: None, attested: None };
            let [unit, check] = checker(&volume);
            let texts = [maker(&volume).text, namer(&volume).text, unit.text, check.text];
            let places = ["@VOLUME@", "@CIPHER@", "@KEY_BYTES@", "@SEALED_TO@", "@PCRS@"];
            assert!(texts.iter().all(|text| places.iter().all(|place| !text.contains(place))));
            assert!(texts[0].contains("--tpm2-pcrs=7+") && texts[3].contains("-l sha256:7,"));
            assert_eq!(texts[3].contains("hmac(sha256)"), integrity);
        }
    }
}
