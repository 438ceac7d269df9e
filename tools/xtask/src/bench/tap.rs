//! A tap on a Unix socket: passes everything on and adds up how long the client waited for answers.

use crate::failure::Failure;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Larger than any frame that passes here in one piece.
const PIECE_BYTES: usize = 1 << 16;

/// A tap, for as long as this process runs.
#[derive(Clone, Debug)]
pub(super) struct Tap {
    pub(super) path: PathBuf,
    waited_ns: Arc<AtomicU64>,
}

impl Tap {
    /// Listens at `path` and passes every connection on to `target`.
    pub(super) fn set(path: PathBuf, target: &Path) -> Result<Self, Failure> {
        let listener = UnixListener::bind(&path).map_err(|error| Failure::io("listen at", &path, &error))?;
        let tap = Self { path, waited_ns: Arc::default() };
        let (waited_ns, target) = (Arc::clone(&tap.waited_ns), target.to_owned());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // Without its other side the client sees its connection end, as it would without the tap.
                if let Ok(server) = UnixStream::connect(&target) {
                    pass(client, server, &waited_ns);
                }
            }
        });
        Ok(tap)
    }

    /// How long clients have waited so far.
    pub(super) fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited_ns.load(Ordering::Relaxed))
    }
}

/// Passes one connection on, both ways, until either side ends. The client asks one thing at a time.
fn pass(client: UnixStream, server: UnixStream, waited_ns: &Arc<AtomicU64>) {
    let asked: Arc<Mutex<Option<Instant>>> = Arc::default();
    let (Ok(from_client), Ok(to_client)) = (client.try_clone(), client.try_clone()) else { return };
    let Ok(to_server) = server.try_clone() else { return };
    let since = Arc::clone(&asked);
    thread::spawn(move || {
        each_piece(from_client, &to_server, || {
            since.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
        });
    });
    let waited_ns = Arc::clone(waited_ns);
    thread::spawn(move || {
        each_piece(server, &to_client, || {
            if let Some(since) = asked.lock().unwrap_or_else(PoisonError::into_inner).take() {
                let ns = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
                waited_ns.fetch_add(ns, Ordering::Relaxed);
            }
        });
    });
}

/// Calls `seen` for each piece, then passes it on.
fn each_piece(mut from: UnixStream, mut to: &UnixStream, seen: impl Fn()) {
    let mut piece = vec![0; PIECE_BYTES];
    while let Ok(bytes @ 1..) = from.read(&mut piece) {
        seen();
        if to.write_all(&piece[..bytes]).is_err() {
            break;
        }
    }
    // Fails only where the other side has ended already.
    drop(to.shutdown(Shutdown::Both));
}

#[cfg(test)]
mod tests {
    use super::Tap;
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::time::Duration;

    #[test]
    fn what_passes_is_unchanged_and_the_wait_is_counted() {
        let folder = crate::house::fresh_workshop("unit-tap").expect("folder");
        let listener = UnixListener::bind(folder.join("server")).expect("listens");
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = [0; 3];
            stream.read_exact(&mut request).expect("request");
            std::thread::sleep(Duration::from_millis(20));
            stream.write_all(&request).expect("reply");
        });
        let tap = Tap::set(folder.join("tap"), &folder.join("server")).expect("listens");
        let mut client = UnixStream::connect(&tap.path).expect("connects");
        client.write_all(b"abc").expect("sent");
        let mut reply = Vec::new();
        client.read_to_end(&mut reply).expect("reply, then the end");
        assert_eq!(reply, b"abc");
        assert!(tap.waited() >= Duration::from_millis(20), "{:?}", tap.waited());
        server.join().expect("ended");
    }
}
