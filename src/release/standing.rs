//! What a granted instance may do, as a pure state machine.
//!
//! **What.** [`Standing::step`] takes what the VM asks for and what the broker answers; [`Standing::permit`] and
//! [`Standing::recent`] say what is allowed at a moment. No input or output, no clock: times come in.
//! **Trust.** Times are of a clock that the host can neither stop nor turn back. Answers are authenticated replies to
//! the request with the ticket they name.
//! **Laws.** (1) An answer counts only for the newest sending of the one request that is outstanding. (2) While the
//! outcome of a CONFIRM, ANCHOR or BUMP is unknown, that same request is all that can be sent, and nothing is
//! answered. (3) The right to answer lasts from the moment of *sending* for nine tenths of the lease; when the reply
//! came does not matter. (4) RELEASE ends the right before it is sent, for good. (5) FENCED, CONFLICT and DENIED
//! end everything, for good. (6) Where leases are not served ([`Serve::PerCommand`], [`Serve::Detect`]) no time is
//! looked at: what the broker said counts for the command during which it was asked, and for no other.
//! **Not here.** Sending, retrying, wiping: `tenure`.

use super::{Head, ReleaseFault};
use crate::attest::launch::Serve;

/// The part of a lease that is used: the rest covers clocks that run apart.
const LEASE_USED_TENTHS: u64 = 9;
/// After a renewal that nobody answered, commands are served from what is left of the lease for so long before the next attempt.
pub const RENEW_PAUSE_MS: u64 = 2_000;
/// A command that may write is executed only if an answer to a request sent less than this ago has come: then the
/// broker is most likely there to anchor it.
pub const CONTACT_MS_MAX: u64 = 2_000;

/// What the VM asks of the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ask {
    /// Makes the next epoch's head the newest state.
    Confirm {
        /// The head under the next epoch.
        new: Head,
    },
    /// Moves the newest state.
    Anchor {
        /// The head before the commit.
        previous: Head,
        /// The head after it.
        new: Head,
    },
    /// Renews the lease.
    Renew,
    /// Wants a fresh token, for a TPM reset without a launch.
    Bump,
    /// Gives the tenure up.
    Release,
}

/// What the broker says, authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// To a CONFIRM, ANCHOR or RENEW: done.
    Lease {
        /// The lease in milliseconds from when the request was sent.
        lease_ms: u32,
    },
    /// To a BUMP: done.
    Bumped {
        /// The token from now on.
        token: u64,
        /// As in [`Answer::Lease`].
        lease_ms: u32,
    },
    /// To a RELEASE: done.
    Released,
    /// A newer instance was granted.
    Fenced,
    /// The head moved without this instance.
    Conflict,
    /// The broker will not.
    Denied(ReleaseFault),
}

/// What happens to a standing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The VM asks, for the first time or again.
    Ask {
        /// What.
        ask: Ask,
        /// The moment of sending, in milliseconds.
        now_ms: u64,
    },
    /// The broker answers the request that was sent with `ticket`.
    Answer {
        /// The ticket.
        ticket: u64,
        /// What it says.
        answer: Answer,
    },
    /// No answer came within the bound.
    Silence {
        /// Now, in milliseconds.
        now_ms: u64,
    },
}

/// What follows from an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Send the request, under this ticket.
    Send {
        /// Names this sending.
        ticket: u64,
    },
    /// The request is done.
    Settled,
    /// That was no answer to what is outstanding. Nothing changed.
    Ignored,
    /// This cannot be asked now. Nothing changed.
    Refused(ReleaseFault),
    /// Nobody answered; the fault says what that leaves.
    Unanswered(ReleaseFault),
    /// Definite: this instance is over. Wipe.
    Stop(ReleaseFault),
}

/// How far the tenure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// Nothing is confirmed, so nothing may be answered.
    Granted,
    /// The head is confirmed.
    Serving,
    /// A release was sent: nothing is answered any more.
    Leaving,
    /// The broker knows.
    Left,
    /// The broker said something definite.
    Over(ReleaseFault),
}

/// The request whose outcome is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Outstanding {
    ask: Ask,
    sent_ms: u64,
    /// Sent since the command began: the broker decides it after that, so that its answer is for this command.
    in_command: bool,
}

/// What is confirmed and anchored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Keeps {
    /// Heads of a state on the disk, each after the one before.
    State,
    /// No head at all: there is no state, and no epoch begins.
    Nothing,
}

/// A granted instance at the broker.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Standing {
    serve: Serve,
    token: u64,
    generation: u32,
    epoch: u64,
    head: Head,
    keeps: Keeps,
    phase: Phase,
    outstanding: Option<Outstanding>,
    /// The newest sending; 0 before the first.
    ticket: u64,
    /// Answers are allowed before this moment.
    permit_until_ms: u64,
    /// From this moment on the lease is renewed before answering.
    renew_from_ms: u64,
    /// When the last answered request was sent.
    contact_ms: u64,
    /// The broker has answered a request of this command.
    heard: bool,
}

