//! How a command of this tool fails: one sentence for a person, one number for a script.

use std::fmt;
use std::process::ExitCode;

/// Why a command ended without doing what was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    sentence: String,
    exit: u8,
}

impl Failure {
    /// A step failed: exit code 1.
    pub(crate) fn failed(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), exit: 1 }
    }

    /// The command line is wrong: exit code 2.
    pub(crate) fn usage(sentence: String) -> Self {
        Self { sentence, exit: 2 }
    }

    /// The machine lacks something that this tool may not install: exit code 3.
    pub(crate) fn lacking(sentence: String) -> Self {
        Self { sentence, exit: 3 }
    }

    /// A file operation failed.
    pub(crate) fn io(doing: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::failed(format!("xtask: cannot {doing} {}: {error}", path.display()))
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}
