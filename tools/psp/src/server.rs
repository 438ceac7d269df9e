//! The processor behind a socket.
//!
//! **What.** One thread for each connection; a connection is a hypervisor with its guests.
//! **Trust.** None in what comes in; the socket is open to its owner alone.
//! **Laws.** A connection reaches only its own guests. They end with it. Frames and connections are bounded.
//! **Not here.** Frames: `protocol.rs`.

use crate::guest::locked;
use crate::processor::SharedProcessor;
use crate::protocol::{Refusal, Reply, Request, receive, send};
use std::collections::BTreeSet;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The most connections at one time.
const CONNECTIONS_MAX: usize = 64;

/// Listens at `path`, open to its owner alone. A socket that nobody answers is replaced, nothing else is.
///
/// # Errors
/// The system's; `AddrInUse` if somebody answers there or it is no socket.
pub fn listen(path: &Path) -> std::io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() && UnixStream::connect(path).is_err() => {
            std::fs::remove_file(path)?;
        }
        Ok(_) => return Err(ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves until the listener fails.
///
/// # Errors
/// The listener's.
pub fn serve(listener: &UnixListener, processor: &SharedProcessor) -> std::io::Result<()> {
    let connections = Arc::new(AtomicUsize::new(0));
    loop {
        let (stream, _) = listener.accept()?;
        let place = Place::take(&connections);
        let processor = SharedProcessor::clone(processor);
        // Too many: closed at once.
        let Some(place) = place else { continue };
        std::thread::Builder::new().spawn(move || {
            let mut connection = Connection { processor, guests: BTreeSet::new() };
            if let Err(error) = connection.run(stream) {
                eprintln!("psp: a connection ended: {error}");
            }
            drop(place);
        })?;
    }
}

/// One of the places for connections, given back on drop.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(connections: &Arc<AtomicUsize>) -> Option<Self> {
        let place = Self(Arc::clone(connections));
        let before = connections.fetch_add(1, Ordering::Relaxed);
        (before < CONNECTIONS_MAX).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A hypervisor and its guests.
struct Connection {
    processor: SharedProcessor,
    guests: BTreeSet<u64>,
}

impl Connection {
    fn run(&mut self, mut stream: UnixStream) -> Result<(), Error> {
        while let Some(frame) = receive(&mut stream)? {
            let reply = match Request::decode(&frame) {
                Ok(request) => self.answer(&request),
                Err(_) => Reply::Refused(Refusal::Malformed),
            };
            send(&mut stream, &reply.encode())?;
        }
        Ok(())
    }

    fn answer(&mut self, request: &Request) -> Reply {
        let named = match request {
            Request::LaunchUpdate { guest, .. }
            | Request::LaunchFinish { guest, .. }
            | Request::GuestRequest { guest, .. }
            | Request::End { guest } => Some(guest),
            Request::LaunchStart { .. } | Request::Certificate => None,
        };
        if named.is_some_and(|guest| !self.guests.contains(guest)) {
            return Reply::Refused(Refusal::UnknownGuest);
        }
        let reply = locked(&self.processor).answer(request);
        match (request, &reply) {
            (_, Reply::Guest(guest)) => {
                self.guests.insert(*guest);
            }
            (Request::End { guest }, _) => {
                self.guests.remove(guest);
            }
            _ => {}
        }
        reply
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut processor = locked(&self.processor);
        for guest in &self.guests {
            processor.answer(&Request::End { guest: *guest });
        }
    }
}
