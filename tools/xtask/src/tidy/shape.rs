//! Sizes of files, and the documentation that every box opens with.

use super::exceptions::Exceptions;
use super::source::{File, Tree};
use super::{Finding, within};

/// HOUSE: a file has at most this many lines, tests included.
const LINES_MAX: usize = 500;

/// The folders of Rust that is ours.
pub(super) const CODE: &[&str] = &["src", "stubs", "firmware", "tools", "tests"];

/// The four headings of a box's documentation, in their order.
const HEADINGS: [&str; 4] = ["**What", "**Trust", "**Laws", "**Not here"];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = sizes(tree);
    let opening = tree.rust(&["src"]).filter(|file| opens_a_box(&file.path));
    findings.extend(opening.filter_map(headings));
    findings.extend(tree.rust(CODE).filter_map(opens_with_a_sentence));
    findings
}

/// The list is a ratchet: a listed file may shrink, never grow, and leaves the list when it fits.
fn sizes(tree: &Tree) -> Vec<Finding> {
    let exceptions = Exceptions::read(tree, "long-files.txt");
    let mut findings = exceptions.malformed.clone();
    for file in tree.rust(CODE) {
        let lines = file.text.lines().count();
        let allowed =
            exceptions.of(&file.path).and_then(|entry| entry.value.parse().ok()).unwrap_or(LINES_MAX);
        if lines > allowed.max(LINES_MAX) {
            findings.push(Finding::new(
                &file.path,
                lines,
                format!("shape: {lines} lines, at most {allowed}; split the file"),
            ));
        }
    }
    for entry in &exceptions.entries {
        let lines = tree.file(&entry.path).map_or(0, |file| file.text.lines().count());
        if lines <= LINES_MAX {
            findings.push(exceptions.complain(entry, "fits now; remove it from the list"));
        } else if entry.value != lines.to_string()
            && entry.value.parse().is_ok_and(|allowed: usize| lines < allowed)
        {
            findings.push(exceptions.complain(entry, &format!("has {lines} lines now; lower its number")));
        }
    }
    findings
}

/// A file that opens a box: `src/box/mod.rs` at any depth, and every file directly in `src`. The handbook's pages
/// have their own form.
fn opens_a_box(path: &str) -> bool {
    let top = path.strip_prefix("src/").is_some_and(|rest| !rest.contains('/'));
    (top || path.ends_with("/mod.rs")) && !within(path, &["src/manual"])
}

fn headings(file: &File) -> Option<Finding> {
    let opening: String = file.text.lines().take_while(|line| line.starts_with("//!")).collect();
    let mut from = 0;
    for heading in HEADINGS {
        match opening[from..].find(heading) {
            Some(at) => from += at,
            None => {
                let what =
                    format!("shape: the module's documentation lacks {heading}**, or has it out of order");
                return Some(Finding::new(&file.path, 1, what));
            }
        }
    }
    None
}

/// Every file of tools and tests says on its first line what it is.
fn opens_with_a_sentence(file: &File) -> Option<Finding> {
    let opens = file.text.starts_with("//!") || file.text.starts_with("#!");
    let exempt = within(&file.path, &["src"]) || file.path.ends_with("build.rs");
    (!opens && !exempt)
        .then(|| Finding::new(&file.path, 1, "shape: the file does not open with a `//!` line"))
}

#[cfg(test)]
mod tests {
    use super::{Tree, check};

    const GOOD: &str =
        "//! A box.\n//! **What.** a\n//! **Trust.** b\n//! **Laws.** c\n//! **Not here.** d\n";

    #[test]
    fn a_box_opens_with_its_four_headings_in_order() {
        assert_eq!(check(&Tree::of(&[("src/nv/mod.rs", GOOD)])), []);
        assert_eq!(check(&Tree::of(&[("src/nv/mod.rs", &GOOD.replace("**Laws", "**Lawz"))])).len(), 1);
        assert_eq!(check(&Tree::of(&[("src/nv/leaf.rs", "fn f() {}")])), []);
        assert_eq!(check(&Tree::of(&[("tools/x/src/leaf.rs", "fn f() {}")])).len(), 1);
    }

    #[test]
    fn the_list_of_long_files_is_a_ratchet() {
        let file = |lines: usize| "//! x\n".repeat(lines);
        let with = |lines: usize, listed: &str| {
            check(&Tree::of(&[("tests/a.rs", &file(lines)), ("tools/xtask/tidy/long-files.txt", listed)]))
                .len()
        };
        assert_eq!(with(500, ""), 0);
        assert_eq!(with(501, ""), 1);
        assert_eq!(with(501, "tests/a.rs 501 # a table"), 0);
        assert_eq!(with(502, "tests/a.rs 501 # a table"), 1);
        assert_eq!(with(501, "tests/a.rs 600 # a table"), 1);
        assert_eq!(with(400, "tests/a.rs 501 # a table"), 1);
        assert_eq!(with(501, "tests/a.rs 501"), 1);
    }
}
