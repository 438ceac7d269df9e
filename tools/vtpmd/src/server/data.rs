//! The data channel: TPM commands and responses, nothing around them; where it is asked for, also in the frames of the TCG
//! simulator.

use super::address::Stream;
use super::{Connections, mssim};
use crate::serving::Serving;
use husk::engine::{COMMAND_BYTES_MAX, EngineFault, Locality};
use husk::frontend::{Tpm, reply};
use std::io::{Read, Write};
use std::sync::Arc;

/// Size of a command's header in bytes (TPM 2.0 part 1, section "Command/Response Header Fields").
const HEADER_BYTES: usize = 10;

/// How many bytes tell a command from a word of the simulator's protocol.
const WORD_BYTES: usize = 4;

/// Serves one data connection until its client goes, or a header states a size that no command has: where the next
/// command begins is unknown then.
pub(super) fn serve(stream: Stream, connections: &Arc<Connections>) {
    let carried_a_command = converse(stream, connections);
    if connections.ends_with_client && carried_a_command {
        connections.serving.end();
    }
}

/// Whether a command came until the end.
fn converse(mut stream: Stream, connections: &Connections) -> bool {
    let serving = &connections.serving;
    let mut carried_a_command = false;
    let mut command = [0; COMMAND_BYTES_MAX];
    let mut response = [0; COMMAND_BYTES_MAX];
    let mut beginning = [0; WORD_BYTES];
    while stream.read_exact(&mut beginning).is_ok() {
        if connections.takes_mssim_frames && mssim::is_word(beginning) {
            let word = u32::from_be_bytes(beginning);
            let Some(reply) = mssim::answer(word, &mut stream, &mut command, serving) else { break };
            carried_a_command = true;
            if stream.write_all(&reply).is_err() {
                break;
            }
            continue;
        }
        let Some(received) = receive(beginning, &mut stream, &mut command, serving.buffer_bytes()) else {
            break;
        };
        let length = match received {
            Received::Command(length) => {
                carried_a_command = true;
                execute(serving.locality(), &command[..length], &mut response, serving)
            }
            Received::Nonsense => reply::write(EngineFault::Malformed.fault(), &command, &mut response),
        };
        let Some(bytes) = response.get(..length) else { break };
        if stream.write_all(bytes).is_err() || received == Received::Nonsense {
            break;
        }
    }
    carried_a_command
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Received {
    Command(usize),
    Nonsense,
}

/// Reads a raw command of which the first bytes are here.
fn receive(
    beginning: [u8; WORD_BYTES],
    stream: &mut Stream,
    command: &mut [u8; COMMAND_BYTES_MAX],
    bytes_max: u32,
) -> Option<Received> {
    let (header, body) = command.split_at_mut(HEADER_BYTES);
    header[..WORD_BYTES].copy_from_slice(&beginning);
    stream.read_exact(&mut header[WORD_BYTES..]).ok()?;
    let stated = u32::from_be_bytes([header[2], header[3], header[4], header[5]]);
    let length = usize::try_from(stated.min(bytes_max)).ok()?;
    if stated > bytes_max || length < HEADER_BYTES {
        return Some(Received::Nonsense);
    }
    stream.read_exact(&mut body[..length - HEADER_BYTES]).ok()?;
    Some(Received::Command(length))
}

/// Executes one command; a response longer than was agreed on is a failure instead.
pub(super) fn execute(locality: Locality, command: &[u8], response: &mut [u8], serving: &Serving) -> usize {
    let mut tpm = serving;
    let length = tpm.execute(locality, command, response);
    let agreed = usize::try_from(serving.buffer_bytes()).unwrap_or(COMMAND_BYTES_MAX);
    if length <= agreed { length } else { reply::write(EngineFault::Failed.fault(), command, response) }
}
