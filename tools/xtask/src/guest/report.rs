//! What a guest says on its serial console, for a machine to read.
//!
//! The console is shared with the kernel's own messages: only whole lines that begin with a `HUSK-` word count.

use crate::steps::Step;

/// Everything a guest has said so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) steps: Vec<Step>,
    /// Values to keep for a later boot, by name.
    pub(crate) values: Vec<(String, String)>,
    /// The last number of each kind that the TPM acknowledged.
    pub(crate) acknowledged: Vec<(String, u64)>,
    /// Whether the script came to its end, and how.
    pub(crate) end: Option<bool>,
}

impl Report {
    /// Reads a console's text; a last line without its newline is still being written and does not count.
    pub(crate) fn read(console: &str) -> Self {
        let mut report = Self::default();
        let whole = console.rsplit_once('\n').map_or("", |(whole, _)| whole);
        for line in whole.lines() {
            report.line(line.trim());
        }
        report
    }

    /// The value of that name.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.values.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The steps, and one more that fails if the script did not come to its end or said that it failed.
    pub(crate) fn judged(&self) -> Vec<Step> {
        let mut steps = self.steps.clone();
        if self.end != Some(true) && steps.iter().all(|step| step.passed) {
            steps.push(Step {
                name: "end".into(),
                passed: false,
                seen: "the script did not come to a good end".into(),
            });
        }
        steps
    }

    /// The last acknowledged number of that kind.
    pub(crate) fn last_acknowledged(&self, kind: &str) -> Option<u64> {
        self.acknowledged.iter().find(|(known, _)| known == kind).map(|(_, number)| *number)
    }

    fn line(&mut self, line: &str) {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next().unwrap_or_default()) {
            (Some("HUSK-STEP"), Some(name), Some(verdict @ ("PASS" | "FAIL")), seen) => {
                self.steps.push(Step { name: name.into(), passed: verdict == "PASS", seen: seen.into() });
            }
            (Some("HUSK-VALUE"), Some(name), Some(value), _) => self.values.push((name.into(), value.into())),
            (Some("HUSK-ACK"), Some(kind), Some(number), _) => self.acknowledge(kind, number),
            (Some("HUSK-END"), Some(verdict @ ("PASS" | "FAIL")), ..) => self.end = Some(verdict == "PASS"),
            _ => {}
        }
    }

    fn acknowledge(&mut self, kind: &str, number: &str) {
        let Ok(number) = number.parse() else { return };
        match self.acknowledged.iter_mut().find(|(known, _)| known == kind) {
            Some((_, last)) => *last = number,
            None => self.acknowledged.push((kind.into(), number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Report;

    #[test]
    fn what_the_guest_said_is_read_between_the_kernels_lines() {
        let console = "SeaBIOS\r\nHUSK-STEP kernel-binds PASS driver tpm_crb\r\n[    1.2] clocksource: fine\r\n\
                       HUSK-STEP quote FAIL ERROR: no\r\nHUSK-VALUE counter 7\r\nHUSK-END FAIL\r\n";
        let report = Report::read(console);
        let seen: Vec<_> =
            report.steps.iter().map(|step| (step.name.as_str(), step.passed, step.seen.as_str())).collect();
        assert_eq!(seen, [("kernel-binds", true, "driver tpm_crb"), ("quote", false, "ERROR: no")]);
        assert_eq!(report.value("counter"), Some("7"));
        assert_eq!(report.end, Some(false));
    }

    #[test]
    fn a_line_that_is_still_being_written_does_not_count() {
        let report = Report::read("HUSK-ACK counter 1\nHUSK-ACK counter 2\nHUSK-ACK counter 3");
        assert_eq!(report.last_acknowledged("counter"), Some(2));
        assert_eq!(Report::read("HUSK-END PASS").end, None);
    }
}
