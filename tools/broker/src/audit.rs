//! A tenant's log of what was decided about its VMs.
//!
//! **What.** [`Entry`] is one decision, [`Head`] stands for an entry and all before it, [`Log`] reads a log as it is exported: one JSON
//! object a line.
//! **Trust.** Whoever has the database can write another log. Who keeps a head, in a place of its own, sees that: a log that goes on
//! from that head holds every entry that led to it, unchanged.
//! **Laws.** Entries are numbered from 1 without a gap; a head is a digest over the entry and the head before. There is no secret in an entry.
//! **Not here.** When an entry is made: in the transaction of the decision itself (`store/audit.rs`).

use crate::ids::{TenantId, VmId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha384};
use std::fmt;
use std::io::{BufRead, Read};
use std::str::FromStr;

/// What an entry's digest begins with.
const LABEL: &[u8] = b"HUSK v1 audit entry\0";
/// The longest line of an exported log in bytes.
const LINE_BYTES_MAX: u64 = 4096;

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)+) => {
        /// What was decided.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum Event {
            $($(#[$doc])* #[serde(rename = $word)] $name,)+
        }

        impl Event {
            /// Every one.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Its name in a log.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)+ }
            }

            /// The event of that name.
            #[must_use]
            pub fn from_word(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|event| event.word() == word)
            }
        }
    };
}

events! {
    /// The VM was enrolled.
    Enrolled = "enrolled",
    /// Its tenant changed what it demands.
    Amended = "amended",
    /// An instance was given keys.
    Granted = "granted",
    /// An instance sealed its state in a new epoch, and serves.
    Confirmed = "confirmed",
    /// The TPM was reset.
    Reset = "reset",
    /// An instance ended in order.
    Released = "released",
    /// An instance did not find the newest state on its disk.
    StateMissing = "state-missing",
    /// An instance was refused; the detail is the rule.
    Refused = "refused",
    /// An order about the VM was carried out; the detail is the order.
    Ordered = "ordered",
    /// An instance made a backup, and the broker keeps it.
    BackedUp = "backed-up",
    /// The tenant keeps a secret for the VM's guest here; the detail is its name.
    UnlockSet = "unlock-set",
    /// Such a secret was removed.
    UnlockRemoved = "unlock-removed",
    /// Such a secret was given to the VM's guest.
    Unlocked = "unlocked",
}

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Counted from 1, for each tenant.
    pub number: u64,
    /// The database's clock in milliseconds.
    pub at_ms: u64,
    /// What the broker's own clock said, in seconds since 1970 (UTC); nothing goes by it.
    pub calendar_s: u64,
    /// Which VM.
    pub vm: VmId,
    /// What was decided.
    pub event: Event,
    /// What else there is to know.
    pub detail: String,
}

/// An entry's number, and the digest over it and all before it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// 0 before the first entry.
    pub number: u64,
    /// SHA-384; zeros before the first entry.
    pub digest: [u8; 48],
}

impl Head {
    /// Before the first entry.
    pub const NONE: Self = Self { number: 0, digest: [0; 48] };

    /// The head once `entry` follows.
    #[must_use]
    pub fn after(&self, tenant: TenantId, entry: &Entry) -> Self {
        let mut hash = Sha384::new();
        hash.update(LABEL);
        hash.update(self.digest);
        hash.update(tenant.0);
        for number in [entry.number, entry.at_ms, entry.calendar_s] {
            hash.update(number.to_le_bytes());
        }
        hash.update(entry.vm.0);
        for text in [entry.event.word(), &entry.detail] {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        Self { number: entry.number, digest: hash.finalize().into() }
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.number, hex::encode(self.digest))
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Head({self})")
    }
}

impl FromStr for Head {
    type Err = NotAHead;

    fn from_str(text: &str) -> Result<Self, NotAHead> {
        let (number, digits) = text.split_once(':').ok_or(NotAHead)?;
        let number = number.parse().map_err(|_| NotAHead)?;
        let mut digest = [0; 48];
        hex::decode_to_slice(digits, &mut digest).map_err(|_| NotAHead)?;
        Ok(Self { number, digest })
    }
}

/// The text is not a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a head is an entry's number, a colon and 96 hexadecimal digits")]
pub struct NotAHead;

/// One line of an exported log.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    tenant: String,
    number: u64,
    at_ms: u64,
    calendar_s: u64,
    vm: String,
    event: Event,
    detail: String,
    head: String,
}

