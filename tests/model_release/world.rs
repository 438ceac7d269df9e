//! The world of the model: one row, instances, the relay's memory, every object that was ever on a disk.

use crate::relay::{Said, Sent, Told, What, id_of, request};
use crate::rules::{Broker, Rule};
use husk::attest::launch::Serve;
use husk::nv::order::{self, Change, Due, Outcome};
use husk::release::standing::{Action as Act, Answer, Ask, Event, Standing};
use husk::release::{Head, ReleaseFault};
use husk_broker::rules::{Grant, InstanceId, Moment, Order, Reply, Row, SecretName, assume_lease};

/// A lease is one tick of time: what was sent in one tick permits nothing in the next.
pub(crate) const TICK_MS: u32 = 10;

/// An object on a disk, by its place in [`State::objects`] and 1; 0: none.
pub(crate) type Id = u8;

/// A checkpoint or record: what it builds on, and the secret that seals it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Object {
    pub(crate) builds_on: Id,
    pub(crate) sequence: u64,
    pub(crate) secret: SecretName,
    /// An input of its key, as the secret is.
    pub(crate) generation: u32,
    /// It was in a cache when the power went.
    pub(crate) lost: bool,
}

/// A running instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Instance {
    /// Its launch: the name of its instance key.
    pub(crate) name: u8,
    /// Nothing before a grant; then the shipped state machine.
    pub(crate) standing: Option<Standing>,
    /// The newest sending.
    pub(crate) ticket: u64,
    /// What seals what it writes: the granted next secret.
    pub(crate) secret: Option<SecretName>,
    /// The state that it answers from.
    pub(crate) state: Id,
    /// The engine has run ahead to this.
    pub(crate) ahead: Option<Id>,
    /// What the order says is due; the right to answer where nothing is under way.
    pub(crate) due: Due,
    /// What it wrote is still in the disk's cache.
    pub(crate) cached: bool,
    /// A command began, when this was known outside.
    pub(crate) command: Option<Outside>,
    /// When the newest settling answer came, for a mutant.
    pub(crate) heard_ms: Option<u64>,
}

/// What a guest or verifier may know: the newest token that answered, and the newest state that an answer told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Outside {
    pub(crate) token: u64,
    pub(crate) state: Id,
}

/// What must never happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Harm {
    /// P1.
    LostAcknowledged,
    /// P2.
    OlderAnswered,
    /// P3.
    HonestDiskDoesNotBoot,
    /// P4.
    KeyOfANewerInstance,
    /// Two instances served under one token: their resetCounts would be equal.
    TokenTwice,
    /// The holder of the newest grant was told that it is over.
    HolderEnded,
}

/// All there is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) row: Row,
    pub(crate) now_ms: u64,
    pub(crate) objects: Vec<Object>,
    pub(crate) sent: Vec<Sent>,
    pub(crate) told: Vec<Told>,
    pub(crate) running: Vec<Option<Instance>>,
    /// Secrets that left the broker: to which instance, with which token, and made for which token.
    pub(crate) knows: Vec<(u8, u64, u64)>,
    /// Which instance confirmed the head's epoch, and under which token.
    pub(crate) confirmed_by: (u8, u64),
    /// Tokens under which each instance answered.
    pub(crate) answered: Vec<(u64, u8)>,
    pub(crate) outside: Outside,
    /// The state that was backed up: the first head; 0 before.
    pub(crate) backup: Id,
    pub(crate) launches: u8,
    pub(crate) commits: u8,
    pub(crate) sendings: u8,
    pub(crate) orders: u8,
    pub(crate) harm: Option<Harm>,
}

pub(crate) const fn instance_id(name: u8) -> InstanceId {
    InstanceId([name; 48])
}

impl State {
    pub(crate) fn start(machines: usize) -> Self {
        Self {
            row: Row::enrolled(),
            now_ms: 0,
            objects: Vec::new(),
            sent: Vec::new(),
            told: Vec::new(),
            running: vec![None; machines],
            knows: Vec::new(),
            confirmed_by: (0, 0),
            answered: Vec::new(),
            outside: Outside { token: 0, state: 0 },
            backup: 0,
            launches: 0,
            commits: 0,
            sendings: 0,
            orders: 0,
            harm: None,
        }
    }

