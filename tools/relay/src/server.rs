//! The unix socket.

use crate::frames::read_after;
use crate::pipe::Pipe;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How many connections are served at once; one more is closed at once.
pub const CONNECTIONS_MAX: usize = 64;
/// How long the rest of a frame may take once its first byte came, and an answer to be taken.
pub const FRAME_WAIT_MAX: Duration = Duration::from_secs(5);

/// How long to wait where the system has no room for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody listens there.
    #[error("another process listens on {0}; stop it, or choose another path")]
    InUse(PathBuf),
    /// Something else is there.
    #[error("{0} exists and is not a socket; it is not touched")]
    NotASocket(PathBuf),
    /// The machine failed.
    #[error("{path}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Binds the socket at `path` for this user alone. What a dead process left there is replaced.
///
/// # Errors
/// [`SocketError`].
pub fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    let failed = |source| SocketError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(about) if !about.file_type().is_socket() => return Err(SocketError::NotASocket(path.to_owned())),
        Ok(_) if UnixStream::connect(path).is_ok() => return Err(SocketError::InUse(path.to_owned())),
        Ok(_) => fs::remove_file(path).map_err(failed)?,
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Serves for ever, a thread for each connection.
pub fn serve(listener: &UnixListener, pipe: &Arc<dyn Pipe>) {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                // Out of descriptors, most likely: they come back when connections end.
                eprintln!("husk-relay: a connection could not be taken: {error}");
                std::thread::sleep(ACCEPT_PAUSE);
                continue;
            }
        };
        let Some(seat) = Seat::take(&open) else {
            eprintln!("husk-relay: {CONNECTIONS_MAX} connections are open; one more was closed");
            continue;
        };
        let pipe = Arc::clone(pipe);
        let thread = std::thread::Builder::new().name("exchange".to_owned()).spawn(move || {
            if let Err(error) = converse(stream, &*pipe) {
                eprintln!("husk-relay: a connection was closed: {error}");
            }
            drop(seat);
        });
        if let Err(error) = thread {
            eprintln!("husk-relay: a connection was closed: {error}");
        }
    }
}

/// One of the connections that may be open.
struct Seat(Arc<AtomicUsize>);

impl Seat {
    fn take(open: &Arc<AtomicUsize>) -> Option<Self> {
        let more = |count| (count < CONNECTIONS_MAX).then_some(count + 1);
        open.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok().map(|_| Self(Arc::clone(open)))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Exchanges on one connection until its client goes, or one fails. A client may be idle for as long as it likes.
fn converse(mut stream: UnixStream, pipe: &dyn Pipe) -> io::Result<()> {
    stream.set_write_timeout(Some(FRAME_WAIT_MAX))?;
    loop {
        let mut first = [0];
        stream.set_read_timeout(None)?;
        if stream.read(&mut first)? == 0 {
            return Ok(());
        }
        stream.set_read_timeout(Some(FRAME_WAIT_MAX))?;
        let frame = read_after(first[0], &mut stream)?;
        let reply = pipe.carry(&frame).map_err(io::Error::other)?;
        stream.write_all(&reply)?;
    }
}
