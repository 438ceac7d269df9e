//! The register interface: its step function, and the driver behind traps.

use crate::input::Input;
use husk::engine::{COMMAND_BYTES_MAX, Locality};
use husk::fault::Fault;
use husk::frontend::Tpm;
use husk::frontend::crb::{
    Access, Buffer, Effect, Event, Identity, Layout, Localities, Phase, PrivateWindow, State, Trapped, Width,
    Work, step,
};
use husk::seams::GuestPage;

/// Where the guest finds the interface.
pub(crate) const BASE: u32 = 0x3C00_0000;

/// One of the four shapes.
pub(crate) fn layout(number: u8) -> Layout {
    let localities = if number & 1 == 0 { Localities::Zero } else { Localities::All };
    let buffer = if number & 2 == 0 { Buffer::InPage } else { Buffer::OwnPage };
    let identity = Identity { vendor: 0x1AF4, device: 0x4B48, revision: 0 };
    Layout::new(u64::from(BASE), localities, buffer, identity).unwrap()
}

/// A TPM that answers with a sum over the command, at a length that the command chooses.
#[derive(Default)]
pub(crate) struct Summing {
    executed: usize,
    established: bool,
}

/// What [`Summing`] answers.
pub(crate) fn sum(locality: Locality, command: &[u8]) -> u32 {
    command.iter().fold(u32::from(locality.number()), |sum, byte| sum.rotate_left(5) ^ u32::from(*byte))
}

/// A command by which [`Summing`] claims a response that no buffer can hold.
pub(crate) const OVERLONG: u8 = 0xBD;

impl Tpm for Summing {
    fn execute(&mut self, locality: Locality, command: &[u8], response: &mut [u8]) -> usize {
        assert!((10..=COMMAND_BYTES_MAX).contains(&command.len()));
        assert!(response.len() >= COMMAND_BYTES_MAX);
        self.executed += 1;
        response[..10].copy_from_slice(&[0x80, 1, 0, 0, 0, 14, 0, 0, 0, 0]);
        response[10..14].copy_from_slice(&sum(locality, command).to_be_bytes());
        if command.get(9) == Some(&OVERLONG) { usize::MAX } else { 14 }
    }

    fn established(&mut self) -> bool {
        self.established
    }

    fn reset_established(&mut self, locality: Locality) -> Result<(), Fault> {
        assert!(matches!(locality, Locality::Three | Locality::Four));
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

/// A byte for an event: its kind in the upper bits, its locality in the lower three.
fn event(byte: u8) -> Event {
    let locality = Locality::from_number((byte & 7) % 5).unwrap();
    match byte >> 3 {
        0 => Event::Request(locality),
        1 => Event::Relinquish(locality),
        2 => Event::Seize(locality),
        3 => Event::ResetEstablished(locality),
        4 => Event::LockSelector,
        5 => Event::CommandReady(locality),
        6 => Event::GoIdle(locality),
        7 => Event::Cancel(locality),
        8 => Event::CancelClear(locality),
        9 => Event::Start(locality),
        10 => Event::Data(locality),
        11 => Event::Established(byte & 1 == 1),
        _ => Event::Completed,
    }
}

/// Each byte an event.
pub(crate) fn step_events(data: &[u8]) {
    let mut state = State::POWER_ON;
    for event in data.iter().copied().map(event) {
        let (after, effect) = step(state, event);
        check(&state, event, &after, effect);
        let shown = (0..0x80).step_by(4).map(|register| layout(1).shows(&after, Locality::Two, register));
        assert!(shown.count() == 32);
        state = after;
    }
}

fn check(before: &State, event: Event, after: &State, effect: Effect) {
    let said = format!("{before:?} {event:?} {after:?} {effect:?}");
    if let Some(active) = after.active {
        assert!(!after.waiting.has(active) && !after.seized.has(active), "{said}");
    } else {
        assert!(matches!(after.phase, Phase::Idle | Phase::Draining { .. }), "{said}");
        assert_eq!(after.waiting.highest(), None, "somebody waits for nobody: {said}");
    }
    let ran = matches!(before.phase, Phase::Execution | Phase::Draining { .. });
    match effect {
        Effect::Execute(locality) => {
            assert!(!ran && after.phase == Phase::Execution && before.active == Some(locality), "{said}");
        }
        Effect::AnswerCancelled(locality) => {
            assert!(!ran && after.phase == Phase::Completion && before.active == Some(locality), "{said}");
        }
        Effect::Accept => assert_eq!(after.phase, Phase::Reception, "{said}"),
        Effect::Cancel => assert_eq!(before.phase, Phase::Execution, "{said}"),
        Effect::ResetEstablished(locality) => assert!(locality >= Locality::Three, "{said}"),
        Effect::None => {}
    }
    let ends = matches!(after.phase, Phase::Execution | Phase::Draining { .. }) || event == Event::Completed;
    assert!(!ran || ends, "a running command vanished: {said}");
}

pub(crate) fn step_seeds() -> Vec<Vec<u8>> {
    let [request, relinquish, seize, ready, idle, cancel, clear, start, data, done] =
        [0, 1, 2, 5, 6, 7, 8, 9, 10, 12].map(|kind: u8| kind << 3);
    vec![
        vec![request, ready, data, start, done, idle, relinquish],
        vec![request, ready, cancel, start, clear, start, cancel, done],
        vec![request, ready, start, seize | 2, ready | 2, done, start | 2, done, relinquish | 2],
        vec![request, request | 1, request | 3, request | 2, relinquish, relinquish | 3],
    ]
}

/// The guest's side of a driver that traps.
struct Guest<'b> {
    crb: Trapped<'b>,
    tpm: Summing,
    /// A command was taken and runs elsewhere.
    running: Option<(Locality, Vec<u8>)>,
}

impl Guest<'_> {
    fn write(&mut self, access: Access, value: u64, elsewhere: bool) {
        match self.crb.mmio_write(access, value) {
            Effect::Execute(locality) if elsewhere => {
                let command = self.crb.take_command().to_vec();
                assert!(self.running.replace((locality, command)).is_none(), "two commands at once");
            }
            effect => self.crb.serve(effect, &mut self.tpm),
        }
    }

