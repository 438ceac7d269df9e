//! A guest's side: launched through a mailbox, it can send messages to its processor.
//!
//! **What.** [`Mailbox`] is the hypervisor's way to a processor, by socket or in the same process; [`launch`] is what a
//! launcher does with it; the guests implement `GuestRequest`.
//! **Trust.** None in what comes back, as in a real guest: the messages protect themselves.
//! **Laws.** A guest ends when its value is dropped or its socket closes.
//! **Not here.** The component's `Reporter`: `reporter.rs`.

use crate::launch::{FIRMWARE_BYTES_MAX, PAGE_BYTES, Stretch, blob};
use crate::processor::{Processor, SharedProcessor};
use crate::protocol::{PAGES_MAX, Page, Refusal, Reply, Request, receive, send};
use husk::attest::guest_message::{GuestRequest, GuestRequestError, SecretsPage};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;
use zeroize::Zeroizing;

/// How long a client waits for a simulated processor.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no guest or no answer.
#[derive(Debug, thiserror::Error)]
pub enum PspError {
    /// The processor refused.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The socket.
    #[error("no simulated processor answers at {path}: {why}. Start it with `husk psp serve`")]
    Socket {
        /// Which.
        path: PathBuf,
        /// What the system says.
        why: std::io::Error,
    },
    /// The other end is no processor of this kind.
    #[error("what answers at the socket is no simulated processor. Check the path")]
    Garbled,
    /// The firmware does not fit.
    #[error("the firmware is empty or larger than 64 MiB. Check the image")]
    Firmware,
    /// The secrets page holds no key.
    #[error("the simulated processor gave no message keys. This is its defect")]
    Secrets,
}

/// A hypervisor's way to a processor.
pub trait Mailbox {
    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// [`PspError`] if none came; a refusal is a [`Reply`].
    fn ask(&mut self, request: &Request) -> Result<Reply, PspError>;
}

/// Launches `firmware` (its last page ends at 4 GiB) and a secrets page; yields the guest's number and its secrets.
///
/// # Errors
/// [`PspError`].
pub(crate) fn launch(
    mailbox: &mut dyn Mailbox,
    firmware: &[u8],
    host_data: &[u8; 32],
    policy: u64,
) -> Result<(u64, SecretsPage), PspError> {
    if firmware.is_empty() || firmware.len() > FIRMWARE_BYTES_MAX {
        return Err(PspError::Firmware);
    }
    let (guest, mut page) = launch_stretches(mailbox, &blob(firmware), host_data, policy)?;
    let secrets = SecretsPage::take(&mut page).map_err(|_| PspError::Secrets)?;
    Ok((guest, secrets))
}

/// Launches what lies in the stretches, in their order; yields the guest's number and what its secrets page holds from now on.
fn launch_stretches(
    mailbox: &mut dyn Mailbox,
    stretches: &[Stretch],
    host_data: &[u8; 32],
    policy: u64,
) -> Result<(u64, Zeroizing<Page>), PspError> {
    let guest = match mailbox.ask(&Request::LaunchStart { policy })? {
        Reply::Guest(guest) => guest,
        other => return Err(unexpected(&other)),
    };
    let mut update =
        |page_type, gpa, bytes| match mailbox.ask(&Request::LaunchUpdate { guest, page_type, gpa, bytes })? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        };
    for Stretch { page_type, gpa, bytes } in stretches {
        for (run, at) in bytes.chunks(PAGES_MAX * PAGE_BYTES).zip((*gpa..).step_by(PAGES_MAX * PAGE_BYTES)) {
            update(*page_type, at, run.to_vec())?;
        }
    }
    match mailbox.ask(&Request::LaunchFinish { guest, host_data: *host_data })? {
        Reply::Secrets(page) => Ok((guest, Zeroizing::new(*page))),
        other => Err(unexpected(&other)),
    }
}

fn unexpected(reply: &Reply) -> PspError {
    match reply {
        Reply::Refused(refusal) => PspError::Refused(*refusal),
        _ => PspError::Garbled,
    }
}

fn exchange(
    mailbox: &mut dyn Mailbox,
    guest: u64,
    request: &Page,
    response: &mut Page,
) -> Result<(), GuestRequestError> {
    match mailbox.ask(&Request::GuestRequest { guest, page: Box::new(*request) }) {
        Ok(Reply::Response(page)) => {
            *response = *page;
            Ok(())
        }
        _ => Err(GuestRequestError::Failed),
    }
}

fn certificate(mailbox: &mut dyn Mailbox) -> Result<Vec<u8>, PspError> {
    match mailbox.ask(&Request::Certificate)? {
        Reply::Certificate(der) => Ok(der),
        other => Err(unexpected(&other)),
    }
}

