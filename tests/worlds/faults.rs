//! What goes wrong in a world, at which step: the driver's side of every component's steps.

use crate::broker::{Broker, LEASE_MS};
use crate::pipe::{fate, step};
use crate::post::post;
use crate::setting::{Dice, Nature};
use std::sync::Arc;

/// Kinds of faults, as the report names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mishap {
    /// The component's process ends in the middle; the disk keeps some of what was not flushed, block by block.
    ComponentDies,
    /// The request or the reply does not arrive.
    MessageLost,
    /// The message takes so long that leases may end meanwhile.
    MessageLate,
    /// The request arrives twice.
    MessageTwice,
    /// An older request of anybody's arrives first.
    OldMessage,
    /// The broker's process ends, and begins again.
    BrokerDies,
    /// The relay carries nothing for a while.
    CutOff,
    /// A machine starts on an image that is not the newest.
    OldDisk,
    /// Two machines of the one VM run at once.
    TwoMachines,
}

impl Mishap {
    pub(crate) const ALL: [Self; 9] = [
        Self::ComponentDies,
        Self::MessageLost,
        Self::MessageLate,
        Self::MessageTwice,
        Self::OldMessage,
        Self::BrokerDies,
        Self::CutOff,
        Self::OldDisk,
        Self::TwoMachines,
    ];
    /// Those that can befall any step.
    const OF_STEPS: usize = 6;
}

/// How often each kind happened.
pub(crate) type Tally = [u64; Mishap::ALL.len()];

/// Everything that is not a machine.
pub(crate) struct Faults<'r> {
    pub(crate) broker: Broker<'r>,
    pub(crate) nature: Arc<Nature>,
    pub(crate) dice: Dice,
    /// One step in so many goes wrong; none in an orderly world.
    pub(crate) one_in: Option<usize>,
    pub(crate) cut_off: bool,
    pub(crate) tally: Tally,
    /// Requests that were sent, by anybody.
    requests: Vec<Vec<u8>>,
}

impl<'r> Faults<'r> {
    pub(crate) fn new(broker: Broker<'r>, nature: Arc<Nature>, dice: Dice, one_in: Option<usize>) -> Self {
        Self {
            broker,
            nature,
            dice,
            one_in,
            cut_off: false,
            tally: [0; Mishap::ALL.len()],
            requests: Vec::new(),
        }
    }

    pub(crate) fn count(&mut self, mishap: Mishap) {
        self.tally[mishap as usize] += 1;
    }

    pub(crate) fn crash_broker(&mut self) {
        self.count(Mishap::BrokerDies);
        self.broker.crash();
    }

    /// Sends an old request once more; whatever is answered, nobody hears it.
    pub(crate) fn replay(&mut self) {
        if !self.requests.is_empty() {
            self.count(Mishap::OldMessage);
            let old = self.dice.roll(self.requests.len());
            drop(post(self.broker.port(), &self.requests[old]));
        }
    }

    /// What becomes of a step, and a number to choose by.
    pub(crate) fn fate(&mut self, kind: u8, frame: &[u8]) -> (u8, u64) {
        let is_message = matches!(kind, step::REQUEST | step::REPLY);
        if kind == step::REQUEST {
            if self.cut_off {
                return (fate::LOSE, 0);
            }
            self.broker.remember();
            self.requests.push(frame.to_vec());
        }
        let strikes = self.one_in.is_some_and(|one_in| self.dice.roll(one_in) == 0);
        if !strikes {
            return (fate::PASS, 0);
        }
        let mishap = Mishap::ALL[self.dice.roll(Mishap::OF_STEPS)];
        match mishap {
            Mishap::ComponentDies => {
                self.count(mishap);
                return (fate::DIE, self.dice.next());
            }
            Mishap::BrokerDies => self.crash_broker(),
            Mishap::OldMessage => self.replay(),
            _ if !is_message => {}
            Mishap::MessageLost => {
                self.count(mishap);
                return (fate::LOSE, 0);
            }
            Mishap::MessageLate => {
                self.count(mishap);
                self.nature.pass_ms(self.dice.next() % u64::from(LEASE_MS * 2));
            }
            Mishap::MessageTwice if kind == step::REQUEST => {
                self.count(mishap);
                drop(post(self.broker.port(), frame));
            }
            _ => {}
        }
        (fate::PASS, 0)
    }
}
