//! State blobs over the control channel: of a test machine's TPM, and of no other.

use super::control::outcome;
use super::wire::{
    BLOB_ENCRYPTED, BLOB_PERMANENT, BLOB_SAVESTATE, BLOB_VOLATILE, BlobRequest, Outcome, blob_reply,
};
use crate::machine::Blob;
use crate::serving::Serving;
use husk::vtpm::VtpmFault;

/// Says why a sealed machine has no blobs, to whom it concerns.
fn refused(what: &str) -> Outcome {
    eprintln!("vtpmd: {what} a state blob: {}", VtpmFault::StateStays.fault());
    Outcome::BadOrdinal
}

/// Reads a blob of a TPM that is on, from the wanted offset to its end.
pub(super) fn get(request: BlobRequest, serving: &Serving) -> Vec<u8> {
    if !serving.about().gives_state {
        return blob_reply(refused("giving away"), &[]);
    }
    let blob = match request.kind {
        BLOB_PERMANENT => Blob::Permanent,
        BLOB_VOLATILE => Blob::Volatile,
        _ => return blob_reply(Outcome::Absent, &[]),
    };
    let read = serving.with(|machine| machine.is_on().then(|| machine.read_blob(blob))).flatten();
    match read {
        None => blob_reply(Outcome::BadOrdinal, &[]),
        Some(Err(fault)) => blob_reply(outcome("read a state blob", Err(fault)), &[]),
        Some(Ok(bytes)) => {
            let rest = usize::try_from(request.number).ok().and_then(|offset| bytes.get(offset..));
            blob_reply(Outcome::Success, rest.unwrap_or(&[]))
        }
    }
}

/// Takes a blob for a TPM that is off, for its next power-on.
pub(super) fn set(request: BlobRequest, bytes: Vec<u8>, serving: &Serving) -> Outcome {
    if !serving.about().gives_state {
        return refused("taking");
    }
    let blob = match request.kind {
        _ if request.flags & BLOB_ENCRYPTED != 0 => return Outcome::BadParameter,
        BLOB_PERMANENT => Blob::Permanent,
        BLOB_VOLATILE => Blob::Volatile,
        BLOB_SAVESTATE if bytes.is_empty() => return Outcome::Success,
        _ => return Outcome::BadParameter,
    };
    let taken = serving.with(|machine| (!machine.is_on()).then(|| machine.write_blob(blob, bytes))).flatten();
    taken.map_or(Outcome::BadOrdinal, |taken| outcome("take a state blob", taken))
}
