//! A relay that does what a hostile host would do, for tests and the demonstration.
//!
//! Nothing here weakens anything: a relay is the enemy's in every threat that Husk knows, and whoever runs one could
//! do the same with a dozen lines of his own.

use crate::frames;
use crate::pipe::{Pipe, PipeError};
use husk::release::transcript::{SigningKey, certificate_digest, server_hello_digest};
use husk::release::wire::{FRAME_HEADER_BYTES, FrameKind, Hello, ServerHello};
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use zerocopy::FromBytes;

/// What is done to the frames. Exchanges count from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `swap-broker-key`: plays a broker with keys of its own.
    SwapBrokerKey,
    /// `record:FILE`: keeps every answer, for another day.
    Record(PathBuf),
    /// `replay:FILE`: hellos pass; each sealed reply is replaced by the recorded one of its place.
    Replay(PathBuf),
    /// `replay-all:FILE`: nothing reaches the broker; every answer is the recorded one of its place.
    ReplayAll(PathBuf),
    /// `flip-request:N:BYTE`: flips a bit of that byte in the request of exchange N.
    FlipRequest(usize, usize),
    /// `flip-reply:N:BYTE`: flips a bit of that byte in the answer of exchange N.
    FlipReply(usize, usize),
    /// `drop-request:N`: the request of exchange N never reaches the broker.
    DropRequest(usize),
    /// `drop-reply:N`: the broker handles exchange N, and its answer is lost.
    DropReply(usize),
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<usize>().map_err(|_| format!("`{text}` is not a number"));
        let pair = |text: &str| match text.split_once(':') {
            Some((exchange, byte)) => Ok((number(exchange)?, number(byte)?)),
            None => Err(format!("`{text}` is not N:BYTE")),
        };
        let (word, rest) = text.split_once(':').unwrap_or((text, ""));
        match (word, rest.is_empty()) {
            ("swap-broker-key", true) => Ok(Self::SwapBrokerKey),
            ("record", false) => Ok(Self::Record(rest.into())),
            ("replay", false) => Ok(Self::Replay(rest.into())),
            ("replay-all", false) => Ok(Self::ReplayAll(rest.into())),
            ("flip-request", false) => pair(rest).map(|(n, byte)| Self::FlipRequest(n, byte)),
            ("flip-reply", false) => pair(rest).map(|(n, byte)| Self::FlipReply(n, byte)),
            ("drop-request", false) => number(rest).map(Self::DropRequest),
            ("drop-reply", false) => number(rest).map(Self::DropReply),
            _ => Err(
                "one of swap-broker-key, record:FILE, replay:FILE, replay-all:FILE, flip-request:N:BYTE, \
                      flip-reply:N:BYTE, drop-request:N, drop-reply:N"
                    .to_owned(),
            ),
        }
    }
}

/// A pipe through hostile hands.
#[derive(Debug)]
pub struct Tampered<P> {
    pipe: P,
    mode: Mode,
    exchanges: AtomicUsize,
    replies: AtomicUsize,
    recorded: Vec<Vec<u8>>,
}

impl<P: Pipe> Tampered<P> {
    /// Puts hostile hands on `pipe`.
    ///
    /// # Errors
    /// If a recording cannot be read or made.
    pub fn new(pipe: P, mode: Mode) -> std::io::Result<Self> {
        let recorded = match &mode {
            Mode::Replay(path) | Mode::ReplayAll(path) => recording(path)?,
            Mode::Record(path) => fs::write(path, []).map(|()| vec![])?,
            _ => vec![],
        };
        Ok(Self { pipe, mode, exchanges: AtomicUsize::new(0), replies: AtomicUsize::new(0), recorded })
    }

    fn replayed(&self, place: usize) -> Result<Vec<u8>, PipeError> {
        self.recorded.get(place).cloned().ok_or(PipeError::Dropped)
    }

    /// The sealed reply that was recorded at the same place among the sealed replies.
    fn replayed_reply(&self) -> Result<Vec<u8>, PipeError> {
        let place = self.replies.fetch_add(1, Ordering::SeqCst);
        let mut replies = self.recorded.iter().filter(|frame| is_kind(frame, FrameKind::Reply));
        replies.nth(place).cloned().ok_or(PipeError::Dropped)
    }
}

impl<P: Pipe> Pipe for Tampered<P> {
    fn carry(&self, frame: &[u8]) -> Result<Vec<u8>, PipeError> {
        let exchange = self.exchanges.fetch_add(1, Ordering::SeqCst);
        let mut request = frame.to_vec();
        match &self.mode {
            Mode::FlipRequest(n, byte) if *n == exchange => flip(&mut request, *byte),
            Mode::DropRequest(n) if *n == exchange => return Err(PipeError::Dropped),
            Mode::ReplayAll(_) => return self.replayed(exchange),
            _ => {}
        }
        let mut reply = self.pipe.carry(&request)?;
        match &self.mode {
            Mode::FlipReply(n, byte) if *n == exchange => flip(&mut reply, *byte),
            Mode::DropReply(n) if *n == exchange => return Err(PipeError::Dropped),
            Mode::Replay(_) if is_kind(&reply, FrameKind::Reply) => return self.replayed_reply(),
            Mode::SwapBrokerKey => swap_broker(&request, &mut reply),
            Mode::Record(path) => {
                let kept =
                    OpenOptions::new().append(true).open(path).and_then(|mut file| file.write_all(&reply));
                kept.map_err(|error| PipeError::Unreachable(error.to_string()))?;
            }
            _ => {}
        }
        Ok(reply)
    }
}

