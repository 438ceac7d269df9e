//! The ways to a TPM, and to a relay.

use rustix::termios::{OptionalActions, isatty, tcgetattr, tcsetattr};
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// How long a socket's TPM may think: RSA keys take seconds.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Both directions of a way.
pub trait Way: Read + Write {}

impl<T: Read + Write> Way for T {}

/// Where a TPM is, or a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The kernel's; a relay is at the other end of one.
    Device(PathBuf),
    /// A socket of raw commands, or frames.
    Unix(PathBuf),
    /// The same, over TCP.
    Tcp(SocketAddr),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        match text.strip_prefix("tcp:") {
            Some(address) => address.parse().map(Self::Tcp).map_err(|error| format!("{address}: {error}")),
            None => Ok(Self::Device(text.into())),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(path) => write!(f, "{}", path.display()),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

impl Place {
    /// Opens it.
    ///
    /// # Errors
    /// What the system gives.
    pub fn open(&self) -> io::Result<Box<dyn Way>> {
        Ok(match self {
            Self::Device(path) => {
                let device = OpenOptions::new().read(true).write(true).open(path)?;
                if isatty(&device) {
                    // A serial line carries bytes as they are; what it had for an earlier start of the guest is thrown away.
                    let mut line = tcgetattr(&device)?;
                    line.make_raw();
                    tcsetattr(&device, OptionalActions::Flush, &line)?;
                }
                Box::new(device)
            }
            Self::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(WAIT_MAX))?;
                Box::new(stream)
            }
            Self::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, WAIT_MAX)?;
                stream.set_read_timeout(Some(WAIT_MAX))?;
                Box::new(stream)
            }
        })
    }
}
