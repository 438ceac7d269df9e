//! A driver by the book that reacts at once: between any two accesses of ours to the shared page. Nothing it asks for may
//! be lost, and nothing it waits for may be shown too early.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use husk::engine::Locality;
use husk::fault::Fault;
use husk::frontend::Tpm;
use husk::frontend::crb::{Buffer, Identity, Layout, Localities, Shared, Work};
use husk::seams::GuestPage;
use std::cell::RefCell;

/// One thing that the driver does.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Writes a register.
    Write(usize, u32),
    /// Goes on when a register shows this under a mask, and must not see it otherwise first.
    Wait(usize, u32, u32),
    /// Writes a command whose last byte is this.
    Command(u8),
    /// Reads the response to the command with that last byte.
    Response(u8),
}

/// The page and the driver on its other side.
struct Page {
    bytes: RefCell<Vec<u8>>,
    script: Vec<Step>,
    done: RefCell<usize>,
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

impl Page {
    /// The driver goes as far as it can.
    fn react(&self) {
        let (mut bytes, mut done) = (self.bytes.borrow_mut(), self.done.borrow_mut());
        while let Some(step) = self.script.get(*done) {
            match *step {
                Step::Write(at, value) => bytes[at..at + 4].copy_from_slice(&value.to_le_bytes()),
                Step::Wait(at, mask, wanted) if word(&bytes, at) & mask != wanted => return,
                Step::Wait(..) => {}
                Step::Command(last) => bytes[0x80..0x8B].copy_from_slice(&command(last)),
                Step::Response(last) => assert_eq!(bytes[0x80..0x8B], answer(last), "after step {done}"),
            }
            *done += 1;
        }
    }
}

impl GuestPage for Page {
    fn size_bytes(&self) -> usize {
        self.bytes.borrow().len()
    }
    fn load(&self, offset: usize) -> u32 {
        self.react();
        word(&self.bytes.borrow(), offset)
    }
    fn store(&mut self, offset: usize, value: u32) {
        self.react();
        self.bytes.borrow_mut()[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        self.react();
    }
    fn copy_in(&self, offset: usize, into: &mut [u8]) {
        self.react();
        into.copy_from_slice(&self.bytes.borrow()[offset..offset + into.len()]);
    }
    fn copy_out(&mut self, offset: usize, from: &[u8]) {
        for (n, byte) in from.iter().enumerate() {
            self.react();
            self.bytes.borrow_mut()[offset + n] = *byte;
        }
    }
}

fn command(last: u8) -> [u8; 11] {
    [0x80, 1, 0, 0, 0, 11, 0, 0, 1, 0x7B, last]
}

fn answer(last: u8) -> [u8; 11] {
    [0x80, 1, 0, 0, 0, 11, 0, 0, 0, 0, !last]
}

/// Answers with the complement of the last byte.
struct Complement;

impl Tpm for Complement {
    fn execute(&mut self, locality: Locality, bytes: &[u8], response: &mut [u8]) -> usize {
        let last = bytes[10];
        assert_eq!((locality, bytes), (Locality::Zero, &command(last)[..]));
        response[..11].copy_from_slice(&answer(last));
        11
    }
    fn established(&mut self) -> bool {
        false
    }
    fn reset_established(&mut self, _: Locality) -> Result<(), Fault> {
        Ok(())
    }
    fn hash_start(&mut self) -> Result<(), Fault> {
        Ok(())
    }
    fn hash_data(&mut self, _: &[u8]) -> Result<(), Fault> {
        Ok(())
    }
    fn hash_end(&mut self) -> Result<(), Fault> {
        Ok(())
    }
}

/// What Linux does for one command; OVMF waits for other bits of the same registers.
fn linux(last: u8) -> [Step; 15] {
    [
        Step::Write(0x08, 1),
        Step::Wait(0x00, 0x82, 0x82),
        Step::Write(0x40, 1),
        Step::Wait(0x40, 1, 0),
        Step::Wait(0x44, 3, 0),
        Step::Command(last),
        Step::Write(0x48, 0),
        Step::Write(0x4C, 1),
        Step::Wait(0x4C, 1, 0),
        Step::Response(last),
        Step::Write(0x40, 2),
        Step::Wait(0x40, 2, 0),
        Step::Wait(0x44, 2, 2),
        Step::Write(0x08, 2),
        Step::Wait(0x00, 0x82, 0x80),
    ]
}

fn ovmf(last: u8) -> [Step; 12] {
    [
        Step::Write(0x08, 1),
        Step::Wait(0x0C, 1, 1),
        Step::Write(0x40, 1),
        Step::Wait(0x40, 1, 0),
        Step::Wait(0x44, 2, 0),
        Step::Command(last),
        Step::Write(0x4C, 1),
        Step::Wait(0x4C, 1, 0),
        Step::Response(last),
        Step::Write(0x40, 2),
        Step::Wait(0x44, 2, 2),
        Step::Wait(0x40, 2, 0),
    ]
}

/// One that asks either register what it has not asked the other.
fn thorough(last: u8) -> [Step; 12] {
    [
        Step::Write(0x08, 2),
        Step::Wait(0x0C, 1, 0),
        Step::Write(0x08, 1),
        Step::Wait(0x00, 0x82, 0x82),
        Step::Write(0x40, 1),
        Step::Wait(0x40, 1, 0),
        Step::Command(last),
        Step::Write(0x4C, 1),
        Step::Wait(0x4C, 1, 0),
        Step::Response(last),
        Step::Write(0x08, 2),
        Step::Wait(0x0C, 1, 0),
    ]
}

#[test]
fn a_driver_that_reacts_between_any_two_accesses_loses_nothing() {
    let identity = Identity { vendor: 0x1AF4, device: 0x4B48, revision: 0 };
    for localities in [Localities::Zero, Localities::All] {
        let layout = Layout::new(0x1000_0000, localities, Buffer::InPage, identity).unwrap();
        let all =
            |last: u8| [&linux(last)[..], &ovmf(last), &thorough(!last), &ovmf(!last), &linux(last)].concat();
        let steps = (0..100).flat_map(all);
        let mut page = Page {
            bytes: RefCell::new(vec![0; layout.window_bytes()]),
            script: vec![],
            done: RefCell::new(0),
        };
        let mut work = Work::EMPTY;
        let mut crb = Shared::new(layout, &mut work);
        crb.reset(&mut page, &mut Complement);
        page.script = steps.collect();
        for _ in 0..10_000 {
            crb.poll(&mut page, &mut Complement);
        }
        let done = *page.done.borrow();
        assert_eq!(done, page.script.len(), "stuck at {:?} in {:?}", page.script.get(done), crb.state());
    }
}
