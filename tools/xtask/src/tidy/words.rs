//! Words that have no place here.

use super::Finding;
use super::shape::CODE;
use super::source::{File, Tree, line_of, word_offsets};

/// In comments and code.
const SPOKEN: &[&str] = &["Placeholder", "TODO", "FIXME", "XXX"];

/// In the names of files, modules and items.
const NAMES: &[&str] = &["utils", "util", "mgr"];

/// Where the code was written; nothing of it may remain. In two parts, so that this line is not one.
const TRACE: &str = concat!("/wo", "rk/");

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings: Vec<Finding> = tree.rust(CODE).flat_map(code).collect();
    for file in tree.files.iter().filter(|file| file.path != "Cargo.lock") {
        let traces = file.text.match_indices(TRACE).map(|(at, _)| line_of(&file.text, at));
        findings.extend(
            traces.map(|line| Finding::new(&file.path, line, format!("words: a path below {TRACE}"))),
        );
    }
    findings
}

fn code(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut found = |text: &str, at: usize, what: &str| {
        findings.push(Finding::new(&file.path, line_of(text, at), format!("words: {what}")));
    };
    for word in SPOKEN {
        word_offsets(&file.spoken, word).for_each(|at| found(&file.spoken, at, word));
    }
    for word in NAMES {
        word_offsets(&file.code, word)
            .for_each(|at| found(&file.code, at, &format!("`{word}` says nothing")));
    }
    let product =
        if file.path.starts_with("tests/") || file.path.contains("/tests/") { "" } else { &file.product };
    for (text, why) in [
        (".unwrap()", "answer the error"),
        ("let _ =", "answer the result"),
        ("fn get_", "name what it yields"),
    ] {
        let ours =
            product.match_indices(text).filter(|(at, _)| !(text == "fn get_" && is_of_a_trait(product, *at)));
        ours.for_each(|(at, _)| found(product, at, &format!("`{text}`: {why}")));
    }
    let stem = file.path.rsplit('/').next().and_then(|name| name.strip_suffix(".rs")).unwrap_or_default();
    if NAMES.contains(&stem) || stem == "common" {
        found("", 0, &format!("a file named `{stem}` says nothing"));
    }
    findings
}

/// Whether a method there is in an implementation of a trait: its name is not ours to choose.
fn is_of_a_trait(code: &str, at: usize) -> bool {
    let before = code.get(..at).unwrap_or_default();
    let block = before.rsplit_once("\nimpl").map(|(_, block)| block).filter(|block| !block.contains("\n}"));
    block.is_some_and(|block| block.lines().next().is_some_and(|head| head.contains(" for ")))
}

#[cfg(test)]
mod tests {
    use super::{TRACE, Tree, check};

    fn found(path: &str, text: &str) -> usize {
        check(&Tree::of(&[(path, text)])).len()
    }

    #[test]
    fn each_word_is_found_where_it_counts_and_nowhere_else() {
        assert_eq!(found("src/a.rs", "//! Placeholder.\n// TODO x\nmod utils;"), 3);
        assert_eq!(found("src/a.rs", "fn f() { x.unwrap(); let _ = y(); }\nfn get_z() {}"), 3);
        assert_eq!(found("src/a.rs", "\nimpl T for X {\n    fn get_z() {}\n}\nfn get_a() {}"), 1);
        assert_eq!(found("src/a.rs", "\nimpl X {\n    fn get_z() {}\n}"), 1);
        assert_eq!(found("src/a.rs", "#[cfg(test)]\nmod tests { fn f() { x.unwrap(); } }"), 0);
        assert_eq!(found("tests/a.rs", "fn f() { x.unwrap(); }"), 0);
        assert_eq!(found("src/a.rs", "const S: &str = \"TODO .unwrap()\";"), 0);
        assert_eq!(found("src/common.rs", ""), 1);
        assert_eq!(found("README.md", &format!("see {TRACE}main")), 1);
    }
}
