//! The control channel.

use super::address::Stream;
use super::wire::{self, MESSAGE_BYTES_MAX, Offer, Outcome, Parsed, Request};
use super::{Connections, blobs, data};
use crate::machine::Machine;
use crate::serving::Serving;
use crate::sys;
use husk::engine::Locality;
use husk::fault::Fault;
use husk::volume::suspend::VOLATILE_BYTES_MAX;
use husk::vtpm::PERMANENT_BYTES_MAX;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The longest state blob in bytes.
const BLOB_BYTES_MAX: usize = max(PERMANENT_BYTES_MAX, VOLATILE_BYTES_MAX);

const fn max(one: usize, other: usize) -> usize {
    if one > other { one } else { other }
}

/// GET_INFO's flags.
const INFO_SPECIFICATION: u64 = 1;
const INFO_ATTRIBUTES: u64 = 2;

/// What a reply is followed by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    NextRequest,
    /// The end of the connection.
    Close,
    /// The end of the process.
    End,
}

impl Then {
    fn after(request: Request<'_>) -> Self {
        match request {
            Request::Shutdown => Self::End,
            _ => Self::NextRequest,
        }
    }
}

/// Serves one control connection until its client goes, or talks nonsense.
pub(super) fn serve(mut stream: Stream, connections: &Arc<Connections>) {
    let serving = &connections.serving;
    let mut inbox = Inbox { bytes: [0; MESSAGE_BYTES_MAX], filled: 0, descriptor: None };
    loop {
        let (reply, taken, then) = match wire::parse(&inbox.bytes[..inbox.filled]) {
            Parsed::Partial => {
                if inbox.receive(&stream) {
                    continue;
                }
                return;
            }
            Parsed::Nonsense => (wire::words(Outcome::BadOrdinal, &[]), 0, Then::Close),
            Parsed::Whole(Request::GetCapability, taken) => {
                (wire::capabilities(offers(connections)), taken, Then::NextRequest)
            }
            Parsed::Whole(Request::SetDataFd, taken) => {
                (set_data_fd(inbox.descriptor.take(), connections), taken, Then::NextRequest)
            }
            Parsed::Whole(Request::SetLocality(4), taken) if connections.refuses_locality_4 => {
                (wire::words(Outcome::BadLocality, &[]), taken, Then::NextRequest)
            }
            Parsed::Whole(Request::SetStateBlob(request), taken) => {
                inbox.drop_first(taken);
                match inbox.receive_blob(request.number, &stream) {
                    Some(blob) => {
                        (wire::words(blobs::set(request, blob, serving), &[]), 0, Then::NextRequest)
                    }
                    None => (wire::words(Outcome::BadParameter, &[]), 0, Then::Close),
                }
            }
            Parsed::Whole(request, taken) => (answer(request, serving), taken, Then::after(request)),
        };
        inbox.drop_first(taken);
        let written = stream.write_all(&reply);
        match then {
            Then::NextRequest if written.is_ok() => {}
            Then::NextRequest | Then::Close => return,
            Then::End => return serving.end(),
        }
    }
}

/// Bytes of requests that are not whole yet, and the descriptor that came with them.
struct Inbox {
    bytes: [u8; MESSAGE_BYTES_MAX],
    filled: usize,
    descriptor: Option<OwnedFd>,
}

impl Inbox {
    /// Waits for more; false if there will be none.
    fn receive(&mut self, stream: &Stream) -> bool {
        match sys::receive(stream, &mut self.bytes[self.filled..]) {
            Ok((0, _)) | Err(_) => false,
            Ok((count, descriptor)) => {
                self.filled += count;
                if descriptor.is_some() {
                    self.descriptor = descriptor;
                }
                true
            }
        }
    }

    /// The `length` bytes behind the first request; none if that is more than a blob can have, or if they do not come.
    fn receive_blob(&mut self, length: u32, stream: &Stream) -> Option<Vec<u8>> {
        let length = usize::try_from(length).ok().filter(|length| *length <= BLOB_BYTES_MAX)?;
        let mut blob = Vec::with_capacity(length);
        while blob.len() < length {
            if self.filled == 0 && !self.receive(stream) {
                return None;
            }
            let taken = self.filled.min(length - blob.len());
            blob.extend(&self.bytes[..taken]);
            self.drop_first(taken);
        }
        Some(blob)
    }

    fn drop_first(&mut self, taken: usize) {
        self.bytes.copy_within(taken..self.filled, 0);
        self.filled -= taken;
    }
}

fn answer(request: Request<'_>, serving: &Serving) -> Vec<u8> {
    let outcome = match request {
        Request::GetEstablished => return established(serving),
        Request::GetStateBlob(request) => return blobs::get(request, serving),
        Request::GetConfig => return wire::words(Outcome::Success, &[0]),
        Request::SetBufferSize(wanted) => return set_buffer_size(wanted, serving),
        Request::GetInfo { flags, offset } => return wire::info(&info(flags, serving), offset),
        Request::Init => init(serving),
        Request::Stop => stop(serving),
        Request::Shutdown => outcome("shut down", serving.shut_down()),
        Request::SetLocality(number) => set_locality(number, serving),
        Request::HashStart => when_on(serving, "hash start", |machine| machine.hash_start()),
        Request::HashData(data) => when_on(serving, "hash data", |machine| machine.hash_data(data)),
        Request::HashEnd => when_on(serving, "hash end", |machine| machine.hash_end()),
        Request::Cancel => cancel(serving),
        Request::StoreVolatile if serving.about().keeps_volatile => {
            when_on(serving, "store volatile", |machine| machine.store_volatile())
        }
        Request::ResetEstablished(number) => reset_established(number, serving),
        // The volume is locked for as long as this process lives.
        Request::LockStorage => Outcome::Success,
        Request::StoreVolatile => {
            eprintln!("vtpmd: nothing is suspended without --suspend-file");
            Outcome::BadOrdinal
        }
        Request::GetCapability | Request::SetStateBlob(_) | Request::SetDataFd => Outcome::BadOrdinal,
    };
    wire::words(outcome, &[])
}

