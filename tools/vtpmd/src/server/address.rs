//! Where sockets are.

use crate::sys;
use std::fmt;
use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// How long asking whether somebody listens at a path may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// `unix:PATH`, or `tcp:ADDRESS:PORT` on loopback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A socket in the file system, for its owner alone.
    Unix(PathBuf),
    /// A loopback address.
    Tcp(SocketAddr),
}

/// Why a text is no address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Neither form.
    #[error("`{0}` is neither unix:PATH nor tcp:ADDRESS:PORT")]
    Malformed(String),
    /// Others could reach it.
    #[error(
        "`{0}` is not a loopback address; whoever reaches this socket is the guest, so only loopback is served"
    )]
    NotLoopback(String),
}

/// Why nobody can be listened to.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The kernel refused.
    #[error("cannot listen at {address}: {error}")]
    Refused {
        /// Where.
        address: Address,
        /// What the kernel said.
        error: io::Error,
    },
    /// Somebody answers there.
    #[error("another process listens at {address}; stop it or choose another path")]
    InUse {
        /// Where.
        address: Address,
    },
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let malformed = || AddressError::Malformed(text.to_owned());
        match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(PathBuf::from(path))),
            Some(("tcp", address)) => {
                let address: SocketAddr = address.parse().map_err(|_| malformed())?;
                let loopback = address.ip().is_loopback();
                if loopback {
                    Ok(Self::Tcp(address))
                } else {
                    Err(AddressError::NotLoopback(text.to_owned()))
                }
            }
            _ => Err(malformed()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

impl Address {
    pub(super) fn listen(&self) -> Result<Listener, ListenError> {
        match self {
            Self::Unix(path) => self.listen_unix(path),
            Self::Tcp(address) => match TcpListener::bind(address) {
                Ok(listener) => Ok(Listener::Tcp(listener)),
                Err(error) => Err(ListenError::Refused { address: self.clone(), error }),
            },
        }
    }

    /// A socket that a killed process left behind is replaced; one that answers, or any other file, is not.
    fn listen_unix(&self, path: &Path) -> Result<Listener, ListenError> {
        let refused = |error| ListenError::Refused { address: self.clone(), error };
        if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            if sys::connect(path, ASK_TIMEOUT).is_ok() {
                return Err(ListenError::InUse { address: self.clone() });
            }
            fs::remove_file(path).map_err(refused)?;
        }
        let listener = UnixListener::bind(path).map_err(refused)?;
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(refused)?;
        Ok(Listener::Unix(listener))
    }

    pub(super) fn remove(&self) {
        if let Self::Unix(path) = self
            && let Err(error) = fs::remove_file(path)
        {
            eprintln!("vtpmd: cannot remove {self}: {error}");
        }
    }
}

pub(super) enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    /// What ends this listener from another thread, also where nobody can reach its address any more.
    pub(super) fn closer(&self) -> io::Result<Closer> {
        let stream = match self {
            Self::Unix(listener) => Stream::Unix(UnixStream::from(OwnedFd::from(listener.try_clone()?))),
            Self::Tcp(listener) => Stream::Tcp(TcpStream::from(OwnedFd::from(listener.try_clone()?))),
        };
        Ok(Closer(stream))
    }

    /// The next connection; none if the listener was closed or broke.
    pub(super) fn accept(&self) -> Option<Stream> {
        loop {
            let accepted = match self {
                Self::Unix(listener) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
                Self::Tcp(listener) => listener.accept().map(|(stream, _)| Stream::Tcp(stream)),
            };
            match accepted {
                // A client that had gone before we looked has no options to set.
                Ok(Stream::Tcp(stream)) if stream.set_nodelay(true).is_err() => {}
                Ok(stream) => return Some(stream),
                Err(error) if is_fleeting(&error) => {}
                // accept(2): the socket does not listen any more.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => return None,
                Err(error) => {
                    eprintln!("vtpmd: cannot accept connections any more: {error}");
                    return None;
                }
            }
        }
    }
}

/// The same socket as a listener's.
#[derive(Debug)]
pub(super) struct Closer(Stream);

impl Closer {
    /// Ends the waiting for connections (shutdown(2) of a listening socket).
    pub(super) fn close(&self) -> io::Result<()> {
        match &self.0 {
            Stream::Unix(socket) => socket.shutdown(Shutdown::Both),
            Stream::Tcp(socket) => socket.shutdown(Shutdown::Both),
        }
    }
}

/// The client had gone before we looked.
fn is_fleeting(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | NotConnected)
}

/// A connection.
#[derive(Debug)]
pub(crate) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl From<OwnedFd> for Stream {
    fn from(fd: OwnedFd) -> Self {
        Self::Unix(UnixStream::from(fd))
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(into),
            Self::Tcp(stream) => stream.read(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(from),
            Self::Tcp(stream) => stream.write(from),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, AddressError, ListenError};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_loopback_and_paths_are_addresses() {
        for good in ["unix:/run/tpm", "tcp:127.0.0.1:2321", "tcp:[::1]:2321"] {
            assert_eq!(good.parse::<Address>().map(|address| address.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "unix:", "tcp:2321", "tcp:localhost:2321", "/run/tpm", "udp:127.0.0.1:1"] {
            assert_eq!(bad.parse::<Address>(), Err(AddressError::Malformed(bad.to_owned())));
        }
        for open in ["tcp:0.0.0.0:2321", "tcp:192.0.2.1:2321", "tcp:[::]:2321"] {
            assert_eq!(open.parse::<Address>(), Err(AddressError::NotLoopback(open.to_owned())));
        }
    }

    #[test]
    fn a_socket_that_answers_is_not_taken_and_one_that_was_left_behind_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let address = Address::Unix(path.clone());
        let listening = address.listen().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(address.listen(), Err(ListenError::InUse { .. })));
        drop(listening);
        drop(address.listen().unwrap());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "no socket").unwrap();
        assert!(matches!(address.listen(), Err(ListenError::Refused { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"no socket");
    }
}
