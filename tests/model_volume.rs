//! The rules of `src/volume/format.md` §6 and §7, checked exhaustively on a model, and each rule's absence found.
//!
//! The model: a disk of two areas, each one checkpoint and a few records; writes wait in a cache until a flush, and a power cut keeps,
//! loses or tears each; a broker that moves its head by compare-and-swap under a fencing token; two machines that share the
//! disk, launched, killed and cut off at any moment; requests that arrive late, after their sender's death, or never. Requests outlive
//! their senders, replies may be lost. An object's identity stands for its digest.
//! In which order a machine writes, flushes, anchors and answers is what ships: [`order::next`]. A mutant of the order is a wrapper
//! around that function.
//! A fenced machine does not write (it holds no lease: `format.md` §6.3); a mutant takes that rule away.
//!
//! Invariants: what was acknowledged is part of everything served later; an honest disk always opens.

#[path = "model_volume/mutant.rs"]
mod mutant;

use husk::nv::order::{Change, Due, Outcome};
use mutant::Mutant;
use stateright::{Checker, HasDiscoveries, Model, Property};

/// Records behind a checkpoint.
const RECORDS: usize = 2;
const AREAS: usize = 2;
/// 0: nothing yet.
type Id = usize;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Host {
    /// Loses power, keeps what was flushed.
    Honest,
    /// Shows any image that was ever on the disk.
    Hostile,
}

#[derive(Clone, Copy, Debug)]
struct Volumes {
    mutant: Mutant,
    host: Host,
    launches: usize,
    commits: usize,
}

