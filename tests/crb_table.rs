//! The whole table of the CRB: every state, every register, every width, every class of value.
//!
//! The expectation is written another way than the code: by bytes instead of registers, and by rows of letters instead
//! of matches. The letters are the phases, in the order of [`PHASES`].
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use husk::engine::{Locality, ResponseCode};
use husk::fault::Fault;
use husk::frontend::Tpm;
use husk::frontend::crb::registers::event;
use husk::frontend::crb::{
    Access, Buffer, Effect, Event, Identity, Layout, Localities, LocalitySet, Phase, PrivateWindow, State,
    Trapped, Width, Work, step,
};

/// idle, ready, reception (collecting), execution, completion (done), draining (orphan), draining with ready pending.
const PHASES: &str = "ircxdop";
const ON_READY: &str = "rrrxrpp";
const ON_IDLE: &str = "iiixioo";
const ON_START: &str = "ixxxxop";
const ON_START_CANCELLED: &str = "iddxdop";
const ON_DATA: &str = "iccxcop";
const ON_LEAVE: &str = "iiioioo";
const ON_COMPLETED: &str = "ircddir";

/// The expectation: what a guest may say with one byte, and what it then reads back.
#[derive(Clone, Debug, PartialEq)]
struct Model {
    phase: char,
    owner: Option<u8>,
    queue: [bool; 5],
    robbed: [bool; 5],
    cancel: bool,
    locked: bool,
    launched: bool,
}

impl Model {
    fn of(state: &State) -> Self {
        let phase = match state.phase {
            Phase::Idle => 'i',
            Phase::Ready => 'r',
            Phase::Reception => 'c',
            Phase::Execution => 'x',
            Phase::Completion => 'd',
            Phase::Draining { ready_next: false } => 'o',
            Phase::Draining { ready_next: true } => 'p',
        };
        let list = |set: LocalitySet| [0, 1, 2, 3, 4].map(|n| set.has(Locality::from_number(n).unwrap()));
        Self {
            phase,
            owner: state.active.map(Locality::number),
            queue: list(state.waiting),
            robbed: list(state.seized),
            cancel: state.cancel,
            locked: state.selector_locked,
            launched: state.established,
        }
    }

    fn go(&mut self, row: &str) {
        let at = PHASES.find(self.phase).unwrap();
        self.phase = row[at..].chars().next().unwrap();
    }

    fn own(&mut self, by: u8) {
        self.owner = Some(by);
        self.queue[usize::from(by)] = false;
        self.robbed[usize::from(by)] = false;
    }

    fn leave(&mut self) {
        self.go(ON_LEAVE);
        self.owner = None;
        self.cancel = false;
    }

    /// One byte written through locality `by`'s page.
    fn write(&mut self, by: u8, offset: usize, byte: u8) {
        let mine = self.owner == Some(by);
        match offset {
            0x08 => self.locality_control(by, byte & 0x0F),
            0x32 => self.locked |= byte & 0x08 != 0,
            0x40 if mine && byte & 3 == 1 => self.go(ON_READY),
            0x40 if mine && byte & 3 == 2 => self.go(ON_IDLE),
            0x48 if mine => self.cancel = byte & 1 != 0,
            0x4C if mine && byte & 1 != 0 => self.go(if self.cancel { ON_START_CANCELLED } else { ON_START }),
            0x80.. if mine => self.go(ON_DATA),
            _ => {}
        }
    }

    fn locality_control(&mut self, by: u8, bits: u8) {
        let free = self.owner.is_none();
        match bits {
            1 if by < 4 && free => self.own(by),
            1 if by < 4 && self.owner != Some(by) => self.queue[usize::from(by)] = true,
            2 if by < 4 && self.owner == Some(by) => {
                self.leave();
                if let Some(next) = (0..5u8).rev().find(|n| self.queue[usize::from(*n)]) {
                    self.own(next);
                }
            }
            2 if by < 4 => self.queue[usize::from(by)] = false,
            4 if by < 4 && free => self.own(by),
            4 if by < 4 && self.owner < Some(by) => {
                self.robbed[usize::from(self.owner.unwrap())] = true;
                self.leave();
                self.own(by);
            }
            _ => {}
        }
    }

