//! A granted instance: confirms, anchors, renews, and stops in time.
//!
//! **What.** [`Tenure`] drives [`Standing`] over the platform's channel and clock, and is the strict mode's [`Anchor`].
//! **Trust.** The session's keys and the platform's clock.
//! **Laws.** Everything is decided in [`Standing`]; this file only sends, waits, and tells it. The same request is sent a
//! bounded number of times, each under a fresh record and, where the broker forgot the session, in a fresh session
//! that the instance key resumes. Only an authenticated answer is definite: whatever else comes back, refusals
//! included, counts as silence. A definite end wipes the session's keys and the instance key.
//! **Not here.** What is done with the right to answer: `vtpm`.

use super::open::Pending;
use super::record::Caller;
use super::session::{Client, denied, settled};
use super::standing::{Action, Answer, Ask, Event, Standing};
use super::transcript::Digest;
use super::wire::{
    AnchorRequest, Bump, Bumped, Confirm, Lease, Operation, ReleaseRequest, Renew, Resume, StateMissing,
    Status, WireHead,
};
use super::{Anchor, Anchored, Head, ReleaseFault, frame};
use crate::attest::launch::{LaunchConfig, Serve};
use crate::seams::Platform;
use core::marker::PhantomData;
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::{U32, U64};

/// How often one call sends a request before it says that the outcome is unknown. The channel bounds each in time.
pub const SENDINGS_MAX: u32 = 3;

/// The right to answer at this moment. Borrowed from the tenure, so that it does not outlive the next exchange.
#[derive(Debug)]
#[must_use]
pub struct Permit<'t>(PhantomData<&'t ()>);

/// A granted instance at work.
#[derive(Debug)]
pub struct Tenure<'m> {
    client: Client<'m>,
    /// Nothing where the broker forgot the session, or the instance is over.
    caller: Option<Caller>,
    standing: Standing,
    /// What resetCount is counted from, as CONFIRM and ANCHOR tell the broker.
    reset_base: u64,
}

impl<'m> Tenure<'m> {
    /// Starts from a grant.
    #[must_use]
    pub fn new(client: Client<'m>, pending: Pending) -> Self {
        Self { client, caller: Some(pending.caller), standing: pending.standing, reset_base: 0 }
    }

    /// The configuration of this launch.
    #[must_use]
    pub const fn config(&self) -> &LaunchConfig {
        self.client.config().config()
    }

    /// Token, generation, epoch and head.
    #[must_use]
    pub const fn standing(&self) -> &Standing {
        &self.standing
    }

    /// What resetCount is counted from, in the state that the next CONFIRM or ANCHOR names.
    pub const fn count_resets_from(&mut self, base: u64) {
        self.reset_base = base;
    }

    /// Makes `new`, which must already be durable on disk under the next epoch, the newest state; [`Head::NONE`] where nothing
    /// is kept. Nothing may be answered before.
    ///
    /// # Errors
    /// As [`Anchor::anchor`].
    pub fn confirm(&mut self, platform: &mut Platform<'_>, new: &Head) -> Result<Anchored, ReleaseFault> {
        self.settle(platform, Ask::Confirm { new: *new })?;
        Ok(Anchored::new(*self.standing.head()))
    }

    /// Raises the alarm that the state which the grant names could not be opened, and gives the grant up.
    ///
    /// # Errors
    /// What the exchange gives: the alarm may not have been heard.
    pub fn state_missing(mut self, platform: &mut Platform<'_>, fault: u32) -> Result<(), ReleaseFault> {
        let body = StateMissing { token: U64::new(self.standing.token()), fault: U32::new(fault) };
        let caller = self.caller.as_mut().ok_or(ReleaseFault::Misuse)?;
        let asked = self.client.ask(platform.channel, caller, Operation::StateMissing, body.as_bytes())?;
        settled(asked).map(|_| ())
    }

    /// A command begins. Where the broker permits each command, what it said before is no permission for this one.
    pub const fn begin(&mut self) {
        self.standing.begin();
    }

