//! What one VM's launches saw, and the laws that it must obey.

use husk::release::Head;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

/// What is known of one VM, from all its launches.
#[derive(Default)]
pub(crate) struct Ledger(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// Every head that was ever sent, and the one before it.
    sent: HashMap<[u8; 48], Head>,
    /// The newest head whose commit was acknowledged.
    acknowledged: Option<Head>,
    /// The newest token that any launch holds, and since when.
    newest: Option<(u64, Instant)>,
    heads: u64,
    commits: u64,
    answers: u64,
    grants: u64,
}

impl Ledger {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap()
    }

    /// A head that nobody had before, to be sent as the successor of `previous`.
    pub(crate) fn successor(&self, previous: &Head) -> Head {
        let mut known = self.known();
        known.heads += 1;
        let mut digest = [0; 48];
        digest[..8].copy_from_slice(&known.heads.to_le_bytes());
        known.sent.insert(digest, *previous);
        Head { sequence: previous.sequence + 1, digest }
    }

    /// What had been acknowledged before a grant is asked for.
    pub(crate) fn acknowledged(&self) -> Option<Head> {
        self.known().acknowledged
    }

    /// A grant was received that names `head` (none: create), asked for when `before` was acknowledged.
    pub(crate) fn granted(&self, token: u64, head: Option<&Head>, before: Option<Head>) {
        let mut known = self.known();
        known.grants += 1;
        if let Some(acknowledged) = before {
            let head = head.unwrap_or_else(|| panic!("{acknowledged:?} is lost: a creation"));
            assert!(known.descends(*head, &acknowledged), "{acknowledged:?} is lost: the head is {head:?}");
        }
        if known.newest.is_none_or(|(newest, _)| token > newest) {
            known.newest = Some((token, Instant::now()));
        }
    }

    /// The commit of `head` was acknowledged.
    pub(crate) fn committed(&self, head: &Head) {
        let mut known = self.known();
        known.commits += 1;
        let acknowledged = known.acknowledged;
        if acknowledged.is_none_or(|old| known.descends(*head, &old)) {
            known.acknowledged = Some(*head);
        } else {
            // Another launch went on from this very commit and was heard first.
            assert!(acknowledged.is_some_and(|old| known.descends(old, head)), "two lines of commits");
        }
    }

    /// An answer was authorised, not before `asked`, under `token`.
    pub(crate) fn answered(&self, token: u64, asked: Instant) {
        let mut known = self.known();
        known.answers += 1;
        if let Some((newest, since)) = known.newest {
            assert!(token >= newest || since >= asked, "token {token} answers after {newest} was granted");
        }
    }

    pub(crate) fn commits(&self) -> u64 {
        self.known().commits
    }

    pub(crate) fn summary(&self) -> String {
        let known = self.known();
        format!("{} grants, {} commits, {} answers", known.grants, known.commits, known.answers)
    }
}

impl Known {
    /// Whether `head` is `ancestor` or came after it.
    fn descends(&self, mut head: Head, ancestor: &Head) -> bool {
        while head.sequence > ancestor.sequence {
            match self.sent.get(&head.digest) {
                Some(previous) => head = *previous,
                None => return false,
            }
        }
        head == *ancestor
    }
}