fn offers(connections: &Connections) -> impl Iterator<Item = Offer> {
    let about = connections.serving.about();
    [
        (connections.serving.can_cancel(), Offer::Cancel),
        (about.keeps_volatile, Offer::StoreVolatile),
        (about.gives_state, Offer::StateBlobs),
        (connections.takes_mssim_frames, Offer::CommandHeader),
    ]
    .into_iter()
    .filter_map(|(has, offer)| has.then_some(offer))
}

/// The operator reads the fault; the client only that there was one.
pub(super) fn outcome(what: &str, result: Result<(), Fault>) -> Outcome {
    match result {
        Ok(()) => Outcome::Success,
        Err(fault) => {
            eprintln!("vtpmd: {what}: {fault}");
            Outcome::Fail
        }
    }
}

fn when_on(
    serving: &Serving,
    what: &str,
    call: impl FnOnce(&mut dyn Machine) -> Result<(), Fault>,
) -> Outcome {
    let called = serving.with(|machine| machine.is_on().then(|| call(machine))).flatten();
    called.map_or(Outcome::BadOrdinal, |result| outcome(what, result))
}

pub(super) fn init(serving: &Serving) -> Outcome {
    let powered = serving.with(|machine| machine.power_on());
    serving.power_was_cycled();
    powered.map_or(Outcome::BadOrdinal, |result| outcome("power on", result))
}

pub(super) fn stop(serving: &Serving) -> Outcome {
    let stopped = serving.with(|machine| if machine.is_on() { machine.power_off() } else { Ok(()) });
    serving.power_was_cycled();
    stopped.map_or(Outcome::BadOrdinal, |result| outcome("power off", result))
}

fn established(serving: &Serving) -> Vec<u8> {
    match serving.with(|machine| machine.is_on().then(|| machine.established())).flatten() {
        Some(bit) => wire::established(Outcome::Success, bit),
        None => wire::established(Outcome::BadOrdinal, false),
    }
}

fn set_locality(number: u8, serving: &Serving) -> Outcome {
    match Locality::from_number(number) {
        Some(locality) => {
            serving.set_locality(locality);
            Outcome::Success
        }
        None => Outcome::BadLocality,
    }
}

fn reset_established(number: u8, serving: &Serving) -> Outcome {
    match Locality::from_number(number) {
        Some(locality @ (Locality::Three | Locality::Four)) => {
            when_on(serving, "reset established", |machine| machine.reset_established(locality))
        }
        Some(Locality::Zero | Locality::One | Locality::Two) | None => Outcome::BadLocality,
    }
}

pub(super) fn cancel(serving: &Serving) -> Outcome {
    if !serving.can_cancel() {
        return Outcome::BadOrdinal;
    }
    serving.cancel();
    Outcome::Success
}

/// Zero asks what the size is; another may only be set while the TPM is off.
fn set_buffer_size(wanted: u32, serving: &Serving) -> Vec<u8> {
    let on = serving.with(|machine| machine.is_on()).unwrap_or(false);
    if wanted != 0 && on {
        return wire::words(Outcome::BadOrdinal, &[0, 0, 0]);
    }
    if wanted != 0 {
        serving.set_buffer_bytes(wanted);
    }
    let sizes = [serving.buffer_bytes(), Serving::BUFFER_BYTES_MIN, Serving::BUFFER_BYTES_MAX];
    wire::words(Outcome::Success, &sizes)
}

fn info(flags: u64, serving: &Serving) -> String {
    let about = serving.about();
    let mut parts = Vec::new();
    if flags & INFO_SPECIFICATION != 0 {
        let revision = about.revision;
        parts.push(format!(r#""TPMSpecification":{{"family":"2.0","level":0,"revision":{revision}}}"#));
    }
    if flags & INFO_ATTRIBUTES != 0 {
        let version = env!("CARGO_PKG_VERSION");
        let attributes = format!(r#""manufacturer":"husk","version":"{version}","model":"{}""#, about.model);
        parts.push(format!(r#""TPMAttributes":{{{attributes}}}"#));
    }
    format!("{{{}}}", parts.join(","))
}

fn set_data_fd(descriptor: Option<OwnedFd>, connections: &Arc<Connections>) -> Vec<u8> {
    let outcome = match (descriptor, connections.place()) {
        (Some(descriptor), Some(place)) => {
            place.start(Stream::from(descriptor), data::serve);
            Outcome::Success
        }
        (Some(_), None) => Outcome::Fail,
        (None, _) => Outcome::BadParameter,
    };
    wire::words(outcome, &[])
}
