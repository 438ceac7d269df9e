//! Steps with a verdict: shown as they happen, counted at the end.

use crate::failure::Failure;

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) name: String,
    pub(crate) passed: bool,
    /// What was seen, or how it failed.
    pub(crate) seen: String,
}

/// What was tried so far.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
}

impl Steps {
    /// Shows and counts one step.
    pub(crate) fn add(&mut self, step: &Step) {
        let verdict = if step.passed { "PASS" } else { "FAIL" };
        let seen = if step.seen.is_empty() { String::new() } else { format!(": {}", step.seen) };
        println!("{verdict} {}{seen}", step.name);
        self.count(usize::from(step.passed), usize::from(!step.passed));
    }

    /// Does one thing, then shows and counts it.
    pub(crate) fn attempt(&mut self, name: &str, what: impl FnOnce() -> Result<String, Failure>) {
        let (passed, seen) = match what() {
            Ok(seen) => (true, seen),
            Err(failure) => (false, failure.to_string()),
        };
        self.add(&Step { name: name.to_owned(), passed, seen });
    }

    /// Shows and counts a group of steps under a common name.
    pub(crate) fn add_all(&mut self, group: &str, steps: &[Step]) {
        for step in steps {
            self.add(&Step { name: format!("{group}: {}", step.name), ..step.clone() });
        }
    }

    /// Counts what another program has already shown.
    pub(crate) fn count(&mut self, passed: usize, failed: usize) {
        self.passed += passed;
        self.failed += failed;
    }

    /// Whether nothing failed and something was tried.
    pub(crate) fn all_passed(&self) -> bool {
        self.failed == 0 && self.passed > 0
    }
}
