//! Which PCRs are asked for, and which values they must have.

use super::super::claims::Claims;
use super::super::read;
use anyhow::{Context as _, bail};
use clap::Args;
use husk_attester::wire::Selection;
use husk_evidence::{Hash, PcrValue, VerifiedQuote, pcr_number, pcr_values_in};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Of firmware, Secure Boot and the unified kernel image; not those that change while a guest runs (10), nor a boot loader's.
const USUAL: u32 = 0xF8FF;

/// The options about PCRs.
#[derive(Args, Debug)]
pub(super) struct ExpectedArgs {
    /// More PCRs to be shown, as BANK:NUMBER,NUMBER [default: sha256:0-7,11-15 where no value is expected].
    #[arg(long, value_name = "BANK:LIST", value_parser = pcr_list)]
    pcrs: Option<Selected>,
    /// A value that a PCR must have, as BANK:NUMBER=HEX; of several for one PCR, any.
    #[arg(long, value_name = "BANK:NUMBER=HEX")]
    expect_pcr: Vec<PcrValue>,
    /// A file of such values: one or more on a line, # before a remark.
    #[arg(long, value_name = "FILE")]
    expected: Option<PathBuf>,
}

/// PCRs of a bank, a bit each.
#[derive(Clone, Copy, Debug)]
struct Selected {
    hash: Hash,
    pcrs: u32,
}

/// What is demanded.
#[derive(Debug)]
pub(super) struct Expected {
    selected: Selected,
    /// For a PCR, the values that will do.
    values: BTreeMap<u8, Vec<Vec<u8>>>,
}

impl ExpectedArgs {
    /// Reads the file, if there is one.
    pub(super) fn read(&self) -> anyhow::Result<Expected> {
        let mut wanted = self.expect_pcr.clone();
        if let Some(file) = &self.expected {
            let name = || file.display().to_string();
            let text = String::from_utf8(read(file)?).context("it is not text").with_context(name)?;
            let found = pcr_values_in(&text).map_err(anyhow::Error::msg).with_context(name)?;
            if found.is_empty() {
                bail!("{}: no PCR's value stands there", name());
            }
            wanted.extend(found);
        }
        let hashes = wanted.iter().map(|value| value.hash).chain(self.pcrs.map(|pcrs| pcrs.hash));
        let hash = hashes.clone().next().unwrap_or(Hash::Sha256);
        if hashes.into_iter().any(|other| other != hash) {
            bail!("PCRs of one bank are asked for at a time: name values of one bank");
        }
        let mut selected =
            self.pcrs.unwrap_or(Selected { hash, pcrs: if wanted.is_empty() { USUAL } else { 0 } });
        let mut values: BTreeMap<u8, Vec<Vec<u8>>> = BTreeMap::new();
        for PcrValue { pcr, value, .. } in wanted {
            selected.pcrs |= 1 << pcr;
            values.entry(pcr).or_default().push(value);
        }
        Ok(Expected { selected, values })
    }
}

impl Expected {
    /// What the guest is asked for.
    pub(super) const fn selection(&self) -> Selection {
        Selection { bank: self.selected.hash.id(), pcrs: self.selected.pcrs }
    }

    /// The quote is of the PCRs that were asked for, and they have the values that they must have.
    pub(super) fn judge(
        &self,
        quote: &VerifiedQuote,
        values: &[PcrValue],
        claims: &mut Claims,
    ) -> anyhow::Result<()> {
        let asked: Vec<u8> = self.selection().numbers().collect();
        let same = matches!(quote.quote().selection.as_slice(), [bank] if bank.hash == self.selected.hash && bank.pcrs == asked);
        if !same {
            bail!(
                "the guest's TPM quoted other PCRs than were asked for: it may lack the bank, or the guest asked it for others"
            );
        }
        claims.proven("the PCRs had these values");
        for PcrValue { hash, pcr, value } in values {
            if self.values.get(pcr).is_some_and(|allowed| !allowed.contains(value)) {
                bail!(
                    "PCR {pcr} of {} is {}, which is none of the values that you expect: the guest was started with something else",
                    hash.name(),
                    hex::encode(value)
                );
            }
        }
        if self.values.is_empty() {
            claims.not_proven(
                "that the PCR values are the right ones: that is for you to say (--expect-pcr, --expected)",
            );
        } else {
            let numbers: Vec<String> = self.values.keys().map(u8::to_string).collect();
            claims.proven(format!("PCR {} had a value that you expect", numbers.join(", ")));
            claims.not_proven("what the guest has done since it was measured");
        }
        Ok(())
    }
}

fn pcr_list(text: &str) -> Result<Selected, String> {
    let (name, list) = text.split_once(':').ok_or("BANK:NUMBER,NUMBER is wanted, such as sha256:0,7,11")?;
    let pcrs =
        list.split(',').try_fold(0, |pcrs, text| pcr_number(text).map(|number| pcrs | 1_u32 << number))?;
    Ok(Selected { hash: Hash::bank(name)?, pcrs })
}

#[cfg(test)]
mod tests {
    use super::pcr_list;

    #[test]
    fn a_list_is_of_numbers() {
        assert_eq!(pcr_list("sha384:0,7,23").unwrap().pcrs, 1 | 1 << 7 | 1 << 23);
        for bad in ["sha256", "sha256:", "sha256:1,", "sha256:24", "md5:1"] {
            assert!(pcr_list(bad).is_err(), "{bad}");
        }
    }
}
