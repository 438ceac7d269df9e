//! Which PCRs are asked for, and which values they must have.

use super::super::boot::{self, Mismatch};
use super::super::claims::Claims;
use super::super::read;
use anyhow::{Context as _, bail};
use clap::Args;
use husk_attester::wire::Selection;
use husk_evidence::view::PcrRow;
use husk_evidence::{Hash, PcrValue, VerifiedQuote, pcr_number, pcr_values_in};
use husk_guest::expect::{ExpectArgs, Expectation};
use std::path::{Path, PathBuf};

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
    #[command(flatten)]
    pub(super) guest: ExpectArgs,
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
    /// Of several for one PCR, any will do.
    wanted: Vec<PcrValue>,
    /// What follows from a guest's manifest; its values are among the wanted ones.
    guest: Option<Expectation>,
}

impl ExpectedArgs {
    /// Reads what was named. `pinned` is a value of an earlier day.
    pub(super) fn read(&self, pinned: Option<PcrValue>) -> anyhow::Result<Expected> {
        let mut wanted = self.expect_pcr.clone();
        wanted.extend(self.expected.as_deref().map(in_file).transpose()?.into_iter().flatten());
        let guest = self.guest.read()?;
        wanted.extend(guest.iter().flat_map(boot::wanted));
        wanted.extend(pinned);
        let hashes = wanted.iter().map(|value| value.hash).chain(self.pcrs.map(|pcrs| pcrs.hash));
        let hash = hashes.clone().next().unwrap_or(Hash::Sha256);
        if hashes.into_iter().any(|other| other != hash) {
            bail!("PCRs of one bank are asked for at a time: name values of one bank");
        }
        // Of a guest that was built the others are shown too.
        let usual = if wanted.is_empty() || guest.is_some() { USUAL } else { 0 };
        let mut selected = self.pcrs.unwrap_or(Selected { hash, pcrs: usual });
        for value in &wanted {
            selected.pcrs |= 1 << value.pcr;
        }
        Ok(Expected { selected, wanted, guest })
    }
}

impl Expected {
    /// What the guest is asked for.
    pub(super) const fn selection(&self) -> Selection {
        Selection { bank: self.selected.hash.id(), pcrs: self.selected.pcrs }
    }

    /// The quote is of the PCRs that were asked for; expected and seen, side by side.
    pub(super) fn rows(&self, quote: &VerifiedQuote, values: &[PcrValue]) -> anyhow::Result<Vec<PcrRow>> {
        let asked: Vec<u8> = self.selection().numbers().collect();
        let same = matches!(quote.quote().selection.as_slice(), [bank] if bank.hash == self.selected.hash && bank.pcrs == asked);
        if !same {
            bail!(
                "the guest's TPM quoted other PCRs than were asked for: it may lack the bank, or the guest asked it for others"
            );
        }
        Ok(boot::rows(values, &self.wanted))
    }

    /// They have the values that they must have.
    pub(super) fn judge(
        &self,
        args: &ExpectedArgs,
        rows: &[PcrRow],
        claims: &mut Claims,
    ) -> Result<(), Mismatch> {
        Mismatch::among(rows)?;
        claims.proven("the PCRs had these values");
        let expected = rows.iter().filter(|row| row.agrees() == Some(true));
        let numbers: Vec<String> = expected.map(|row| row.pcr.to_string()).collect();
        if numbers.is_empty() {
            claims.not_proven(
                "that the PCR values are the right ones: that is for you to say (--guest, --expect-pcr, --expected)",
            );
            return Ok(());
        }
        claims.proven(format!("PCR {} had a value that you expect", numbers.join(", ")));
        if let Some(guest) = &self.guest {
            boot::claims(&args.guest, guest, claims);
        }
        claims.not_proven("what the guest has done since it was measured");
        Ok(())
    }
}

/// The values in a file, of which there is one at least.
fn in_file(file: &Path) -> anyhow::Result<Vec<PcrValue>> {
    let name = || file.display().to_string();
    let text = String::from_utf8(read(file)?).context("it is not text").with_context(name)?;
    let found = pcr_values_in(&text).map_err(anyhow::Error::msg).with_context(name)?;
    if found.is_empty() {
        bail!("{}: no PCR's value stands there", name());
    }
    Ok(found)
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