/// An entry as a line of an exported log, and the head with it.
///
/// # Errors
/// What the JSON library gives, which is nothing for this structure.
pub fn exported(tenant: TenantId, entry: &Entry, head: &Head) -> serde_json::Result<String> {
    serde_json::to_string(&Line {
        tenant: tenant.to_string(),
        number: entry.number,
        at_ms: entry.at_ms,
        calendar_s: entry.calendar_s,
        vm: entry.vm.to_string(),
        event: entry.event,
        detail: entry.detail.clone(),
        head: hex::encode(head.digest),
    })
}

/// What is wrong with a log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// It cannot be read.
    #[error("the log cannot be read")]
    Read(#[from] std::io::Error),
    /// A line is not an entry.
    #[error("line {line} is not an entry of a log: {why}")]
    Malformed {
        /// Counted from 1.
        line: u64,
        /// What the parser said.
        why: String,
    },
    /// There is no entry.
    #[error("the log is empty")]
    Empty,
    /// It does not begin at its beginning, and no head was given that it goes on from.
    #[error("the log begins with entry {0}: give the head before it (`--after`), or the whole log")]
    Front(u64),
    /// An entry is missing, twice there, or in another place.
    #[error("entry {found} stands where {expected} should")]
    Gap {
        /// Whose turn it was.
        expected: u64,
        /// Who is there.
        found: u64,
    },
    /// An entry is not what it was when it was written.
    #[error("entry {0} was changed, or one before it")]
    Changed(u64),
    /// It holds two tenants' entries.
    #[error("line {0} is another tenant's")]
    Mixed(u64),
    /// It does not lead to a head that somebody kept.
    #[error("the log does not hold the head {0} that was kept: it was cut, or written anew")]
    Elsewhere(Head),
}

/// A log that was read to its end, and whose entries follow from one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// Whose it is.
    pub tenant: TenantId,
    /// How many entries it holds.
    pub entries: u64,
    /// The head of its last one: what to keep.
    pub head: Head,
}

impl Log {
    /// Reads a log: from its first entry on, or from the one behind `after`; `kept` are heads that somebody kept, each of which must be
    /// `after`'s or of one of its entries.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn read(log: &mut dyn BufRead, after: Option<Head>, kept: &[Head]) -> Result<Self, LogError> {
        let mut head = after.unwrap_or(Head::NONE);
        let mut missing: Vec<Head> = kept.iter().copied().filter(|kept| *kept != head).collect();
        let (mut tenant, mut entries) = (None, 0);
        while let Some(line) = next_line(log, entries + 1)? {
            let (whose, entry, said) = parsed(&line, entries + 1)?;
            if *tenant.get_or_insert(whose) != whose {
                return Err(LogError::Mixed(entries + 1));
            }
            if entries == 0 && after.is_none() && entry.number != 1 {
                return Err(LogError::Front(entry.number));
            }
            if entry.number != head.number.saturating_add(1) {
                return Err(LogError::Gap { expected: head.number.saturating_add(1), found: entry.number });
            }
            head = head.after(whose, &entry);
            if head.digest != said {
                return Err(LogError::Changed(entry.number));
            }
            missing.retain(|kept| *kept != head);
            entries += 1;
        }
        match (tenant, missing.first()) {
            (None, _) => Err(LogError::Empty),
            (_, Some(kept)) => Err(LogError::Elsewhere(*kept)),
            (Some(tenant), None) => Ok(Self { tenant, entries, head }),
        }
    }
}

fn next_line(log: &mut dyn BufRead, line: u64) -> Result<Option<String>, LogError> {
    let mut text = String::new();
    let read = log.take(LINE_BYTES_MAX).read_line(&mut text)?;
    if read as u64 == LINE_BYTES_MAX && !text.ends_with('\n') {
        return Err(LogError::Malformed { line, why: format!("it is longer than {LINE_BYTES_MAX} bytes") });
    }
    Ok((read > 0).then_some(text))
}

fn parsed(text: &str, line: u64) -> Result<(TenantId, Entry, [u8; 48]), LogError> {
    let malformed = |why: String| LogError::Malformed { line, why };
    let read: Line = serde_json::from_str(text).map_err(|error| malformed(error.to_string()))?;
    let tenant = read.tenant.parse().map_err(|error| malformed(format!("tenant: {error}")))?;
    let vm = read.vm.parse().map_err(|error| malformed(format!("vm: {error}")))?;
    let mut said = [0; 48];
    hex::decode_to_slice(&read.head, &mut said).map_err(|error| malformed(format!("head: {error}")))?;
    let Line { number, at_ms, calendar_s, event, detail, .. } = read;
    Ok((tenant, Entry { number, at_ms, calendar_s, vm, event, detail }, said))
}

#[cfg(test)]
#[path = "audit/tests.rs"]
mod tests;