    /// The right to answer now. Renews the lease first where half of it is over; a renewal that nobody answers
    /// matters only once the lease is used up.
    ///
    /// Asked for before a command that needs it is executed, and again right before its response leaves. Where the broker
    /// permits each command, its one answer serves both: nothing else runs in between, so that the response tells how
    /// things stood when the broker said yes.
    ///
    /// # Errors
    /// [`ReleaseFault::LeaseOver`] if the lease is used up and cannot be renewed now; [`ReleaseFault::Undecided`] while
    /// the outcome of a commit is unknown. Any other fault is for good.
    pub fn permit(&mut self, platform: &mut Platform<'_>) -> Result<Permit<'_>, ReleaseFault> {
        let now_ms = self.now_ms(platform)?;
        match self.standing.permit(now_ms) {
            Ok(()) | Err(ReleaseFault::LeaseOver) if self.standing.wants_renewal(now_ms) => {
                match self.settle(platform, Ask::Renew) {
                    Ok(()) | Err(ReleaseFault::Unreachable) => {}
                    Err(fault) => return Err(fault),
                }
            }
            judged => judged?,
        }
        let now_ms = self.now_ms(platform)?;
        self.standing.permit(now_ms).map(|()| Permit(PhantomData))
    }

    /// Whether a command that may write can be executed now: the broker answered recently, or does so to a renewal.
    ///
    /// Asked for before the command is executed, so that its refusal changes nothing.
    ///
    /// # Errors
    /// [`ReleaseFault::Unreachable`] if the broker does not answer, and as [`Tenure::permit`].
    pub fn may_write(&mut self, platform: &mut Platform<'_>) -> Result<(), ReleaseFault> {
        let now_ms = self.now_ms(platform)?;
        if self.standing.recent(now_ms) && self.standing.permit(now_ms).is_ok() {
            return Ok(());
        }
        self.renew(platform)
    }

    /// Renews the lease now: also before an area of the volume that an older head needs is overwritten.
    ///
    /// # Errors
    /// [`ReleaseFault::Unreachable`] if the broker does not answer, and as [`Tenure::permit`].
    pub fn renew(&mut self, platform: &mut Platform<'_>) -> Result<(), ReleaseFault> {
        self.settle(platform, Ask::Renew)
    }

    /// Takes a fresh token, for a TPM reset without a launch; returns it.
    ///
    /// # Errors
    /// [`ReleaseFault::Undecided`]: the same call may be made again, nothing else may run meanwhile. Any other fault is
    /// definite.
    pub fn bump(&mut self, platform: &mut Platform<'_>) -> Result<u64, ReleaseFault> {
        self.settle(platform, Ask::Bump)?;
        Ok(self.standing.token())
    }

    /// Gives the tenure up in order: from the first sending on, whatever comes of it, nothing is answered.
    ///
    /// # Errors
    /// [`ReleaseFault::Unreachable`] if the broker may not know: the next launch waits for the lease to end, or the
    /// call is made again. [`ReleaseFault::Undecided`] if a commit is: that one comes first, and nothing was sent.
    pub fn release(&mut self, platform: &mut Platform<'_>) -> Result<(), ReleaseFault> {
        self.settle(platform, Ask::Release)?;
        self.wipe();
        Ok(())
    }

    /// Sends one request that concerns no state and no lease, once; its Ok body. Between a confirmed launch's requests, never within one.
    ///
    /// # Errors
    /// What the exchange gives. A definite end is not acted upon: the next request for a lease meets the same.
    pub(super) fn aside(
        &mut self,
        platform: &mut Platform<'_>,
        operation: Operation,
        body: &[u8],
    ) -> Result<&[u8], ReleaseFault> {
        let mut caller = match self.caller.take() {
            Some(caller) => caller,
            None => match self.resume(platform) {
                Some(Resumed::Session(caller)) => caller,
                Some(Resumed::Over(_)) | None => return Err(ReleaseFault::Unreachable),
            },
        };
        let reply = self.client.ask(platform.channel, &mut caller, operation, body);
        if !matches!(reply, Err(ReleaseFault::SessionLost)) {
            self.caller = Some(caller);
        }
        settled(reply?)
    }

    /// The transcript of the session at hand.
    pub(super) fn transcript(&self) -> Option<&Digest> {
        self.caller.as_ref().map(Caller::transcript)
    }

    /// The trusted clock, where leases are served; elsewhere [`Standing`] looks at no time, and whatever clock there is
    /// stays unread.
    fn now_ms(&self, platform: &Platform<'_>) -> Result<u64, ReleaseFault> {
        match self.config().serve {
            Serve::Lease => platform.clock.map(|clock| clock.now_ms()).ok_or(ReleaseFault::NoClock),
            Serve::PerCommand | Serve::Detect | Serve::Nothing => Ok(0),
        }
    }

    /// Sends one request until it is settled, at most [`SENDINGS_MAX`] times.
    fn settle(&mut self, platform: &mut Platform<'_>, ask: Ask) -> Result<(), ReleaseFault> {
        for _ in 0..SENDINGS_MAX {
            let event = Event::Ask { ask, now_ms: self.now_ms(platform)? };
            let ticket = match self.standing.step(event) {
                Action::Send { ticket } => ticket,
                Action::Refused(fault) => return Err(fault),
                _ => return Err(ReleaseFault::Misuse),
            };
            let Some(answer) = self.exchange(platform, ask) else { continue };
            match self.standing.step(Event::Answer { ticket, answer }) {
                Action::Settled => return Ok(()),
                Action::Stop(fault) => {
                    self.wipe();
                    return Err(fault);
                }
                _ => {}
            }
        }
        match self.standing.step(Event::Silence { now_ms: self.now_ms(platform)? }) {
            Action::Unanswered(fault) => Err(fault),
            _ => Err(ReleaseFault::Misuse),
        }
    }

    /// One sending: the broker's authenticated answer, or nothing.
    fn exchange(&mut self, platform: &mut Platform<'_>, ask: Ask) -> Option<Answer> {
        let mut caller = match self.caller.take() {
            Some(caller) => caller,
            None => match self.resume(platform)? {
                Resumed::Session(caller) => caller,
                Resumed::Over(answer) => return Some(answer),
            },
        };
        let standing = (&self.standing, self.reset_base);
        let reply = request(&mut self.client, platform, &mut caller, (ask, standing));
        let (answer, keep) = match reply {
            Ok((status, body)) => (answer(ask, status, body), true),
            Err(fault) => (None, fault != ReleaseFault::SessionLost),
        };
        if keep {
            self.caller = Some(caller);
        }
        answer
    }

    /// A fresh session for the same instance; nothing if that did not come about.
    fn resume(&mut self, platform: &mut Platform<'_>) -> Option<Resumed> {
        let mut caller = self.client.hello(platform).ok()?.into_caller();
        let body = Resume { token: U64::new(self.standing.token()) };
        let channel = &mut *platform.channel;
        let reply = self.client.ask(channel, &mut caller, Operation::Resume, body.as_bytes()).ok()?;
        match reply {
            // The lease in this reply is not used: the request that comes next brings its own.
            (Status::Ok, body) => frame::exactly::<Lease>(body).ok().map(|_| Resumed::Session(caller)),
            (status, body) => definite(status, body).map(Resumed::Over),
        }
    }

    /// Forgets the session and the instance key, and what the frames carried.
    fn wipe(&mut self) {
        self.caller = None;
        self.client.wipe();
    }
}

/// How an attempt to resume ends.
enum Resumed {
    Session(Caller),
    Over(Answer),
}

impl Anchor for Tenure<'_> {
    fn anchor(
        &mut self,
        platform: &mut Platform<'_>,
        previous: &Head,
        new: &Head,
    ) -> Result<Anchored, ReleaseFault> {
        self.settle(platform, Ask::Anchor { previous: *previous, new: *new })?;
        Ok(Anchored::new(*self.standing.head()))
    }
}

