//! The TCG simulator's protocol, which tpm2-tss' `mssim` TCTI speaks: big-endian words (TCG reference code,
//! TpmTcpProtocol.h), on one socket TPM commands in frames that name their locality, on another the platform's signals.
//!
//! Whoever sends commands this way chooses the locality of each, so it is offered only where it is asked for, and locality 4,
//! which is the platform's, is answered with TPM_RC_LOCALITY.
//! Absent: physical presence, key caches, failure tests, taking NV away, hashing, and stopping from the command's socket. A
//! word that is not known ends its connection.

use super::address::Stream;
use super::wire::Outcome;
use super::{Connections, control, data};
use crate::serving::Serving;
use husk::engine::{COMMAND_BYTES_MAX, EngineFault, Locality};
use husk::frontend::reply;
use std::io::{Read, Write};
use std::sync::Arc;

const SIGNAL_POWER_ON: u32 = 1;
const SIGNAL_POWER_OFF: u32 = 2;
const SEND_COMMAND: u32 = 8;
const SIGNAL_CANCEL_ON: u32 = 9;
const SIGNAL_CANCEL_OFF: u32 = 10;
const SIGNAL_NV_ON: u32 = 11;
const REMOTE_HANDSHAKE: u32 = 15;
const SIGNAL_RESET: u32 = 17;
const STOP: u32 = 21;

/// The protocol's version, in a handshake.
const VERSION: u32 = 1;
/// In a handshake: a platform's socket is there, and nothing else that the word could promise.
const PLATFORM_AVAILABLE: u32 = 1;

/// Serves one connection of TPM commands.
pub(super) fn serve_commands(mut stream: Stream, connections: &Arc<Connections>) {
    let mut command = [0; COMMAND_BYTES_MAX];
    while let Some(request) = word(&mut stream) {
        let Some(reply) = answer(request, &mut stream, &mut command, &connections.serving) else { return };
        if stream.write_all(&reply).is_err() {
            return;
        }
    }
}

/// Whether four bytes on the commands' socket begin a word of this protocol, as no TPM command does.
pub(super) fn is_word(bytes: [u8; 4]) -> bool {
    bytes[..2] == [0, 0]
}

/// The reply to what begins with the word `request`; none if the connection ends with it.
pub(super) fn answer(
    request: u32,
    stream: &mut Stream,
    command: &mut [u8; COMMAND_BYTES_MAX],
    serving: &Serving,
) -> Option<Vec<u8>> {
    match request {
        SEND_COMMAND => framed(stream, command, serving),
        REMOTE_HANDSHAKE => word(stream).map(|_| words(&[VERSION, PLATFORM_AVAILABLE, 0])),
        // TPM_SESSION_END, among others: the client goes.
        _ => None,
    }
}

/// Reads a locality, a length and a command; the reply is a length, a response and zero. Locality 4 is the platform's and
/// never a frame's.
fn framed(stream: &mut Stream, command: &mut [u8; COMMAND_BYTES_MAX], serving: &Serving) -> Option<Vec<u8>> {
    let mut locality = [0];
    stream.read_exact(&mut locality).ok()?;
    let locality = Locality::from_number(locality[0])?;
    let stated = word(stream)?;
    if stated > serving.buffer_bytes() {
        return None;
    }
    let command = command.get_mut(..usize::try_from(stated).ok()?)?;
    stream.read_exact(command).ok()?;
    let mut response = [0; COMMAND_BYTES_MAX];
    let length = match locality {
        Locality::Four => reply::write(EngineFault::LocalityRefused.fault(), command, &mut response),
        _ => data::execute(locality, command, &mut response, serving),
    };
    let mut reply = words(&[u32::try_from(length).ok()?]);
    reply.extend(response.get(..length)?);
    reply.extend([0; 4]);
    Some(reply)
}

/// Serves one connection of the platform's signals. Each that was obeyed is answered by zero.
pub(super) fn serve_platform(mut stream: Stream, connections: &Arc<Connections>) {
    let serving = &connections.serving;
    while let Some(signal) = word(&mut stream) {
        let obeyed = match signal {
            // Clients send it to a TPM that is on, too, and mean nothing by it.
            SIGNAL_POWER_ON if is_on(serving) => true,
            SIGNAL_POWER_ON | SIGNAL_RESET => control::init(serving) == Outcome::Success,
            SIGNAL_POWER_OFF => control::stop(serving) == Outcome::Success,
            SIGNAL_CANCEL_ON => control::cancel(serving) == Outcome::Success,
            // A cancel ends with its command; NV is always there.
            SIGNAL_CANCEL_OFF | SIGNAL_NV_ON => true,
            STOP => return serving.end(),
            _ => false,
        };
        if !obeyed || stream.write_all(&words(&[0])).is_err() {
            return;
        }
    }
}

fn is_on(serving: &Serving) -> bool {
    serving.with(|machine| machine.is_on()).unwrap_or(false)
}

fn word(stream: &mut Stream) -> Option<u32> {
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes).ok()?;
    Some(u32::from_be_bytes(bytes))
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().copied().flat_map(u32::to_be_bytes).collect()
}
