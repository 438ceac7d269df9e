//! The crates of the image: each is named in `firmware/deps.toml` with the reason why it may enter.

use super::Finding;
use super::source::Tree;
use crate::failure::Failure;
use crate::{house, process};
use std::collections::BTreeMap;
use std::process::Command;

const LIST: &str = "firmware/deps.toml";

/// What cargo would link into the image, one crate a line.
const QUERY: &str =
    "tree --package husk-firmware --target x86_64-unknown-none --edges normal --prefix none --format {p}";

pub(super) fn check(tree: &Tree) -> Result<Vec<Finding>, Failure> {
    let listing = process::output(Command::new("cargo").args(QUERY.split(' ')).current_dir(house::root()))?;
    let list = tree.file(LIST).map_or("", |file| file.text.as_str());
    Ok(compare(list, &listing))
}

fn compare(list: &str, listing: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut listed: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, line) in list.lines().enumerate() {
        let Some((name, reason)) = line.split_once(" = ") else { continue };
        if reason.trim().trim_matches('"').trim().is_empty() {
            findings.push(Finding::new(LIST, index + 1, format!("dependencies: `{name}` has no reason")));
        }
        if listed.insert(name.trim(), index + 1).is_some() {
            findings.push(Finding::new(LIST, index + 1, format!("dependencies: `{name}` is listed twice")));
        }
    }
    let mut linked: Vec<&str> =
        listing.lines().filter(|line| !is_ours(line)).filter_map(|line| line.split(' ').next()).collect();
    linked.sort_unstable();
    linked.dedup();
    let unlisted = linked.iter().filter(|name| !listed.contains_key(**name));
    findings.extend(
        unlisted
            .map(|name| Finding::new(LIST, 1, format!("dependencies: `{name}` is linked and not listed"))),
    );
    let unlinked = listed.iter().filter(|(name, _)| !linked.contains(name));
    findings.extend(unlinked.map(|(name, line)| {
        Finding::new(LIST, *line, format!("dependencies: `{name}` is not linked any more"))
    }));
    findings
}

/// Crates of this workspace carry their folder.
fn is_ours(line: &str) -> bool {
    line.contains("(/")
}

#[cfg(test)]
mod tests {
    use super::compare;

    #[test]
    fn the_list_is_exactly_what_is_linked() {
        let listing = "husk v0.1.0 (/somewhere)\nsha2 v0.11.0\naes v0.9.0\nsha2 v0.11.0 (*)\n";
        assert_eq!(compare("[crates]\naes = \"a\"\nsha2 = \"b\"\n", listing), []);
        assert_eq!(compare("aes = \"a\"\n", listing).len(), 1);
        assert_eq!(compare("aes = \"a\"\nsha2 = \"b\"\nspin = \"c\"\n", listing).len(), 1);
        assert_eq!(compare("aes = \"\"\nsha2 = \"b\"\nsha2 = \"b\"\n", listing).len(), 2);
    }
}
