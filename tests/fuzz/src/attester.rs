//! The conversation of a guest with whoever has it attested, and the guest's with its TPM.

use crate::input::{Input, sized};
use husk_attester::attest::serve;
use husk_attester::tpm::Tpm;
use husk_attester::wire::{
    BODY_BYTES_MAX, Challenge, Evidence, Failure, Identity, Kind, Selection, Step, WireError, receive, send,
};
use std::collections::VecDeque;
use std::io::{self, Read, Write};

const KINDS: [Kind; 5] = [Kind::Hello, Kind::Identity, Kind::Challenge, Kind::Evidence, Kind::Failure];
/// Response codes at which the guest waits and asks again: nothing here waits.
const AGAIN: [u32; 5] = [0x908, 0x90A, 0x920, 0x922, 0x923];

/// A kind and a stream: what is read of it has one spelling.
pub(crate) fn frames(data: &[u8]) {
    let mut input = Input::new(data);
    let wanted = KINDS[input.below(KINDS.len())];
    let mut stream = input.rest();
    match receive(&mut stream, wanted) {
        Ok(body) => one_spelling(wanted, &body),
        Err(WireError::Failed(failure)) => {
            assert_eq!(Failure::parse(&failure.to_bytes()).unwrap(), failure);
        }
        Err(_) => {}
    }
}

fn one_spelling(kind: Kind, body: &[u8]) {
    assert!(body.len() <= BODY_BYTES_MAX);
    let again = match kind {
        Kind::Hello => None,
        Kind::Identity => Identity::parse(body).ok().map(|said| said.to_bytes()),
        Kind::Challenge => Challenge::parse(body).ok().map(|said| said.to_bytes()),
        Kind::Evidence => Evidence::parse(body).ok().map(|said| said.to_bytes()),
        Kind::Failure => Failure::parse(body).ok().map(|said| said.to_bytes()),
    };
    assert!(again.is_none_or(|again| again == body), "two spellings of {kind:?}");
}

fn frame(kind: Kind, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    send(&mut bytes, kind, body).unwrap();
    bytes
}

fn challenge() -> Vec<u8> {
    let selection = Selection { bank: 0x000B, pcrs: 1 << 11 };
    Challenge { nonce: [1; 32], blob: vec![2; 70], secret: vec![3; 68], selection }.to_bytes()
}

pub(crate) fn frame_seeds() -> Vec<Vec<u8>> {
    let identity =
        Identity { ek: vec![1; 120], certificate: vec![2; 300], ak: vec![3; 90], bound: vec![4; 80] };
    let evidence = Evidence { quote: vec![5; 130], signature: vec![6; 72], values: vec![7; 32] };
    let failure = Failure { step: Step::Activate, code: 0x11F };
    let bodies = [Vec::new(), identity.to_bytes(), challenge(), evidence.to_bytes(), failure.to_bytes()];
    let mut seeds = Vec::new();
    for (number, (kind, body)) in (0_u8..).zip(KINDS.into_iter().zip(bodies)) {
        seeds.push([&[number][..], &frame(kind, &body)].concat());
        seeds.push([&[(number + 1) % 5][..], &frame(kind, &body)].concat());
    }
    seeds
}

/// A TPM that answers as it was told to.
struct Scripted {
    answers: VecDeque<Vec<u8>>,
    current: Vec<u8>,
}

impl Read for Scripted {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = into.len().min(self.current.len());
        into[..length].copy_from_slice(&self.current[..length]);
        self.current.drain(..length);
        Ok(length)
    }
}

impl Write for Scripted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.current = self.answers.pop_front().unwrap_or_default();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What whoever asks says, then what the TPM answers: with a header that is right, or as bytes. What the guest says is its frames in their order.
pub(crate) fn tpm(data: &[u8]) {
    let (said, served) = spoken(data);
    let mut said = &said[..];
    let identity = receive(&mut said, Kind::Identity);
    if let Ok(identity) = &identity {
        assert_eq!(Identity::parse(identity).unwrap().bound, b"a key");
        let evidence = receive(&mut said, Kind::Evidence);
        assert!(!served || Evidence::parse(&evidence.unwrap()).is_ok());
    }
    assert!(identity.is_ok() || matches!(identity, Err(WireError::Failed(_))), "it says nothing");
}

/// What the guest says, and whether it believes that all went well.
fn spoken(data: &[u8]) -> (Vec<u8>, bool) {
    let mut input = Input::new(data);
    let asked = input.sized().to_vec();
    let mut answers = VecDeque::new();
    while !input.is_over() {
        let bare = input.byte() & 1 == 1;
        let bytes = input.sized();
        let mut answer = if bare { bytes.to_vec() } else { response(0, bytes) };
        if answer.get(6..10).is_some_and(|code| AGAIN.iter().any(|again| again.to_be_bytes() == *code)) {
            answer[6..10].copy_from_slice(&0x101_u32.to_be_bytes());
        }
        answers.push_back(answer);
    }
    let mut said = Vec::new();
    let mut scripted = Tpm::over(Scripted { answers, current: Vec::new() });
    let served = serve((&mut &asked[..], &mut said), &mut scripted, b"a key").is_ok();
    (said, served)
}

/// A response with that code.
fn response(code: u32, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(10 + body.len()).unwrap().to_be_bytes();
    [&[0x80, 1][..], &size, &code.to_be_bytes(), body].concat()
}

/// A TPM2B.
fn part(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

/// The parameters of a response with sessions.
fn parameters(handles: &[u8], bytes: &[u8]) -> Vec<u8> {
    [handles, &u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes, &[0; 5]].concat()
}

pub(crate) fn tpm_seeds() -> Vec<Vec<u8>> {
    let asked = [frame(Kind::Hello, &[]), frame(Kind::Challenge, &challenge())].concat();
    let honest = |body: &[u8]| [&[0][..], &sized(body)].concat();
    let none = [&[1][..], &sized(&response(0x18B, &[]))].concat();
    let public = honest(&[&part(&[&[0; 12][..], &[0, 5]].concat())[..], &part(&[9; 34])].concat());
    let content = honest(&parameters(&[], &part(&[0x30, 0x82, 0, 1, 5])));
    let key = |handle: u8| honest(&parameters(&[0x80, 0, 0, handle], &part(&[7; 100])));
    let session = honest(&[&[3, 0, 0, 0][..], &part(&[8; 16])].concat());
    let policy = honest(&parameters(&[], &[0; 8]));
    let opened = honest(&parameters(&[], &part(&[6; 32])));
    let selection = Selection { bank: 0x000B, pcrs: 1 << 11 }.to_tpm();
    let values = honest(&[&[0; 4][..], &selection, &[0, 0, 0, 1], &part(&[5; 32])].concat());
    let quote = honest(&parameters(&[], &[&part(&[4; 130])[..], &[3; 72]].concat()));
    let rest = [key(0), key(1), session, policy, opened, values, quote, honest(&[]), honest(&[])].concat();
    let certified = [&sized(&asked)[..], &public, &content, &rest].concat();
    let bare = [&sized(&asked)[..], &none, &none, &none, &rest].concat();
    vec![certified, bare, sized(&asked), sized(&frame(Kind::Hello, &[])), Vec::new()]
}

#[cfg(test)]
mod tests {
    use super::{spoken, tpm_seeds};

    /// Else what follows the first answer would never be tried.
    #[test]
    fn the_first_seeds_are_conversations_to_the_end() {
        for seed in &tpm_seeds()[..2] {
            assert!(spoken(seed).1);
        }
    }
}
