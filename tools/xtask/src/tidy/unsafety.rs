//! Unsafe code lives in named places, each with an essay.

use super::Finding;
use super::exceptions::Exceptions;
use super::shape::CODE;
use super::source::{File, Tree, line_of, word_offsets};

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let places = Exceptions::read(tree, "unsafe.txt");
    let mut findings = places.malformed.clone();
    for file in tree.rust(CODE) {
        let Some(first) = word_offsets(&file.code, "unsafe").next() else { continue };
        let line = line_of(&file.code, first);
        if places.of(&file.path).is_none() {
            let what = format!("unsafe: not one of the places in {}", places.list);
            findings.push(Finding::new(&file.path, line, what));
        }
        if !has_essay(tree, file) {
            findings.push(Finding::new(
                &file.path,
                line,
                "unsafe: neither the file nor its box has a `# Soundness` essay",
            ));
        }
    }
    let unused =
        |path: &str| tree.file(path).is_none_or(|file| word_offsets(&file.code, "unsafe").next().is_none());
    let stale = places.entries.iter().filter(|entry| unused(&entry.path));
    findings.extend(stale.map(|entry| places.complain(entry, "has no unsafe code; remove it from the list")));
    findings
}

/// The essay stands in the file itself, or in the file that opens its folder.
fn has_essay(tree: &Tree, file: &File) -> bool {
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let openers = ["mod.rs", "lib.rs", "main.rs"].map(|name| format!("{folder}/{name}"));
    let opening = openers.iter().filter_map(|path| tree.file(path));
    std::iter::once(file).chain(opening).any(|file| file.text.contains("# Soundness"))
}

#[cfg(test)]
mod tests {
    use super::{Tree, check};

    #[test]
    fn unsafe_code_is_listed_and_argued() {
        let with = |text: &str, listed: &str| {
            check(&Tree::of(&[("src/a.rs", text), ("tools/xtask/tidy/unsafe.txt", listed)])).len()
        };
        assert_eq!(with("//! # Soundness\nunsafe fn f() {}", "src/a.rs # FFI"), 0);
        assert_eq!(with("unsafe fn f() {}", "src/a.rs # FFI"), 1);
        assert_eq!(with("//! # Soundness\nunsafe fn f() {}", ""), 1);
        assert_eq!(with("// unsafe\n", "src/a.rs # FFI"), 1);
        assert_eq!(with("#![deny(unsafe_code)] // unsafe\n", ""), 0);
    }
}
