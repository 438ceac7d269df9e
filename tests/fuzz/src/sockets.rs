//! What `husk vtpmd` reads from its sockets: TPM commands bare and framed, control messages, the platform's signals.

use crate::input::Input;
use husk::engine::{COMMAND_BYTES_MAX, EngineFault, Locality};
use husk::fault::Fault;
use husk::frontend::{Tpm, reply};
use husk::vtpm::PERMANENT_BYTES_MAX;
use husk_vtpmd::Serving;
use husk_vtpmd::machine::{About, Blob, Canceller, Machine};
use husk_vtpmd::server::fuzzing::{Door, converse};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::io::{IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

/// A machine that answers with the last bytes of a command, and does whatever it is told.
struct Echo {
    on: bool,
    established: bool,
}

const ECHO_BYTES: usize = 14;

/// What [`Echo`] answers.
fn echo(command: &[u8]) -> [u8; ECHO_BYTES] {
    let mut response = [0x80, 1, 0, 0, 0, 14, 0, 0, 0, 0, 0, 0, 0, 0];
    response[10..].copy_from_slice(&command[command.len() - 4..]);
    response
}

impl Tpm for Echo {
    fn execute(&mut self, locality: Locality, command: &[u8], response: &mut [u8]) -> usize {
        assert_ne!(locality, Locality::Four, "no command's sender chooses it");
        assert!(self.on && command.len() <= COMMAND_BYTES_MAX && response.len() >= COMMAND_BYTES_MAX);
        // The simulator's frames may be shorter than a header; bare commands never are.
        if command.len() < 10 {
            return reply::write(EngineFault::Malformed.fault(), command, response);
        }
        response[..ECHO_BYTES].copy_from_slice(&echo(command));
        ECHO_BYTES
    }
    fn established(&mut self) -> bool {
        assert!(self.on);
        self.established
    }
    fn reset_established(&mut self, locality: Locality) -> Result<(), Fault> {
        assert!(self.on && locality >= Locality::Three);
        self.established = false;
        Ok(())
    }
    fn hash_start(&mut self) -> Result<(), Fault> {
        assert!(self.on);
        self.established = true;
        Ok(())
    }
    fn hash_data(&mut self, data: &[u8]) -> Result<(), Fault> {
        assert!(self.on && data.len() <= COMMAND_BYTES_MAX);
        Ok(())
    }
    fn hash_end(&mut self) -> Result<(), Fault> {
        assert!(self.on);
        Ok(())
    }
}

impl Machine for Echo {
    fn about(&self) -> About {
        About { revision: 164, model: "echo", keeps_volatile: true, gives_state: true }
    }
    fn canceller(&self) -> Option<Canceller> {
        Some(Arc::new(|| {}))
    }
    fn is_on(&self) -> bool {
        self.on
    }
    fn power_on(&mut self) -> Result<(), Fault> {
        self.on = true;
        Ok(())
    }
    fn power_off(&mut self) -> Result<(), Fault> {
        self.on = false;
        Ok(())
    }
    fn store_volatile(&mut self) -> Result<(), Fault> {
        assert!(self.on);
        Ok(())
    }
    fn read_blob(&mut self, blob: Blob) -> Result<Vec<u8>, Fault> {
        assert!(self.on);
        let length = if blob == Blob::Permanent { PERMANENT_BYTES_MAX } else { 0 };
        Ok(vec![7; length])
    }
    fn write_blob(&mut self, _: Blob, bytes: Vec<u8>) -> Result<(), Fault> {
        assert!(!self.on && bytes.len() <= PERMANENT_BYTES_MAX);
        Ok(())
    }
    fn shut_down(&mut self) -> Result<(), Fault> {
        self.power_off()
    }
}

/// One client sends all of `bytes`, hangs up, and gets what came back.
fn conversation(door: Door, bytes: &[u8], with_descriptor: bool) -> Vec<u8> {
    let serving = Serving::new(Box::new(Echo { on: true, established: false }));
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut back = Vec::new();
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            if with_descriptor {
                send_with_descriptor(&theirs, bytes);
            } else if theirs.write_all(bytes).is_err() {
                // The server had enough already.
            }
            if theirs.shutdown(Shutdown::Write).is_ok() {
                theirs.read_to_end(&mut back).ok();
            }
        });
        converse(door, ours, &serving);
        client.join().unwrap();
    });
    serving.shut_down().unwrap();
    back
}

