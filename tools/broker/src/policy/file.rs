//! A policy as a tenant writes it: a TOML file.
//!
//! **What.** [`Policy::from_file`], and [`Policy::contradiction`]: what no launch could ever meet.
//! **Trust.** None: the file is bounded, and what is unknown in it is refused.
//! **Laws.** A file that does not say what the platform must have demands ALIAS_CHECK_COMPLETE: who waives it says so. An error names line and
//! column, and what to do.
//! **Not here.** How a policy rests in the database: as JSON, by the same words.

use super::words::{Floors, is_short};
use super::{Policy, not_waived};
use husk::attest::report::{Generation, PlatformInfo, Policy as GuestPolicy, Tcb};
use std::fmt;
use std::ops::Range;

/// The longest file.
pub const FILE_BYTES_MAX: usize = 64 * 1024;
/// The most members of a list.
pub const LIST_MAX: usize = 256;
/// The longest name of a provider.
const PROVIDER_CHARS_MAX: usize = 128;

/// What is wrong with a policy's file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {what}")]
pub struct PolicyFileError {
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// What is wrong, and what to do.
    pub what: String,
}

/// A part of a policy that bars everybody, or that is too long.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Contradiction {
    /// Where: the keys that lead to it.
    path: Vec<&'static str>,
    what: String,
    hint: &'static str,
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.path.join("."), self.what, self.hint)
    }
}

impl Policy {
    /// Reads a tenant's file.
    ///
    /// # Errors
    /// [`PolicyFileError`].
    pub fn from_file(text: &str) -> Result<Self, PolicyFileError> {
        if text.len() > FILE_BYTES_MAX {
            let what = format!("the file is longer than {FILE_BYTES_MAX} bytes; no policy is");
            return Err(PolicyFileError { line: 1, column: 1, what });
        }
        let parsed: Result<Self, toml::de::Error> = toml::from_str(text);
        let mut policy = parsed.map_err(|error| {
            let hint = "; `husk vm policy example` shows every key";
            at(text, error.span(), format!("{}{hint}", error.message().replace('\n', " ")))
        })?;
        let table = toml::de::DeTable::parse(text)
            .map_err(|error| at(text, error.span(), error.message().to_owned()))?;
        let platform = table.get_ref().get("platform").and_then(|value| value.get_ref().as_table());
        if !platform.is_some_and(|platform| platform.contains_key("required")) {
            policy.platform.required = PlatformInfo::ALIAS_CHECK_COMPLETE;
        }
        match policy.contradiction() {
            None => Ok(policy),
            Some(found) => Err(at(text, place(table.get_ref(), &found.path), found.to_string())),
        }
    }

    /// Why no launch can ever meet this, if so.
    #[must_use]
    pub fn contradiction(&self) -> Option<Contradiction> {
        self.in_lists().or_else(|| self.in_flags()).or_else(|| self.in_levels())
    }

    fn in_lists(&self) -> Option<Contradiction> {
        let wrong =
            |path: &'static str, what: String, hint| Some(Contradiction { path: vec![path], what, hint });
        if self.measurements.is_empty() {
            let hint = "name the launch digest that `husk image measure` prints";
            return wrong("measurements", "no firmware is named, so none is admitted".to_owned(), hint);
        }
        let lengths = [
            ("measurements", self.measurements.len()),
            ("chips", self.chips.len()),
            ("providers", self.providers.len()),
            ("id_keys", self.id_keys.len()),
            ("author_keys", self.author_keys.len()),
        ];
        if let Some((path, length)) = lengths.into_iter().find(|(_, length)| *length > LIST_MAX) {
            return wrong(path, format!("{length} members are more than {LIST_MAX}"), "shorten the list");
        }
        let bad = |name: &String| name.is_empty() || name.chars().count() > PROVIDER_CHARS_MAX;
        if self.providers.iter().any(bad) {
            let hint = "give the CSP_ID that `husk evidence show` prints of a VLEK's certificate";
            return wrong("providers", "a name is empty or too long".to_owned(), hint);
        }
        let zero = |path, any: bool| any.then_some(path);
        let zero = zero("chips", self.chips.contains(&[0; 64]))
            .or(zero("id_keys", self.id_keys.contains(&[0; 48])))
            .or(zero("author_keys", self.author_keys.contains(&[0; 48])));
        let hint = "a report without one has zeros: leave the list out to admit those";
        zero.and_then(|path| wrong(path, "zeros are nobody's".to_owned(), hint))
    }

