//! Restores, checked exhaustively on a model: what opens, who answers, and each rule's absence found.
//!
//! What is driven is what ships: the broker's [`step`](husk_broker::rules::step) and [`operate`](husk_broker::rules::operate). The model adds two
//! machines, a host that kills them at any moment, keeps every object that was ever written and delivers any CONFIRM that was ever sent at any time,
//! twice or never, and an operator who has the same backup restored again and again, or halts the VM in between. An object's identity stands for its
//! digest, a secret's name for the secret.
//!
//! Properties: X1 a generation is one life, which begins with a making or a restore and is never begun twice; X2 what is granted to be opened is on an
//! honest disk, and of the generation that is granted; X3 no older instance answers once a newer one has; X4 an order stays open until the CONFIRM that
//! carries it out or the HALT that takes it back; X5 the holder of the newest grant is not told that it is over.

use husk::release::Head;
use husk_broker::rules::{
    Backed, Grant, InstanceId, Life, Moment, Move, Order, Reply, Request, Row, SecretName, operate, step,
};
use stateright::{Checker, HasDiscoveries, Model, Property};

type Step = fn(&Row, Moment, InstanceId, &Request) -> (Option<Row>, Reply);
type Operate = fn(&Row, Order) -> Result<Row, Life>;

const LEASE_MS: u32 = 10;
/// Of the first instance, in the first generation.
const RESTORE: Order = Order::Restore(Backed { generation: 0, token: 1 });

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Harm {
    TwoLives,
    NothingOpens,
    OlderAnswered,
    OrderForgotten,
    HolderEnded,
}

