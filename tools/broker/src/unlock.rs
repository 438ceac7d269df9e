//! What a guest must have been started as to be given a secret: values of PCRs.
//!
//! **What.** [`PcrPolicy`] is a few alternatives, each a value for some PCRs of the bank SHA-256. It has one spelling: `11=HEX,12=HEX;11=HEX`.
//! **Trust.** The tenant's word. In the database it is part of what seals the secret (`vault`).
//! **Laws.** An alternative holds if each of its PCRs has its value; a policy, if one of them does. There is none that names nothing.
//! **Not here.** Which values are the right ones: `husk guest build` and the firmware's own logs tell.

use husk::release::wire::{PCRS, UNLOCK_NAME_BYTES_MAX};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// How many alternatives a policy has at most: a kernel and its successor, with a few firmwares.
pub const ALTERNATIVES_MAX: usize = 16;

/// Values of PCRs by their numbers.
pub type PcrValues = BTreeMap<u8, [u8; 32]>;

/// Why a policy is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// It names nothing, so that anything would do.
    #[error("a policy names at least one PCR in each alternative")]
    Empty,
    /// Too many.
    #[error("a policy has at most {ALTERNATIVES_MAX} alternatives")]
    TooMany,
    /// No such PCR, or no value.
    #[error("a PCR is a number from 0 to 23, and its value of SHA-256 has 64 hexadecimal digits")]
    Malformed,
}

/// What a tenant demands of the PCRs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PcrPolicy(Vec<PcrValues>);

impl PcrPolicy {
    /// A policy of these alternatives.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn new(mut alternatives: Vec<PcrValues>) -> Result<Self, PolicyError> {
        alternatives.sort();
        alternatives.dedup();
        if alternatives.is_empty() || alternatives.iter().any(BTreeMap::is_empty) {
            return Err(PolicyError::Empty);
        }
        if alternatives.len() > ALTERNATIVES_MAX {
            return Err(PolicyError::TooMany);
        }
        let are_pcrs = alternatives.iter().flat_map(BTreeMap::keys).all(|pcr| usize::from(*pcr) < PCRS);
        if are_pcrs { Ok(Self(alternatives)) } else { Err(PolicyError::Malformed) }
    }

    /// The PCRs that have to be shown, a bit each; bit 0 is PCR 0.
    #[must_use]
    pub fn selection(&self) -> u32 {
        self.0.iter().flat_map(BTreeMap::keys).fold(0, |bits, pcr| bits | 1 << pcr)
    }

    /// Whether one of the alternatives has these values.
    #[must_use]
    pub fn admits(&self, values: &PcrValues) -> bool {
        let holds = |one: &PcrValues| one.iter().all(|(pcr, value)| values.get(pcr) == Some(value));
        self.0.iter().any(holds)
    }

    /// The PCRs that stand against the alternative that fits best, for who has to find out.
    #[must_use]
    pub fn misses(&self, values: &PcrValues) -> Vec<u8> {
        let missed = self.0.iter().map(|one| {
            let other = one.iter().filter(|(pcr, value)| values.get(pcr) != Some(value));
            other.map(|(pcr, _)| *pcr).collect::<Vec<_>>()
        });
        missed.min_by_key(Vec::len).unwrap_or_default()
    }
}

impl fmt::Display for PcrPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(shown).collect::<Vec<_>>().join(";"))
    }
}

fn shown(alternative: &PcrValues) -> String {
    let pairs = alternative.iter().map(|(pcr, value)| format!("{pcr}={}", hex::encode(value)));
    pairs.collect::<Vec<_>>().join(",")
}

impl FromStr for PcrPolicy {
    type Err = PolicyError;

    /// Reads the one spelling of a policy.
    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let alternatives = text.split(';').map(alternative).collect::<Option<Vec<_>>>();
        let policy = Self::new(alternatives.ok_or(PolicyError::Malformed)?)?;
        if policy.to_string() == text { Ok(policy) } else { Err(PolicyError::Malformed) }
    }
}

fn alternative(text: &str) -> Option<PcrValues> {
    let pair = |pair: &str| {
        let (pcr, digits) = pair.split_once('=')?;
        let mut value = [0; 32];
        hex::decode_to_slice(digits, &mut value).ok()?;
        Some((pcr.parse().ok()?, value))
    };
    text.split(',').map(pair).collect()
}

/// Whether a text names a secret: letters, digits, `.`, `-` and `_`, and no file that is hidden.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let begins = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    begins && text.len() <= UNLOCK_NAME_BYTES_MAX && text.bytes().all(known)
}

#[cfg(test)]
mod tests {
    use super::{PcrPolicy, PcrValues, PolicyError, is_name};

    fn values(pairs: &[(u8, u8)]) -> PcrValues {
        pairs.iter().map(|(pcr, value)| (*pcr, [*value; 32])).collect()
    }

    #[test]
    fn an_alternative_is_of_all_its_pcrs_and_a_policy_of_one_alternative() {
        let policy = PcrPolicy::new(vec![values(&[(4, 1), (11, 2)]), values(&[(11, 3)])]).unwrap();
        assert_eq!(policy.selection(), 1 << 4 | 1 << 11);
        assert!(policy.admits(&values(&[(4, 1), (11, 2), (12, 9)])) && policy.admits(&values(&[(11, 3)])));
        for other in [&[(4, 1), (11, 9)][..], &[(4, 9), (11, 2)], &[(11, 2)], &[(4, 1)], &[]] {
            assert!(!policy.admits(&values(other)), "{other:?}");
        }
        assert_eq!(policy.misses(&values(&[(4, 1), (11, 9)])), [11]);
    }

    #[test]
    fn a_policy_has_one_spelling() {
        let policy = PcrPolicy::new(vec![values(&[(11, 3)]), values(&[(4, 1), (11, 2)])]).unwrap();
        let text = policy.to_string();
        assert_eq!(text.parse(), Ok(policy));
        let value = "0a".repeat(32);
        assert!(format!("7={value}").parse::<PcrPolicy>().is_ok());
        for bad in [
            String::new(),
            ";".to_owned(),
            format!("7={value};"),
            format!("07={value}"),
            format!("24={value}"),
            format!("7={}", value.to_uppercase()),
            format!("7={value},7={value}"),
            format!("8={value},7={value}"),
            format!("8={value};7={value}"),
            format!("7={value};7={value}"),
            format!("7={}", &value[2..]),
            format!("7 ={value}"),
        ] {
            assert!(bad.parse::<PcrPolicy>().is_err(), "{bad}");
        }
        assert_eq!(PcrPolicy::new(Vec::new()), Err(PolicyError::Empty));
        assert_eq!(PcrPolicy::new(vec![values(&[])]), Err(PolicyError::Empty));
        let many = (0..17).map(|value| values(&[(7, value)])).collect();
        assert_eq!(PcrPolicy::new(many), Err(PolicyError::TooMany));
    }

    #[test]
    fn a_name_is_of_plain_characters() {
        assert!(is_name("root") && is_name("data-1.key_2") && is_name(&"n".repeat(64)));
        for bad in ["", ".hidden", "-x", "a/b", "a b", "\u{e9}", "a\n", &"n".repeat(65)] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