    fn in_flags(&self) -> Option<Contradiction> {
        let wrong = |path: [&'static str; 2], names: Vec<&'static str>, why: &str, hint| {
            let what = format!("{} {why}", names.join(", "));
            (!names.is_empty()).then(|| Contradiction { path: path.to_vec(), what, hint })
        };
        let both = "is both required and forbidden";
        let (guest, platform) = (&self.guest, &self.platform);
        let implied = [
            (guest.required, GuestPolicy::CIPHERTEXT_HIDING_DRAM, PlatformInfo::CIPHERTEXT_HIDING_DRAM_EN),
            (guest.required, GuestPolicy::RAPL_DIS, PlatformInfo::RAPL_DIS),
        ];
        let barred = implied.into_iter().filter(|(asked, bit, _)| asked.contains(*bit));
        let barred = barred.fold(PlatformInfo::empty(), |all, (_, _, bit)| all | bit) & platform.forbidden;
        let smt = guest.forbidden.contains(GuestPolicy::SMT);
        let smt = if smt { platform.required & PlatformInfo::SMT_EN } else { PlatformInfo::empty() };
        wrong(
            ["guest", "required"],
            names(guest.required & not_waived()),
            "is refused by every broker",
            "take it out",
        )
        .or_else(|| {
            wrong(["guest", "forbidden"], names(guest.required & guest.forbidden), both, "take one out")
        })
        .or_else(|| {
            let names = names(platform.required & platform.forbidden);
            wrong(["platform", "forbidden"], names, both, "take one out")
        })
        .or_else(|| {
            let why = "is what the required guest policy turns on";
            wrong(["platform", "forbidden"], names(barred), why, "take one out")
        })
        .or_else(|| {
            let why = "cannot be on where the guest's policy forbids SMT";
            wrong(["platform", "required"], names(smt), why, "take one out")
        })
    }

    fn in_levels(&self) -> Option<Contradiction> {
        let wrong = |path: Vec<&'static str>, what: &str, hint| {
            Some(Contradiction { path, what: what.to_owned(), hint })
        };
        let only = |short: bool| {
            !self.chips.is_empty()
                && self.providers.is_empty()
                && self.chips.iter().all(|chip| is_short(chip) == short)
        };
        match &self.min_tcb {
            Floors::Every(Tcb { fmc: Some(_), .. }) if only(false) => {
                let hint = "take fmc out, or list chips of Turin, whose ids have 16 digits";
                wrong(vec!["min_tcb"], "an fmc level is out of reach: none of the chips has an FMC", hint)
            }
            Floors::Each(floors) => {
                let fmc = |(generation, floor): &(Generation, Tcb)| {
                    *generation != Generation::Turin && floor.fmc.is_some()
                };
                let knows = |turin: bool| floors.iter().any(|(one, _)| (*one == Generation::Turin) == turin);
                if floors.iter().any(fmc) {
                    wrong(
                        vec!["min_tcb"],
                        "an fmc level is out of reach before Turin",
                        "give it for turin alone",
                    )
                } else if floors.is_empty() || only(true) && !knows(true) || only(false) && !knows(false) {
                    let hint = "add a line for their generation: one that is not named is refused";
                    wrong(vec!["min_tcb"], "no chip can meet it: the chips are of other generations", hint)
                } else {
                    None
                }
            }
            Floors::None | Floors::Every(_) => None,
        }
    }
}

fn names<F: bitflags::Flags>(bits: F) -> Vec<&'static str> {
    super::words::named(bits)
}

/// An error at the start of `span`.
fn at(text: &str, span: Option<Range<usize>>, what: String) -> PolicyFileError {
    let before = span.and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    PolicyFileError { line, column, what }
}

/// Where the value at `path` stands, or as much of the path as there is.
fn place(table: &toml::de::DeTable<'_>, path: &[&'static str]) -> Option<Range<usize>> {
    let (first, rest) = path.split_first()?;
    let value = table.get(*first)?;
    let within = value.get_ref().as_table().and_then(|inner| place(inner, rest));
    Some(within.unwrap_or_else(|| value.span()))
}
