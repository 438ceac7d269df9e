//! A guest that writes its shared page whenever it likes, while we look, copy and execute.
//!
//! Afterwards a driver that keeps to the profile gets right answers, whatever happened before.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

use husk::engine::{Command, Locality};
use husk::fault::Fault;
use husk::frontend::crb::{
    Access, Buffer, Identity, Layout, Localities, PrivateWindow, Shared, Trapped, Width, Work,
};
use husk::frontend::{Tpm, reply};
use husk::seams::GuestPage;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// A small generator of its own seed (splitmix64).
#[derive(Clone)]
struct Dice(Cell<u64>);

impl Dice {
    fn next(&self) -> u64 {
        self.0.set(self.0.get().wrapping_add(0x9E37_79B9_7F4A_7C15));
        let mut z = self.0.get();
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    fn word(&self) -> u32 {
        u32::try_from(self.next() >> 32).unwrap()
    }

    fn below(&self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }
}

/// The page, with a guest that may strike at every access.
struct Page {
    bytes: Rc<RefCell<Vec<u8>>>,
    dice: Dice,
    hostile: Rc<Cell<bool>>,
}

/// One hostile write: mostly where it hurts, with values that mean something.
fn strike(bytes: &RefCell<Vec<u8>>, dice: &Dice) {
    const HOT: [usize; 12] = [0x00, 0x08, 0x0C, 0x30, 0x40, 0x44, 0x48, 0x4C, 0x58, 0x5C, 0x64, 0x68];
    let mut bytes = bytes.borrow_mut();
    let pages = bytes.len() / 0x1000;
    let page = 0x1000 * dice.below(pages);
    let word: u32 = match dice.below(4) {
        0 => 1 << dice.below(4),
        1 => 0,
        2 => u32::MAX,
        _ => dice.word(),
    };
    let at = match dice.below(4) {
        0 => page + 0x80 + 4 * dice.below(4),
        1 => page + 4 * dice.below(0x400),
        _ => page + HOT[dice.below(HOT.len())],
    };
    bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
}

impl Page {
    fn meanwhile(&self) {
        while self.hostile.get() && self.dice.below(3) == 0 {
            strike(&self.bytes, &self.dice);
        }
    }
}

impl GuestPage for Page {
    fn size_bytes(&self) -> usize {
        self.bytes.borrow().len()
    }
    fn load(&self, offset: usize) -> u32 {
        self.meanwhile();
        let bytes = self.bytes.borrow();
        u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
    }
    fn store(&mut self, offset: usize, value: u32) {
        self.meanwhile();
        self.bytes.borrow_mut()[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }
    fn copy_in(&self, offset: usize, into: &mut [u8]) {
        self.meanwhile();
        for (n, byte) in into.iter_mut().enumerate() {
            *byte = self.bytes.borrow()[offset + n];
            if n % 64 == 0 {
                self.meanwhile();
            }
        }
    }
    fn copy_out(&mut self, offset: usize, from: &[u8]) {
        self.meanwhile();
        self.bytes.borrow_mut()[offset..offset + from.len()].copy_from_slice(from);
    }
}

/// Answers a well-formed command with a sum over its bytes and its locality; strikes while it works.
struct Summing {
    bytes: Rc<RefCell<Vec<u8>>>,
    dice: Dice,
    hostile: Rc<Cell<bool>>,
    executed: Vec<Vec<u8>>,
    established: bool,
}

fn sum(locality: Locality, command: &[u8]) -> u32 {
    command.iter().fold(u32::from(locality.number()), |sum, byte| sum.rotate_left(5) ^ u32::from(*byte))
}

impl Tpm for Summing {
    fn execute(&mut self, locality: Locality, command: &[u8], response: &mut [u8]) -> usize {
        let before = command.to_vec();
        for _ in 0..if self.hostile.get() { 64 } else { 0 } {
            strike(&self.bytes, &self.dice);
        }
        assert_eq!(before, command, "the command is private");
        self.executed.push(before);
        match Command::parse(command, locality) {
            Ok(command) => {
                response[..10].copy_from_slice(&[0x80, 1, 0, 0, 0, 14, 0, 0, 0, 0]);
                response[10..14].copy_from_slice(&sum(locality, command.bytes()).to_be_bytes());
                // Now and then a response that no buffer can hold: it must become a failure, never an overrun.
                if command.code() == 0xBAD { usize::MAX } else { 14 }
            }
            Err(fault) => reply::write(fault.fault(), command, response),
        }
    }
    fn established(&mut self) -> bool {
        self.established
    }
    fn reset_established(&mut self, _: Locality) -> Result<(), Fault> {
        self.established = false;
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

struct World<'b> {
    page: Page,
    tpm: Summing,
    crb: Shared<'b>,
    layout: Layout,
}

const BASE: u32 = 0x3C00_0000;

fn layout(localities: Localities, buffer: Buffer) -> Layout {
    let identity = Identity { vendor: 0x1AF4, device: 0x4B48, revision: 0 };
    Layout::new(u64::from(BASE), localities, buffer, identity).unwrap()
}

impl<'b> World<'b> {
    fn new(layout: Layout, work: &'b mut Work, seed: u64) -> Self {
        let bytes = Rc::new(RefCell::new(vec![0xA5; layout.window_bytes()]));
        let hostile = Rc::new(Cell::new(false));
        let dice = Dice(Cell::new(seed));
        let mut page = Page { bytes: bytes.clone(), dice: dice.clone(), hostile: hostile.clone() };
        let mut tpm = Summing { bytes, dice, hostile, executed: vec![], established: false };
        let mut crb = Shared::new(layout, work);
        crb.reset(&mut page, &mut tpm);
        Self { page, tpm, crb, layout }
    }