    /// One byte read through locality `by`'s page, below the data buffer.
    fn read(&self, by: u8, offset: usize) -> u8 {
        let buffer = 0xFED4_0080 + u32::from(by) * 0x1000;
        match offset {
            0x00 => {
                let owned = self.owner.map_or(0, |owner| 2 + owner * 4);
                0x80 + owned + u8::from(!self.launched)
            }
            0x0C => u8::from(self.owner == Some(by)) + 2 * u8::from(self.robbed[usize::from(by)]),
            0x30 => 0x11,
            0x31 => 0x5B,
            0x32 => 0x02 + 8 * u8::from(self.locked),
            0x33 => 7,
            0x34..0x38 => [0xF4, 0x1A, 0x48, 0x4B][offset - 0x34],
            0x40 => u8::from(self.phase == 'p'),
            0x44 => 2 * u8::from("iop".contains(self.phase)),
            0x48 => u8::from(self.cancel),
            0x4C => u8::from(self.phase == 'x'),
            0x58 | 0x64 => 0x80,
            0x59 | 0x65 => 0x0F,
            0x5C..0x60 => buffer.to_le_bytes()[offset - 0x5C],
            0x68..0x6C => buffer.to_le_bytes()[offset - 0x68],
            _ => 0,
        }
    }
}

fn layout() -> Layout {
    let identity = Identity { vendor: 0x1AF4, device: 0x4B48, revision: 7 };
    Layout::new(0xFED4_0000, Localities::All, Buffer::InPage, identity).unwrap()
}

fn localities() -> [Locality; 5] {
    [0, 1, 2, 3, 4].map(|n| Locality::from_number(n).unwrap())
}

fn sets() -> impl Iterator<Item = LocalitySet> {
    (0..32u8).map(|bits| {
        let chosen = localities().into_iter().filter(|l| bits & 1 << l.number() != 0);
        chosen.fold(LocalitySet::EMPTY, LocalitySet::with)
    })
}

fn every_state() -> impl Iterator<Item = State> {
    let phases = [
        Phase::Idle,
        Phase::Ready,
        Phase::Reception,
        Phase::Execution,
        Phase::Completion,
        Phase::Draining { ready_next: false },
        Phase::Draining { ready_next: true },
    ];
    let owners = localities().into_iter().map(Some).chain([None]);
    let moods = phases.into_iter().flat_map(move |phase| owners.clone().map(move |active| (phase, active)));
    moods.flat_map(|(phase, active)| {
        sets().flat_map(move |waiting| {
            sets().flat_map(move |seized| {
                [false, true].map(|cancel| State {
                    phase,
                    active,
                    waiting,
                    seized,
                    cancel,
                    ..State::POWER_ON
                })
            })
        })
    })
}

/// Register and byte: all that a guest can say with the byte that matters.
fn every_word() -> impl Iterator<Item = (usize, usize, u32, u8)> {
    let loc_ctrl = (0..16u8).map(|bits| (0x08, 0x08, u32::from(bits), bits));
    let request = (0..4u8).map(|bits| (0x40, 0x40, u32::from(bits), bits));
    let levels =
        [(0x48, 0u8), (0x48, 1), (0x4C, 0), (0x4C, 1)].map(|(at, bit)| (at, at, u32::from(bit), bit));
    loc_ctrl.chain(request).chain(levels).chain([(0x30, 0x32, 1 << 19, 8), (0x30, 0x32, 1 << 17, 2)])
}

#[test]
fn every_state_follows_every_register_write_as_the_table_says() {
    let mut checked = 0u64;
    for state in every_state() {
        for (register, offset, value, byte) in every_word() {
            for locality in localities() {
                let mut model = Model::of(&state);
                model.write(locality.number(), offset, byte);
                let after = event(locality, register, value, 0xF).map_or(state, |e| step(state, e).0);
                assert_eq!(Model::of(&after), model, "{state:?} {locality:?} {register:#x} {value:#x}");
                checked += 1;
            }
        }
    }
    assert_eq!(checked, 7 * 6 * 32 * 32 * 2 * 26 * 5);
}

