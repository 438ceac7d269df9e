//! Style as a test: the rules of the house that no lint knows.
//!
//! **What.** Each rule is a function from the [`Tree`] to findings. Lists of exceptions lie in `tools/xtask/tidy/`,
//! each with its reason; an exception that is no longer needed is itself a finding, so the lists only shrink.
//! **Trust.** The sources are ours: a rule may be fooled by somebody who wants to, it catches who forgot.
//! **Laws.** A finding names the file, the line, the rule and what to do.
//! **Not here.** What clippy checks: length and nesting of functions, undocumented items, `unwrap` in code.

mod dead;
mod dependencies;
mod exceptions;
mod faults;
mod layers;
mod links;
mod shape;
mod source;
mod unsafety;
mod words;

use crate::failure::Failure;
use crate::house;
use std::fmt;
use std::path::Path;

use source::Tree;

/// Something that a rule found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: String,
    line: usize,
    what: String,
}

impl Finding {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// Runs every rule over the workspace.
pub(crate) fn run() -> Result<String, Failure> {
    let tree = Tree::read(house::root())?;
    let mut findings = findings(&tree);
    findings.extend(dependencies::check(&tree)?);
    findings.sort();
    if findings.is_empty() {
        return Ok(format!("{} files", tree.files.len()));
    }
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    Err(Failure::failed(format!("{} findings\n    {}", lines.len(), lines.join("\n    "))))
}

/// What the rules that need nothing but the files find.
fn findings(tree: &Tree) -> Vec<Finding> {
    let rules = [
        layers::check,
        shape::check,
        unsafety::check,
        faults::check,
        words::check,
        dead::check,
        links::check,
    ];
    rules.iter().flat_map(|rule| rule(tree)).collect()
}

/// Whether a path lies in one of these folders.
fn within(path: &str, folders: &[&str]) -> bool {
    folders.iter().any(|folder| Path::new(path).starts_with(folder))
}