    pub(crate) fn object(&self, id: Id) -> &Object {
        &self.objects[usize::from(id) - 1]
    }

    /// An object's identity stands for its digest.
    pub(crate) fn head(&self, id: Id) -> Head {
        if id == 0 { Head::NONE } else { Head { sequence: self.object(id).sequence, digest: [id; 48] } }
    }

    /// Whether `id` is `wanted` or builds on it.
    pub(crate) fn contains(&self, mut id: Id, wanted: Id) -> bool {
        while id > wanted {
            id = self.object(id).builds_on;
        }
        id == wanted
    }

    pub(crate) fn hurt(&mut self, harm: Harm) {
        self.harm = self.harm.or(Some(harm));
    }

    fn send(&mut self, sent: Sent) {
        if let Err(at) = self.sent.binary_search(&sent) {
            self.sent.insert(at, sent);
        }
    }

    fn tell(&mut self, told: Told) {
        let alive = self.running.iter().flatten().any(|instance| instance.name == told.instance);
        if alive && let Err(at) = self.told.binary_search(&told) {
            self.told.insert(at, told);
        }
    }

    fn instance(&mut self, at: usize) -> Option<&mut Instance> {
        self.running[at].as_mut()
    }
}

/// The rules under test: all of them as shipped, or one of them off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) off: Rule,
    pub(crate) broker: Broker,
    /// The harm that is looked for; nothing: any.
    pub(crate) wanted: Option<Harm>,
    /// How far each machine's clock goes while the broker's goes ten.
    pub(crate) pace: [u64; 3],
}

impl Rules {
    pub(crate) fn launch(self, state: &mut State, at: usize) {
        state.launches += 1;
        let name = state.launches;
        state.running[at] = Some(Instance {
            name,
            standing: None,
            ticket: 0,
            secret: None,
            state: 0,
            ahead: None,
            due: Due::Permit,
            cached: false,
            command: None,
            heard_ms: None,
        });
        state.send(Sent { instance: name, ticket: 0, generation: 0, what: What::Grant });
    }

    pub(crate) fn kill(self, state: &mut State, at: usize) {
        let Some(instance) = state.running[at].take() else { return };
        state.told.retain(|told| told.instance != instance.name);
        if let Some(ahead) = instance.ahead.filter(|_| instance.cached) {
            // The power went with it, and what was in the cache.
            state.objects[usize::from(ahead) - 1].lost = true;
        }
        self.check_disk(state);
    }

    /// The broker decides.
    pub(crate) fn deliver(self, state: &mut State, sent: &Sent) {
        let request = request(state, sent);
        let at = Moment { now_ms: state.now_ms, lease_ms: TICK_MS };
        let (change, reply) = (self.broker.step)(&state.row, at, instance_id(sent.instance), &request);
        if let Some(new) = change {
            if new.epoch > state.row.epoch {
                state.confirmed_by = (sent.instance, new.token);
            }
            if state.row.epoch == 0 && new.epoch == 1 {
                state.backup = id_of(&new.head);
            }
            if new.epoch > state.row.epoch && state.row.restoring.is_some() {
                // What was acknowledged since the backup is given up, by the owner's order.
                state.outside.state = state.backup;
            }
            state.row = new;
        }
        if let Reply::Granted(Grant { token, current, next, .. }) = reply {
            // One report serves one session, and a session's request is decided once.
            state.sent.retain(|other| other != sent);
            for name in current.into_iter().chain([next]) {
                let known = (sent.instance, token, name.token);
                if let Err(at) = state.knows.binary_search(&known) {
                    state.knows.insert(at, known);
                }
            }
        }
        if let Some(said) = Said::of(sent.what, reply) {
            state.tell(Told { instance: sent.instance, ticket: sent.ticket, said });
        }
        state.check_keys();
        self.check_disk(state);
    }

