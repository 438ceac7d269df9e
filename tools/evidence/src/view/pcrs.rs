//! PCRs as they should be and as a quote has them, side by side.
#![expect(missing_docs, reason = "json.md lists the fields")]

use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// Of a value, so many digits are shown to people: enough to tell two apart.
const DIGITS: usize = 16;

/// A PCR that was quoted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PcrRow {
    pub bank: String,
    pub pcr: u8,
    /// What it says.
    pub of: String,
    /// The values that will do; none, if none was expected.
    pub expected: Vec<String>,
    pub seen: String,
}

impl PcrRow {
    /// Whether it has a value that was expected; `None` if none was.
    #[must_use]
    pub fn agrees(&self) -> Option<bool> {
        (!self.expected.is_empty()).then(|| self.expected.contains(&self.seen))
    }

    fn line(&self, expected: &str) -> String {
        let verdict = match self.agrees() {
            Some(true) => "as expected",
            Some(false) => "DIFFERS",
            None => "not expected",
        };
        let place = format!("{}:{}", self.bank, self.pcr);
        format!("{place:<10} {:<17} {:<17} {verdict:<12} {}", short(expected), short(&self.seen), self.of)
    }
}

/// As lines for people. Of several values that will do, the one that is there, or the first.
#[must_use]
pub fn table(rows: &[PcrRow]) -> String {
    let mut text = format!("{:<10} {:<17} {:<17}\n", "PCR", "expected", "seen");
    for row in rows {
        let there = row.expected.iter().find(|value| **value == row.seen).or(row.expected.first());
        let line = row.line(there.map_or("-", String::as_str));
        // Writing to a string does not fail.
        writeln!(text, "{}", line.trim_end()).ok();
    }
    text
}

fn short(digits: &str) -> String {
    match digits.char_indices().nth(DIGITS) {
        Some((end, _)) => format!("{}…", digits.get(..end).unwrap_or_default()),
        None => digits.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{PcrRow, table};

    #[test]
    fn a_row_says_whether_it_is_as_expected() {
        let row = |expected: &[&str], seen: &str| PcrRow {
            bank: "sha256".into(),
            pcr: 7,
            of: "Secure Boot".into(),
            expected: expected.iter().map(ToString::to_string).collect(),
            seen: seen.into(),
        };
        let [one, two] = ["0a".repeat(32), "0b".repeat(32)];
        let shown = table(&[row(&[&two, &one], &one), row(&[&two], &one), row(&[], &one)]);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[1], "sha256:7   0a0a0a0a0a0a0a0a… 0a0a0a0a0a0a0a0a… as expected  Secure Boot");
        assert!(lines[2].contains("0b0b0b0b0b0b0b0b… 0a0a0a0a0a0a0a0a… DIFFERS"));
        assert!(lines[3].contains("- ") && lines[3].contains("not expected"));
    }
}