impl Standing {
    /// A grant in hand, nothing confirmed. This alone is good for nothing: a tenure starts from what a signed grant
    /// yields, and only there are the keys.
    #[must_use]
    pub const fn granted(serve: Serve, token: u64, generation: u32, epoch: u64, head: Head) -> Self {
        Self {
            serve,
            token,
            generation,
            epoch,
            head,
            keeps: Keeps::State,
            phase: Phase::Granted,
            outstanding: None,
            ticket: 0,
            permit_until_ms: 0,
            renew_from_ms: 0,
            contact_ms: 0,
            heard: false,
        }
    }

    /// As [`granted`](Self::granted), for a TPM that ends with the launch: CONFIRM and ANCHOR name no head.
    #[must_use]
    pub const fn ephemeral(serve: Serve, token: u64, generation: u32) -> Self {
        let granted = Self::granted(serve, token, generation, 0, Head::NONE);
        Self { keeps: Keeps::Nothing, ..granted }
    }

    /// A command begins: what the broker was asked before it is no permission for it, whenever the answer comes.
    pub const fn begin(&mut self) {
        self.heard = false;
        if let Some(outstanding) = &mut self.outstanding {
            outstanding.in_command = false;
        }
    }

    /// The fencing token.
    #[must_use]
    pub const fn token(&self) -> u64 {
        self.token
    }

    /// The generation.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// The epoch of the head: the granted one, and one more once the first head is confirmed.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The epoch that CONFIRM is of: none where nothing is kept.
    #[must_use]
    pub const fn next_epoch(&self) -> u64 {
        match self.keeps {
            Keeps::State => self.epoch + 1,
            Keeps::Nothing => 0,
        }
    }

    /// The newest head that the broker is known to remember.
    #[must_use]
    pub const fn head(&self) -> &Head {
        &self.head
    }

    /// The request whose outcome is not known.
    #[must_use]
    pub fn undecided(&self) -> Option<Ask> {
        self.outstanding.map(|outstanding| outstanding.ask)
    }

    /// Moves on by one event.
    pub fn step(&mut self, event: Event) -> Action {
        match event {
            Event::Ask { ask, now_ms } => self.ask(ask, now_ms),
            Event::Answer { ticket, answer } => self.answer(ticket, answer),
            Event::Silence { now_ms } => self.silence(now_ms),
        }
    }

    /// Whether the TPM may answer at `now_ms`.
    ///
    /// # Errors
    /// [`ReleaseFault::LeaseOver`]: renew first. [`ReleaseFault::Undecided`]: settle the outstanding request first.
    /// [`ReleaseFault::Misuse`] before the first confirmation. Anything else is for good.
    pub fn permit(&self, now_ms: u64) -> Result<(), ReleaseFault> {
        match (self.phase, self.undecided()) {
            (Phase::Over(fault), _) => Err(fault),
            (Phase::Left | Phase::Leaving, _) => Err(ReleaseFault::Released),
            (Phase::Granted, None) => Err(ReleaseFault::Misuse),
            (Phase::Granted, Some(_)) | (Phase::Serving, Some(Ask::Anchor { .. } | Ask::Bump)) => {
                Err(ReleaseFault::Undecided)
            }
            (Phase::Serving, _) if self.holds(now_ms) => Ok(()),
            (Phase::Serving, _) => Err(ReleaseFault::LeaseOver),
        }
    }

    /// Whether who serves still has the right to, in the way of this launch.
    const fn holds(&self, now_ms: u64) -> bool {
        match self.serve {
            Serve::Lease => now_ms < self.permit_until_ms,
            Serve::PerCommand => self.heard,
            Serve::Detect => true,
            Serve::Nothing => false,
        }
    }

    /// Whether the broker is asked at `now_ms` before an answer leaves: for a lease before it has to be.
    #[must_use]
    pub const fn wants_renewal(&self, now_ms: u64) -> bool {
        match self.serve {
            Serve::Lease => now_ms >= self.renew_from_ms || now_ms >= self.permit_until_ms,
            Serve::PerCommand => !self.heard,
            Serve::Detect | Serve::Nothing => false,
        }
    }

    /// Whether the broker has answered recently enough for a command that may write.
    #[must_use]
    pub const fn recent(&self, now_ms: u64) -> bool {
        match self.serve {
            Serve::Lease => now_ms.saturating_sub(self.contact_ms) < CONTACT_MS_MAX,
            Serve::PerCommand | Serve::Detect => self.heard,
            Serve::Nothing => false,
        }
    }