    fn poll(&mut self) -> bool {
        self.crb.poll(&mut self.page, &mut self.tpm)
    }

    fn read(&self, offset: usize) -> u32 {
        self.page.load(offset)
    }

    fn write(&mut self, offset: usize, value: u32) {
        self.page.store(offset, value);
    }

    /// Waits as a driver does: the other side polls in the meantime.
    fn wait(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        for _ in 0..4 {
            if done(self) {
                return;
            }
            self.poll();
        }
        panic!("the driver waits in vain for {what}: {:?}", self.crb.state());
    }

    /// One command by the book: request locality, cmdReady, write, start, wait, read, goIdle, relinquish.
    fn transmit(&mut self, locality: usize, command: &[u8]) -> Vec<u8> {
        let page = locality * 0x1000;
        let active = u32::try_from(locality).unwrap();
        self.write(page + 0x08, 1);
        self.wait("the locality", |w| {
            w.read(page) & 0x9E == 0x82 | active << 2 && w.read(page + 0x0C) & 1 == 1
        });
        self.write(page + 0x40, 1);
        self.wait("ready", |w| w.read(page + 0x40) & 1 == 0);
        assert_eq!(self.read(page + 0x44), 0);
        let buffer = (self.read(page + 0x5C) - BASE) as usize;
        assert_eq!(self.read(page + 0x60), 0);
        assert_eq!(self.read(page + 0x58) as usize, self.layout.buffer_bytes());
        self.page.copy_out(buffer, command);
        self.write(page + 0x48, 0);
        self.write(page + 0x4C, 1);
        self.wait("the response", |w| w.read(page + 0x4C) & 1 == 0);
        assert_eq!(self.read(page + 0x44) & 1, 0, "no fatal error");
        let mut header = [0; 10];
        self.page.copy_in(buffer, &mut header);
        let size = u32::from_be_bytes(header[2..6].try_into().unwrap()) as usize;
        let mut response = vec![0; size];
        self.page.copy_in(buffer, &mut response);
        self.write(page + 0x40, 2);
        self.wait("idle", |w| w.read(page + 0x40) & 2 == 0 && w.read(page + 0x44) & 2 == 2);
        self.write(page + 0x08, 2);
        self.wait("the release", |w| w.read(page) & 0x82 == 0x80);
        response
    }

