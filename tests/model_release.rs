//! The release protocol, checked exhaustively within bounds: the shipped state machines of both ends, an adversary in
//! between, and each rule's absence found.
//!
//! What is driven is what ships: [`Standing`](husk::release::standing::Standing) and [`order`](husk::nv::order) of the instance and
//! [`step`](husk_broker::rules::step) of the broker. The model adds what surrounds them: a relay that keeps every request and
//! every answer for ever and delivers any of them at any time, in any order, twice or never; a host that kills and
//! launches instances at any moment and keeps every object that was ever written; time that passes in whole leases; a broker that
//! restarts; an operator. Cryptography is left out: an object's identity stands for its digest, a secret's name for the secret,
//! and a request for whoever sent it.
//!
//! Properties (`src/release/protocol.md`, section 8): P1 no acknowledged commit is lost; P2 no older instance answers after a newer one has; P3 an honest disk always boots;
//! P4 no instance has the key of what a newer one sealed; and two that make the others worth having: no two instances
//! serve under one token, and the holder of the newest grant is never told that it is over.

#[path = "model_release/disk.rs"]
mod disk;
#[path = "model_release/relay.rs"]
mod relay;
#[path = "model_release/rules.rs"]
mod rules;
#[path = "model_release/world.rs"]
mod world;

use husk::attest::launch::Serve;
use husk::nv::order::{Change, Due, Outcome};
use husk::release::standing::{Ask, Event};
use husk_broker::rules::{Backed, Order};
use relay::{Sent, Told, What};
use rules::{Broker, Operate, Rule, SHIPPED, Step};
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::time::Instant;
use world::{Harm, Id, Instance, Rules, State, TICK_MS};

/// What is ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Given {
    /// Restarts of the broker, halts and resumptions.
    Plain,
    /// To restore the first head from its backup, and to halt.
    Restores,
}

/// How far the model goes.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    serve: Serve,
    machines: usize,
    launches: u8,
    commits: u8,
    ticks: u64,
    /// Requests beyond the first of each launch, repetitions included.
    sendings: u8,
    tokens: u64,
    /// How many orders are given, and which.
    orders: u8,
    given: Given,
    bumps: bool,
    releases: bool,
    resumes: bool,
    /// How far each machine's clock goes while the broker's goes ten.
    pace: [u64; 3],
}

const PERCMD: Bounds = Bounds { serve: Serve::PerCommand, ..LEASE };

const LEASE: Bounds = Bounds {
    serve: Serve::Lease,
    machines: 2,
    launches: 2,
    commits: 1,
    ticks: 1,
    sendings: 4,
    tokens: 3,
    orders: 0,
    given: Given::Plain,
    bumps: false,
    releases: false,
    resumes: false,
    pace: [10; 3],
};

/// Enough for what one rule keeps from happening.
const SMALL: Bounds = Bounds { sendings: 3, ..LEASE };

const RELEASING: Bounds = Bounds { releases: true, ticks: 0, commits: 0, ..SMALL };
const RESETTING: Bounds = Bounds { bumps: true, launches: 1, ..SMALL };
/// One machine's clock is as slow as the margin allows, the other's as fast.
const APART: Bounds = Bounds { pace: [9, 11, 10], ..SMALL };
/// An operator has the first state restored while instances come and go.
const RESTORING: Bounds = Bounds { given: Given::Restores, orders: 1, tokens: 4, ..SMALL };
const PERMITTING: Bounds = Bounds { serve: Serve::PerCommand, sendings: 2, ..SMALL };

#[derive(Clone, Copy, Debug)]
struct Protocol {
    rules: Rules,
    bounds: Bounds,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Launch(usize),
    Kill(usize),
    Deliver(Sent),
    /// An answer comes; the first one opens the state that the host shows, which is the head's or is refused.
    Hear(usize, Told, Option<Id>),
    Begin(usize),
    Write(usize),
    Again(usize),
    Renew(usize),
    Bump(usize),
    Release(usize),
    Resume(usize),
    Silence(usize),
    Answer(usize),
    Tick,
    Restart,
    Order(Order),
}

