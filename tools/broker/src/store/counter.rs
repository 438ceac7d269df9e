//! An external counter: remembers, out of the database's reach, how many commits were acknowledged.
//!
//! **What.** A file of two 512-byte slots, written in turn: magic, the broker's id, the number, a digest; the larger valid
//! slot counts. Or a data object of a PKCS #11 token that holds one.
//! **Trust.** Whoever can set back the database cannot set back this: put the file on another machine's disk.
//! **Laws.** The number is durable before what it counts is acknowledged, so a database below it was set back; one above
//! it is honest (the process died in between). A counter that is not there is not a zero. One process raises one.

use super::StoreError;
use crate::token::{Label, Token};
use sha2::{Digest as _, Sha384};
use std::fs::{File, TryLockError};
use std::os::unix::fs::FileExt;
use std::path::Path;

const SLOT_BYTES: usize = 512;
const MAGIC: &[u8; 16] = b"HUSK counter v1\0";
/// Magic, broker, number.
const COVERED_BYTES: usize = 16 + 16 + 8;

/// An open counter.
#[derive(Debug)]
pub struct Counter {
    medium: Medium,
    broker: [u8; 16],
    commits: u64,
}

#[derive(Debug)]
enum Medium {
    File(File),
    Token(Token, Label),
}

impl Counter {
    /// Makes a new file for `broker`, at `commits`.
    ///
    /// # Errors
    /// The file is there already, or could not be written.
    pub fn create(path: &Path, broker: [u8; 16], commits: u64) -> Result<(), StoreError> {
        let both = [slot(&broker, commits), slot(&broker, commits)].concat();
        Ok(husk_files::write_new(path, &both, 0o600)?)
    }

    /// Makes a new object in a token for `broker`, at `commits`.
    ///
    /// # Errors
    /// [`StoreError::Token`]: it is there already, or could not be made.
    pub fn create_in(token: &Token, label: &Label, broker: [u8; 16], commits: u64) -> Result<(), StoreError> {
        Ok(token.make_data(label, &slot(&broker, commits))?)
    }

    /// Opens a file that is there.
    ///
    /// # Errors
    /// [`StoreError::Counter`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |error: std::io::Error| StoreError::Counter(format!("{}: {error}", path.display()));
        if !path.exists() {
            return Err(husk_files::PrivateFileError::Missing(path.to_owned()).into());
        }
        let file = File::options().read(true).write(true).open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Counter("another broker counts with this file".to_owned()));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let mut both = [0; 2 * SLOT_BYTES];
        file.read_exact_at(&mut both, 0).map_err(failed)?;
        let (one, two) = both.split_at(SLOT_BYTES);
        let newest = [one, two].into_iter().filter_map(read).max_by_key(|(_, commits)| *commits);
        let (broker, commits) =
            newest.ok_or_else(|| StoreError::Counter(format!("{} is no counter", path.display())))?;
        Ok(Self { medium: Medium::File(file), broker, commits })
    }

    /// Opens an object that is in the token.
    ///
    /// # Errors
    /// [`StoreError::Token`], [`StoreError::Counter`].
    pub fn open_in(token: Token, label: Label) -> Result<Self, StoreError> {
        let (broker, commits) = newest_in(&token, &label)?;
        Ok(Self { medium: Medium::Token(token, label), broker, commits })
    }

    /// Whose it is.
    #[must_use]
    pub const fn broker(&self) -> [u8; 16] {
        self.broker
    }

    /// The number.
    #[must_use]
    pub const fn commits(&self) -> u64 {
        self.commits
    }

    /// Raises the number to `commits`, durably.
    ///
    /// # Errors
    /// [`StoreError::Counter`], [`StoreError::Token`]: what it would have counted must not be acknowledged.
    pub(super) fn raise(&mut self, commits: u64) -> Result<(), StoreError> {
        if commits <= self.commits {
            return Ok(());
        }
        let new = slot(&self.broker, commits);
        match &self.medium {
            Medium::File(file) => {
                let at = if commits.is_multiple_of(2) { 0 } else { SLOT_BYTES as u64 };
                file.write_all_at(&new, at)
                    .and_then(|()| file.sync_data())
                    .map_err(|error| StoreError::Counter(format!("it was not written: {error}")))?;
            }
            Medium::Token(token, label) => {
                // A token has no locks: another's number is seen, not overwritten.
                if newest_in(token, label)? != (self.broker, self.commits) {
                    return Err(StoreError::Counter("another broker counts with this object".to_owned()));
                }
                token.put_data(label, &new)?;
            }
        }
        self.commits = commits;
        Ok(())
    }
}

/// The broker and the largest number in the token.
fn newest_in(token: &Token, label: &Label) -> Result<([u8; 16], u64), StoreError> {
    let values = token.data(label)?;
    let newest = values.iter().filter_map(|value| read(value)).max_by_key(|(_, commits)| *commits);
    newest.ok_or_else(|| StoreError::Counter(format!("the token's object {} is no counter", label.text())))
}

fn slot(broker: &[u8; 16], commits: u64) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[..16].copy_from_slice(MAGIC);
    slot[16..32].copy_from_slice(broker);
    slot[32..COVERED_BYTES].copy_from_slice(&commits.to_le_bytes());
    let digest = Sha384::digest(&slot[..COVERED_BYTES]);
    slot[COVERED_BYTES..COVERED_BYTES + 48].copy_from_slice(&digest);
    slot
}

fn read(bytes: &[u8]) -> Option<([u8; 16], u64)> {
    let broker = bytes.get(16..32)?.try_into().ok()?;
    let commits = u64::from_le_bytes(bytes.get(32..COVERED_BYTES)?.try_into().ok()?);
    (bytes == slot(&broker, commits)).then_some((broker, commits))
}

#[cfg(test)]
mod tests {
    use super::{Counter, SLOT_BYTES};

    #[test]
    fn a_torn_write_leaves_the_number_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("counter");
        Counter::create(&path, [7; 16], 10).unwrap();
        assert!(Counter::create(&path, [7; 16], 0).is_err(), "never made anew");
        let mut counter = Counter::open(&path).unwrap();
        assert!(Counter::open(&path).is_err(), "one process writes it");
        for commits in 11..=13 {
            counter.raise(commits).unwrap();
        }
        counter.raise(5).unwrap();
        drop(counter);
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(Counter::open(&path).unwrap().commits(), 13);
        for at in SLOT_BYTES..SLOT_BYTES + 90 {
            let mut torn = whole.clone();
            torn[at] ^= 1;
            std::fs::write(&path, torn).unwrap();
            assert_eq!(Counter::open(&path).unwrap().commits(), 12, "byte {at}");
        }
        std::fs::write(&path, [0; 2 * SLOT_BYTES]).unwrap();
        assert!(Counter::open(&path).is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(Counter::open(&path).is_err(), "nothing is not zero");
    }
}
