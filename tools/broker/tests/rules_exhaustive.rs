//! Every row that two instances, an operator and a clock can reach in a few steps, and every request there.
//!
//! The step function is a parameter, so that the laws are shown to have teeth: each mutant below takes one rule
//! away and must be caught.
#![expect(clippy::expect_used, reason = "a test says what it expects")]

#[path = "rules_exhaustive/mutants.rs"]
mod mutants;
#[path = "rules_exhaustive/orders.rs"]
mod orders;

use husk::release::Head;
use husk_broker::rules::{
    Backed, Holder, InstanceId, Keeps, Moment, Move, Order, Reply, Request, Row, SecretName, assume_lease,
    operate, step,
};
use mutants::MUTANTS;
use std::collections::HashSet;

/// What an operator's order makes of a row, or what a start of the broker does.
type Change = fn(&Row) -> Option<Row>;

type Step = fn(&Row, Moment, InstanceId, &Request) -> (Option<Row>, Reply);

const LEASE_MS: u32 = 10;
const A: InstanceId = InstanceId([0xA; 48]);
const B: InstanceId = InstanceId([0xB; 48]);
const TOKENS: u64 = 4;
const EPOCHS: u64 = 3;
const SEQUENCES: u64 = 3;

/// The row, and what the laws need to remember beside it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct World {
    row: Row,
    now_ms: u64,
    /// The end of the latest window that was ever handed out, and to which token.
    windows: Vec<(u64, u64)>,
    /// Tokens whose instance said that it serves no more.
    released: Vec<u64>,
}

fn requests(row: &Row) -> Vec<Request> {
    let heads = [head(1, 1), head(2, 1), head(2, 2), head(3, 1), Head::NONE];
    let (report_id, guest_svn) = ([0xA; 32], 0);
    let mut all = vec![Request::Grant { report_id, guest_svn }, Request::Ephemeral { report_id, guest_svn }];
    for token in row.token.saturating_sub(1)..=row.token + 1 {
        all.push(Request::Resume { token });
        all.push(Request::StateMissing { token });
        let generations = [Some(row.generation), row.restoring];
        for generation in generations.into_iter().flatten() {
            all.push(Request::Renew { token, generation });
            all.push(Request::Bump { token, generation });
            all.push(Request::Restore { token, generation });
            all.push(Request::Release { token, generation, head: row.head });
            all.push(Request::Release { token, generation, head: head(9, 9) });
            moves(row, (token, generation), &heads, &mut all);
        }
    }
    all
}

fn moves(row: &Row, (token, generation): (u64, u32), heads: &[Head], all: &mut Vec<Request>) {
    for epoch in [row.epoch, row.epoch + 1] {
        for previous in [row.head, Head::NONE, head(1, 1)] {
            for &new in heads {
                let reset_base = new.sequence;
                let to = Move { token, generation, epoch, previous, new, reset_base };
                all.extend([Request::Confirm(to), Request::Anchor(to)]);
            }
        }
    }
}

fn head(sequence: u64, branch: u8) -> Head {
    Head { sequence, digest: [branch; 48] }
}

