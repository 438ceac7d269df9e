//! The layer law: a box imports only boxes that lie to its right.

use super::Finding;
use super::source::{File, Tree, is_word, line_of};
use std::path::Path;

/// From left to right; boxes of one rank know nothing of each other but what the rank's note says.
const LINE: &[&[&str]] = &[
    &["frontend"],
    &["engine"],
    &["nv"],
    &["volume"],
    &["keys"],
    &["release"],
    &["attest"],
    &["seams"],
    &["secret", "bytes", "fault"],
];

/// Modules that may name every box: the one that wires them, the crate root, and the handbook's links.
const ABOVE: &[&str] = &["vtpm", "lib", "manual"];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    tree.rust(&["src"]).flat_map(file).collect()
}

fn file(file: &File) -> Vec<Finding> {
    let modules = modules(&file.path);
    let Some(own) = modules.first().copied().filter(|own| !ABOVE.contains(own)) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    for (offset, other) in outward(&file.product, modules.len()) {
        if !may_import(own, &other) {
            let what =
                format!("layers: `{own}` imports `{other}`, which does not lie to its right; see src/lib.rs");
            findings.push(Finding::new(&file.path, line_of(&file.product, offset), what));
        }
    }
    findings
}

/// The module path of a file below `src`, without `mod`.
fn modules(path: &str) -> Vec<&str> {
    let inside = path.strip_prefix("src/").and_then(|path| path.strip_suffix(".rs")).unwrap_or(path);
    let parts = Path::new(inside).iter().filter_map(|part| part.to_str());
    parts.filter(|part| *part != "mod").collect()
}

fn may_import(own: &str, other: &str) -> bool {
    let rank = |name: &str| LINE.iter().position(|boxes| boxes.contains(&name));
    match (rank(own), rank(other)) {
        _ if own == other => true,
        (Some(own), Some(other)) => own < other,
        _ => false,
    }
}

/// Every name that is reached through the crate's root: by `crate::`, or by climbing out with `super::`.
fn outward(code: &str, depth: usize) -> Vec<(usize, String)> {
    let climb = "super::".repeat(depth);
    let roots = [("crate::", None), (climb.as_str(), Some("super::"))];
    let mut found = Vec::new();
    for (root, never_before) in roots {
        for (at, _) in code.match_indices(root) {
            let before = &code[..at];
            let inside_word = before.bytes().next_back().is_some_and(is_word);
            if inside_word || never_before.is_some_and(|climb| before.ends_with(climb)) {
                continue;
            }
            let names = first_names(&code[at + root.len()..]);
            found.extend(names.into_iter().filter(|name| !is_item(name)).map(|name| (at, name)));
        }
    }
    found
}

/// Macros and types of the crate's root are no boxes; the one macro belongs to `fault`.
fn is_item(name: &str) -> bool {
    name == "faults" || name == "super" || name.starts_with(char::is_uppercase)
}

/// The first name of a path, or of every path in a group.
fn first_names(path: &str) -> Vec<String> {
    let leading =
        |text: &str| -> String { text.trim_start().chars().take_while(|c| is_word(*c as u8)).collect() };
    let Some(group) = path.strip_prefix('{') else {
        return vec![leading(path)];
    };
    let mut names = Vec::new();
    let mut depth = 0;
    let mut start = 0;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(leading(&group[start..at]));
                start = at + 1;
            }
            _ => {}
        }
        if c == '}' && depth == 0 && start > at {
            break;
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

#[cfg(test)]
mod tests {
    use super::{Tree, check};

    fn found(path: &str, text: &str) -> usize {
        check(&Tree::of(&[(path, text)])).len()
    }

    #[test]
    fn a_box_may_look_right_and_not_left() {
        assert_eq!(found("src/nv/store.rs", "use crate::volume::Volume; use crate::seams::{Disk};"), 0);
        assert_eq!(found("src/volume/mod.rs", "use crate::nv::NvImage;"), 1);
        assert_eq!(found("src/bytes.rs", "use crate::fault::Fault;"), 1);
        assert_eq!(found("src/vtpm.rs", "use crate::frontend::Tpm;"), 0);
    }

    #[test]
    fn every_way_to_name_a_box_counts() {
        assert_eq!(found("src/keys/derive.rs", "fn f() -> crate::volume::Volume {}"), 1);
        assert_eq!(found("src/keys/derive.rs", "use crate::{release::{open, x}, volume, nv::{a, b}};"), 2);
        assert_eq!(found("src/keys/derive.rs", "use super::super::engine::Engine;"), 1);
        assert_eq!(found("src/keys/derive.rs", "use super::table::Row; crate::faults! {}"), 0);
    }

    #[test]
    fn only_the_product_is_bound() {
        assert_eq!(found("src/keys/derive.rs", "#[cfg(test)] mod tests { use crate::engine::Engine; }"), 0);
        assert_eq!(found("src/keys/derive.rs", "// not crate::engine\n"), 0);
    }
}
