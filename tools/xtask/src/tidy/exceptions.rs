//! Lists of exceptions: lines of `path value # reason` in `tools/xtask/tidy/`.

use super::Finding;
use super::source::Tree;

/// One exception.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Exception {
    /// The list's line it stands on.
    pub(super) line: usize,
    /// The path that is excepted.
    pub(super) path: String,
    /// What stands between path and reason.
    pub(super) value: String,
}

/// A list, and what is wrong with its form.
#[derive(Clone, Debug, Default)]
pub(super) struct Exceptions {
    pub(super) list: String,
    pub(super) entries: Vec<Exception>,
    pub(super) malformed: Vec<Finding>,
}

impl Exceptions {
    /// Reads `tools/xtask/tidy/NAME`; a list that is not there is empty.
    pub(super) fn read(tree: &Tree, name: &str) -> Self {
        let list = format!("tools/xtask/tidy/{name}");
        let text = tree.file(&list).map_or("", |file| file.text.as_str());
        let mut exceptions = Self { list, ..Self::default() };
        for (index, line) in
            text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        {
            exceptions.line(index + 1, line);
        }
        exceptions
    }

    /// The exception for a path.
    pub(super) fn of(&self, path: &str) -> Option<&Exception> {
        self.entries.iter().find(|entry| entry.path == path)
    }

    /// A finding on a line of the list itself.
    pub(super) fn complain(&self, entry: &Exception, what: &str) -> Finding {
        Finding::new(&self.list, entry.line, format!("{}: {what}", entry.path))
    }

    fn line(&mut self, line: usize, text: &str) {
        let (entry, reason) = text.split_once('#').unwrap_or((text, ""));
        let (path, value) = entry.trim().split_once(' ').unwrap_or((entry.trim(), ""));
        if reason.trim().is_empty() {
            self.malformed.push(Finding::new(&self.list, line, "an exception needs `# reason`"));
        }
        self.entries.push(Exception { line, path: path.into(), value: value.trim().into() });
    }
}