impl Protocol {
    fn machine(&self, state: &State, at: usize, actions: &mut Vec<Action>) {
        let Some(instance) = &state.running[at] else {
            let first = state.running.iter().position(Option::is_none) == Some(at);
            if first && state.launches < self.bounds.launches {
                actions.push(Action::Launch(at));
            }
            return;
        };
        // Who is left alone and who is dead do the same: a death matters to what follows in its place, or to a cache.
        if state.launches < self.bounds.launches || self.rules.off == Rule::FlushBeforeAnchor {
            actions.push(Action::Kill(at));
        }
        for told in state.told.iter().filter(|told| told.instance == instance.name) {
            actions.push(Action::Hear(at, *told, None));
            actions.extend(self.shown_by_key(state, instance).map(|id| Action::Hear(at, *told, Some(id))));
        }
        let Some(standing) = &instance.standing else { return };
        if self.bounds.serve == Serve::PerCommand && instance.command.is_none() {
            actions.push(Action::Begin(at));
        }
        if self.rules.permits(state, at) && self.has_begun(instance) {
            actions.push(Action::Answer(at));
        }
        if standing.undecided().is_some() {
            actions.push(Action::Silence(at));
        }
        if state.sendings < self.bounds.sendings {
            self.asks(state, (at, instance), actions);
        }
    }

    fn has_begun(&self, instance: &Instance) -> bool {
        self.bounds.serve != Serve::PerCommand || instance.command.is_some()
    }

    fn asks(&self, state: &State, (at, instance): (usize, &Instance), actions: &mut Vec<Action>) {
        let Some(standing) = &instance.standing else { return };
        let confirmed = instance.secret.is_some_and(|secret| secret.epoch == standing.epoch());
        let undecided = standing.undecided().is_some();
        if undecided {
            actions.push(Action::Again(at));
            if self.bounds.resumes {
                actions.push(Action::Resume(at));
            }
            return;
        }
        if !confirmed {
            actions.push(Action::Write(at));
            return;
        }
        actions.push(Action::Renew(at));
        // The disk is touched with the right to answer only.
        if self.rules.permits(state, at) && self.has_begun(instance) && state.commits < self.bounds.commits {
            actions.push(Action::Write(at));
        }
        if self.bounds.bumps {
            actions.push(Action::Bump(at));
        }
        if self.bounds.releases {
            actions.push(Action::Release(at));
        }
    }

    /// What a hostile host may show where the key alone decides.
    fn shown_by_key(&self, state: &State, instance: &Instance) -> impl Iterator<Item = Id> {
        let by_key = self.rules.off == Rule::OpenByDigest && instance.standing.is_none();
        let key = state.row.current;
        let objects: Vec<Id> = (1..)
            .zip(&state.objects)
            .filter(|(_, object)| by_key && Some(object.secret) == key)
            .map(|(id, _)| id)
            .collect();
        objects.into_iter()
    }

    fn again(&self, state: &mut State, at: usize) -> bool {
        let undecided =
            state.running[at].as_ref().and_then(|instance| instance.standing.as_ref()?.undecided());
        undecided.is_some_and(|ask| self.rules.ask(state, at, ask))
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::start(self.bounds.machines)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.harm.is_some() {
            return;
        }
        for at in 0..state.running.len() {
            self.machine(state, at, actions);
        }
        let grantable = state.row.token < self.bounds.tokens;
        let deliverable = state
            .sent
            .iter()
            .filter(|sent| grantable || !matches!(sent.what, What::Grant | What::Bump { .. }));
        actions.extend(deliverable.cloned().map(Action::Deliver));
        if state.now_ms < self.bounds.ticks * u64::from(TICK_MS) {
            actions.push(Action::Tick);
        }
        if state.orders >= self.bounds.orders {
            return;
        }
        if self.bounds.given == Given::Restores {
            // Made by the first instance, in the first generation.
            let restore = Order::Restore(Backed { generation: 0, token: 1 });
            actions.extend((state.backup != 0).then_some(Action::Order(restore)));
            actions.push(Action::Order(Order::Halt));
        } else {
            actions.push(Action::Restart);
            actions.extend([Order::Halt, Order::Resume].map(Action::Order));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let (rules, serve) = (self.rules, self.bounds.serve);
        match action {
            Action::Launch(at) => rules.launch(&mut state, at),
            Action::Kill(at) => rules.kill(&mut state, at),
            Action::Deliver(sent) => rules.deliver(&mut state, &sent),
            Action::Hear(at, told, opens) => rules.hear(&mut state, at, &told, (serve, opens)),
            Action::Begin(at) => rules.begin(&mut state, at),
            Action::Write(at) => drop(rules.write(&mut state, at)),
            Action::Again(at) => drop(self.again(&mut state, at)),
            Action::Renew(at) => drop(rules.ask(&mut state, at, Ask::Renew)),
            Action::Bump(at) => drop(rules.ask(&mut state, at, Ask::Bump)),
            Action::Release(at) => drop(rules.ask(&mut state, at, Ask::Release)),
            Action::Resume(at) => rules.resume(&mut state, at),
            Action::Silence(at) => {
                let now_ms = rules.clock_ms(&state, at);
                let instance = state.running[at].as_mut()?;
                instance.standing.as_mut()?.step(Event::Silence { now_ms });
                if instance.due == Due::Anchor {
                    instance.due = rules.off.next(Change::Record, Due::Anchor, Outcome::Unknown);
                }
            }
            Action::Answer(at) => rules.answer(&mut state, at, serve),
            Action::Tick => state.now_ms += u64::from(TICK_MS),
            Action::Restart => rules.restart(&mut state),
            Action::Order(order) => rules.order(&mut state, order),
        }
        state.harm = state.harm.filter(|harm| rules.wanted.is_none_or(|wanted| wanted == *harm));
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("nothing that must not happen does", |_, state: &State| state.harm.is_none()),
            Property::sometimes(
                "a second instance answers what the first committed",
                |model: &Self, state: &State| {
                    let both = state
                        .answered
                        .iter()
                        .map(|(_, name)| name)
                        .collect::<std::collections::BTreeSet<_>>()
                        .len()
                        > 1;
                    both && state.commits == model.bounds.commits && state.outside.state > 2
                },
            ),
            Property::sometimes("an instance answers from what was restored", |_, state: &State| {
                state.row.generation == 1 && state.outside.token == state.row.token
            }),
        ]
    }
}