/// What must hold for one decided request. Returns the name of the law that does not.
fn broken(
    before: &World,
    caller: InstanceId,
    request: &Request,
    (change, reply): &(Option<Row>, Reply),
) -> Option<&'static str> {
    let (old, new) = (&before.row, change.as_ref().unwrap_or(&before.row));
    let refusal = matches!(reply, Reply::Busy { .. } | Reply::Denied(_) | Reply::Fenced | Reply::Conflict);
    let confirms = matches!(request, Request::Confirm(_));
    let grants = matches!(reply, Reply::Granted(_));
    let holds = old.holder.is_some_and(|holder| holder.instance == caller);
    let laws = [
        ("a lawful row stays lawful", new.is_lawful()),
        ("a refusal changes nothing", !refusal || change.is_none()),
        ("tokens only grow", new.token >= old.token),
        ("heads only grow", new.head == old.head || new.head.sequence > old.head.sequence),
        ("leases are never shortened", new.lease_until_ms >= old.lease_until_ms),
        (
            "only CONFIRM moves epoch and secret",
            confirms || (new.epoch, new.current) == (old.epoch, old.current),
        ),
        ("only CONFIRM and ANCHOR move the head", moves_head(request) || new.head == old.head),
        ("the reset base is the newest state's", base_is_the_heads(old, new, request)),
        ("an epoch's secret is its own token's", new.current == old.current || new.current == named(old)),
        ("grants have fresh secrets", !grants || new.next == named(new) && new.token > old.token),
        ("only the holder is answered", grants || refusal || holds),
        ("no window before CONFIRM", !is_leased(reply) || new.next.is_none()),
        ("no window after RELEASE", !is_leased(reply) || !before.released.contains(&new.token)),
        (
            "windows of different tokens do not overlap",
            !grants
                || before
                    .windows
                    .iter()
                    .all(|&(token, until)| until <= before.now_ms || before.released.contains(&token))
                || old.forced && before.windows.iter().all(|&(_, until)| until <= new.overlap_until_ms),
        ),
        ("CONFIRM uses FORCE up", !(begins(old, new, request) && new.forced)),
        ("only CONFIRM uses FORCE up", new.forced == old.forced || begins(old, new, request)),
        ("CONFIRM begins the generation that RESTORE named", begins_the_restored(old, new, confirms)),
        ("CONFIRM uses RESTORE up", !(confirms && new.epoch > old.epoch && new.restoring.is_some())),
        ("only CONFIRM uses RESTORE up", new.restoring == old.restoring || confirms && new.epoch > old.epoch),
        ("a restore opens nothing of what it replaces", grants_what_is_wanted(old, reply)),
        ("a backup is for who was granted it", is_handed_rightly(old, request, reply)),
        ("what is kept is as the newest grant has it", grants || new.keeps == old.keeps),
        ("what keeps nothing takes no state's place", is_granted_rightly(old, request, reply)),
        ("what keeps nothing has no head, no epoch and no key", new.keeps == Keeps::State || is_nothing(new)),
        ("an overlap is said until it is over", new.overlap_until_ms >= old.overlap_until_ms),
        (
            "an overlap ends with the lease that was not waited for",
            new.overlap_until_ms <= old.overlap_until_ms.max(old.lease_until_ms),
        ),
        ("a stale token is fenced", token_of(request).is_none_or(|token| fenced(old, token, request, reply))),
    ];
    laws.into_iter().find_map(|(law, holds)| (!holds).then_some(law))
}

/// A launch is confirmed.
const fn begins(old: &Row, new: &Row, request: &Request) -> bool {
    matches!(request, Request::Confirm(_)) && old.next.is_some() && new.next.is_none()
}

fn is_nothing(row: &Row) -> bool {
    (row.epoch, row.head, row.current) == (0, Head::NONE, None)
}

/// Each is granted what it asks for, and a TPM that keeps nothing only where there is none that is kept.
fn is_granted_rightly(old: &Row, request: &Request, reply: &Reply) -> bool {
    let Reply::Granted(grant) = reply else { return true };
    match request {
        Request::Ephemeral { .. } => {
            grant.keeps == Keeps::Nothing && is_nothing(old) && old.restoring.is_none()
        }
        _ => grant.keeps == Keeps::State,
    }
}

/// Each head of these worlds has a base of its own.
fn base_is_the_heads(old: &Row, new: &Row, request: &Request) -> bool {
    match request {
        Request::Confirm(to) | Request::Anchor(to) if new.head != old.head => new.reset_base == to.reset_base,
        // What has no head says its base each time.
        Request::Confirm(to) | Request::Anchor(to) if new.keeps == Keeps::Nothing => {
            [old.reset_base, to.reset_base].contains(&new.reset_base)
        }
        _ => new.reset_base == old.reset_base,
    }
}

fn begins_the_restored(old: &Row, new: &Row, confirms: bool) -> bool {
    let begins = new.generation != old.generation || new.restoring != old.restoring;
    !begins || confirms && old.restoring == Some(new.generation) && new.restoring.is_none()
}

fn grants_what_is_wanted(old: &Row, reply: &Reply) -> bool {
    let Reply::Granted(grant) = reply else { return true };
    match old.restoring {
        Some(generation) => grant.restores && grant.current.is_none() && grant.generation == generation,
        None => !grant.restores && grant.current == old.current && grant.generation == old.generation,
    }
}

fn is_handed_rightly(old: &Row, request: &Request, reply: &Reply) -> bool {
    let Request::Restore { generation, .. } = request else { return true };
    *reply != Reply::Done || old.next.is_some() && old.restoring == Some(*generation)
}

fn named(row: &Row) -> Option<SecretName> {
    Some(SecretName { token: row.token, epoch: row.epoch + 1 })
}

const fn moves_head(request: &Request) -> bool {
    matches!(request, Request::Confirm(_) | Request::Anchor(_))
}

const fn is_leased(reply: &Reply) -> bool {
    matches!(reply, Reply::Leased { lease_ms: 1.. } | Reply::Bumped { .. })
}

const fn token_of(request: &Request) -> Option<u64> {
    match *request {
        Request::Grant { .. } | Request::Ephemeral { .. } => None,
        Request::Resume { token }
        | Request::Renew { token, .. }
        | Request::Bump { token, .. }
        | Request::Release { token, .. }
        | Request::Restore { token, .. }
        | Request::StateMissing { token } => Some(token),
        Request::Confirm(to) | Request::Anchor(to) => Some(to.token),
    }
}

