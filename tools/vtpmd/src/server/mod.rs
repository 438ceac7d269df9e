//! The machine over sockets, in swtpm's protocol.
//!
//! **What.** A data channel that takes TPM commands and a control channel that works the power switch, the locality
//! and the rest of what a platform does to a TPM. QEMU's `-tpmdev emulator`, tpm2-tss' `swtpm` TCTI and swtpm_ioctl
//! speak it.
//! **Trust.** Whoever can open the sockets is the guest and its platform: Unix sockets are made for their owner alone, TCP
//! listens on loopback only.
//! **Laws.** Each reply is one write. Every message and the number of connections have bounds. The end of a connection is
//! no event to the TPM. State blobs do not leave a sealed TPM and do not enter it.
//! **Not here.** mssim's framing, and the words of swtpm's command line.

mod address;
mod control;
mod data;
mod wire;

pub use address::{Address, AddressError, ListenError};

use crate::serving::Serving;
use address::{Listener, Stream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

/// How many connections there may be at once; more are closed as they come.
const CONNECTIONS_MAX: usize = 32;

/// What a new connection is for.
type Serve = fn(Stream, &Arc<Connections>);

/// The listeners of one machine.
#[derive(Debug, Default)]
pub struct Server {
    listening: Vec<(Address, JoinHandle<()>)>,
}

impl Server {
    /// Listens for TPM commands and for control messages, each where it is wanted.
    ///
    /// # Errors
    /// [`ListenError`]; what was opened before is closed again.
    pub fn start(
        serving: &Arc<Serving>,
        data: Option<&Address>,
        control: Option<&Address>,
    ) -> Result<Self, ListenError> {
        let mut server = Self::default();
        let connections = Arc::new(Connections { serving: Arc::clone(serving), open: AtomicUsize::new(0) });
        for (address, serve) in [(data, data::serve as Serve), (control, control::serve as Serve)] {
            let Some(address) = address else { continue };
            match address.listen() {
                Ok(listener) => server.accept(address, listener, serve, &connections),
                Err(error) => {
                    serving.end();
                    server.stop();
                    return Err(error);
                }
            }
        }
        Ok(server)
    }

    fn accept(
        &mut self,
        address: &Address,
        listener: Listener,
        serve: Serve,
        connections: &Arc<Connections>,
    ) {
        let connections = Arc::clone(connections);
        let thread = thread::spawn(move || {
            while let Some(stream) = listener.accept() {
                if connections.serving.is_over() {
                    return;
                }
                connections.start(stream, serve);
            }
        });
        self.listening.push((address.clone(), thread));
    }

    /// After [`Serving::end`]: stops listening and removes the sockets from the file system. Connections that are open
    /// answer with failures until their clients go.
    pub fn stop(self) {
        for (address, thread) in self.listening {
            address.wake();
            if thread.join().is_err() {
                eprintln!("vtpmd: the listener at {address} had failed");
            }
            address.remove();
        }
    }
}

/// The connections to one machine.
pub(crate) struct Connections {
    serving: Arc<Serving>,
    open: AtomicUsize,
}

/// One of them; it is given back when dropped.
struct Place(Arc<Connections>);

impl Connections {
    /// Serves `stream` in a thread of its own, or closes it if there are too many.
    fn start(self: &Arc<Self>, stream: Stream, serve: Serve) {
        if let Some(place) = self.place() {
            thread::spawn(move || serve(stream, &place.0));
        }
    }

    fn place(self: &Arc<Self>) -> Option<Place> {
        let open = self.open.fetch_add(1, Ordering::Relaxed);
        let place = Place(Arc::clone(self));
        (open < CONNECTIONS_MAX).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