/// Checks everything within the bounds: how many states there were, or what happened that must not.
fn check(off: Rule, broker: Broker, bounds: Bounds, wanted: Option<Harm>) -> Result<usize, Harm> {
    let started = Instant::now();
    let model = Protocol { rules: Rules { off, broker, wanted, pace: bounds.pace }, bounds };
    let checker = model.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let found = checker.discoveries();
    eprintln!("{off:?} {bounds:?}: {} states, {:?}", checker.unique_state_count(), started.elapsed());
    match found.get("nothing that must not happen does") {
        Some(path) => {
            if std::env::var_os("HUSK_SHOW").is_some() {
                eprintln!("{path}");
            }
            Err(path.last_state().harm.unwrap_or(Harm::HolderEnded))
        }
        None => {
            let is_restored = found.contains_key("an instance answers from what was restored");
            assert_eq!(
                is_restored,
                bounds.given == Given::Restores,
                "restores are ordered where they may be, and carried out"
            );
            Ok(checker.unique_state_count())
        }
    }
}

/// Shipped rules within `bounds`: nothing happens that must not.
fn holds(bounds: Bounds) {
    let harm = check(Rule::None, SHIPPED, bounds, None).err();
    assert_eq!(harm, None, "within {bounds:?}");
}

/// Within bounds of an ordinary run, or of a long one.
fn holds_as_far_as_asked(ordinary: Bounds, long: Bounds) {
    holds(if std::env::var_os("HUSK_LONG").is_some() { long } else { ordinary });
}

#[test]
fn model_two_instances_on_leases() {
    holds_as_far_as_asked(LEASE, Bounds { ticks: 2, sendings: 5, ..LEASE });
}

#[test]
fn model_two_instances_whose_clocks_run_apart_on_leases() {
    holds(APART);
}

#[test]
fn model_three_instances_in_two_machines_on_leases() {
    let three = Bounds { launches: 3, tokens: 4, ..LEASE };
    holds_as_far_as_asked(Bounds { sendings: 3, ..three }, three);
}

#[test]
fn model_three_instances_at_once_on_leases() {
    let three = Bounds { machines: 3, launches: 3, tokens: 4, ..LEASE };
    holds_as_far_as_asked(Bounds { sendings: 3, ..three }, three);
}

#[test]
fn model_resets_releases_and_resumed_sessions_on_leases() {
    let all = Bounds { bumps: true, releases: true, resumes: true, tokens: 4, ..LEASE };
    holds_as_far_as_asked(Bounds { sendings: 3, ..all }, all);
}

#[test]
fn model_restarts_of_the_broker_and_orders_of_the_operator() {
    let orders = Bounds { orders: 2, tokens: 4, ..LEASE };
    holds_as_far_as_asked(Bounds { sendings: 3, orders: 1, ..orders }, orders);
}

#[test]
fn model_a_restore_among_instances_on_leases() {
    holds_as_far_as_asked(RESTORING, Bounds { orders: 2, tokens: 5, launches: 3, ..RESTORING });
}