fn fenced(row: &Row, token: u64, request: &Request, reply: &Reply) -> bool {
    let bump = matches!(request, Request::Bump { .. } | Request::Resume { .. });
    token >= row.token || *reply == Reply::Fenced || (bump && row.bumped_from == Some(token))
}

/// The world after a decision.
fn after(before: &World, request: &Request, (change, reply): &(Option<Row>, Reply)) -> World {
    let mut world = before.clone();
    world.row = change.clone().unwrap_or_else(|| before.row.clone());
    if is_leased(reply) {
        let until = before.now_ms + u64::from(LEASE_MS);
        world.windows.retain(|&(token, _)| token != world.row.token);
        world.windows.push((world.row.token, until));
        world.windows.sort_unstable();
    }
    if let (Request::Release { token, .. }, Reply::Done) = (request, reply) {
        // Windows of the tokens it was bumped from are the same instance's.
        world.released.extend((1..=*token).filter(|token| !before.released.contains(token)));
    }
    world.windows.retain(|&(_, until)| until > world.now_ms);
    world
}

fn within_bounds(world: &World) -> bool {
    let row = &world.row;
    // Where FORCE was ordered there are many more: one token fewer will do.
    let forced = u64::from(row.forced || row.overlap_until_ms > 0);
    // So where RESTORE was, and once is enough.
    let restored = u64::from(row.restoring.is_some() || row.generation > 0);
    row.generation <= 1
        && row.token <= TOKENS - forced.max(restored)
        && forced * restored == 0
        && row.epoch <= EPOCHS
        && row.head.sequence <= SEQUENCES
        && world.now_ms <= 20
}

/// Explores everything; the first broken law, or how many worlds there were.
fn explore(step: Step) -> Result<usize, &'static str> {
    let start = World { row: Row::enrolled(), now_ms: 0, windows: vec![], released: vec![] };
    let mut seen = HashSet::from([start.clone()]);
    let mut todo = vec![start];
    while let Some(world) = todo.pop() {
        let at = Moment { now_ms: world.now_ms, lease_ms: LEASE_MS };
        let mut next = Vec::new();
        for request in requests(&world.row) {
            for caller in [A, B] {
                let decided = step(&world.row, at, caller, &request);
                if let Some(law) = broken(&world, caller, &request, &decided) {
                    return Err(law);
                }
                next.push(after(&world, &request, &decided));
            }
        }
        for order in [Order::Halt, Order::Resume, Order::Retire, Order::Force, Order::Backup, RESTORE] {
            next.extend(operate(&world.row, order).map(|row| World { row, ..world.clone() }));
        }
        let restarted = assume_lease(&world.row, world.now_ms, LEASE_MS);
        next.push(World { row: restarted, ..world.clone() });
        let later = world.now_ms + 5;
        let windows = world.windows.iter().copied().filter(|&(_, until)| until > later).collect();
        next.push(World { now_ms: later, windows, ..world });
        todo.extend(next.into_iter().filter(|world| within_bounds(world) && seen.insert(world.clone())));
    }
    Ok(seen.len())
}

#[test]
fn every_law_holds_in_every_reachable_world() {
    let worlds = explore(step).unwrap();
    eprintln!("{worlds} worlds");
    assert!(worlds > 1000, "the bounds reach something: {worlds}");
}

/// From a backup of this very broker's first generation.
const RESTORE: Order = Order::Restore(Backed { generation: 0, token: 1 });

/// What must hold for an order of the operator and for a start of the broker, at `now_ms`.
fn broken_by(old: &Row, new: &Row, fences: bool, starts_at_ms: Option<u64>) -> Option<&'static str> {
    let covered = |now_ms| old.released || new.lease_until_ms >= now_ms + u64::from(LEASE_MS);
    let laws = [
        ("a lawful row stays lawful", new.is_lawful()),
        ("who stops a VM fences its instance", !fences || new.token > old.token && new.holder.is_none()),
        ("an order shortens no lease", new.lease_until_ms >= old.lease_until_ms),
        ("no order says that an instance has released", new.released == old.released),
        ("no order takes back what was said of an overlap", new.overlap_until_ms == old.overlap_until_ms),
        ("who stops a VM takes FORCE back", !fences || !new.forced),
        ("an order that stops nobody leaves token and instance", fences || holds(new) == holds(old)),
        ("a start assumes a full lease", starts_at_ms.is_none_or(covered)),
    ];
    laws.into_iter().find_map(|(law, holds)| (!holds).then_some(law))
}

