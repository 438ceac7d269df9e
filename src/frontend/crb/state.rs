//! The interface as one total function of state and event.

use crate::engine::Locality;

/// Where the interface stands (PTP, section "CRB Interface", table of state transitions).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Nothing is asked of the TPM.
    Idle,
    /// A command may be written.
    Ready,
    /// Part of a command was written.
    Reception,
    /// A command runs.
    Execution,
    /// A response may be read.
    Completion,
    /// A command runs whose locality has lost the TPM: nobody will see its response.
    Draining {
        /// The new locality has already asked for [`Phase::Ready`].
        ready_next: bool,
    },
}

/// A set of localities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct LocalitySet(u8);

impl LocalitySet {
    /// No locality.
    pub const EMPTY: Self = Self(0);

    /// This set and `locality`.
    #[must_use]
    pub const fn with(self, locality: Locality) -> Self {
        Self(self.0 | 1 << locality.number())
    }

    /// This set without `locality`.
    #[must_use]
    pub const fn without(self, locality: Locality) -> Self {
        Self(self.0 & !(1 << locality.number()))
    }

    /// Whether `locality` is in it.
    #[must_use]
    pub const fn has(self, locality: Locality) -> bool {
        self.0 & (1 << locality.number()) != 0
    }

    /// Its highest locality, which has precedence (PTP, section "Locality Arbitration").
    #[must_use]
    pub const fn highest(self) -> Option<Locality> {
        match self.0.checked_ilog2() {
            #[expect(clippy::cast_possible_truncation, reason = "the logarithm of a u8 is below 8")]
            Some(number) => Locality::from_number(number as u8),
            None => None,
        }
    }
}

/// All that the interface remembers. A plain value: only [`step`] says what follows what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Where the interface stands.
    pub phase: Phase,
    /// The locality that has the TPM.
    pub active: Option<Locality>,
    /// Localities that asked while another had it.
    pub waiting: LocalitySet,
    /// Localities from which it was seized, until they are granted it again.
    pub seized: LocalitySet,
    /// What TPM_CRB_CTRL_CANCEL holds.
    pub cancel: bool,
    /// Whether the interface selector is locked until power-off.
    pub selector_locked: bool,
    /// Whether a dynamic launch was measured.
    pub established: bool,
}

impl State {
    /// The state after power-on.
    pub const POWER_ON: Self = Self {
        phase: Phase::Idle,
        active: None,
        waiting: LocalitySet::EMPTY,
        seized: LocalitySet::EMPTY,
        cancel: false,
        selector_locked: false,
        established: false,
    };
}

/// What can happen: a guest's write, with the locality through whose page it came, or news from the TPM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// TPM_LOC_CTRL.requestAccess.
    Request(Locality),
    /// TPM_LOC_CTRL.relinquish.
    Relinquish(Locality),
    /// TPM_LOC_CTRL.seize.
    Seize(Locality),
    /// TPM_LOC_CTRL.resetEstablishmentBit.
    ResetEstablished(Locality),
    /// TPM_INTF_ID.IntfSelLock.
    LockSelector,
    /// TPM_CRB_CTRL_REQ.cmdReady.
    CommandReady(Locality),
    /// TPM_CRB_CTRL_REQ.goIdle.
    GoIdle(Locality),
    /// TPM_CRB_CTRL_CANCEL written with 1.
    Cancel(Locality),
    /// TPM_CRB_CTRL_CANCEL written with 0.
    CancelClear(Locality),
    /// TPM_CRB_CTRL_START written with 1.
    Start(Locality),
    /// A write into the data buffer.
    Data(Locality),
    /// The TPM has finished the command that ran.
    Completed,
    /// The TPM says whether a dynamic launch was measured.
    Established(bool),
}

