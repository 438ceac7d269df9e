//! Links from one document to another, or to a file, lead somewhere.

use super::Finding;
use super::dead::normal;
use super::source::{File, Tree};

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let documents = tree.files.iter().filter(|file| file.path.ends_with(".md"));
    documents.flat_map(|file| broken(tree, file)).collect()
}

fn broken(tree: &Tree, file: &File) -> Vec<Finding> {
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let leads = |target: &str| {
        let path = normal(&format!("{folder}/{target}"));
        tree.file(&path).is_some() || tree.files.iter().any(|file| file.path.starts_with(&format!("{path}/")))
    };
    let mut findings = Vec::new();
    let mut fenced = false;
    for (index, line) in file.text.lines().enumerate() {
        fenced ^= line.trim_start().starts_with("```");
        let dead = targets(line).into_iter().filter(|target| !fenced && is_path(target));
        let dead = dead.filter(|target| !leads(target.split('#').next().unwrap_or_default()));
        findings.extend(
            dead.map(|target| {
                Finding::new(&file.path, index + 1, format!("links: `{target}` leads nowhere"))
            }),
        );
    }
    findings
}

/// The targets of `[text](target)` in a line.
fn targets(line: &str) -> Vec<&str> {
    line.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect()
}

/// A relative path, as against an address, an anchor, or the path of a Rust item.
fn is_path(target: &str) -> bool {
    let elsewhere = ["http://", "https://", "mailto:", "#"];
    !target.is_empty()
        && !target.contains("::")
        && !elsewhere.iter().any(|start| target.starts_with(start))
        && target.contains(['.', '/'])
}

#[cfg(test)]
mod tests {
    use super::{Tree, check};

    #[test]
    fn a_link_leads_to_a_file_or_a_folder_of_the_workspace() {
        let with =
            |text: &str| check(&Tree::of(&[("src/manual/flow.md", text), ("src/nv/store.rs", "")])).len();
        assert_eq!(with("[a](../nv/store.rs) [b](../nv) [c](https://x.y/z) [d](#e) [f](crate::nv)"), 0);
        assert_eq!(with("[a](../nv/stored.rs)\n[b](lost.md#part)"), 2);
        assert_eq!(with("```\n[a](lost.md)\n```"), 0);
    }
}
