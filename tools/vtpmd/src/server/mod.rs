//! The machine over sockets, in swtpm's protocol.
//!
//! **What.** A data channel that takes TPM commands and a control channel that works the power switch, the locality
//! and the rest of what a platform does to a TPM. QEMU's `-tpmdev emulator`, tpm2-tss' `swtpm` TCTI and swtpm_ioctl
//! speak it. Where it is asked for, the TCG simulator's protocol instead, for tpm2-tss' `mssim` TCTI.
//! **Trust.** Whoever can open the sockets is the guest and its platform: Unix sockets are made for their owner alone, TCP
//! listens on loopback only.
//! **Laws.** Each reply is one write. Every message and the number of connections have bounds. The end of a connection is
//! no event to the TPM. State blobs do not leave a sealed TPM and do not enter it. Where a frame names its locality, it never
//! is 4.
//! **Not here.** The words of swtpm's command line are read elsewhere in this crate.

mod address;
mod blobs;
mod control;
mod data;
#[doc(hidden)]
pub mod fuzzing;
mod mssim;
mod wire;

pub use address::{Address, AddressError, ListenError};

use crate::serving::Serving;
use address::{Closer, Listener, Stream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How many connections there may be at once; more wait in the kernel's queue until one ends.
const CONNECTIONS_MAX: usize = 32;

/// How often a listener that waits for a connection to end looks whether all is over.
const LOOK_UP: Duration = Duration::from_millis(100);

/// What a new connection is for.
type Serve = fn(Stream, &Arc<Connections>);

/// Where a machine is served, and by which rules.
#[derive(Clone, Debug, Default)]
pub struct Sockets {
    /// TPM commands.
    pub data: Option<Address>,
    /// swtpm's control messages.
    pub control: Option<Address>,
    /// The signals of the TCG simulator's platform; TPM commands come in the simulator's frames then, which choose their
    /// locality themselves, 0 to 3.
    pub mssim_platform: Option<Address>,
    /// TPM commands may also come in the simulator's frames.
    pub takes_mssim_frames: bool,
    /// The end of a data connection that carried a command is the end of everything.
    pub ends_with_client: bool,
    /// The control channel may not choose locality 4.
    pub refuses_locality_4: bool,
}

/// The listeners of one machine.
#[derive(Debug, Default)]
pub struct Server {
    listening: Vec<(Address, Closer, JoinHandle<()>)>,
}

impl Server {
    /// Listens for TPM commands and for control messages, each where it is wanted.
    ///
    /// # Errors
    /// [`ListenError`]; what was opened before is closed again.
    pub fn start(serving: &Arc<Serving>, sockets: &Sockets) -> Result<Self, ListenError> {
        let mut server = Self::default();
        let connections = Arc::new(Connections::new(serving, sockets));
        let commands: Serve =
            if sockets.mssim_platform.is_some() { mssim::serve_commands } else { data::serve };
        for (address, serve) in [
            (&sockets.data, commands),
            (&sockets.control, control::serve as Serve),
            (&sockets.mssim_platform, mssim::serve_platform as Serve),
        ] {
            let Some(address) = address else { continue };
            let opened = address.listen().and_then(|listener| {
                let closer = listener.closer();
                let refused = |error| ListenError::Refused { address: address.clone(), error };
                closer.map(|closer| (listener, closer)).map_err(refused)
            });
            match opened {
                Ok(opened) => server.accept(address, opened, serve, &connections),
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
        (listener, closer): (Listener, Closer),
        serve: Serve,
        connections: &Arc<Connections>,
    ) {
        let connections = Arc::clone(connections);
        let thread = thread::spawn(move || {
            while let Some(place) = connections.wait_for_place()
                && let Some(stream) = listener.accept()
                && !connections.serving.is_over()
            {
                place.start(stream, serve);
            }
        });
        self.listening.push((address.clone(), closer, thread));
    }

    /// After [`Serving::end`]: stops listening and removes the sockets from the file system. Connections that are open
    /// answer with failures until their clients go.
    pub fn stop(self) {
        for (address, closer, thread) in self.listening {
            match closer.close() {
                Ok(()) if thread.join().is_err() => {
                    eprintln!("vtpmd: the listener at {address} had failed");
                }
                Ok(()) => {}
                Err(error) => eprintln!("vtpmd: the listener at {address} had already gone: {error}"),
            }
            address.remove();
        }
    }
}

/// The connections to one machine.
pub(crate) struct Connections {
    serving: Arc<Serving>,
    ends_with_client: bool,
    refuses_locality_4: bool,
    takes_mssim_frames: bool,
    open: Mutex<usize>,
    ended: Condvar,
}

impl Connections {
    fn new(serving: &Arc<Serving>, sockets: &Sockets) -> Self {
        Self {
            serving: Arc::clone(serving),
            ends_with_client: sockets.ends_with_client,
            refuses_locality_4: sockets.refuses_locality_4,
            takes_mssim_frames: sockets.takes_mssim_frames,
            open: Mutex::new(0),
            ended: Condvar::new(),
        }
    }

    fn open(&self) -> MutexGuard<'_, usize> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for one more connection, if there is any.
    fn place(self: &Arc<Self>) -> Option<Place> {
        let mut open = self.open();
        let free = *open < CONNECTIONS_MAX;
        *open += usize::from(free);
        free.then(|| Place(Arc::clone(self)))
    }

    /// Room for one more connection, as soon as there is any; none at the end.
    fn wait_for_place(self: &Arc<Self>) -> Option<Place> {
        while !self.serving.is_over() {
            if let Some(place) = self.place() {
                return Some(place);
            }
            drop(self.ended.wait_timeout(self.open(), LOOK_UP));
        }
        None
    }
}

/// Room for one connection; it is given back when dropped.
struct Place(Arc<Connections>);

impl Place {
    /// Serves `stream` in a thread of its own.
    fn start(self, stream: Stream, serve: Serve) {
        thread::spawn(move || serve(stream, &self.0));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.open() -= 1;
        self.0.ended.notify_all();
    }
}
