//! What the key of a volume is sealed to: one list, for the guest that seals, for who seals where the disk is built, and for who may write the TPM's index.
//!
//! **What.** [`PCRS`], in the words of systemd-cryptenroll and of tpm2-tools.
//! **Trust.** Below the image the layer measures the firmware; all else is the firmware's word, so that PCR 8 is never left out.
//! **Laws.** Whoever opens by one of the three sets of words opens by the others.
//! **Not here.** PCR 11, which the tenant signs values of: an update of the kernel image changes it.

use anyhow::Context as _;

/// What a PCR holds when the key is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holds {
    /// What the guest began with.
    Begun,
    /// Zero.
    Nothing,
}

/// PCR 8 says which firmware the guest has, of which all others are the word (below the image; PCR 0 holds the image and the machine's size beside); PCR 7 which keys Secure Boot has; PCR 12 and 13 what the kernel image was given beside what is
/// signed: words for its command line, credentials, extensions (systemd's TPM2_PCR_MEASUREMENTS.md); PCR 15 is zero until a volume is open: in one boot there is one.
const PCRS: [(u8, Holds); 5] = [
    (7, Holds::Begun),
    (8, Holds::Begun),
    (12, Holds::Nothing),
    (13, Holds::Nothing),
    (OF_THE_VOLUME, Holds::Nothing),
];
/// Where an open volume is measured.
const OF_THE_VOLUME: u8 = 15;

/// For the guest, whose PCRs are as they will be; `/.extra` is the kernel image's, which its signature covers (systemd-stub(7)).
pub(crate) fn in_the_guest() -> String {
    let pcrs = PCRS.map(|(pcr, _)| pcr.to_string()).join("+");
    format!(
        "--tpm2-device=auto --tpm2-pcrs={pcrs} --tpm2-public-key=/.extra/tpm2-pcr-public-key.pem --tpm2-public-key-pcrs=11"
    )
}

/// For who has no TPM at hand, but knows what the guest will begin with.
pub(crate) fn elsewhere(begun: &[(u8, [u8; 32])]) -> anyhow::Result<String> {
    let value = |pcr, holds| match holds {
        Holds::Nothing => Ok([0; 32]),
        Holds::Begun => {
            let found = begun.iter().find(|(known, _)| *known == pcr);
            found.map(|(_, value)| *value).with_context(|| format!("nobody knows what PCR {pcr} will be"))
        }
    };
    let pcrs = PCRS
        .iter()
        .map(|(pcr, holds)| value(*pcr, *holds).map(|value| format!("{pcr}:sha256={}", hex::encode(value))));
    let pcrs = pcrs.collect::<anyhow::Result<Vec<_>>>()?.join("+");
    Ok(format!(
        "--tpm2-device-key=/build/srk.pub --tpm2-pcrs={pcrs} --tpm2-public-key=/build/pcr.pub --tpm2-public-key-pcrs=11"
    ))
}

/// For a policy that holds while the volume is open, in the words of tpm2_policypcr.
pub(crate) fn while_it_is_open() -> String {
    let pcrs = PCRS.iter().map(|(pcr, _)| pcr).filter(|pcr| **pcr != OF_THE_VOLUME);
    format!("sha256:{}", pcrs.map(ToString::to_string).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::{elsewhere, in_the_guest, while_it_is_open};

    #[test]
    fn the_list_is_the_same_for_everybody() {
        assert!(in_the_guest().contains("--tpm2-pcrs=7+8+12+13+15 "));
        assert_eq!(while_it_is_open(), "sha256:7,8,12,13");
        let begun = [(7, [0x77; 32]), (8, [0x88; 32])];
        let words = elsewhere(&begun).expect("both are known");
        let pcrs = words.split(' ').find_map(|word| word.strip_prefix("--tpm2-pcrs=")).expect("its PCRs");
        let named: Vec<&str> = pcrs.split('+').filter_map(|pcr| pcr.split(':').next()).collect();
        assert_eq!(named, ["7", "8", "12", "13", "15"]);
        assert!(pcrs.starts_with(&format!("7:sha256={}+8:sha256={}+", "77".repeat(32), "88".repeat(32))));
        assert_eq!(pcrs.matches(&"00".repeat(32)).count(), 3);
        assert!(elsewhere(&begun[..1]).is_err(), "a PCR that nobody knows is not left out");
    }
}