    fn finish(&mut self, length: usize) {
        if let Some((locality, command)) = self.running.take() {
            let mut response = [0; COMMAND_BYTES_MAX];
            let told = self.tpm.execute(locality, &command, &mut response).min(length);
            self.crb.finish(&response[..told], &mut self.tpm);
        }
    }

    fn read(&self, offset: usize) -> u32 {
        u32::try_from(self.crb.mmio_read(Access { offset, width: Width::Dword })).unwrap()
    }

    fn put(&mut self, offset: usize, value: u32) {
        self.write(Access { offset, width: Width::Dword }, u64::from(value), false);
    }

    /// Whatever came before: who leaves, leaves; then a driver by the book is answered.
    fn by_the_book(&mut self, layout: &Layout) {
        self.finish(14);
        for page in (0..layout.register_bytes()).step_by(0x1000).rev() {
            self.put(page + 0x08, 2);
        }
        let command = [0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x7B, 0, 8];
        self.put(0x08, 1);
        assert_eq!(self.read(0x0C) & 1, 1, "the locality: {:?}", self.crb.state());
        self.put(0x48, 0);
        self.put(0x40, 1);
        assert_eq!(self.read(0x40) & 1, 0, "ready: {:?}", self.crb.state());
        for (at, word) in command.chunks(4).enumerate() {
            self.put(0x80 + 4 * at, u32::from_le_bytes(word.try_into().unwrap()));
        }
        self.put(0x4C, 1);
        assert_eq!(self.read(0x4C) & 1, 0, "the response: {:?}", self.crb.state());
        let answer = [2, 3].map(|word| self.read(0x80 + 4 * word).to_le_bytes()).concat();
        assert_eq!(answer[2..6], sum(Locality::Zero, &command).to_be_bytes());
    }
}

/// A shape, then a script: an access of any width at any offset, a response to what runs elsewhere, a reset.
pub(crate) fn trapped(data: &[u8]) {
    let mut input = Input::new(data);
    let shape = input.byte();
    let layout = layout(shape);
    let (mut work, mut window, mut page) = (Box::new(Work::EMPTY), PrivateWindow::EMPTY, OwnPage([0; 4096]));
    let memory: &mut dyn GuestPage = if shape & 2 == 0 { &mut window } else { &mut page };
    let crb = Trapped::new(layout, &mut work, memory);
    let mut guest = Guest { crb, tpm: Summing::default(), running: None };
    guest.crb.reset(&mut guest.tpm);
    while !input.is_over() {
        let (what, offset) = (input.byte(), usize::from(input.short()));
        let width = [Width::Byte, Width::Word, Width::Dword, Width::Qword][usize::from(what & 3)];
        match what >> 2 & 7 {
            0 => read_any(&guest.crb, Access { offset, width }),
            1 => guest.finish(offset),
            2 if guest.running.is_none() => guest.crb.reset(&mut guest.tpm),
            // The registers, of which there are few.
            3..=5 => {
                let register = offset & 0x70FF;
                guest.write(Access { offset: register, width }, input.quad(), what & 0x80 != 0);
            }
            _ => guest.write(Access { offset, width }, input.quad(), what & 0x80 != 0),
        }
    }
    guest.by_the_book(&layout);
}

/// A read never says more than its width, and never fails.
fn read_any(crb: &Trapped<'_>, access: Access) {
    let bits = 8 * access.width as u32;
    assert_eq!(crb.mmio_read(access).checked_shr(bits).unwrap_or(0), 0);
}

/// A buffer page of its own, which the guest writes without traps.
struct OwnPage([u8; 4096]);

impl GuestPage for OwnPage {
    fn size_bytes(&self) -> usize {
        self.0.len()
    }

    fn load(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.0[offset..offset + 4].try_into().unwrap())
    }

    fn store(&mut self, offset: usize, value: u32) {
        self.0[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn copy_in(&self, offset: usize, into: &mut [u8]) {
        into.copy_from_slice(&self.0[offset..offset + into.len()]);
    }

    fn copy_out(&mut self, offset: usize, from: &[u8]) {
        self.0[offset..offset + from.len()].copy_from_slice(from);
    }
}

pub(crate) fn trapped_seeds() -> Vec<Vec<u8>> {
    let write = |elsewhere: u8, offset: u16, value: u64| {
        let what = elsewhere | 3 << 2 | 2;
        [&[what][..], &offset.to_le_bytes(), &value.to_le_bytes()].concat()
    };
    let command = [0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x7B, 0, 8];
    let mut seeds = Vec::new();
    for shape in 0..4 {
        for elsewhere in [0, 0x80] {
            let mut seed = vec![shape];
            seed.extend([write(0, 8, 1), write(0, 0x40, 1)].concat());
            for (at, word) in (0u16..).zip(command.chunks(4)) {
                let value = u64::from(u32::from_le_bytes(word.try_into().unwrap()));
                seed.extend(
                    [&[7 << 2 | 2][..], &(0x80 + 4 * at).to_le_bytes(), &value.to_le_bytes()].concat(),
                );
            }
            seed.extend(write(elsewhere, 0x4C, 1));
            seed.extend(write(0, 0x1008, 4));
            seed.extend([1 << 2, 14, 0]);
            seed.extend([write(0, 0x40, 2), write(0, 8, 2)].concat());
            seeds.push(seed);
        }
    }
    seeds
}
