//! PCRs' values as people write them: `sha256:11=HEX`.

use super::{Hash, PcrValue};
use std::str::FromStr;

/// The banks that prove something.
const BANKS: [Hash; 3] = [Hash::Sha256, Hash::Sha384, Hash::Sha512];
/// A PC client's TPM has so many.
const PCRS: u8 = 24;

impl Hash {
    /// The bank of that name, if it proves something.
    ///
    /// # Errors
    /// One line that says what is wanted.
    pub fn bank(name: &str) -> Result<Self, String> {
        let found = BANKS.into_iter().find(|hash| hash.name() == name);
        found.ok_or_else(|| format!("`{name}` is none of the banks sha256, sha384 and sha512"))
    }
}

/// The number of a PCR.
///
/// # Errors
/// One line that says what is wanted.
pub fn pcr_number(text: &str) -> Result<u8, String> {
    let number = text.parse().ok().filter(|number| *number < PCRS);
    number.ok_or_else(|| format!("`{text}` is no PCR: they go from 0 to 23"))
}

impl FromStr for PcrValue {
    type Err = String;

    /// Reads BANK:NUMBER=HEX.
    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("`{text}`: BANK:NUMBER=HEX is wanted");
        let (place, digits) = text.split_once('=').ok_or_else(form)?;
        let (name, pcr) = place.split_once(':').ok_or_else(form)?;
        let (hash, pcr) = (Hash::bank(name)?, pcr_number(pcr)?);
        let value = hex::decode(digits).ok().filter(|value| value.len() == hash.bytes());
        let value =
            value.ok_or_else(|| format!("`{text}`: a value has {} hexadecimal digits", 2 * hash.bytes()))?;
        Ok(Self { hash, pcr, value })
    }
}

/// The values in a text: one or more on a line, `#` before a remark.
///
/// # Errors
/// One line that says what is wanted.
pub fn pcr_values_in(text: &str) -> Result<Vec<PcrValue>, String> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    lines.flat_map(str::split_whitespace).map(str::parse).collect()
}

#[cfg(test)]
mod tests {
    use super::{PcrValue, pcr_values_in};

    #[test]
    fn a_value_is_of_a_known_bank_a_pcr_and_its_size() {
        let good = format!("sha256:11={}", "0a".repeat(32));
        assert_eq!(good.parse::<PcrValue>().unwrap().pcr, 11);
        for bad in [
            "",
            "sha256:11",
            "sha1:11=00",
            "sha256:24=00",
            "sha256:11=0a",
            "sha256:=",
            &good.replace(':', "="),
        ] {
            assert!(bad.parse::<PcrValue>().is_err(), "{bad}");
        }
        let text = format!("# a kernel\n{good} {good} # and another\n\n{good}\n");
        assert_eq!(pcr_values_in(&text).unwrap().len(), 3);
        assert!(pcr_values_in("# nothing\n").unwrap().is_empty() && pcr_values_in("11").is_err());
    }
}