    /// An answer comes.
    pub(crate) fn hear(self, state: &mut State, at: usize, told: &Told, (serve, opens): (Serve, Option<Id>)) {
        let now_ms = self.clock_ms(state, at);
        let Some(instance) = state.instance(at) else { return };
        let Some(standing) = instance.standing.as_mut() else {
            if let Said::Granted { token, epoch, head, made_for, generation, restores } = told.said {
                let opened = if restores { state.backup } else { opens.unwrap_or(head) };
                let Some(instance) = state.instance(at) else { return };
                (instance.state, instance.secret) =
                    (opened, Some(SecretName { token: made_for, epoch: epoch + 1 }));
                let head = state.head(head);
                if let Some(instance) = state.instance(at) {
                    instance.standing = Some(Standing::granted(serve, token, generation, epoch, head));
                }
            }
            return;
        };
        let Some(answer) = told.said.answer().map(|answer| self.without_margin(answer)) else { return };
        let ticket = if self.off == Rule::AnswersAreBound { instance.ticket } else { told.ticket };
        match standing.step(Event::Answer { ticket, answer }) {
            Act::Settled => {
                instance.heard_ms = Some(now_ms);
                if let Some(ahead) = instance.ahead.filter(|ahead| id_of(standing.head()) == *ahead) {
                    (instance.state, instance.ahead) = (ahead, None);
                    if instance.due == Due::Anchor {
                        instance.due = self.off.next(Change::Record, Due::Anchor, Outcome::Done);
                    }
                }
            }
            Act::Stop(_) => {
                let name = instance.name;
                if state.row.holder.is_some_and(|holder| holder.instance == instance_id(name)) {
                    state.hurt(Harm::HolderEnded);
                }
                self.kill(state, at);
            }
            _ => {}
        }
    }

    /// The instance asks, for the first time or again.
    pub(crate) fn ask(self, state: &mut State, at: usize, ask: Ask) -> bool {
        let now_ms = self.clock_ms(state, at);
        let Some(instance) = state.instance(at) else { return false };
        let name = instance.name;
        let Some(standing) = instance.standing.as_mut() else { return false };
        let Act::Send { ticket } = standing.step(Event::Ask { ask, now_ms }) else { return false };
        let (token, epoch, head) = (standing.token(), standing.epoch(), id_of(standing.head()));
        let generation = standing.generation();
        instance.ticket = ticket;
        let what = match ask {
            Ask::Confirm { new } => {
                What::Confirm { token, epoch: epoch + 1, previous: head, new: id_of(&new) }
            }
            Ask::Anchor { previous, new } => {
                What::Anchor { token, epoch, previous: id_of(&previous), new: id_of(&new) }
            }
            Ask::Renew => What::Renew { token },
            Ask::Bump => What::Bump { token },
            Ask::Release => What::Release { token, head },
        };
        state.sendings += 1;
        state.send(Sent { instance: name, ticket, generation, what });
        true
    }

    /// What the clock of this machine says.
    pub(crate) const fn clock_ms(self, state: &State, at: usize) -> u64 {
        state.now_ms * self.pace[at] / 10
    }

    /// Where the rule is off, a lease that is so much longer that the instance uses all of it.
    fn without_margin(self, answer: Answer) -> Answer {
        match answer {
            Answer::Lease { lease_ms } if self.off == Rule::Margin => {
                Answer::Lease { lease_ms: (lease_ms * 10).div_ceil(9) }
            }
            _ => answer,
        }
    }

    /// Makes what the engine has become durable, as far as that goes without the broker, and asks for it to be the head.
    pub(crate) fn write(self, state: &mut State, at: usize) -> bool {
        let before = state.clone();
        let Some(instance) = state.running[at].clone() else { return false };
        let (Some(standing), Some(secret)) = (instance.standing, instance.secret) else { return false };
        let serving = standing.epoch() == secret.epoch;
        let sequence = standing.head().sequence + 1;
        let generation = standing.generation();
        state.objects.push(Object { builds_on: instance.state, sequence, secret, generation, lost: false });
        let new = Id::try_from(state.objects.len()).unwrap_or(Id::MAX);
        let head = Head { sequence, digest: [new; 48] };
        let change = if serving { Change::Record } else { Change::First };
        let mut due = order::first(change);
        let mut cached = true;
        while matches!(due, Due::Hold | Due::Write | Due::Flush) {
            cached &= due != Due::Flush;
            due = self.off.next(change, due, Outcome::Done);
        }
        if let Some(instance) = state.instance(at) {
            (instance.ahead, instance.due, instance.cached) = (Some(new), due, cached);
        }
        let ask = if serving {
            Ask::Anchor { previous: *standing.head(), new: head }
        } else {
            Ask::Confirm { new: head }
        };
        let sent = self.ask(state, at, ask);
        if sent {
            state.commits += u8::from(serving);
        } else {
            *state = before;
        }
        sent
    }