/// What lies on a disk; an honest one has all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Object {
    generation: u32,
    secret: SecretName,
    head: Head,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Instance {
    name: InstanceId,
    grant: Grant,
    /// What it wrote, and asks to have confirmed.
    asked: Option<Move>,
    /// Until when it may answer, once CONFIRM was answered.
    until_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Sent {
    name: InstanceId,
    restores: bool,
    to: Move,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    row: Row,
    now_ms: u64,
    objects: Vec<Object>,
    machines: [Option<Instance>; 2],
    sent: Vec<Sent>,
    launches: u8,
    orders: u8,
    /// RESTORE was ordered and is neither carried out nor taken back.
    ordered: bool,
    /// Generations that have begun.
    begun: Vec<u32>,
    answered: u64,
    harm: Option<Harm>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Launch(usize),
    Write(usize),
    Deliver { sent: usize, heard: bool },
    Answer(usize),
    Kill(usize),
    Order(Order),
    Tick,
}

#[derive(Clone, Copy, Debug)]
struct Restores {
    step: Step,
    operate: Operate,
    launches: u8,
    orders: u8,
}

impl State {
    fn at(&self) -> Moment {
        Moment { now_ms: self.now_ms, lease_ms: LEASE_MS }
    }
}

impl Restores {
    fn launch(self, state: &mut State, index: usize) {
        state.launches += 1;
        let name = InstanceId([state.launches; 48]);
        let request = Request::Grant { report_id: [state.launches; 32], guest_svn: 0 };
        let (change, reply) = (self.step)(&state.row, state.at(), name, &request);
        state.row = change.unwrap_or_else(|| state.row.clone());
        let Reply::Granted(grant) = reply else { return };
        let opens = |object: &Object| {
            (object.generation, Some(object.secret), object.head)
                == (grant.generation, grant.current, grant.head)
        };
        let makes = grant.current.is_none() && grant.head == Head::NONE;
        if !grant.restores && !makes && !state.objects.iter().any(opens) {
            state.harm = Some(Harm::NothingOpens);
        }
        state.machines[index] = Some(Instance { name, grant, asked: None, until_ms: None });
    }

    fn write(state: &mut State, index: usize) {
        let Some(instance) = &mut state.machines[index] else { return };
        let Grant { token, generation, next, head, .. } = instance.grant;
        let digest = [u8::try_from(state.objects.len() + 1).unwrap_or(u8::MAX); 48];
        let new = Head { sequence: head.sequence + 1, digest };
        state.objects.push(Object { generation, secret: next, head: new });
        let to = Move { token, generation, epoch: next.epoch, previous: head, new, reset_base: 0 };
        instance.asked = Some(to);
        state.sent.push(Sent { name: instance.name, restores: instance.grant.restores, to });
    }

    fn deliver(self, state: &mut State, sent: usize, heard: bool) {
        let Sent { name, restores, to } = state.sent[sent];
        let (change, reply) = (self.step)(&state.row, state.at(), name, &Request::Confirm(to));
        let is_over = matches!(reply, Reply::Fenced | Reply::Conflict | Reply::Denied(_));
        let holds = state.row.holder.is_some_and(|holder| holder.instance == name);
        if is_over && holds && state.row.token == to.token {
            state.harm = Some(Harm::HolderEnded);
        }
        let begins = change.as_ref().is_some_and(|new| new.epoch != state.row.epoch);
        state.row = change.unwrap_or_else(|| state.row.clone());
        if begins && (restores || to.previous == Head::NONE) {
            if state.begun.contains(&state.row.generation) {
                state.harm = Some(Harm::TwoLives);
            }
            state.begun.push(state.row.generation);
            state.ordered &= !restores;
        }
        let window = state.now_ms + u64::from(LEASE_MS);
        let asker = state.machines.iter_mut().flatten().find(|instance| instance.name == name);
        if let (Some(instance), Reply::Leased { .. }, true) = (asker, reply, heard) {
            instance.until_ms.get_or_insert(window);
        }
    }

    fn answer(state: &mut State, index: usize) {
        let Some(instance) = state.machines[index] else { return };
        if instance.grant.token < state.answered {
            state.harm = Some(Harm::OlderAnswered);
        }
        state.answered = state.answered.max(instance.grant.token);
    }

    fn order(self, state: &mut State, order: Order) {
        let Ok(row) = (self.operate)(&state.row, order) else { return };
        state.row = row;
        state.orders += 1;
        state.ordered = match order {
            Order::Restore(_) | Order::Clone(_) => true,
            Order::Halt | Order::Retire => false,
            Order::Resume | Order::Force | Order::Backup => state.ordered,
        };
    }

    fn actions_of(self, state: &State, index: usize, actions: &mut Vec<Action>) {
        let Some(instance) = &state.machines[index] else {
            if state.launches < self.launches {
                actions.push(Action::Launch(index));
            }
            return;
        };
        if state.launches < self.launches {
            actions.push(Action::Kill(index));
        }
        match (instance.asked, instance.until_ms) {
            (None, _) => actions.push(Action::Write(index)),
            (Some(_), Some(until_ms)) if state.now_ms < until_ms => actions.push(Action::Answer(index)),
            (Some(_), _) => {}
        }
    }
}

impl Model for Restores {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            row: Row::enrolled(),
            now_ms: 0,
            objects: Vec::new(),
            machines: [None; 2],
            sent: Vec::new(),
            launches: 0,
            orders: 0,
            ordered: false,
            begun: Vec::new(),
            answered: 0,
            harm: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.harm.is_some() {
            return;
        }
        (0..state.machines.len()).for_each(|index| self.actions_of(state, index, actions));
        for sent in 0..state.sent.len() {
            actions.extend([true, false].map(|heard| Action::Deliver { sent, heard }));
        }
        if state.orders < self.orders && !state.objects.is_empty() {
            actions.extend([RESTORE, Order::Halt, Order::Resume].map(Action::Order));
        }
        if state.now_ms < 2 * u64::from(LEASE_MS) {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Launch(index) => self.launch(&mut state, index),
            Action::Write(index) => Self::write(&mut state, index),
            Action::Deliver { sent, heard } => self.deliver(&mut state, sent, heard),
            Action::Answer(index) => Self::answer(&mut state, index),
            Action::Kill(index) => state.machines[index] = None,
            Action::Order(order) => self.order(&mut state, order),
            Action::Tick => state.now_ms += u64::from(LEASE_MS),
        }
        if state.ordered != state.row.restoring.is_some() {
            state.harm = state.harm.or(Some(Harm::OrderForgotten));
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("nothing that must not happen does", |_, state: &State| state.harm.is_none()),
            Property::sometimes("a backup is restored", |_, state: &State| state.begun.contains(&1)),
            Property::sometimes("what was restored is opened again", |_, state: &State| {
                state.row.generation == 1 && state.row.epoch > 2
            }),
        ]
    }
}