/// A socket to a simulated processor.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: UnixStream,
    path: PathBuf,
}

impl Socket {
    fn connect(path: &Path) -> Result<Self, PspError> {
        let fail = |why| PspError::Socket { path: path.to_owned(), why };
        let stream = UnixStream::connect(path).map_err(fail)?;
        stream.set_read_timeout(Some(TIMEOUT)).map_err(fail)?;
        stream.set_write_timeout(Some(TIMEOUT)).map_err(fail)?;
        Ok(Self { stream, path: path.to_owned() })
    }
}

impl Mailbox for Socket {
    fn ask(&mut self, request: &Request) -> Result<Reply, PspError> {
        let fail = |why| PspError::Socket { path: self.path.clone(), why };
        send(&mut self.stream, &request.encode()).map_err(fail)?;
        let frame = receive(&mut self.stream).map_err(fail)?.ok_or(PspError::Garbled)?;
        Reply::decode(&frame).map_err(|_| PspError::Garbled)
    }
}

/// A guest launched through the socket of `husk psp serve`; it ends when this value is dropped.
#[derive(Debug)]
pub struct RemoteGuest {
    socket: Socket,
    guest: u64,
}

impl RemoteGuest {
    /// Launches `firmware` at the simulated processor that listens at `socket`.
    ///
    /// # Errors
    /// [`PspError`].
    pub fn launch(
        socket: &Path,
        firmware: &[u8],
        host_data: &[u8; 32],
        policy: u64,
    ) -> Result<(Self, SecretsPage), PspError> {
        let mut socket = Socket::connect(socket)?;
        let (guest, secrets) = launch(&mut socket, firmware, host_data, policy)?;
        Ok((Self { socket, guest }, secrets))
    }

    /// Launches a guest of these stretches, and yields what its secrets page holds, for a launcher that puts it there.
    ///
    /// # Errors
    /// [`PspError`].
    pub fn launch_stretches(
        socket: &Path,
        stretches: &[Stretch],
        host_data: &[u8; 32],
        policy: u64,
    ) -> Result<(Self, Zeroizing<Page>), PspError> {
        let mut socket = Socket::connect(socket)?;
        let (guest, secrets) = launch_stretches(&mut socket, stretches, host_data, policy)?;
        Ok((Self { socket, guest }, secrets))
    }

    /// The DER certificate of the key that signs reports.
    ///
    /// # Errors
    /// [`PspError`].
    pub fn certificate(&mut self) -> Result<Vec<u8>, PspError> {
        certificate(&mut self.socket)
    }
}

impl GuestRequest for RemoteGuest {
    fn exchange(&mut self, request: &Page, response: &mut Page) -> Result<(), GuestRequestError> {
        exchange(&mut self.socket, self.guest, request, response)
    }
}

impl Mailbox for SharedProcessor {
    fn ask(&mut self, request: &Request) -> Result<Reply, PspError> {
        Ok(locked(self).answer(request))
    }
}

/// The processor, also after a thread died with it in hand: each request leaves it whole or does nothing.
pub(crate) fn locked(processor: &SharedProcessor) -> MutexGuard<'_, Processor> {
    processor.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A guest in the processor's own process: no socket, and deterministic if the processor's entropy is. It ends when
/// this value is dropped.
#[derive(Debug)]
pub struct LocalGuest {
    processor: SharedProcessor,
    guest: u64,
}

impl LocalGuest {
    /// Launches `firmware` at `processor`.
    ///
    /// # Errors
    /// [`PspError`].
    pub fn launch(
        processor: &SharedProcessor,
        firmware: &[u8],
        host_data: &[u8; 32],
        policy: u64,
    ) -> Result<(Self, SecretsPage), PspError> {
        let mut mailbox = SharedProcessor::clone(processor);
        let (guest, secrets) = launch(&mut mailbox, firmware, host_data, policy)?;
        Ok((Self { processor: mailbox, guest }, secrets))
    }

    /// The DER certificate of the key that signs reports.
    ///
    /// # Errors
    /// [`PspError`].
    pub fn certificate(&mut self) -> Result<Vec<u8>, PspError> {
        certificate(&mut self.processor)
    }
}

impl GuestRequest for LocalGuest {
    fn exchange(&mut self, request: &Page, response: &mut Page) -> Result<(), GuestRequestError> {
        exchange(&mut self.processor, self.guest, request, response)
    }
}

impl Drop for LocalGuest {
    fn drop(&mut self) {
        locked(&self.processor).answer(&Request::End { guest: self.guest });
    }
}
