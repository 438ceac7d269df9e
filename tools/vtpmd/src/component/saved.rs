//! The file in which the host keeps a suspended state. It is of use to this process alone, and only as long as the TPM did
//! nothing since; it vanishes with its worth.

use husk::volume::suspend::SUSPEND_BYTES_MAX;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Where a suspended state lies, and whether it is this process's own.
#[derive(Debug)]
pub struct SavedState {
    path: PathBuf,
    own: bool,
}

/// Why nothing can be kept there.
#[derive(Debug, thiserror::Error)]
pub enum SavedStateError {
    /// Something is there.
    #[error(
        "{0} is there already: what another launch saved can be resumed by nobody; remove it, and the TPM starts with a reset"
    )]
    Taken(PathBuf),
    /// The file system refused.
    #[error("cannot keep a suspended state in {path}: {error}")]
    Refused {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
}

impl SavedState {
    /// A place where there is nothing yet.
    ///
    /// # Errors
    /// [`SavedStateError`].
    pub fn at(path: &Path) -> Result<Self, SavedStateError> {
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Ok(Self { path: path.to_owned(), own: false })
            }
            Err(error) => Err(SavedStateError::Refused { path: path.to_owned(), error }),
            Ok(_) => Err(SavedStateError::Taken(path.to_owned())),
        }
    }

    /// Puts `object` there, in place of what this process saved before.
    pub(super) fn write(&mut self, object: &[u8]) -> Result<(), SavedStateError> {
        self.remove_own();
        let refused = |error| SavedStateError::Refused { path: self.path.clone(), error };
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let mut file = match options.open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return Err(SavedStateError::Taken(self.path.clone()));
            }
            Err(error) => return Err(refused(error)),
        };
        let written = file.write_all(object).map_err(refused);
        self.own = true;
        if written.is_err() {
            self.remove_own();
        }
        written
    }

    /// What lies there; nothing only if nothing does. What cannot be read is as good as altered.
    pub(super) fn read(&self) -> Option<Vec<u8>> {
        let mut object = Vec::new();
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            opened => opened,
        };
        let room = SUSPEND_BYTES_MAX as u64 + 1;
        if let Err(error) = file.and_then(|file| file.take(room).read_to_end(&mut object)) {
            eprintln!("vtpmd: cannot read {}: {error}", self.path.display());
            object.clear();
        }
        Some(object)
    }

    /// Removes what this process saved, which is worth nothing any more.
    pub(super) fn remove_own(&mut self) {
        if self.own {
            self.remove_used();
        }
    }

    /// Removes what a resume was tried with.
    pub(super) fn remove_used(&mut self) {
        self.own = false;
        match fs::remove_file(&self.path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => eprintln!("vtpmd: cannot remove {}: {error}", self.path.display()),
        }
    }
}