    fn expect_right_answers(&mut self, locality: usize) {
        for body in 0..3u8 {
            let command = [0x80, 1, 0, 0, 0, 13, 0, 0, 1, 0x7B, body, !body, 7];
            let response = self.transmit(locality, &command);
            let ought =
                sum(Locality::from_number(u8::try_from(locality).unwrap()).unwrap(), &command).to_be_bytes();
            assert_eq!(response, [&[0x80, 1, 0, 0, 0, 14, 0, 0, 0, 0][..], &ought].concat());
        }
    }
}

fn every_shape() -> [(Localities, Buffer); 4] {
    [
        (Localities::Zero, Buffer::InPage),
        (Localities::Zero, Buffer::OwnPage),
        (Localities::All, Buffer::InPage),
        (Localities::All, Buffer::OwnPage),
    ]
}

#[test]
fn a_driver_by_the_book_gets_right_answers() {
    for (localities, buffer) in every_shape() {
        let mut work = Work::EMPTY;
        let mut world = World::new(layout(localities, buffer), &mut work, 1);
        world.expect_right_answers(0);
        if localities == Localities::All {
            world.expect_right_answers(3);
        }
        assert!(!world.poll(), "a quiet page asks for nothing");
    }
}

#[test]
fn after_any_hostility_a_driver_by_the_book_gets_right_answers() {
    let worlds = if std::env::var_os("HUSK_LONG").is_some() { 30_000 } else { 1000 };
    for seed in 0..worlds {
        for (localities, buffer) in every_shape() {
            println!("seed {seed} {localities:?} {buffer:?}");
            let mut work = Work::EMPTY;
            let mut world = World::new(layout(localities, buffer), &mut work, seed);
            world.page.hostile.set(true);
            for _ in 0..12 {
                strike(&world.page.bytes, &world.page.dice);
                world.poll();
            }
            world.page.hostile.set(false);
            world.poll();
            // The localities above must leave, as any software that used them does.
            for page in [3, 2, 1, 0].map(|n| n * 0x1000) {
                if localities == Localities::All || page == 0 {
                    world.write(page + 0x08, 2);
                    world.poll();
                }
            }
            world.expect_right_answers(0);
        }
    }
}

#[test]
fn hostility_reaches_the_tpm_often_enough_to_mean_something() {
    let mut executed = 0;
    for seed in 0..200 {
        let mut work = Work::EMPTY;
        let mut world = World::new(layout(Localities::Zero, Buffer::InPage), &mut work, seed);
        world.page.hostile.set(true);
        for _ in 0..40 {
            world.poll();
        }
        executed += world.tpm.executed.len();
        assert!(world.tpm.executed.iter().all(|command| (10..=3968).contains(&command.len())));
    }
    assert!(executed > 100, "only {executed} commands in 8000 polls");
}

#[test]
fn a_size_field_of_any_value_is_clamped_to_the_buffer_and_answered() {
    for (stated, copied) in [(0, 10), (9, 10), (10, 10), (3968, 3968), (3969, 3968), (u32::MAX, 3968)] {
        let mut work = Work::EMPTY;
        let mut world = World::new(layout(Localities::Zero, Buffer::InPage), &mut work, 1);
        let mut command = [0x80, 1, 0, 0, 0, 0, 0, 0, 1, 0x7B];
        command[2..6].copy_from_slice(&u32::to_be_bytes(stated));
        let response = world.transmit(0, &command);
        assert!(response.len() >= 10);
        assert_eq!(world.tpm.executed[0].len(), copied);
    }
}

#[test]
fn a_response_that_no_buffer_holds_becomes_a_failure() {
    let mut work = Work::EMPTY;
    let mut world = World::new(layout(Localities::Zero, Buffer::InPage), &mut work, 1);
    let response = world.transmit(0, &[0x80, 1, 0, 0, 0, 10, 0, 0, 0x0B, 0xAD]);
    assert_eq!(response, [0x80, 1, 0, 0, 0, 10, 0, 0, 1, 1]);
}

#[test]
fn a_command_cancelled_before_it_starts_has_no_effect_and_says_so() {
    let mut work = Work::EMPTY;
    let mut world = World::new(layout(Localities::Zero, Buffer::InPage), &mut work, 1);
    for (offset, value) in [(0x08, 1), (0x40, 1), (0x48, 1), (0x4C, 1)] {
        world.write(offset, value);
        world.poll();
    }
    assert_eq!(world.read(0x4C), 0);
    assert_eq!(world.read(0x48), 1, "the guest clears it, not we");
    assert_eq!(world.read(0x88).to_le_bytes()[..2], [0x09, 0x09], "TPM_RC_CANCELED");
    assert!(world.tpm.executed.is_empty());
    world.expect_right_answers(0);
}

#[test]
fn a_locality_does_not_inherit_anothers_cancel() {
    let mut work = Work::EMPTY;
    let mut world = World::new(layout(Localities::All, Buffer::InPage), &mut work, 1);
    for (offset, value) in [(0x08, 1), (0x48, 1), (0x2008, 4), (0x2040, 1)] {
        world.write(offset, value);
        world.poll();
    }
    assert_eq!((world.read(0x48), world.read(0x2048)), (0, 0));
    assert_eq!(world.read(0x0C), 2, "beenSeized");
    world.write(0x2008, 2);
    world.poll();
    world.expect_right_answers(0);
    assert_eq!(world.read(0x0C), 0);
}

#[test]
fn trapped_accesses_of_any_kind_never_panic_and_end_in_right_answers() {
    for seed in 0..400 {
        println!("seed {seed}");
        let dice = Dice(Cell::new(seed));
        let quiet = Rc::new(Cell::new(false));
        let bytes = Rc::new(RefCell::new(vec![0; 0x1000]));
        let mut tpm =
            Summing { bytes, dice: dice.clone(), hostile: quiet, executed: vec![], established: true };
        let (mut work, mut window) = (Work::EMPTY, PrivateWindow::EMPTY);
        let mut crb = Trapped::new(layout(Localities::Zero, Buffer::InPage), &mut work, &mut window);
        crb.reset(&mut tpm);
        for _ in 0..600 {
            let width = [Width::Byte, Width::Word, Width::Dword, Width::Qword][dice.below(4)];
            let offset = [dice.below(0xA0), dice.below(0x1010), usize::MAX - dice.below(9)][dice.below(3)];
            let value = [dice.next(), 1, 1 << 32, 2][dice.below(4)];
            let effect = crb.mmio_write(Access { offset, width }, value);
            crb.serve(effect, &mut tpm);
            let _any: u64 = crb.mmio_read(Access { offset, width });
        }
        let command = [0x80, 1, 0, 0, 0, 10, 0, 0, 1, 0x7B];
        let book = [(0x08, 2), (0x08, 1), (0x40, 2), (0x40, 1), (0x48, 0)];
        let bytes = command.iter().enumerate().map(|(n, byte)| (0x80 + n, u64::from(*byte)));
        for (offset, value) in book.into_iter().chain(bytes).chain([(0x4C, 1)]) {
            let effect = crb.mmio_write(Access { offset, width: Width::Byte }, value);
            crb.serve(effect, &mut tpm);
        }
        let answer = crb.mmio_read(Access { offset: 0x8A, width: Width::Dword });
        assert_eq!(answer.to_le_bytes()[..4], sum(Locality::Zero, &command).to_be_bytes());
    }
}
