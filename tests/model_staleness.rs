//! Bounded staleness, checked exhaustively on a model: what a boot may lose, and each rule's absence found.
//!
//! What is driven is what ships: [`order::first`](husk::nv::order::first), [`order::next`](husk::nv::order::next) and
//! [`within`](husk::volume::within). The model adds two machines that share a disk, a host that shows any chain it likes or the
//! longest, machines that die at any moment with what they had not flushed, anchors whose answer is lost, and a broker that moves its
//! head by compare-and-swap under a token. A launch is granted and confirmed in one step; `model_release.rs` takes that apart.
//!
//! Properties: B1 what is strict and was answered is in all that is served later; B2 a boot loses so many answered commits at most;
//! B3 an honest disk loses none; B4 no instance answers after a newer one was granted.

use husk::nv::order::{self, Change, Due, Outcome};
use husk::volume::within;
use stateright::{Checker, HasDiscoveries, Model, Property};

/// How many commits may be lost.
const SLACK: u32 = 2;
/// An object, by its place in [`State::objects`] and 1; 0: none.
type Id = usize;

/// The rule that is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    None,
    /// The classifier calls what is strict stale.
    ClassifierForgets,
    /// A strict commit behind deferred ones is answered like them: the window stays open.
    WindowStaysOpen,
    /// An instance defers as many commits as it likes.
    NoBound,
    /// A deferred commit is answered before it is flushed.
    DeferBeforeFlush,
    /// A boot takes any chain that is about as long as the head's.
    AnyChain,
    /// A deferred commit looks at no lease.
    NoLease,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Harm {
    StrictLost,
    MoreLostThanAllowed,
    LostByAnHonestDisk,
    OlderAnswered,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Object {
    builds_on: Id,
    sequence: u64,
    strict: bool,
    lost: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Machine {
    token: usize,
    anchored: Id,
    newest: Id,
    change: Change,
    due: Due,
    /// The newest is not flushed.
    cached: bool,
    /// Commits wait for their anchor behind which the one under way was written.
    window: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    objects: Vec<Object>,
    head: Id,
    token: usize,
    machines: [Option<Machine>; 2],
    answered: Vec<Id>,
    launches: usize,
    commits: usize,
    harm: Option<Harm>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Launch { machine: usize, shown: Id, honest: bool },
    Write { machine: usize, strict: bool },
    Close(usize),
    Flush(usize),
    Anchor { machine: usize, heard: bool },
    Kill(usize),
}

#[derive(Clone, Copy, Debug)]
struct Staleness {
    mutant: Mutant,
    launches: usize,
    commits: usize,
}

impl State {
    fn object(&self, id: Id) -> Object {
        self.objects[id - 1]
    }

    fn sequence(&self, id: Id) -> u64 {
        if id == 0 { 0 } else { self.object(id).sequence }
    }

    fn contains(&self, mut id: Id, wanted: Id) -> bool {
        while id > wanted {
            id = self.object(id).builds_on;
        }
        id == wanted
    }

    fn push(&mut self, builds_on: Id, strict: bool) -> Id {
        let sequence = self.sequence(builds_on) + 1;
        self.objects.push(Object { builds_on, sequence, strict, lost: false });
        self.objects.len()
    }
}

impl Staleness {
    fn is(self, mutant: Mutant) -> bool {
        self.mutant == mutant
    }

    /// What a boot takes: what builds on the head, so little behind it.
    fn takes(self, state: &State, shown: Id) -> bool {
        let whole = (1..=shown).filter(|id| state.contains(shown, *id)).all(|id| !state.object(id).lost);
        let near = within(state.sequence(state.head), state.sequence(shown), SLACK);
        let chained = state.contains(shown, state.head) || self.is(Mutant::AnyChain);
        whole && chained && (near || self.is(Mutant::NoBound))
    }

    fn launch(self, state: &mut State, (index, shown, honest): (usize, Id, bool)) {
        let lost: Vec<Id> =
            state.answered.iter().copied().filter(|answered| !state.contains(shown, *answered)).collect();
        state.harm = if lost.iter().any(|id| state.object(*id).strict) {
            Some(Harm::StrictLost)
        } else if lost.len() > usize::try_from(SLACK).unwrap_or(usize::MAX) {
            Some(Harm::MoreLostThanAllowed)
        } else if honest && !lost.is_empty() {
            Some(Harm::LostByAnHonestDisk)
        } else {
            None
        };
        state.answered.retain(|answered| !lost.contains(answered));
        state.launches += 1;
        state.token += 1;
        let newest = state.push(shown, true);
        state.head = newest;
        state.machines[index] = Some(Machine {
            token: state.token,
            anchored: newest,
            newest,
            change: Change::Nothing,
            due: Due::Permit,
            cached: false,
            window: false,
        });
    }

    fn first(self, change: Change) -> Due {
        if self.is(Mutant::NoLease) && change == Change::Deferred { Due::Write } else { order::first(change) }
    }

    fn next(self, machine: &Machine, due: Due) -> Due {
        match (self.mutant, due, machine.change) {
            (Mutant::WindowStaysOpen, Due::Flush, Change::Record) if machine.window => Due::Defer,
            (Mutant::DeferBeforeFlush, Due::Write, Change::Deferred) => Due::Defer,
            (_, _, change) => order::next(change, due, Outcome::Done),
        }
    }

    /// Does what is due without anybody else, and answers where that is due.
    fn go_on(self, state: &mut State, mut machine: Machine) -> Machine {
        if machine.due == Due::Defer {
            machine.due = self.next(&machine, Due::Defer);
        }
        if machine.due == Due::Permit && machine.change != Change::Nothing {
            let leased = machine.token == state.token || self.is(Mutant::NoLease);
            if leased && machine.change != Change::Window {
                state.answered.push(machine.newest);
                if machine.token != state.token {
                    state.harm = Some(Harm::OlderAnswered);
                }
            }
            machine.change = Change::Nothing;
        }
        machine
    }

    fn write(self, state: &mut State, index: usize, strict: bool) {
        let Some(mut machine) = state.machines[index] else { return };
        let behind = (state.sequence(machine.anchored), state.sequence(machine.newest) + 1);
        let stale = !strict || self.is(Mutant::ClassifierForgets);
        let room = within(behind.0, behind.1, SLACK) || self.is(Mutant::NoBound);
        machine.window = machine.anchored != machine.newest;
        machine.change = if stale && room { Change::Deferred } else { Change::Record };
        machine.due = self.first(machine.change);
        if machine.due == Due::Hold {
            if machine.token != state.token {
                return;
            }
            machine.due = self.next(&machine, Due::Hold);
        }
        machine.newest = state.push(machine.newest, strict);
        machine.due = self.next(&machine, Due::Write);
        machine.cached = true;
        state.commits += 1;
        state.machines[index] = Some(self.go_on(state, machine));
    }

    fn flush(self, state: &mut State, index: usize) {
        let Some(mut machine) = state.machines[index] else { return };
        machine.due = self.next(&machine, Due::Flush);
        machine.cached = false;
        state.machines[index] = Some(self.go_on(state, machine));
    }

    fn anchor(self, state: &mut State, index: usize, heard: bool) {
        let Some(mut machine) = state.machines[index] else { return };
        let moves = state.head == machine.anchored || state.head == machine.newest;
        if machine.token != state.token || !moves {
            state.machines[index] = None;
            return;
        }
        state.head = machine.newest;
        if heard {
            machine.anchored = machine.newest;
            machine.due = self.next(&machine, Due::Anchor);
            machine = self.go_on(state, machine);
        }
        state.machines[index] = Some(machine);
    }

    fn kill(state: &mut State, index: usize) {
        let Some(machine) = state.machines[index].take() else { return };
        if machine.cached {
            state.objects[machine.newest - 1].lost = true;
        }
    }

    fn actions_of(self, state: &State, index: usize, actions: &mut Vec<Action>) {
        let Some(machine) = state.machines[index] else {
            if state.launches < self.launches {
                let shown = (0..=state.objects.len()).filter(|id| *id > 0 || state.head == 0);
                let shown: Vec<Id> = shown.filter(|id| self.takes(state, *id)).collect();
                let longest = shown.iter().copied().max_by_key(|id| state.sequence(*id));
                actions.extend(shown.iter().map(|id| Action::Launch {
                    machine: index,
                    shown: *id,
                    honest: Some(*id) == longest,
                }));
            }
            return;
        };
        actions.push(Action::Kill(index));
        match machine.due {
            Due::Permit => {
                if state.commits < self.commits {
                    actions.extend([true, false].map(|strict| Action::Write { machine: index, strict }));
                }
                if machine.anchored != machine.newest {
                    actions.push(Action::Close(index));
                }
            }
            Due::Flush => actions.push(Action::Flush(index)),
            Due::Anchor => {
                actions.extend([true, false].map(|heard| Action::Anchor { machine: index, heard }));
            }
            Due::Renew | Due::Hold | Due::Write | Due::Defer | Due::Keep | Due::Answer | Due::Over => {}
        }
    }
}

impl Model for Staleness {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            objects: Vec::new(),
            head: 0,
            token: 0,
            machines: [None; 2],
            answered: Vec::new(),
            launches: 0,
            commits: 0,
            harm: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.harm.is_none() {
            (0..state.machines.len()).for_each(|index| self.actions_of(state, index, actions));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Launch { machine, shown, honest } => self.launch(&mut state, (machine, shown, honest)),
            Action::Write { machine, strict } => self.write(&mut state, machine, strict),
            Action::Close(index) => {
                let machine = state.machines[index].as_mut()?;
                (machine.change, machine.due) = (Change::Window, order::first(Change::Window));
            }
            Action::Flush(index) => self.flush(&mut state, index),
            Action::Anchor { machine, heard } => self.anchor(&mut state, machine, heard),
            Action::Kill(index) => Self::kill(&mut state, index),
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("nothing that must not happen does", |_, state: &State| state.harm.is_none()),
            Property::sometimes("a boot loses what was answered", |_, state: &State| {
                state.launches > 1 && state.answered.is_empty() && state.commits > 1
            }),
            Property::sometimes("a boot takes what was deferred", |_, state: &State| {
                let object = |id: &Id| state.object(*id);
                state.launches > 1
                    && state.answered.iter().any(|id| !object(id).strict && state.contains(state.head, *id))
            }),
        ]
    }
}

/// Checks everything that can be reached: how many states there were, or what happened that must not.
fn check(mutant: Mutant, launches: usize, commits: usize) -> Result<usize, Harm> {
    let model = Staleness { mutant, launches, commits };
    let checker = model.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let found = checker.discoveries();
    match found.get("nothing that must not happen does").and_then(|path| path.last_state().harm) {
        Some(harm) => Err(harm),
        None => {
            assert!(found.contains_key("a boot loses what was answered"), "nothing is ever lost");
            assert!(found.contains_key("a boot takes what was deferred"), "nothing deferred is ever kept");
            Ok(checker.unique_state_count())
        }
    }
}

#[test]
fn model_a_boot_loses_only_what_may_be_stale_and_only_so_much() {
    let states = check(Mutant::None, 3, 4);
    println!("states: {states:?}");
    assert!(states.is_ok_and(|states| states > 1000), "{states:?}");
}

#[test]
fn model_finds_every_mutant_of_bounded_staleness() {
    for (mutant, harm) in [
        (Mutant::ClassifierForgets, Harm::StrictLost),
        (Mutant::WindowStaysOpen, Harm::StrictLost),
        (Mutant::AnyChain, Harm::StrictLost),
        (Mutant::NoBound, Harm::MoreLostThanAllowed),
        (Mutant::DeferBeforeFlush, Harm::LostByAnHonestDisk),
        (Mutant::NoLease, Harm::OlderAnswered),
    ] {
        assert_eq!(check(mutant, 3, 4), Err(harm), "{mutant:?}");
    }
}
