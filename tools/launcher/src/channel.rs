//! The host's end of the firmware's channel: requests in, each carried to broker or processor, answers out by tag.

use husk::attest::guest_message::GuestRequest as _;
use husk_firmware::virtio::post::{BODY_BYTES_MAX, HEADER_BYTES, Label, Port, ProcessorWord, Word};
use husk_psp::{Page, RemoteGuest};
use husk_relay::pipe::Pipe;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many requests are under way at one time; one more has no answer. The firmware waits for one at a time, and gives up on slow ones.
const REQUESTS_MAX: usize = 8;

/// What the firmware finds at the processor's port.
pub trait Processor: Send {
    /// One message page to the processor and one back.
    fn guest_request(&mut self, page: &Page) -> Option<Page>;
    /// The certificate of the key that signs reports.
    fn certificate(&mut self) -> Option<Vec<u8>>;
}

/// A guest that was launched at a simulated processor.
impl Processor for RemoteGuest {
    fn guest_request(&mut self, page: &Page) -> Option<Page> {
        let mut response = [0; size_of::<Page>()];
        self.exchange(page, &mut response).ok().map(|()| response)
    }

    fn certificate(&mut self) -> Option<Vec<u8>> {
        Self::certificate(self).ok()
    }
}

/// Both ends that requests go to.
#[derive(Clone)]
pub struct Ends {
    /// The way to the broker.
    pub broker: Arc<dyn Pipe>,
    /// The processor.
    pub processor: Arc<Mutex<dyn Processor>>,
}

impl std::fmt::Debug for Ends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ends")
    }
}

/// Serves the firmware until its end of the stream closes.
///
/// # Errors
/// The stream's, or [`io::ErrorKind::InvalidData`] for bytes that no firmware of this version sends.
pub fn serve(mut stream: UnixStream, ends: &Ends) -> io::Result<()> {
    let answers = Arc::new(Mutex::new(stream.try_clone()?));
    let under_way = Arc::new(AtomicUsize::new(0));
    while let Some((label, body)) = receive(&mut stream)? {
        if under_way.fetch_add(1, Ordering::AcqRel) >= REQUESTS_MAX {
            under_way.fetch_sub(1, Ordering::AcqRel);
            send(&answers, label, None)?;
            continue;
        }
        let (ends, answers, under_way) = (ends.clone(), Arc::clone(&answers), Arc::clone(&under_way));
        std::thread::Builder::new().name("exchange".to_owned()).spawn(move || {
            let answer = answer(&ends, label.port, &body);
            under_way.fetch_sub(1, Ordering::AcqRel);
            if let Err(error) = send(&answers, label, answer.as_deref()) {
                eprintln!("husk run: the firmware does not take an answer: {error}");
            }
        })?;
    }
    Ok(())
}

fn receive(stream: &mut UnixStream) -> io::Result<Option<(Label, Vec<u8>)>> {
    let mut header = [0; HEADER_BYTES];
    match stream.read(&mut header[..1])? {
        0 => return Ok(None),
        _ => stream.read_exact(&mut header[1..])?,
    }
    let label = Label::parse(&header).filter(|label| label.word == Word::Request);
    let label = label.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    let mut body = vec![0; label.body_bytes];
    stream.read_exact(&mut body)?;
    Ok(Some((label, body)))
}

fn answer(ends: &Ends, port: Port, body: &[u8]) -> Option<Vec<u8>> {
    match port {
        Port::Broker => match ends.broker.carry(body) {
            Ok(reply) => Some(reply),
            Err(error) => {
                eprintln!("husk run: {error}");
                None
            }
        },
        Port::Processor => processor_answer(&mut *locked(&ends.processor), body),
    }
}

fn processor_answer(processor: &mut dyn Processor, body: &[u8]) -> Option<Vec<u8>> {
    let (word, rest) = body.split_first()?;
    match (ProcessorWord::from_number(*word)?, rest) {
        (ProcessorWord::Certificate, []) => processor.certificate(),
        (ProcessorWord::GuestRequest, page) => {
            processor.guest_request(page.try_into().ok()?).map(|page| page.to_vec())
        }
        (ProcessorWord::Certificate, _) => None,
    }
}

/// Writes the answer to a request, in one write; one that does not fit a frame is none.
fn send(stream: &Mutex<UnixStream>, request: Label, answer: Option<&[u8]>) -> io::Result<()> {
    let body = answer.filter(|body| body.len() <= BODY_BYTES_MAX);
    let word = if body.is_some() { Word::Answer } else { Word::NoAnswer };
    let body = body.unwrap_or_default();
    let label = Label { body_bytes: body.len(), word, ..request };
    let frame = [&label.header()[..], body].concat();
    locked(stream).write_all(&frame)
}

fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