/// What the driver must do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Effect {
    /// Nothing.
    None,
    /// Let the bytes into the buffer.
    Accept,
    /// Copy the command, execute it, then report [`Event::Completed`].
    Execute(Locality),
    /// Show TPM_RC_CANCELED: the command was cancelled before it began.
    AnswerCancelled(Locality),
    /// Tell the TPM that the running command is not wanted any more. The TPM may finish it all the same.
    Cancel,
    /// Reset the flag of the dynamic launch, then report [`Event::Established`].
    ResetEstablished(Locality),
}

/// What follows when `event` happens in `state`, and what to do about it.
pub const fn step(state: State, event: Event) -> (State, Effect) {
    match event {
        Event::Request(locality) => request(state, locality),
        Event::Relinquish(locality) => relinquish(state, locality),
        Event::Seize(locality) => seize(state, locality),
        Event::ResetEstablished(locality) => (state, reset_established(locality)),
        Event::LockSelector => (State { selector_locked: true, ..state }, Effect::None),
        Event::CommandReady(locality) if has_it(state, locality) => (command_ready(state), Effect::None),
        Event::GoIdle(locality) if has_it(state, locality) => (go_idle(state), Effect::None),
        Event::Cancel(locality) if has_it(state, locality) => cancel(state),
        Event::CancelClear(locality) if has_it(state, locality) => {
            (State { cancel: false, ..state }, Effect::None)
        }
        Event::Start(locality) if has_it(state, locality) => start(state, locality),
        Event::Data(locality) if has_it(state, locality) => data(state),
        Event::CommandReady(_)
        | Event::GoIdle(_)
        | Event::Cancel(_)
        | Event::CancelClear(_)
        | Event::Start(_)
        | Event::Data(_) => (state, Effect::None),
        Event::Completed => (completed(state), Effect::None),
        Event::Established(established) => (State { established, ..state }, Effect::None),
    }
}

const fn has_it(state: State, locality: Locality) -> bool {
    match state.active {
        Some(active) => active.number() == locality.number(),
        None => false,
    }
}

const fn in_phase(state: State, phase: Phase) -> State {
    State { phase, ..state }
}

const fn grant(state: State, locality: Locality) -> State {
    State {
        active: Some(locality),
        waiting: state.waiting.without(locality),
        seized: state.seized.without(locality),
        ..state
    }
}

const fn request(state: State, locality: Locality) -> (State, Effect) {
    match state.active {
        None => (grant(state, locality), Effect::None),
        Some(active) if active.number() == locality.number() => (state, Effect::None),
        Some(_) => (State { waiting: state.waiting.with(locality), ..state }, Effect::None),
    }
}

/// The active locality leaves and the highest waiting one follows; a waiting one withdraws.
const fn relinquish(state: State, locality: Locality) -> (State, Effect) {
    if !has_it(state, locality) {
        return (State { waiting: state.waiting.without(locality), ..state }, Effect::None);
    }
    let (left, effect) = leave(state);
    match left.waiting.highest() {
        Some(next) => (grant(left, next), effect),
        None => (left, effect),
    }
}

/// Only a higher locality may take the TPM from another.
const fn seize(state: State, locality: Locality) -> (State, Effect) {
    match state.active {
        None => (grant(state, locality), Effect::None),
        Some(active) if active.number() < locality.number() => {
            let (left, effect) = leave(state);
            let marked = State { seized: left.seized.with(active), ..left };
            (grant(marked, locality), effect)
        }
        Some(_) => (state, Effect::None),
    }
}

/// The active locality loses the TPM: what it wrote is dropped, what it runs drains.
const fn leave(state: State) -> (State, Effect) {
    let gone = State { active: None, cancel: false, ..state };
    match state.phase {
        Phase::Idle | Phase::Ready | Phase::Reception | Phase::Completion => {
            (in_phase(gone, Phase::Idle), Effect::None)
        }
        Phase::Execution => (in_phase(gone, Phase::Draining { ready_next: false }), Effect::Cancel),
        Phase::Draining { .. } => (in_phase(gone, Phase::Draining { ready_next: false }), Effect::None),
    }
}

const fn reset_established(locality: Locality) -> Effect {
    match locality {
        Locality::Zero | Locality::One | Locality::Two => Effect::None,
        Locality::Three | Locality::Four => Effect::ResetEstablished(locality),
    }
}

