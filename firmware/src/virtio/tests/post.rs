//! Laws of the post: the reply that counts is the request's own, whatever the host sends, in whatever pieces.

use super::{BODY_BYTES_MAX, Broken, HEADER_BYTES, Label, Port, Post, PostError, Wire, Word};
use std::collections::VecDeque;
use std::vec;
use std::vec::Vec;

/// A host that sends what its script says, a piece for each time it is listened to, and then nothing.
#[derive(Default)]
struct Host {
    pieces: VecDeque<Vec<u8>>,
    sent: Vec<Vec<u8>>,
    deaf: bool,
}

impl Wire for Host {
    fn now_ms(&self) -> u64 {
        0
    }

    fn send(&mut self, bytes: &[u8], _: u64) -> Result<(), Broken> {
        self.sent.push(bytes.to_vec());
        if self.deaf { Err(Broken) } else { Ok(()) }
    }

    fn receive(&mut self, into: &mut [u8], _: u64) -> Result<usize, Broken> {
        let Some(mut piece) = self.pieces.pop_front() else { return Ok(0) };
        let taken = piece.len().min(into.len());
        into[..taken].copy_from_slice(&piece[..taken]);
        let rest = piece.split_off(taken);
        if !rest.is_empty() {
            self.pieces.push_front(rest);
        }
        Ok(taken)
    }
}

fn frame(tag: u32, port: Port, word: Word, body: &[u8]) -> Vec<u8> {
    let label = Label { body_bytes: body.len(), tag, port, word };
    [&label.header()[..], body].concat()
}

fn answer(tag: u32, body: &[u8]) -> Vec<u8> {
    frame(tag, Port::Broker, Word::Answer, body)
}

fn post(pieces: impl IntoIterator<Item = Vec<u8>>) -> Post<Host> {
    Post::new(Host { pieces: pieces.into_iter().collect(), ..Host::default() })
}

fn ask(post: &mut Post<Host>) -> Result<Vec<u8>, PostError> {
    let mut reply = [0xEE; 64];
    post.exchange(Port::Broker, &[b"qu", b"estion"], &mut reply, 10).map(|bytes| reply[..bytes].to_vec())
}

#[test]
fn a_reply_arrives_whole_however_it_is_cut() {
    let whole = answer(1, b"the answer");
    for cut in 1..whole.len() {
        let mut post = post([whole[..cut].to_vec(), whole[cut..].to_vec()]);
        assert_eq!(ask(&mut post), Ok(b"the answer".to_vec()), "{cut}");
        assert_eq!(post.wire.sent, [frame(1, Port::Broker, Word::Request, b"question")]);
    }
    let mut bytewise = post(whole.iter().map(|byte| vec![*byte]));
    assert_eq!(ask(&mut bytewise), Ok(b"the answer".to_vec()));
}

/// Late, doubled, of another port, or an echo: nothing but the reply to this request is taken for it.
#[test]
fn only_the_reply_to_this_very_request_counts() {
    let foreign = [
        answer(0, b"older"),
        answer(2, b"newer"),
        frame(1, Port::Processor, Word::Answer, b"other port"),
        frame(1, Port::Broker, Word::Request, b"question"),
        frame(7, Port::Broker, Word::NoAnswer, b""),
    ];
    let mut patient = post(foreign.iter().cloned().chain([answer(1, b"mine"), answer(1, b"again")]));
    assert_eq!(ask(&mut patient), Ok(b"mine".to_vec()));
    assert_eq!(ask(&mut patient), Err(PostError::NoAnswer));
    assert_eq!(ask(&mut post(foreign)), Err(PostError::NoAnswer));
}

/// A reply is cut off by time at every byte: the next exchange passes over the rest of it and finds its own.
#[test]
fn what_comes_too_late_is_never_the_next_reply() {
    let late = answer(1, b"late");
    for cut in 0..late.len() {
        let mut post = post([late[..cut].to_vec()].into_iter().filter(|piece| !piece.is_empty()));
        assert_eq!(ask(&mut post), Err(PostError::NoAnswer), "{cut}");
        post.wire.pieces.extend([late[cut..].to_vec(), answer(2, b"mine")]);
        assert_eq!(ask(&mut post), Ok(b"mine".to_vec()), "{cut}");
    }
}

#[test]
fn a_host_that_has_no_answer_says_so_and_the_next_request_is_as_good_as_any() {
    let mut post = post([frame(1, Port::Broker, Word::NoAnswer, b""), answer(2, b"yes")]);
    assert_eq!(ask(&mut post), Err(PostError::NoAnswer));
    assert_eq!(ask(&mut post), Ok(b"yes".to_vec()));
}

#[test]
fn a_reply_beyond_the_buffer_is_passed_over() {
    let mut post = post([answer(1, &[7; 65]), answer(2, &[8; 64])]);
    assert_eq!(ask(&mut post), Err(PostError::TooLong));
    assert_eq!(ask(&mut post), Ok(vec![8; 64]));
}

/// Whatever byte of a header becomes what: a reply of ours, none, or the end of the channel, but never a panic.
#[test]
fn after_a_header_that_is_none_the_channel_is_silent_for_good() {
    for at in 0..HEADER_BYTES {
        for value in 0..=u8::MAX {
            let mut bytes = answer(1, b"mine");
            bytes[at] = value;
            let changed = bytes[at] != answer(1, b"mine")[at];
            let mut post = post([bytes]);
            let got = ask(&mut post);
            // Only the length may change what is said without being noticed here: it is part of what the protocol above checks.
            assert!(!changed || at < 4 || got == Err(PostError::NoAnswer), "{at} {value}");
            if post.over {
                post.wire.pieces.push_back(answer(2, b"mine"));
                assert_eq!(ask(&mut post), Err(PostError::NoAnswer));
            }
        }
    }
    let long = Label { body_bytes: BODY_BYTES_MAX + 1, tag: 1, port: Port::Broker, word: Word::Answer };
    assert_eq!(Label::parse(&long.header()), None);
}

#[test]
fn a_device_that_keeps_a_request_is_not_given_another() {
    let mut post = post([]);
    post.wire.deaf = true;
    assert_eq!(ask(&mut post), Err(PostError::NoAnswer));
    assert_eq!(ask(&mut post), Err(PostError::NoAnswer));
    assert_eq!(post.wire.sent.len(), 1);
}