fn recording(path: &Path) -> std::io::Result<Vec<Vec<u8>>> {
    let bytes = fs::read(path)?;
    let (mut rest, mut recorded) = (&bytes[..], Vec::new());
    while let Some(frame) = frames::read(&mut rest)? {
        recorded.push(frame);
    }
    Ok(recorded)
}

fn is_kind(frame: &[u8], kind: FrameKind) -> bool {
    frame.get(FRAME_HEADER_BYTES - 1) == Some(&(kind as u8))
}

/// Flips the lowest bit of a byte, if there is such a byte.
fn flip(frame: &mut [u8], byte: usize) {
    if let Some(byte) = frame.get_mut(byte) {
        *byte ^= 1;
    }
}

/// Makes a server hello that holds in every way but one: another tenant root stands behind it.
fn swap_broker(request: &[u8], reply: &mut [u8]) {
    let hello = request.get(FRAME_HEADER_BYTES..).and_then(|body| Hello::ref_from_bytes(body).ok());
    let server = reply.get_mut(FRAME_HEADER_BYTES..).and_then(|body| ServerHello::mut_from_bytes(body).ok());
    let (Some(hello), Some(server)) = (hello, server) else { return };
    // Whoever attacks has keys; that everybody knows these makes no difference.
    let (Ok(root), Ok(broker)) =
        (SigningKey::from_scalar(&mut [0x21; 48]), SigningKey::from_scalar(&mut [0x42; 48]))
    else {
        return;
    };
    server.tenant_root = *root.point();
    server.certificate.key = *broker.point();
    let digest = certificate_digest(&server.certificate);
    server.certificate.signature = root.sign(&digest).unwrap_or([0; 96]);
    let digest = server_hello_digest(hello, server);
    server.signature = broker.sign(&digest).unwrap_or([0; 96]);
}

#[cfg(test)]
mod tests {
    use super::{Mode, Tampered};
    use crate::pipe::{Pipe, PipeError};

    struct Echo;

    impl Pipe for Echo {
        fn carry(&self, frame: &[u8]) -> Result<Vec<u8>, PipeError> {
            Ok(frame.to_vec())
        }
    }

    const REPLY: [u8; 7] = [3, 0, 0, 0, 0x82, 1, 2];

    fn tampered(mode: &str) -> Tampered<Echo> {
        Tampered::new(Echo, mode.parse().unwrap()).unwrap()
    }

    #[test]
    fn each_mode_does_what_its_name_says() {
        let pipe = tampered("flip-reply:1:6");
        assert_eq!(pipe.carry(&REPLY).unwrap(), REPLY);
        assert_eq!(pipe.carry(&REPLY).unwrap()[6], 3);
        assert_eq!(pipe.carry(&REPLY).unwrap(), REPLY);
        assert_eq!(tampered("flip-request:0:5").carry(&REPLY).unwrap()[5], 0);
        assert_eq!(tampered("drop-reply:0").carry(&REPLY), Err(PipeError::Dropped));
        assert_eq!(tampered("drop-request:0").carry(&REPLY), Err(PipeError::Dropped));
        assert_eq!(tampered("swap-broker-key").carry(&REPLY).unwrap(), REPLY, "only hellos are swapped");
    }

    #[test]
    fn what_was_recorded_is_replayed() {
        let path = std::env::temp_dir().join(format!("husk-tamper-{}", std::process::id()));
        let shown = path.display();
        let record = tampered(&format!("record:{shown}"));
        for last in 0..3 {
            record.carry(&[3, 0, 0, 0, if last == 1 { 0x81 } else { 0x82 }, 0, last]).unwrap();
        }
        let replay = tampered(&format!("replay-all:{shown}"));
        assert_eq!(replay.carry(&REPLY).unwrap()[6], 0);
        assert_eq!(replay.carry(&REPLY).unwrap()[6], 1);
        let replay = tampered(&format!("replay:{shown}"));
        assert_eq!(replay.carry(&REPLY).unwrap()[6], 0);
        assert_eq!(replay.carry(&[2, 0, 0, 0, 0x81, 9]).unwrap()[5], 9, "hellos pass");
        assert_eq!(replay.carry(&REPLY).unwrap()[6], 2);
        assert_eq!(replay.carry(&REPLY), Err(PipeError::Dropped));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn modes_that_are_none_are_refused() {
        for text in ["", "swap-broker-key:1", "record", "flip-reply:1", "drop-reply:x", "other"] {
            assert!(text.parse::<Mode>().is_err(), "{text}");
        }
    }
}