#[test]
fn model_two_instances_that_the_broker_permits_each_command() {
    holds_as_far_as_asked(Bounds { sendings: 4, ..PERCMD }, Bounds { sendings: 5, ..PERCMD });
}

#[test]
fn model_two_instances_that_are_only_detected() {
    let detect = Bounds { serve: Serve::Detect, ..LEASE };
    holds_as_far_as_asked(Bounds { sendings: 3, ..detect }, detect);
}

/// A rule of an instance, within which bounds it is missed, and what happens then.
const INSTANCE: [(Rule, Bounds, Harm); 11] = [
    (Rule::AnswersAreBound, SMALL, Harm::LostAcknowledged),
    (Rule::AnswerAfterAnchored, SMALL, Harm::LostAcknowledged),
    (Rule::LeaseEnds, SMALL, Harm::OlderAnswered),
    (Rule::WindowFromSending, SMALL, Harm::OlderAnswered),
    (Rule::Margin, APART, Harm::OlderAnswered),
    (Rule::ReleaseEndsServing, RELEASING, Harm::OlderAnswered),
    (Rule::NothingBeforeConfirmed, SMALL, Harm::OlderAnswered),
    (Rule::FlushBeforeAnchor, SMALL, Harm::HonestDiskDoesNotBoot),
    (Rule::OpenByDigest, SMALL, Harm::LostAcknowledged),
    (Rule::PermissionIsSpent, PERMITTING, Harm::OlderAnswered),
    (Rule::PermissionIsAsked, PERMITTING, Harm::OlderAnswered),
];

#[test]
fn model_finds_every_mutant_of_an_instance() {
    let mut missed = Vec::new();
    for (off, bounds, harm) in INSTANCE {
        if check(off, SHIPPED, bounds, Some(harm)) != Err(harm) {
            missed.push((off, harm));
        }
    }
    assert!(missed.is_empty(), "nothing noticed {missed:#?}");
}

/// A rule of the broker, likewise.
const BROKER: [(&str, Step, Bounds, Harm); 11] = [
    ("no lease wait", rules::no_lease_wait, SMALL, Harm::OlderAnswered),
    ("release outlives CONFIRM", rules::release_outlives_confirm, SMALL, Harm::OlderAnswered),
    ("tokens unchecked", rules::tokens_unchecked, SMALL, Harm::OlderAnswered),
    ("next secret reissued", rules::next_secret_reissued, SMALL, Harm::KeyOfANewerInstance),
    ("old secret erased at GRANT", rules::old_secret_erased_at_grant, SMALL, Harm::HonestDiskDoesNotBoot),
    ("rotated at GRANT", rules::rotated_at_grant, SMALL, Harm::HonestDiskDoesNotBoot),
    ("anchors unchecked", rules::anchors_unchecked, SMALL, Harm::HonestDiskDoesNotBoot),
    ("a grant without a token", rules::grant_without_a_token, SMALL, Harm::TokenTwice),
    ("a lease that is not kept", rules::lease_not_kept, SMALL, Harm::OlderAnswered),
    ("BUMP is no repetition", rules::bump_is_no_repetition, RESETTING, Harm::HolderEnded),
    ("a repetition is a conflict", rules::repetition_is_conflict, SMALL, Harm::HolderEnded),
];

#[test]
fn model_finds_every_mutant_of_the_broker() {
    let mut missed = Vec::new();
    for (name, step, bounds, harm) in BROKER {
        eprintln!("{name}");
        if check(Rule::None, Broker { step, ..SHIPPED }, bounds, Some(harm)) != Err(harm) {
            missed.push((name, harm));
        }
    }
    assert!(missed.is_empty(), "nothing noticed {missed:#?}");
}

/// A rule of restores: of the order, or of its CONFIRM.
const RESTORE: [(&str, Step, Operate, Harm); 3] = [
    ("RESTORE does not wait", SHIPPED.step, rules::restore_does_not_wait, Harm::OlderAnswered),
    ("RESTORE erases at once", SHIPPED.step, rules::restore_erases_at_once, Harm::HonestDiskDoesNotBoot),
    (
        "the generation stays",
        rules::restore_keeps_the_generation,
        SHIPPED.operate,
        Harm::HonestDiskDoesNotBoot,
    ),
];

#[test]
fn model_finds_every_mutant_of_a_restore_among_instances() {
    for (name, step, operate, harm) in RESTORE {
        let found = check(Rule::None, Broker { step, operate }, RESTORING, Some(harm));
        assert_eq!(found, Err(harm), "{name}");
    }
}