#[test]
fn every_state_follows_data_and_completion_as_the_table_says() {
    for state in every_state() {
        for locality in localities() {
            let mut model = Model::of(&state);
            model.write(locality.number(), 0x80, 0);
            let (after, effect) = step(state, Event::Data(locality));
            assert_eq!(Model::of(&after), model);
            let welcome = state.active == Some(locality) && "rcd".contains(Model::of(&state).phase);
            assert_eq!(effect == Effect::Accept, welcome);
        }
        let mut model = Model::of(&state);
        model.go(ON_COMPLETED);
        assert_eq!(step(state, Event::Completed), (step(state, Event::Completed).0, Effect::None));
        assert_eq!(Model::of(&step(state, Event::Completed).0), model);
    }
}

#[test]
fn only_the_holder_of_the_tpm_makes_it_act() {
    for state in every_state() {
        for locality in localities() {
            let acting = [Event::Start(locality), Event::Cancel(locality), Event::Data(locality)];
            if state.active != Some(locality) {
                assert!(acting.iter().all(|event| step(state, *event) == (state, Effect::None)));
            }
            let (_, effect) = step(state, Event::ResetEstablished(locality));
            assert_eq!(effect == Effect::ResetEstablished(locality), locality >= Locality::Three);
        }
    }
}

/// A TPM that answers TPM_RC_INITIALIZE.
struct Dull;