/// Sends as `CMD_SET_DATAFD`'s clients do: with the end of another connection in the first message.
fn send_with_descriptor(stream: &UnixStream, bytes: &[u8]) {
    let (passed, _kept) = UnixStream::pair().unwrap();
    let descriptors = [passed.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
    // The server may have had enough already.
    sendmsg(stream, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL).ok();
}

/// What the data channel must answer, written a second time: each command's echo, then a failure where a size is none.
fn expected(mut bytes: &[u8]) -> Vec<u8> {
    let mut answers = Vec::new();
    while let Some(header) = bytes.first_chunk::<10>() {
        let stated = usize::try_from(u32::from_be_bytes(header[2..6].try_into().unwrap())).unwrap();
        if !(10..=COMMAND_BYTES_MAX).contains(&stated) {
            let code: u32 = if header[..2] == [0x80, 1] || header[..2] == [0x80, 2] { 0x142 } else { 0x1E };
            let tag: &[u8] = if code == 0x1E { &[0, 0xC4] } else { &[0x80, 1] };
            answers.extend([tag, &[0, 0, 0, 10], &code.to_be_bytes()].concat());
            break;
        }
        let Some(command) = bytes.get(..stated) else { break };
        answers.extend(echo(command));
        bytes = &bytes[stated..];
    }
    answers
}

/// Bytes on the data channel.
pub(crate) fn data(data: &[u8]) {
    assert_eq!(conversation(Door::Data, data, false), expected(data));
}

pub(crate) fn data_seeds() -> Vec<Vec<u8>> {
    let command = |body: &[u8]| {
        let size = u32::try_from(10 + body.len()).unwrap().to_be_bytes();
        [&[0x80, 1], &size[..], &[0, 0, 1, 0x7B], body].concat()
    };
    vec![
        command(&[0, 8]),
        [command(&[0, 8]), command(&[]), command(&[7; 300])].concat(),
        [command(&[1]), vec![0x80, 1, 0, 0, 0x10, 1, 0, 0, 1, 0x7B], command(&[2])].concat(),
        command(&[1; 40])[..30].to_vec(),
    ]
}

/// Which of the simulator's two sockets, then bytes on it.
pub(crate) fn mssim(data: &[u8]) {
    let mut input = Input::new(data);
    let door = if input.byte() & 1 == 0 { Door::MssimCommands } else { Door::MssimPlatform };
    let back = conversation(door, input.rest(), false);
    if door == Door::MssimPlatform {
        assert!(back.len().is_multiple_of(4) && back.iter().all(|byte| *byte == 0));
    }
}

pub(crate) fn mssim_seeds() -> Vec<Vec<u8>> {
    let words = |words: &[u32]| words.iter().copied().flat_map(u32::to_be_bytes).collect::<Vec<_>>();
    let framed =
        [&words(&[8])[..], &[3], &words(&[12]), &[0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x7B, 0, 8]].concat();
    vec![
        [&[0][..], &words(&[15, 1]), &framed, &framed, &words(&[20])].concat(),
        [&[0][..], &words(&[8])[..], &[4], &words(&[0])].concat(),
        [&[1][..], &words(&[1, 11, 9, 10, 2, 1, 17, 2, 21])].concat(),
    ]
}

/// Whether a descriptor comes along, then control messages.
pub(crate) fn control(data: &[u8]) {
    let mut input = Input::new(data);
    let with_descriptor = input.byte() & 1 == 1 && !input.is_over();
    conversation(Door::Control, input.rest(), with_descriptor);
}

/// Every message once, and what follows another.
pub(crate) fn control_seeds() -> Vec<Vec<u8>> {
    let message = |number: u32, body: &[u8]| [&number.to_be_bytes()[..], body].concat();
    let hashing = [message(6, &[]), message(7, &[0, 0, 0, 3, 1, 2, 3]), message(8, &[])].concat();
    let mut seeds: Vec<Vec<u8>> = (1..=0x13)
        .map(|number| [&[u8::from(number == 0x10)][..], &message(number, &[0; 16])].concat())
        .collect();
    seeds.extend([
        [&[0][..], &hashing, &message(4, &[]), &message(0x0B, &[3, 0, 0, 0]), &message(4, &[])].concat(),
        [&[0][..], &message(0x0E, &[]), &message(0x11, &[0, 0, 0x0F, 0x80]), &message(2, &[0; 4])].concat(),
        [&[1][..], &message(0x10, &[]), &message(5, &[4, 0, 0, 0]), &message(3, &[])].concat(),
    ]);
    for blob in [1u32, 2, 3] {
        let words = [0, blob, 4].map(u32::to_be_bytes).concat();
        let (read, write) = (message(0x0C, &words), message(0x0D, &words));
        let (stop, init) = (message(0x0E, &[]), message(2, &[0; 4]));
        seeds.push(
            [&[0][..], &read, &write, &[1, 2, 3, 4], &stop, &write, &[1, 2, 3, 4], &init, &read].concat(),
        );
    }
    seeds
}
