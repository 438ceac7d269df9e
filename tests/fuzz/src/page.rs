//! The driver for registers that are plain memory, while a guest writes that memory at every look.

use crate::crb::{BASE, Summing, layout, sum};
use crate::input::Input;
use husk::engine::Locality;
use husk::frontend::crb::{Layout, Shared, Work};
use husk::seams::GuestPage;
use std::cell::RefCell;

/// The page. At each access the guest may write a word first, as the script says.
struct Page<'i> {
    bytes: RefCell<Vec<u8>>,
    script: RefCell<Input<'i>>,
}

impl Page<'_> {
    /// One byte of the script for each look: its upper bits set, a word is written where the next bytes say.
    fn meanwhile(&self) {
        let mut script = self.script.borrow_mut();
        let what = script.byte();
        if what & 0xC0 == 0xC0 {
            let (place, value) = (usize::from(script.short()), script.word());
            // Mostly the registers and the command's header.
            let place = if what & 0x20 == 0 { place & 0x70FC } else { place & 0xFFFC };
            let mut bytes = self.bytes.borrow_mut();
            let at = place % bytes.len();
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
    }
}

impl GuestPage for Page<'_> {
    fn size_bytes(&self) -> usize {
        self.bytes.borrow().len()
    }

    fn load(&self, offset: usize) -> u32 {
        self.meanwhile();
        u32::from_le_bytes(self.bytes.borrow()[offset..offset + 4].try_into().unwrap())
    }

    fn store(&mut self, offset: usize, value: u32) {
        self.meanwhile();
        self.bytes.borrow_mut()[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn copy_in(&self, offset: usize, into: &mut [u8]) {
        let half = into.len() / 2;
        self.meanwhile();
        into[..half].copy_from_slice(&self.bytes.borrow()[offset..offset + half]);
        self.meanwhile();
        let end = offset + into.len();
        into[half..].copy_from_slice(&self.bytes.borrow()[offset + half..end]);
    }

    fn copy_out(&mut self, offset: usize, from: &[u8]) {
        self.meanwhile();
        self.bytes.borrow_mut()[offset..offset + from.len()].copy_from_slice(from);
    }
}

struct Guest<'i, 'b> {
    page: Page<'i>,
    crb: Shared<'b>,
    tpm: Summing,
}

impl Guest<'_, '_> {
    /// Writes a register and lets the other side look.
    fn put(&mut self, offset: usize, value: u32) {
        self.page.store(offset, value);
        self.crb.poll(&mut self.page, &mut self.tpm);
    }

    /// Whatever came before: who leaves, leaves; then a driver by the book is answered.
    fn by_the_book(&mut self, layout: &Layout) {
        self.crb.poll(&mut self.page, &mut self.tpm);
        for page in (0..layout.register_bytes()).step_by(0x1000).rev() {
            self.put(page + 0x08, 2);
        }
        let command = [0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x7B, 0, 8];
        self.put(0x08, 1);
        assert_eq!(self.page.load(0x0C) & 1, 1, "the locality: {:?}", self.crb.state());
        self.put(0x40, 1);
        assert_eq!(self.page.load(0x40) & 1, 0, "ready: {:?}", self.crb.state());
        self.put(0x48, 0);
        let buffer = usize::try_from(self.page.load(0x5C) - BASE).unwrap();
        self.page.copy_out(buffer, &command);
        self.put(0x4C, 1);
        assert_eq!(self.page.load(0x4C) & 1, 0, "the response: {:?}", self.crb.state());
        let mut response = [0; 14];
        self.page.copy_in(buffer, &mut response);
        assert_eq!(response[10..], sum(Locality::Zero, &command).to_be_bytes());
    }
}

/// A shape, then what the guest writes at each look. It ends with the script.
pub(crate) fn shared(data: &[u8]) {
    let mut input = Input::new(data);
    let layout = layout(input.byte());
    let mut work = Box::new(Work::EMPTY);
    let page = Page {
        bytes: RefCell::new(vec![0xA5; layout.window_bytes()]),
        script: RefCell::new(Input::new(&[])),
    };
    let mut guest = Guest { page, crb: Shared::new(layout, &mut work), tpm: Summing::default() };
    guest.crb.reset(&mut guest.page, &mut guest.tpm);
    guest.page.script.replace(input);
    while !guest.page.script.borrow().is_over() {
        guest.crb.poll(&mut guest.page, &mut guest.tpm);
    }
    guest.by_the_book(&layout);
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let strike = |place: u16, value: u32| [&[0xC0][..], &place.to_le_bytes(), &value.to_le_bytes()].concat();
    let quiet = [0; 150];
    let command: [u32; 3] = [0x0000_0180, 0x0000_0C00, 0x0800_7B01];
    let mut seeds = Vec::new();
    for shape in 0..4 {
        let mut seed = vec![shape];
        for (place, value) in
            [(0x08, 1), (0x40, 1), (0x80, command[0]), (0x84, command[1]), (0x88, command[2])]
        {
            seed.extend(strike(place, value));
            seed.extend(quiet);
        }
        for (place, value) in [(0x4C, 1), (0x80, u32::MAX), (0x1008, 4), (0x48, 1), (0x40, 2), (0x08, 2)] {
            seed.extend(strike(place, value));
            seed.extend(&quiet[..40]);
        }
        seeds.push(seed);
    }
    seeds
}
