//! Files that the tools make once and never overwrite.
//!
//! **What.** Files that hold secrets, readable by their owner alone ([`create`], [`read`]), others ([`write_new`]), and a
//! launch configuration in its one spelling ([`write_config`]), with the flags that more than one command takes for it ([`StalenessArgs`], [`VariablesArgs`])
//! and the words that say what it means for a firmware's variables ([`variables_word`]).
//! **Trust.** The file system.
//! **Laws.** Nothing is overwritten; what is reported as written is durable; a secret that others may read is refused.
//! **Not here.** What is in the files.

mod config;
mod staleness;
mod variables;

pub use config::{ConfigFileError, read_config, write_config};
pub use staleness::StalenessArgs;
pub use variables::{VariablesArgs, variables_word};

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The longest key file in bytes.
const FILE_BYTES_MAX: u64 = 4096;

/// Why a file with secrets was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    /// It is there already.
    #[error("{0} exists already and is never overwritten; choose another name, or move it away")]
    Exists(PathBuf),
    /// It is not there.
    #[error("{0} does not exist")]
    Missing(PathBuf),
    /// Others than its owner may read or write it.
    #[error("{path} holds secrets but its mode is {mode:04o}; run `chmod 600 {path}`")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a regular file of a sensible size.
    #[error("{0} is not a key file")]
    NotAKeyFile(PathBuf),
    /// It is too long.
    #[error("{path} is longer than the {bytes_max} bytes that such a file may have")]
    Long {
        /// The file.
        path: PathBuf,
        /// The most.
        bytes_max: usize,
    },
    /// The machine failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Reads a file without secrets, which anybody may read.
///
/// # Errors
/// [`PrivateFileError::Missing`], [`PrivateFileError::Long`], [`PrivateFileError::Io`].
pub fn read_public(path: &Path, bytes_max: usize) -> Result<Vec<u8>, PrivateFileError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => PrivateFileError::Missing(path.to_owned()),
        _ => PrivateFileError::Io { path: path.to_owned(), source },
    };
    let mut bytes = Vec::new();
    let longest = u64::try_from(bytes_max).map_or(u64::MAX, |most| most.saturating_add(1));
    File::open(path).and_then(|file| file.take(longest).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() > bytes_max {
        return Err(PrivateFileError::Long { path: path.to_owned(), bytes_max });
    }
    Ok(bytes)
}

/// Creates `path` with mode 0600 and writes `text` durably.
///
/// # Errors
/// [`PrivateFileError::Exists`], [`PrivateFileError::Io`].
pub fn create(path: &Path, text: &str) -> Result<(), PrivateFileError> {
    write_new(path, text.as_bytes(), 0o600)
}

/// Creates `path` with `mode` and writes `bytes` durably; never overwrites.
///
/// # Errors
/// [`PrivateFileError::Exists`], [`PrivateFileError::Io`].
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), PrivateFileError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => PrivateFileError::Exists(path.to_owned()),
        _ => PrivateFileError::Io { path: path.to_owned(), source },
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    sync_folder(path).map_err(failed)
}

/// Makes it durable that `path` has its name: syncs the folder that it is in.
///
/// # Errors
/// What opening or syncing the folder gives.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all())
}

/// Reads a file that only its owner may touch.
///
/// # Errors
/// [`PrivateFileError`], except `Exists`.
pub fn read(path: &Path) -> Result<Zeroizing<String>, PrivateFileError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => PrivateFileError::Missing(path.to_owned()),
        io::ErrorKind::InvalidData => PrivateFileError::NotAKeyFile(path.to_owned()),
        _ => PrivateFileError::Io { path: path.to_owned(), source },
    };
    let file = File::open(path).map_err(failed)?;
    let about = file.metadata().map_err(failed)?;
    if !about.is_file() || about.len() > FILE_BYTES_MAX {
        return Err(PrivateFileError::NotAKeyFile(path.to_owned()));
    }
    let mode = about.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(PrivateFileError::Exposed { path: path.to_owned(), mode });
    }
    let mut text = Zeroizing::new(String::with_capacity(4096));
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::{PrivateFileError, create, read};
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let folder = std::env::temp_dir().join(format!("husk-private-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("key");
        create(&path, "text").unwrap();
        assert_eq!(*read(&path).unwrap(), "text");
        assert!(matches!(create(&path, "other"), Err(PrivateFileError::Exists(_))));
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read(&path), Err(PrivateFileError::Exposed { .. })));
        }
        fs::remove_file(&path).unwrap();
        assert!(matches!(read(&path), Err(PrivateFileError::Missing(_))));
        fs::remove_dir_all(&folder).unwrap();
    }
}
