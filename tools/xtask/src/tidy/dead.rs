//! Dead files: Rust that no crate's root reaches by `mod`.

use super::Finding;
use super::shape::CODE;
use super::source::{File, Tree, is_word, word_offsets};
use std::collections::BTreeSet;

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut reached = BTreeSet::new();
    let mut waiting: Vec<&File> = tree.rust(CODE).filter(|file| is_root(&file.path)).collect();
    while let Some(file) = waiting.pop() {
        if reached.insert(file.path.clone()) {
            let candidates = modules(file).into_iter().flat_map(|name| homes(file, &name));
            waiting.extend(candidates.filter_map(|path| tree.file(&path)));
        }
    }
    let dead = tree.rust(CODE).filter(|file| !reached.contains(&file.path));
    dead.map(|file| Finding::new(&file.path, 1, "dead: no `mod` leads to this file")).collect()
}

/// What cargo compiles by itself: the root of a library, a program, a test, a benchmark, an example or a build script.
fn is_root(path: &str) -> bool {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let own_crate = ["tests", "benches", "examples", "bin", "fuzz_targets"];
    let last = folder.rsplit('/').next().unwrap_or_default();
    let at_root = last == "src" && matches!(name, "lib.rs" | "main.rs");
    at_root || name == "build.rs" || own_crate.contains(&last)
}

/// The modules that a file declares: `mod name;`, with `#[path = "…"]` where it is given.
fn modules(file: &File) -> Vec<String> {
    let mut names = Vec::new();
    for at in word_offsets(&file.code, "mod") {
        let rest = file.code[at + 3..].trim_start();
        let name: String = rest.bytes().take_while(|byte| is_word(*byte)).map(char::from).collect();
        if !name.is_empty() && rest[name.len()..].trim_start().starts_with(';') {
            names.push(explicit_path(&file.text[..at]).unwrap_or(name));
        }
    }
    names
}

/// The path in an attribute right before a declaration.
fn explicit_path(before: &str) -> Option<String> {
    let line =
        before.lines().rev().find(|line| !line.trim().is_empty() && !line.trim().starts_with("pub"))?;
    let quoted = line.trim().strip_prefix("#[path = \"")?;
    Some(quoted.split('"').next().unwrap_or_default().to_owned())
}

/// Where a module that `file` declares may lie.
fn homes(file: &File, name: &str) -> Vec<String> {
    let (folder, own) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
    if name.ends_with(".rs") {
        return vec![normal(&format!("{folder}/{name}"))];
    }
    let opens = matches!(own, "mod.rs" | "lib.rs" | "main.rs") || is_root(&file.path);
    let stem = own.trim_end_matches(".rs");
    let below = if opens { folder.to_owned() } else { format!("{folder}/{stem}") };
    vec![format!("{below}/{name}.rs"), format!("{below}/{name}/mod.rs")]
}

/// A path without `..`.
pub(super) fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::{Tree, check};

    fn dead(files: &[(&str, &str)]) -> Vec<String> {
        check(&Tree::of(files)).into_iter().map(|finding| finding.path).collect()
    }

    #[test]
    fn a_file_counts_only_if_a_root_leads_to_it() {
        let files = [
            ("src/lib.rs", "pub mod nv; mod inline { fn f() {} }"),
            ("src/nv/mod.rs", "mod store;"),
            ("src/nv/store.rs", ""),
            ("src/nv/lost.rs", ""),
            ("src/inline.rs", ""),
        ];
        assert_eq!(dead(&files), ["src/nv/lost.rs", "src/inline.rs"]);
    }

    #[test]
    fn tests_and_explicit_paths_are_followed() {
        let files = [
            ("tests/law.rs", "mod support;\n#[path = \"../tools/x/src/shared.rs\"]\nmod shared;"),
            ("tests/support/mod.rs", "mod disk;"),
            ("tests/support/disk.rs", ""),
            ("tools/x/src/shared.rs", ""),
        ];
        assert_eq!(dead(&files), Vec::<String>::new());
    }
}