fn holds(row: &Row) -> (u64, Option<Holder>) {
    (row.token, row.holder)
}

/// Rows: nothing yet, serving, granted anew, told not to wait, and granted so.
fn rows() -> [Row; 5] {
    let ask = |row: &Row, now_ms, request| {
        let at = Moment { now_ms, lease_ms: LEASE_MS };
        step(row, at, A, &request).0.expect("it is answered")
    };
    let enrolled = Row::enrolled();
    let granted = ask(&enrolled, 1, Request::Grant { report_id: [0xA; 32], guest_svn: 0 });
    let to = Move { token: 1, generation: 0, epoch: 1, previous: Head::NONE, new: head(1, 1), reset_base: 0 };
    let serving = ask(&granted, 2, Request::Confirm(to));
    let again = ask(&serving, 50, Request::Grant { report_id: [0xA; 32], guest_svn: 0 });
    let forced = operate(&serving, Order::Force).expect("it makes sense");
    let overlapping = ask(&forced, 5, Request::Grant { report_id: [0xB; 32], guest_svn: 0 });
    [enrolled, serving, again, forced, overlapping]
}

/// An order or a start, whether it stops the VM, and when the broker starts.
const CHANGES: [(&str, Change, bool, Option<u64>); 5] = [
    ("HALT", |row| operate(row, Order::Halt).ok(), true, None),
    ("RETIRE", |row| operate(row, Order::Retire).ok(), true, None),
    ("RESTORE", |row| operate(row, RESTORE).ok(), true, None),
    ("FORCE", |row| operate(row, Order::Force).ok(), false, None),
    ("start", |row| Some(assume_lease(row, 7, LEASE_MS)), false, Some(7)),
];

/// Each takes one rule away from an order or from the start.
const CHANGE_MUTANTS: [(&str, Change, bool, Option<u64>); 11] = [
    (
        "RESTORE keeps the token",
        |row| operate(row, RESTORE).ok().map(|new| Row { token: row.token, ..new }),
        true,
        None,
    ),
    (
        "RESTORE keeps the instance",
        |row| operate(row, RESTORE).ok().map(|new| Row { holder: row.holder, ..new }),
        true,
        None,
    ),
    (
        "RESTORE does not wait",
        |row| operate(row, RESTORE).ok().map(|new| Row { released: true, ..new }),
        true,
        None,
    ),
    (
        "HALT keeps the token",
        |row| operate(row, Order::Halt).ok().map(|new| Row { token: row.token, ..new }),
        true,
        None,
    ),
    (
        "HALT keeps the instance",
        |row| operate(row, Order::Halt).ok().map(|new| Row { holder: row.holder, ..new }),
        true,
        None,
    ),
    (
        "HALT ends the lease",
        |row| operate(row, Order::Halt).ok().map(|new| Row { lease_until_ms: 0, ..new }),
        true,
        None,
    ),
    (
        "RETIRE releases",
        |row| operate(row, Order::Retire).ok().map(|new| Row { released: !row.released, ..new }),
        true,
        None,
    ),
    (
        "HALT keeps FORCE",
        |row| operate(row, Order::Halt).ok().map(|new| Row { forced: row.forced, ..new }),
        true,
        None,
    ),
    (
        "HALT forgets the overlap",
        |row| operate(row, Order::Halt).ok().map(|new| Row { overlap_until_ms: 0, ..new }),
        true,
        None,
    ),
    (
        "FORCE ends the lease",
        |row| operate(row, Order::Force).ok().map(|new| Row { lease_until_ms: 0, ..new }),
        false,
        None,
    ),
    ("a start assumes nothing", |row| Some(row.clone()), false, Some(7)),
];

#[test]
fn every_order_and_every_start_keeps_the_laws() {
    for (name, change, fences, starts) in CHANGES {
        for old in rows() {
            let new = change(&old).expect("it makes sense");
            assert_eq!(broken_by(&old, &new, fences, starts), None, "{name} on {old:?}");
        }
    }
}

#[test]
fn every_mutant_of_an_order_or_a_start_is_caught() {
    for (name, change, fences, starts) in CHANGE_MUTANTS {
        let caught = rows()
            .iter()
            .any(|old| change(old).is_some_and(|new| broken_by(old, &new, fences, starts).is_some()));
        assert!(caught, "nothing noticed the mutant \"{name}\"");
    }
}

#[test]
fn every_mutant_is_caught() {
    for (name, mutant) in MUTANTS {
        match explore(mutant) {
            Err(law) => eprintln!("{name}: caught by \"{law}\""),
            Ok(worlds) => panic!("nothing noticed the mutant \"{name}\" in {worlds} worlds"),
        }
    }
}