/// Checks everything that can be reached: how many states there were, or what happened that must not.
fn check(step: Step, operate: Operate, (launches, orders): (u8, u8)) -> Result<usize, Harm> {
    let model = Restores { step, operate, launches, orders };
    let checker = model.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let found = checker.discoveries();
    match found.get("nothing that must not happen does").and_then(|path| path.last_state().harm) {
        Some(harm) => Err(harm),
        None => {
            assert!(found.contains_key("a backup is restored"), "nothing is ever restored");
            assert!(launches < 3 || found.contains_key("what was restored is opened again"));
            Ok(checker.unique_state_count())
        }
    }
}

#[test]
fn model_a_restore_begins_a_generation_once_and_loses_nothing_before() {
    let bounds = if std::env::var_os("HUSK_LONG").is_some() { (4, 3) } else { (3, 3) };
    let states = check(step, operate, bounds);
    println!("states: {states:?}");
    assert!(states.is_ok_and(|states| states > 1000), "{states:?}");
}

fn restored(row: &Row, order: Order, bend: fn(Row, &Row) -> Row) -> Result<Row, Life> {
    let new = operate(row, order)?;
    Ok(if matches!(order, Order::Restore(_)) { bend(new, row) } else { new })
}

/// Each takes one rule away, and what then happens.
const MUTANTS: [(&str, Step, Operate, Harm); 7] = [
    (
        "a restore keeps the generation",
        step,
        |row, order| restored(row, order, |new, row| Row { restoring: Some(row.generation), ..new }),
        Harm::TwoLives,
    ),
    (
        "RESTORE is used up by a grant",
        |row, at, caller, request| {
            let (change, reply) = step(row, at, caller, request);
            let granted = matches!(reply, Reply::Granted(_));
            (change.map(|new| Row { restoring: new.restoring.filter(|_| !granted), ..new }), reply)
        },
        operate,
        Harm::OrderForgotten,
    ),
    (
        "an older grant is confirmed for a restore",
        |row, at, caller, request| match request {
            Request::Confirm(_) => step(&Row { restoring: None, ..row.clone() }, at, caller, request),
            _ => step(row, at, caller, request),
        },
        operate,
        Harm::HolderEnded,
    ),
    (
        "RESTORE does not wait",
        step,
        |row, order| restored(row, order, |new, _| Row { released: true, ..new }),
        Harm::OlderAnswered,
    ),
    (
        "RESTORE fences nobody",
        step,
        |row, order| {
            restored(row, order, |new, row| Row {
                token: row.token,
                holder: row.holder,
                next: row.next,
                ..new
            })
        },
        Harm::HolderEnded,
    ),
    (
        "what is replaced is erased at once",
        step,
        |row, order| restored(row, order, |new, _| Row { current: None, ..new }),
        Harm::NothingOpens,
    ),
    (
        "HALT keeps RESTORE",
        step,
        |row, order| {
            let new = operate(row, order)?;
            Ok(if order == Order::Halt { Row { restoring: row.restoring, ..new } } else { new })
        },
        Harm::OrderForgotten,
    ),
];

#[test]
fn model_finds_every_mutant_of_a_restore() {
    for (name, step, operate, harm) in MUTANTS {
        assert_eq!(check(step, operate, (3, 3)), Err(harm), "{name}");
    }
}
