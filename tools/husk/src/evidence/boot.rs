//! PCRs as a guest's tenant expects them, beside those of a quote.
//!
//! **What.** Rows of expected and seen values; the verdict on them, in words; and what follows if they agree.
//! **Trust.** The values were quoted: that was verified before. What is expected is the asker's own.
//! **Laws.** A PCR of which a value is expected has one of those, or the whole is refused, with every PCR that has not.
//! **Not here.** What is to be expected of a guest: `husk_guest::expect`.

use super::claims::Claims;
use husk_evidence::view::PcrRow;
use husk_evidence::{Hash, PcrValue};
use husk_guest::expect::{ExpectArgs, Expectation, meaning};
use std::fmt;

/// Expected values, as those of quotes are kept.
pub(super) fn wanted(expectation: &Expectation) -> impl Iterator<Item = PcrValue> {
    let values = expectation.values.iter();
    values.map(|one| PcrValue { hash: Hash::Sha256, pcr: one.pcr, value: one.value.to_vec() })
}

/// What was quoted, each with the values that will do. A PCR of which a value is wanted and that was not quoted has a row without one.
pub(super) fn rows(seen: &[PcrValue], wanted: &[PcrValue]) -> Vec<PcrRow> {
    let same = |a: &PcrValue, b: &PcrValue| (a.hash, a.pcr) == (b.hash, b.pcr);
    let row = |of: &PcrValue, seen: String| PcrRow {
        bank: of.hash.name().into(),
        pcr: of.pcr,
        of: meaning(of.pcr).0.into(),
        expected: wanted.iter().filter(|one| same(one, of)).map(|one| hex::encode(&one.value)).collect(),
        seen,
    };
    let mut rows: Vec<PcrRow> = seen.iter().map(|value| row(value, hex::encode(&value.value))).collect();
    for value in wanted {
        let there = rows.iter().any(|row| (row.bank.as_str(), row.pcr) == (value.hash.name(), value.pcr));
        if !there {
            rows.push(row(value, String::new()));
        }
    }
    rows
}

/// That some PCRs have other values than expected.
#[derive(Debug)]
pub(super) struct Mismatch(Vec<PcrRow>);

impl Mismatch {
    /// Those that do not agree, if any.
    pub(super) fn among(rows: &[PcrRow]) -> Result<(), Self> {
        let differ: Vec<PcrRow> = rows.iter().filter(|row| row.agrees() == Some(false)).cloned().collect();
        if differ.is_empty() { Ok(()) } else { Err(Self(differ)) }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the guest was started with something else than you expect")?;
        for row in &self.0 {
            let PcrRow { bank, pcr, of, expected, seen } = row;
            let (seen, wanted) = (if seen.is_empty() { "not quoted" } else { seen }, expected.join(" or "));
            let (_, otherwise) = meaning(*pcr);
            write!(
                f,
                "\n  PCR {pcr} of {bank}, {of}: {otherwise}\n    expected {wanted}\n    seen     {seen}"
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for Mismatch {}

/// What agreement shows of a guest that was built.
pub(super) fn claims(args: &ExpectArgs, expectation: &Expectation, claims: &mut Claims) {
    if args.firmware.is_some() {
        claims.proven(format!(
            "your firmware started the manifest's kernel image and nothing else, whose root has the hash {}",
            expectation.root_hash
        ));
    } else {
        claims.not_proven(
            "that the guest's firmware is yours: one that the host chose can measure whatever you expect (--firmware)",
        );
    }
    if args.firmware_vars.is_none() {
        claims.not_proven("which keys Secure Boot has: that is for you to say (--firmware-vars)");
    }
}