    fn ask(&mut self, ask: Ask, now_ms: u64) -> Action {
        let again = self.undecided().is_some_and(|undecided| undecided == ask);
        if !again && let Err(fault) = self.may_ask(ask) {
            return Action::Refused(fault);
        }
        if ask == Ask::Release {
            self.phase = Phase::Leaving;
        }
        self.ticket += 1;
        self.outstanding = Some(Outstanding { ask, sent_ms: now_ms, in_command: true });
        Action::Send { ticket: self.ticket }
    }

    /// Whether a request that is not outstanding may be sent.
    fn may_ask(&self, ask: Ask) -> Result<(), ReleaseFault> {
        match (self.phase, ask) {
            (Phase::Over(fault), _) => Err(fault),
            (Phase::Left, _) => Err(ReleaseFault::Released),
            _ if self.outstanding.is_some() => Err(ReleaseFault::Undecided),
            (Phase::Granted, Ask::Confirm { new }) => self.follows(&self.head, &new),
            (Phase::Serving, Ask::Anchor { previous, new }) => self.follows(&previous, &new),
            (Phase::Serving, Ask::Renew | Ask::Bump | Ask::Release) | (Phase::Leaving, Ask::Release) => {
                Ok(())
            }
            (Phase::Leaving, _) => Err(ReleaseFault::Released),
            (Phase::Granted, _) | (Phase::Serving, Ask::Confirm { .. }) => Err(ReleaseFault::Misuse),
        }
    }

    /// Whether `new` comes after the head that is known, which the caller takes to be `previous`.
    fn follows(&self, previous: &Head, new: &Head) -> Result<(), ReleaseFault> {
        let follows = *previous == self.head
            && match self.keeps {
                Keeps::State => new.sequence > previous.sequence,
                Keeps::Nothing => *new == Head::NONE,
            };
        if follows { Ok(()) } else { Err(ReleaseFault::Misuse) }
    }

    fn answer(&mut self, ticket: u64, answer: Answer) -> Action {
        let Some(outstanding) = self.outstanding.filter(|_| ticket == self.ticket) else {
            return Action::Ignored;
        };
        match (outstanding.ask, answer) {
            (_, Answer::Fenced) => self.stop(ReleaseFault::Fenced),
            (_, Answer::Conflict) => self.stop(ReleaseFault::Conflict),
            (_, Answer::Denied(fault)) => self.stop(fault),
            (Ask::Confirm { new }, Answer::Lease { lease_ms }) => {
                (self.phase, self.head, self.epoch) = (Phase::Serving, new, self.next_epoch());
                self.leased(outstanding, lease_ms)
            }
            (Ask::Anchor { new, .. }, Answer::Lease { lease_ms }) => {
                self.head = new;
                self.leased(outstanding, lease_ms)
            }
            (Ask::Renew, Answer::Lease { lease_ms }) => self.leased(outstanding, lease_ms),
            (Ask::Bump, Answer::Bumped { token, lease_ms }) if token > self.token => {
                self.token = token;
                self.leased(outstanding, lease_ms)
            }
            (Ask::Release, Answer::Released) => {
                (self.phase, self.outstanding) = (Phase::Left, None);
                Action::Settled
            }
            (
                Ask::Confirm { .. } | Ask::Anchor { .. } | Ask::Renew,
                Answer::Bumped { .. } | Answer::Released,
            )
            | (Ask::Bump, Answer::Lease { .. } | Answer::Bumped { .. } | Answer::Released)
            | (Ask::Release, Answer::Lease { .. } | Answer::Bumped { .. }) => Action::Ignored,
        }
    }

    fn leased(&mut self, answered: Outstanding, lease_ms: u32) -> Action {
        let (sent_ms, lease_ms) = (answered.sent_ms, u64::from(lease_ms));
        self.permit_until_ms = sent_ms.saturating_add(lease_ms * LEASE_USED_TENTHS / 10);
        self.renew_from_ms = sent_ms.saturating_add(lease_ms / 2);
        self.contact_ms = sent_ms;
        self.heard = answered.in_command;
        self.outstanding = None;
        Action::Settled
    }

    fn stop(&mut self, fault: ReleaseFault) -> Action {
        (self.phase, self.outstanding) = (Phase::Over(fault), None);
        Action::Stop(fault)
    }

    fn silence(&mut self, now_ms: u64) -> Action {
        match self.undecided() {
            None => Action::Ignored,
            Some(Ask::Confirm { .. } | Ask::Anchor { .. } | Ask::Bump) => {
                Action::Unanswered(ReleaseFault::Undecided)
            }
            Some(Ask::Renew) => {
                self.outstanding = None;
                self.renew_from_ms = now_ms.saturating_add(RENEW_PAUSE_MS);
                Action::Unanswered(ReleaseFault::Unreachable)
            }
            Some(Ask::Release) => {
                self.outstanding = None;
                Action::Unanswered(ReleaseFault::Unreachable)
            }
        }
    }
}

#[cfg(test)]
mod tests;