impl Tpm for Dull {
    fn execute(&mut self, _: Locality, _: &[u8], response: &mut [u8]) -> usize {
        response[..10].copy_from_slice(&ResponseCode::INITIALIZE.response());
        10
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

/// Ways into each phase, for three owners, with and without cancel: bytes written through (page, offset).
fn ways() -> Vec<Vec<(usize, usize, u64)>> {
    let mut ways = vec![vec![]];
    for owner in [0, 1, 3] {
        let mut way = vec![(owner, 0x08, 1)];
        ways.push(way.clone());
        for next in [(owner, 0x40, 1), (owner, 0x80, 0x80), (owner, 0x4C, 1)] {
            way.push(next);
            ways.push(way.clone());
            ways.push([way.clone(), vec![(owner, 0x48, 1), (2, 0x08, 1)]].concat());
        }
        ways.push([way.clone(), vec![(3, 0x08, 4)]].concat());
        ways.push([way.clone(), vec![(3, 0x08, 4), (3, 0x40, 1)]].concat());
        ways.push([way.clone(), vec![(0, 0x32, 8)]].concat());
    }
    ways
}

fn walk(trapped: &mut Trapped<'_>, way: &[(usize, usize, u64)]) {
    trapped.reset(&mut Dull);
    for (page, offset, byte) in way {
        let access = Access { offset: page * 0x1000 + offset, width: Width::Byte };
        // The command is left running, so that Execution and Draining can be looked at.
        let _running: Effect = trapped.mmio_write(access, *byte);
    }
}

fn offsets() -> impl Iterator<Item = usize> {
    (0..5usize).flat_map(|page| {
        let low = 0..0x90;
        let high = 0xFF8..0x1000;
        low.chain(high).map(move |within| page * 0x1000 + within)
    })
}

/// Every access to the interesting offsets.
fn accesses() -> impl Iterator<Item = Access> {
    let widths = [Width::Byte, Width::Word, Width::Dword, Width::Qword];
    offsets().flat_map(move |offset| widths.map(|width| Access { offset, width }))
}

/// Which locality's page a byte is in, and where in it.
fn place(at: usize) -> (u8, usize) {
    (u8::try_from(at / 0x1000).unwrap(), at % 0x1000)
}

impl Model {
    /// The byte at `at`, where the buffer holds 0x80 and then zeros.
    fn shows(&self, at: usize) -> u8 {
        let (page, within) = place(at);
        let readable = "cd".contains(self.phase) && self.owner == Some(page);
        match within {
            _ if page > 4 => 0xFF,
            0..0x80 => self.read(page, within),
            0x80 if readable => 0x80,
            _ if readable => 0,
            _ => 0xFF,
        }
    }

    fn takes(&mut self, access: Access, value: u64) {
        for (n, byte) in value.to_le_bytes().into_iter().take(access.width as usize).enumerate() {
            let (page, within) = place(access.offset + n);
            if page < 5 {
                self.write(page, within, byte);
            }
        }
    }
}

#[test]
fn every_read_of_every_width_at_every_offset_shows_the_bytes_of_the_table() {
    let (mut work, mut window) = (Work::EMPTY, PrivateWindow::EMPTY);
    let mut trapped = Trapped::new(layout(), &mut work, &mut window);
    for way in ways() {
        walk(&mut trapped, &way);
        let model = Model::of(trapped.state());
        for access in accesses() {
            let mut ought = [0; 8];
            for (n, byte) in ought.iter_mut().take(access.width as usize).enumerate() {
                *byte = model.shows(access.offset + n);
            }
            assert_eq!(trapped.mmio_read(access).to_le_bytes(), ought, "{way:x?} {access:x?}");
        }
    }
}

#[test]
fn every_write_of_every_width_at_every_offset_acts_as_its_bytes_do_one_by_one() {
    let every_byte = [0, 1, 2, 4, 8, 0xFF].map(|byte| u64::from_le_bytes([byte; 8]));
    let values = [1, 2, 1 << 32, 1 << 56, 0xF0F1_F2F3_F4F1_F2F1].into_iter().chain(every_byte);
    let (mut work, mut window) = (Work::EMPTY, PrivateWindow::EMPTY);
    let mut trapped = Trapped::new(layout(), &mut work, &mut window);
    for way in ways() {
        for (access, value) in accesses().flat_map(|access| values.clone().map(move |value| (access, value)))
        {
            walk(&mut trapped, &way);
            let mut model = Model::of(trapped.state());
            let _running: Effect = trapped.mmio_write(access, value);
            model.takes(access, value);
            assert_eq!(Model::of(trapped.state()), model, "{way:x?} {access:x?} {value:#x}");
        }
    }
}

#[test]
fn a_command_that_runs_elsewhere_is_not_seen_again_and_its_response_reaches_only_who_asked() {
    let (mut work, mut window) = (Work::EMPTY, PrivateWindow::EMPTY);
    let mut trapped = Trapped::new(layout(), &mut work, &mut window);
    trapped.reset(&mut Dull);
    let write = |trapped: &mut Trapped<'_>, offset, value: u64| {
        trapped.mmio_write(Access { offset, width: Width::Dword }, value)
    };
    let command = [0x80, 0x01, 0, 0, 0, 12, 0, 0, 1, 0x44, 0, 0];
    assert_eq!(write(&mut trapped, 0x08, 1), Effect::None);
    assert_eq!(write(&mut trapped, 0x40, 1), Effect::None);
    for (n, byte) in command.iter().enumerate() {
        let access = Access { offset: 0x80 + n, width: Width::Byte };
        assert_eq!(trapped.mmio_write(access, u64::from(*byte)), Effect::None);
    }
    assert_eq!(write(&mut trapped, 0x4C, 1), Effect::Execute(Locality::Zero));
    assert_eq!(trapped.take_command(), command);
    assert_eq!(write(&mut trapped, 0x86, 0xFFFF_FFFF), Effect::None);
    assert_eq!(write(&mut trapped, 0x48, 1), Effect::Cancel);
    assert_eq!(write(&mut trapped, 0x2008, 4), Effect::Cancel);
    trapped.finish(&ResponseCode::SUCCESS.response(), &mut Dull);
    assert_eq!(trapped.state().phase, Phase::Idle);
    assert_eq!(write(&mut trapped, 0x2040, 1), Effect::None);
    assert_eq!(write(&mut trapped, 0x208C, 0), Effect::None);
    let seen = trapped.mmio_read(Access { offset: 0x2080, width: Width::Qword });
    assert_eq!(seen, 0, "neither the response nor the command of another locality");
}
