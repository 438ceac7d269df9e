//! One virtual processor between its starts and stops.
//!
//! Others post into its [`Mailbox`]; the processor itself takes what is there whenever it is back in the layer, and
//! [`Life::step`] says what becomes of it. The tables of states are those of the hardware: INIT waits, a start-up interrupt starts who
//! waits and is lost on who runs.

use core::sync::atomic::{AtomicU32, Ordering};

const INIT: u32 = 1 << 8;
const START_UP: u32 = 1 << 9;
const NMI: u32 = 1 << 10;
const HALT: u32 = 1 << 11;
const VECTOR: u32 = 0xFF;

/// What others want of a virtual processor.
#[derive(Debug, Default)]
pub struct Mailbox(AtomicU32);

impl Mailbox {
    /// An empty one.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// INIT: whatever was wanted before is void.
    pub fn init(&self) {
        self.update(|held| held & HALT | INIT);
    }

    /// A start at a page; the first after an INIT counts.
    pub fn start_up(&self, page: u8) {
        self.update(
            |held| {
                if held & START_UP == 0 { held & !VECTOR | START_UP | u32::from(page) } else { held }
            },
        );
    }

    /// NMI.
    pub fn nmi(&self) {
        self.0.fetch_or(NMI, Ordering::AcqRel);
    }

    /// Stop: the machine is reset.
    pub fn halt(&self) {
        self.0.fetch_or(HALT, Ordering::AcqRel);
    }

    /// Takes everything.
    pub fn take(&self) -> Wanted {
        Wanted(self.0.swap(0, Ordering::AcqRel))
    }

    /// Whether there is anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }

    /// Whether what is there ends what this processor does now: INIT, or a reset of the machine.
    #[must_use]
    pub fn ends_a_life(&self) -> bool {
        self.0.load(Ordering::Acquire) & (INIT | HALT) != 0
    }

    fn update(&self, change: impl Fn(u32) -> u32) {
        let mut held = self.0.load(Ordering::Acquire);
        while let Err(other) =
            self.0.compare_exchange_weak(held, change(held), Ordering::AcqRel, Ordering::Acquire)
        {
            held = other;
        }
    }
}

/// What was taken from a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted(u32);

/// Where a virtual processor stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It waits for a start-up interrupt.
    Waits,
    /// It runs.
    Runs,
}

/// What a virtual processor does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Goes on as it was.
    Same,
    /// Begins in real mode at this page.
    Begin(u8),
    /// Leaves its guest.
    Leave,
    /// Leaves its guest because the machine is reset.
    Halt,
    /// Takes an NMI.
    Nmi,
}

impl Life {
    /// What becomes of a processor that finds `wanted`.
    #[must_use]
    pub const fn step(self, wanted: Wanted) -> (Self, Next) {
        if has(wanted, HALT) {
            return (Self::Waits, Next::Halt);
        }
        let waits = matches!(self, Self::Waits) || has(wanted, INIT);
        if waits && has(wanted, START_UP) {
            return (Self::Runs, Next::Begin(wanted.0.to_le_bytes()[0]));
        }
        if has(wanted, INIT) {
            return (Self::Waits, Next::Leave);
        }
        match self {
            Self::Runs if has(wanted, NMI) => (self, Next::Nmi),
            Self::Runs | Self::Waits => (self, Next::Same),
        }
    }
}

const fn has(wanted: Wanted, bit: u32) -> bool {
    wanted.0 & bit != 0
}

#[cfg(test)]
mod tests {
    use super::{Life, Mailbox, Next};

    fn after(life: Life, post: fn(&Mailbox)) -> (Life, Next) {
        let mailbox = Mailbox::new();
        post(&mailbox);
        let step = life.step(mailbox.take());
        assert!(mailbox.is_empty());
        step
    }

    #[test]
    fn a_start_is_for_who_waits() {
        assert_eq!(after(Life::Waits, |m| m.start_up(8)), (Life::Runs, Next::Begin(8)));
        assert_eq!(after(Life::Runs, |m| m.start_up(8)), (Life::Runs, Next::Same));
        let both = |m: &Mailbox| {
            m.init();
            m.start_up(9);
            m.start_up(10);
        };
        assert_eq!(after(Life::Runs, both), (Life::Runs, Next::Begin(9)), "the second is lost");
    }

    #[test]
    fn init_voids_what_came_before_it() {
        let late = |m: &Mailbox| {
            m.start_up(9);
            m.nmi();
            m.init();
        };
        assert_eq!(after(Life::Runs, late), (Life::Waits, Next::Leave));
        assert_eq!(after(Life::Waits, Mailbox::nmi), (Life::Waits, Next::Same));
        assert_eq!(after(Life::Runs, Mailbox::nmi), (Life::Runs, Next::Nmi));
    }

    #[test]
    fn init_and_reset_end_a_life_and_nothing_else_does() {
        let ends = |post: fn(&Mailbox)| {
            let mailbox = Mailbox::new();
            post(&mailbox);
            mailbox.ends_a_life()
        };
        assert!(ends(Mailbox::init) && ends(Mailbox::halt));
        assert!(!ends(Mailbox::nmi) && !ends(|m| m.start_up(1)) && !ends(|_| ()));
    }

    #[test]
    fn a_reset_of_the_machine_wins() {
        let all = |m: &Mailbox| {
            m.halt();
            m.init();
            m.start_up(1);
        };
        assert_eq!(after(Life::Runs, all), (Life::Waits, Next::Halt));
    }
}