/// From Completion too: TPM_INTF_ID.CapCRBIdleBypass is 1.
const fn command_ready(state: State) -> State {
    match state.phase {
        Phase::Idle | Phase::Ready | Phase::Reception | Phase::Completion => in_phase(state, Phase::Ready),
        Phase::Execution => state,
        Phase::Draining { .. } => in_phase(state, Phase::Draining { ready_next: true }),
    }
}

const fn go_idle(state: State) -> State {
    match state.phase {
        Phase::Idle | Phase::Ready | Phase::Reception | Phase::Completion => in_phase(state, Phase::Idle),
        Phase::Execution => state,
        Phase::Draining { .. } => in_phase(state, Phase::Draining { ready_next: false }),
    }
}

const fn cancel(state: State) -> (State, Effect) {
    let wanted = State { cancel: true, ..state };
    match state.phase {
        Phase::Execution if !state.cancel => (wanted, Effect::Cancel),
        Phase::Idle
        | Phase::Ready
        | Phase::Reception
        | Phase::Execution
        | Phase::Completion
        | Phase::Draining { .. } => (wanted, Effect::None),
    }
}

/// Also from Ready and Completion: writes to a buffer on a page of its own are not seen.
const fn start(state: State, locality: Locality) -> (State, Effect) {
    match state.phase {
        Phase::Ready | Phase::Reception | Phase::Completion if state.cancel => {
            (in_phase(state, Phase::Completion), Effect::AnswerCancelled(locality))
        }
        Phase::Ready | Phase::Reception | Phase::Completion => {
            (in_phase(state, Phase::Execution), Effect::Execute(locality))
        }
        Phase::Idle | Phase::Execution | Phase::Draining { .. } => (state, Effect::None),
    }
}

const fn data(state: State) -> (State, Effect) {
    match state.phase {
        Phase::Ready | Phase::Reception | Phase::Completion => {
            (in_phase(state, Phase::Reception), Effect::Accept)
        }
        Phase::Idle | Phase::Execution | Phase::Draining { .. } => (state, Effect::None),
    }
}

const fn completed(state: State) -> State {
    match state.phase {
        Phase::Execution => in_phase(state, Phase::Completion),
        Phase::Draining { ready_next: true } => in_phase(state, Phase::Ready),
        Phase::Draining { ready_next: false } => in_phase(state, Phase::Idle),
        Phase::Idle | Phase::Ready | Phase::Reception | Phase::Completion => state,
    }
}

#[cfg(test)]
mod tests {
    use super::{Effect, Event, LocalitySet, Phase, State, step};
    use crate::engine::Locality;

    fn after(events: &[Event]) -> State {
        events.iter().fold(State::POWER_ON, |state, event| step(state, *event).0)
    }

    #[test]
    fn the_highest_waiting_locality_follows() {
        let state = after(&[
            Event::Request(Locality::Zero),
            Event::Request(Locality::One),
            Event::Request(Locality::Three),
            Event::Request(Locality::Two),
            Event::Relinquish(Locality::Three),
            Event::Relinquish(Locality::Zero),
        ]);
        assert_eq!(state.active, Some(Locality::Two));
        assert_eq!(state.waiting, LocalitySet::EMPTY.with(Locality::One));
    }

    #[test]
    fn a_seized_command_drains_unseen() {
        let running = after(&[
            Event::Request(Locality::Zero),
            Event::CommandReady(Locality::Zero),
            Event::Start(Locality::Zero),
        ]);
        let (seized, effect) = step(running, Event::Seize(Locality::Two));
        assert_eq!((seized.phase, effect), (Phase::Draining { ready_next: false }, Effect::Cancel));
        assert!(seized.seized.has(Locality::Zero));
        let (asked, _) = step(seized, Event::CommandReady(Locality::Two));
        assert_eq!(step(asked, Event::Completed).0.phase, Phase::Ready);
    }
}