/// One checkpoint or record: what it builds on, and whose key sealed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Object {
    builds_on: Id,
    token: usize,
    sequence: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Slot {
    Empty,
    Torn,
    Holds(Id),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place {
    area: usize,
    slot: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Request {
    token: usize,
    previous: Id,
    new: Id,
}

/// A running machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Machine {
    token: usize,
    /// The head that it was granted or had anchored.
    head: Id,
    /// The state in its RAM.
    state: Id,
    /// Where its head lies, and how many slots of that area are used.
    area: usize,
    used: usize,
    waits: Option<Waits>,
    /// What the order says is due; the right to answer where nothing is under way.
    due: Due,
    serving: bool,
}

impl Machine {
    /// What its next commit is.
    const fn change(&self) -> Change {
        match (self.serving, self.used <= RECORDS) {
            (false, _) => Change::First,
            (true, true) => Change::Record,
            (true, false) => Change::Checkpoint,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Waits {
    new: Id,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Harm {
    LostAcknowledged,
    HonestDiskDoesNotOpen,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    objects: Vec<Object>,
    disk: [[Slot; 1 + RECORDS]; AREAS],
    cache: Vec<(Place, Id)>,
    token: usize,
    head: Id,
    sent: Vec<Request>,
    machines: [Option<Machine>; 2],
    launches: usize,
    commits: usize,
    acknowledged: Vec<Id>,
    harm: Option<Harm>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Kept,
    Lost,
    Torn,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Launch { machine: usize, shown: Option<Id> },
    Write(usize),
    Rewrite(usize),
    Flush(usize),
    Send(usize),
    Deliver { request: Request, replies: bool },
    Kill(usize),
    PowerCut(Vec<Fate>),
}

impl State {
    fn object(&self, id: Id) -> Object {
        self.objects[id - 1]
    }

    fn contains(&self, mut state: Id, wanted: Id) -> bool {
        while state > wanted {
            state = self.object(state).builds_on;
        }
        state == wanted
    }

    /// What a read sees: the cache over the disk.
    fn seen(&self) -> [[Slot; 1 + RECORDS]; AREAS] {
        let mut seen = self.disk;
        for (place, id) in &self.cache {
            seen[place.area][place.slot] = Slot::Holds(*id);
        }
        seen
    }

    /// The area in which a chain leads to the head, and its length.
    fn find(&self, head: Id) -> Option<(usize, usize)> {
        let seen = self.seen();
        (0..AREAS).find_map(|area| {
            let mut reached = 0;
            for (slot, content) in seen[area].iter().enumerate() {
                let Slot::Holds(id) = *content else { return None };
                if slot > 0 && self.object(id).builds_on != reached {
                    return None;
                }
                if id == head {
                    return Some((area, slot + 1));
                }
                reached = id;
            }
            None
        })
    }

    fn flush(&mut self) {
        self.disk = self.seen();
        self.cache.clear();
    }

    fn acknowledge(&mut self, id: Id) {
        if !self.acknowledged.iter().all(|earlier| self.contains(id, *earlier)) {
            self.harm = Some(Harm::LostAcknowledged);
        }
        if !self.acknowledged.contains(&id) {
            self.acknowledged.push(id);
        }
    }
}

impl Volumes {
    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == mutant
    }

    /// Whether this machine may begin a commit: it has the right to write, or is not asked whether it has. A grant that is not
    /// confirmed has no lease to look at, and writes at once; that a fence comes between is left to the mutants.
    fn may_write(&self, state: &State, machine: &Machine) -> bool {
        let started = !machine.serving || state.commits < self.commits;
        let asks = matches!(self.mutant.first(machine.change()), Due::Hold | Due::Renew) || !machine.serving;
        let leased = machine.token == state.token || !asks || self.is(Mutant::WriteWhileFenced);
        machine.waits.is_none() && machine.due == Due::Permit && started && leased
    }

    /// The machine's commit is on its way: does what is due without anybody else.
    fn went(&self, state: &mut State, index: usize, outcome: Outcome) {
        let Some(mut machine) = state.machines[index] else { return };
        machine.due = self.mutant.after(machine.change(), machine.due, outcome);
        if let Some(waits) = machine.waits.filter(|_| machine.due == Due::Permit) {
            state.acknowledge(waits.new);
            machine.head = waits.new;
            machine.state = waits.new;
            (machine.area, machine.used) = (waits.place.area, waits.place.slot + 1);
            (machine.waits, machine.serving) = (None, true);
        }
        state.machines[index] = Some(machine);
    }

    fn launch(&self, state: &mut State, machine: usize, shown: Option<Id>) {
        state.launches += 1;
        state.token += 1;
        let (token, head) = (state.token, state.head);
        let found = match self.host {
            _ if head == 0 => Some((1, 0)),
            Host::Honest => state.find(head),
            Host::Hostile => Some((0, 1)),
        };
        let Some((area, used)) = found else {
            state.harm = Some(Harm::HonestDiskDoesNotOpen);
            return;
        };
        let held = shown.unwrap_or(head);
        let started =
            Machine { token, head, state: held, area, used, waits: None, due: Due::Permit, serving: false };
        state.machines[machine] = Some(started);
    }

    fn place(&self, state: &State, machine: &Machine) -> Place {
        let other = 1 - machine.area;
        if machine.serving && machine.used <= RECORDS {
            return Place { area: machine.area, slot: machine.used };
        }
        let newest = || {
            let sequence = |area: usize| match state.seen()[area][0] {
                Slot::Holds(id) => state.object(id).sequence,
                Slot::Empty | Slot::Torn => 0,
            };
            usize::from(sequence(1) > sequence(0))
        };
        let area = match (self.mutant, machine.serving) {
            (Mutant::SwitchIntoTheHeadsArea, true) | (Mutant::BootIntoTheHeadsArea, false) => machine.area,
            (Mutant::FreeBeforeAnchored, false) => 1 - newest(),
            _ => other,
        };
        Place { area, slot: 0 }
    }

    fn write(&self, state: &mut State, index: usize) {
        let Some(mut machine) = state.machines[index] else { return };
        let place = machine.waits.map_or_else(|| self.place(state, &machine), |waits| waits.place);
        let builds_on = machine.state;
        let sequence = if machine.head == 0 { 1 } else { state.object(machine.head).sequence + 1 };
        state.objects.push(Object { builds_on, token: machine.token, sequence });
        let new = state.objects.len();
        state.cache.push((place, new));
        state.commits += usize::from(machine.serving || machine.waits.is_some());
        machine.waits = Some(Waits { new, place });
        machine.due = Due::Write;
        state.machines[index] = Some(machine);
        self.went(state, index, Outcome::Done);
    }

    fn flush(&self, state: &mut State, index: usize) {
        state.flush();
        self.went(state, index, Outcome::Done);
    }

    fn send(state: &mut State, index: usize) {
        let Some(Machine { token, head, waits: Some(waits), .. }) = state.machines[index] else { return };
        state.sent.push(Request { token, previous: head, new: waits.new });
        state.sent.sort_unstable();
    }

    fn deliver(&self, state: &mut State, request: Request, replies: bool) {
        state.sent.retain(|other| *other != request);
        let current = request.token == state.token;
        let moved = current && (state.head == request.previous || state.head == request.new);
        if moved {
            state.head = request.new;
        }
        let asker = (0..state.machines.len())
            .find(|index| state.machines[*index].is_some_and(|machine| machine.token == request.token));
        let Some(index) = asker.filter(|_| replies) else { return };
        let Some(machine) = state.machines[index].filter(|_| moved) else {
            state.machines[index] = None;
            return;
        };
        if machine.waits.is_some_and(|waits| waits.new == request.new) && machine.due == Due::Anchor {
            self.went(state, index, Outcome::Done);
        }
    }

    fn power_cut(&self, state: &mut State, fates: &[Fate]) {
        for ((place, id), fate) in state.cache.clone().into_iter().zip(fates) {
            let area = &mut state.disk[place.area];
            match fate {
                Fate::Kept => area[place.slot] = Slot::Holds(id),
                Fate::Lost => {}
                Fate::Torn => area[place.slot] = Slot::Torn,
            }
            if *fate == Fate::Torn && self.is(Mutant::UnitsShareABlock) && place.slot > 0 {
                area[place.slot - 1] = Slot::Torn;
            }
        }
        state.cache.clear();
        state.machines = [None; 2];
    }

    fn machine_actions(&self, state: &State, index: usize, actions: &mut Vec<Action>) {
        let Some(machine) = &state.machines[index] else {
            if state.launches < self.launches {
                actions.push(Action::Launch { machine: index, shown: None });
                actions.extend(
                    self.shown_by_key(state).map(|id| Action::Launch { machine: index, shown: Some(id) }),
                );
            }
            return;
        };
        actions.push(Action::Kill(index));
        if self.may_write(state, machine) {
            actions.push(Action::Write(index));
        }
        let Some(waits) = machine.waits else { return };
        if machine.due == Due::Flush {
            actions.push(Action::Flush(index));
        }
        let request = Request { token: machine.token, previous: machine.head, new: waits.new };
        if machine.due == Due::Anchor && !state.sent.contains(&request) {
            actions.push(Action::Send(index));
        }
        let again = machine.due == Due::Anchor
            && self.mutant.after(machine.change(), Due::Anchor, Outcome::Unknown) == Due::Write;
        if again && state.commits < self.commits {
            actions.push(Action::Rewrite(index));
        }
    }

    /// What a hostile host may have opened where the key alone decides.
    fn shown_by_key(&self, state: &State) -> impl Iterator<Item = Id> {
        let by_key = self.host == Host::Hostile && self.is(Mutant::AcceptByKey) && state.head > 0;
        let token = if by_key { state.object(state.head).token } else { 0 };
        (1..=state.objects.len())
            .filter(move |id| by_key && state.object(*id).token == token)
            .collect::<Vec<_>>()
            .into_iter()
    }
}

/// Every way in which `count` cached writes may end.
fn fates(count: usize) -> Vec<Vec<Fate>> {
    (0..count).fold(vec![Vec::new()], |all, _| {
        let longer = |fates: Vec<Fate>| {
            [Fate::Kept, Fate::Lost, Fate::Torn].map(|fate| [fates.as_slice(), &[fate]].concat())
        };
        all.into_iter().flat_map(longer).collect()
    })
}

impl Model for Volumes {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            objects: Vec::new(),
            disk: [[Slot::Empty; 1 + RECORDS]; AREAS],
            cache: Vec::new(),
            token: 0,
            head: 0,
            sent: Vec::new(),
            machines: [None; 2],
            launches: 0,
            commits: 0,
            acknowledged: Vec::new(),
            harm: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.harm.is_some() {
            return;
        }
        for index in 0..state.machines.len() {
            self.machine_actions(state, index, actions);
        }
        for request in &state.sent {
            actions.extend([true, false].map(|replies| Action::Deliver { request: *request, replies }));
        }
        actions.extend(fates(state.cache.len()).into_iter().map(Action::PowerCut));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Launch { machine, shown } => self.launch(&mut state, machine, shown),
            Action::Write(index) | Action::Rewrite(index) => self.write(&mut state, index),
            Action::Flush(index) => self.flush(&mut state, index),
            Action::Send(index) => Self::send(&mut state, index),
            Action::Deliver { request, replies } => self.deliver(&mut state, request, replies),
            Action::Kill(index) => state.machines[index] = None,
            Action::PowerCut(fates) => self.power_cut(&mut state, &fates),
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("what was acknowledged is in all that is served", |_, state: &State| {
                state.harm != Some(Harm::LostAcknowledged)
            }),
            Property::always("an honest disk always opens", |_, state: &State| {
                state.harm != Some(Harm::HonestDiskDoesNotOpen)
            }),
            Property::sometimes("both areas are used by one launch", |model: &Self, state: &State| {
                let switched =
                    |machine: &Machine| machine.serving && state.commits > RECORDS && machine.used == 1;
                model.commits <= RECORDS || state.machines.iter().flatten().any(switched)
            }),
        ]
    }
}

/// Checks everything that can be reached.
fn check(mutant: Mutant, host: Host, launches: usize, commits: usize) -> Result<usize, &'static str> {
    let model = Volumes { mutant, host, launches, commits };
    let checker = model.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let found = checker.discoveries();
    let broken = ["what was acknowledged is in all that is served", "an honest disk always opens"];
    match broken.into_iter().find(|name| found.contains_key(name)) {
        Some(name) => Err(name),
        None => {
            assert!(
                found.contains_key("both areas are used by one launch"),
                "the model never switches areas"
            );
            Ok(checker.unique_state_count())
        }
    }
}

#[test]
fn model_honest_disks_always_open_at_what_was_acknowledged() {
    let longest = check(Mutant::None, Host::Honest, 3, 4).expect("no violation");
    let most_launches = check(Mutant::None, Host::Honest, 4, 2).expect("no violation");
    println!("states: {longest} and {most_launches}");
}

#[test]
fn model_a_hostile_disk_never_serves_less_than_was_acknowledged() {
    let states = check(Mutant::None, Host::Hostile, 3, 3).expect("no violation");
    println!("states: {states}");
}

#[test]
fn mutants_that_lose_the_disk_are_found() {
    let mutants = [
        Mutant::AnchorBeforeFlush,
        Mutant::SwitchIntoTheHeadsArea,
        Mutant::BootIntoTheHeadsArea,
        Mutant::FreeBeforeAnchored,
        Mutant::UnitsShareABlock,
        Mutant::RewriteWhileUndecided,
        Mutant::WriteWhileFenced,
    ];
    for mutant in mutants {
        assert_eq!(check(mutant, Host::Honest, 3, 3), Err("an honest disk always opens"), "{mutant:?}");
    }
    let late = check(Mutant::AppendWhileFenced, Host::Honest, 3, 5);
    assert_eq!(
        late,
        Err("an honest disk always opens"),
        "an append reaches an area that came into use again"
    );
}

#[test]
fn mutants_that_serve_the_past_are_found() {
    let by_key = check(Mutant::AcceptByKey, Host::Hostile, 2, 1);
    assert_eq!(by_key, Err("what was acknowledged is in all that is served"));
    let early = check(Mutant::ReleaseBeforeAnchored, Host::Honest, 3, 1);
    assert_eq!(early, Err("what was acknowledged is in all that is served"));
}