    /// A command begins.
    pub(crate) fn begin(self, state: &mut State, at: usize) {
        let outside = state.outside;
        let Some(instance) = state.instance(at) else { return };
        instance.command = Some(outside);
        if let Some(standing) = instance.standing.as_mut().filter(|_| self.off != Rule::PermissionIsSpent) {
            standing.begin();
        }
    }

    /// The instance comes back in a new session, with what is undecided still undecided.
    pub(crate) fn resume(self, state: &mut State, at: usize) {
        let Some(instance) = &state.running[at] else { return };
        let Some(standing) = &instance.standing else { return };
        let what = What::Resume { token: standing.token() };
        let generation = standing.generation();
        let sent = Sent { instance: instance.name, ticket: instance.ticket, generation, what };
        state.sendings += 1;
        state.send(sent);
    }

    /// Whether an answer may leave.
    pub(crate) fn permits(self, state: &State, at: usize) -> bool {
        let Some(instance) = &state.running[at] else { return false };
        let Some(standing) = instance.standing.as_ref().filter(|_| instance.due == Due::Permit) else {
            return false;
        };
        let now_ms = self.clock_ms(state, at);
        let judged = standing.permit(now_ms);
        let window = |from_ms: u64| now_ms < from_ms + u64::from(TICK_MS) * 9 / 10;
        match self.off {
            Rule::AnswerAfterAnchored => judged == Err(ReleaseFault::Undecided) || judged.is_ok(),
            Rule::LeaseEnds => judged == Err(ReleaseFault::LeaseOver) || judged.is_ok(),
            Rule::WindowFromSending => {
                judged.is_ok()
                    || judged == Err(ReleaseFault::LeaseOver) && instance.heard_ms.is_some_and(window)
            }
            Rule::ReleaseEndsServing => judged == Err(ReleaseFault::Released) || judged.is_ok(),
            Rule::PermissionIsAsked => judged == Err(ReleaseFault::LeaseOver) || judged.is_ok(),
            Rule::NothingBeforeConfirmed => judged == Err(ReleaseFault::Misuse) || judged.is_ok(),
            _ => judged.is_ok(),
        }
    }

    /// An answer leaves, which tells of the state that the engine is in.
    pub(crate) fn answer(self, state: &mut State, at: usize, serve: Serve) {
        let Some(instance) = state.running[at].clone() else { return };
        let Some(standing) = &instance.standing else { return };
        let (token, content) = (standing.token(), instance.ahead.unwrap_or(instance.state));
        let known = match serve {
            Serve::Lease | Serve::Detect | Serve::Nothing => state.outside,
            Serve::PerCommand => instance.command.unwrap_or(state.outside),
        };
        let older = known.token > token;
        if older && serve != Serve::Detect {
            state.hurt(Harm::OlderAnswered);
        }
        if state.answered.iter().any(|(other, name)| *other == token && *name != instance.name) {
            state.hurt(Harm::TokenTwice);
        }
        if !older && !state.contains(content, known.state) {
            state.hurt(Harm::LostAcknowledged);
        }
        state.outside.token = state.outside.token.max(token);
        if state.contains(content, state.outside.state) {
            state.outside.state = content;
        }
        if !state.answered.contains(&(token, instance.name)) {
            state.answered.push((token, instance.name));
            state.answered.sort_unstable();
        }
        if let Some(instance) = state.instance(at) {
            instance.command = None;
        }
    }

    pub(crate) fn restart(self, state: &mut State) {
        state.orders += 1;
        state.row = assume_lease(&state.row, state.now_ms, TICK_MS);
    }

    pub(crate) fn order(self, state: &mut State, order: Order) {
        state.orders += 1;
        if let Ok(row) = (self.broker.operate)(&state.row, order) {
            state.row = row;
        }
        self.check_disk(state);
    }
}