/// Writes, seals and sends one request; its reply, authenticated.
fn request<'c>(
    client: &'c mut Client<'_>,
    platform: &mut Platform<'_>,
    caller: &mut Caller,
    (ask, (standing, reset_base)): (Ask, (&Standing, u64)),
) -> Result<(Status, &'c [u8]), ReleaseFault> {
    let (token, generation) = (U64::new(standing.token()), U32::new(standing.generation()));
    let channel = &mut *platform.channel;
    match ask {
        Ask::Confirm { new } => {
            let (epoch, previous) = (U64::new(standing.next_epoch()), WireHead::from(standing.head()));
            let new = WireHead::from(&new);
            let body = Confirm { token, epoch, generation, previous, new, reset_base: U64::new(reset_base) };
            client.ask(channel, caller, Operation::Confirm, body.as_bytes())
        }
        Ask::Anchor { previous, new } => {
            let (previous, new) = (WireHead::from(&previous), WireHead::from(&new));
            let (epoch, reset_base) = (U64::new(standing.epoch()), U64::new(reset_base));
            let body = AnchorRequest { token, epoch, generation, previous, new, reset_base };
            client.ask(channel, caller, Operation::Anchor, body.as_bytes())
        }
        Ask::Renew => client.ask(channel, caller, Operation::Renew, Renew { token, generation }.as_bytes()),
        Ask::Bump => client.ask(channel, caller, Operation::Bump, Bump { token, generation }.as_bytes()),
        Ask::Release => {
            let body = ReleaseRequest { token, generation, head: WireHead::from(standing.head()) };
            client.ask(channel, caller, Operation::Release, body.as_bytes())
        }
    }
}

/// What an authenticated reply to `ask` says; nothing if its body is not the one that belongs there.
fn answer(ask: Ask, status: Status, body: &[u8]) -> Option<Answer> {
    match (status, ask) {
        (Status::Ok, Ask::Confirm { .. } | Ask::Anchor { .. } | Ask::Renew) => {
            let lease: Lease = frame::exactly(body).ok()?;
            Some(Answer::Lease { lease_ms: lease.lease_ms.get() })
        }
        (Status::Ok, Ask::Bump) => {
            let bumped: Bumped = frame::exactly(body).ok()?;
            Some(Answer::Bumped { token: bumped.token.get(), lease_ms: bumped.lease_ms.get() })
        }
        (Status::Ok, Ask::Release) => body.is_empty().then_some(Answer::Released),
        (Status::Busy | Status::Denied | Status::Fenced | Status::Conflict, _) => definite(status, body),
    }
}

/// What ends an instance, whatever it asked for. BUSY says nothing to an instance that holds the grant.
fn definite(status: Status, body: &[u8]) -> Option<Answer> {
    match status {
        Status::Fenced => Some(Answer::Fenced),
        Status::Conflict => Some(Answer::Conflict),
        Status::Denied => Some(Answer::Denied(denied(body))),
        Status::Ok | Status::Busy => None,
    }
}
