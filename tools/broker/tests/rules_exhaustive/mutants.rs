//! The step function, one rule short each time.

use super::Step;
use husk::release::Head;
use husk_broker::rules::{Keeps, Life, Reply, Request, Row, step};

/// Each takes one rule away.
pub(super) const MUTANTS: [(&str, Step); 25] = [
    ("what keeps nothing is granted in a state's place", |row, at, caller, request| match request {
        Request::Ephemeral { .. } => {
            let bare = Row { life: Life::Virgin, epoch: 0, head: Head::NONE, current: None, ..row.clone() };
            step(&bare, at, caller, request)
        }
        _ => step(row, at, caller, request),
    }),
    ("what keeps nothing is granted in a restore's place", |row, at, caller, request| match request {
        Request::Ephemeral { .. } => step(&Row { restoring: None, ..row.clone() }, at, caller, request),
        _ => step(row, at, caller, request),
    }),
    ("what keeps nothing anchors a head", |row, at, caller, request| match request {
        Request::Confirm(_) | Request::Anchor(_) => {
            let (change, reply) = step(&Row { keeps: Keeps::State, ..row.clone() }, at, caller, request);
            (change.map(|new| Row { keeps: row.keeps, ..new }), reply)
        }
        _ => step(row, at, caller, request),
    }),
    ("a state is confirmed as if nothing were kept", |row, at, caller, request| match request {
        Request::Confirm(to) if (to.epoch, to.new) == (0, Head::NONE) => {
            step(&Row { keeps: Keeps::Nothing, ..row.clone() }, at, caller, request)
        }
        _ => step(row, at, caller, request),
    }),
    ("RESTORE outlives CONFIRM", |row, at, caller, request| {
        let (mut change, reply) = step(row, at, caller, request);
        if let (Some(new), Request::Confirm(_)) = (&mut change, request) {
            (new.restoring, new.generation) = (row.restoring, row.generation);
        }
        (change, reply)
    }),
    ("RESTORE is used up by a grant", |row, at, caller, request| {
        let (mut change, reply) = step(row, at, caller, request);
        if let (Some(new), Reply::Granted(_)) = (&mut change, &reply) {
            new.restoring = None;
        }
        (change, reply)
    }),
    ("a restore keeps the generation", |row, at, caller, request| {
        let (mut change, reply) = step(row, at, caller, request);
        if let (Some(new), Request::Confirm(_)) = (&mut change, request) {
            new.generation = row.generation;
        }
        (change, reply)
    }),
    ("a restore opens what it replaces", |row, at, caller, request| {
        let (change, mut reply) = step(row, at, caller, request);
        if let Reply::Granted(grant) = &mut reply {
            grant.current = row.current;
        }
        (change, reply)
    }),
    ("an older grant is confirmed for a restore", |row, at, caller, request| match request {
        Request::Confirm(_) => step(&Row { restoring: None, ..row.clone() }, at, caller, request),
        _ => step(row, at, caller, request),
    }),
    ("a backup for whoever holds the token", |row, at, caller, request| match *request {
        Request::Restore { token, .. } => step(row, at, caller, &Request::StateMissing { token }),
        _ => step(row, at, caller, request),
    }),
    ("a Clear is not told", |row, at, caller, request| {
        let (change, reply) = step(row, at, caller, request);
        (change.map(|new| Row { reset_base: row.reset_base, ..new }), reply)
    }),
    ("missing state makes a new TPM", |row, at, caller, request| {
        let (change, reply) = step(row, at, caller, request);
        match (request, reply) {
            (Request::StateMissing { .. }, Reply::Done) => {
                (Some(Row { life: Life::Virgin, head: Head::NONE, ..row.clone() }), reply)
            }
            _ => (change, reply),
        }
    }),
    ("release outlives CONFIRM", |row, at, caller, request| {
        let (mut change, reply) = step(row, at, caller, request);
        if let (Some(new), Request::Confirm(_)) = (&mut change, request) {
            new.released = row.released;
        }
        (change, reply)
    }),
    ("no lease wait", |row, at, caller, request| match request {
        Request::Grant { .. } => {
            let (change, reply) = step(&Row { released: true, ..row.clone() }, at, caller, request);
            (change.map(|new| Row { released: row.released, ..new }), reply)
        }
        _ => step(row, at, caller, request),
    }),
    ("FORCE without saying so", |row, at, caller, request| {
        let (mut change, reply) = step(row, at, caller, request);
        if let (Some(new), Reply::Granted(_)) = (&mut change, &reply) {
            new.overlap_until_ms = row.overlap_until_ms;
        }
        (change, reply)
    }),
    ("FORCE outlives CONFIRM", |row, at, caller, request| {
        let (mut change, reply) = step(row, at, caller, request);
        if let (Some(new), Request::Confirm(_)) = (&mut change, request) {
            new.forced = row.forced;
        }
        (change, reply)
    }),
    ("FORCE is used up by a grant", |row, at, caller, request| {
        let (mut change, reply) = step(row, at, caller, request);
        if let (Some(new), Reply::Granted(_)) = (&mut change, &reply) {
            new.forced = false;
        }
        (change, reply)
    }),
    ("every grant is forced", |row, at, caller, request| match request {
        Request::Grant { .. } => {
            let (change, reply) = step(&Row { forced: true, ..row.clone() }, at, caller, request);
            (change.map(|new| Row { forced: row.forced, ..new }), reply)
        }
        _ => step(row, at, caller, request),
    }),
    ("any holder", |row, at, caller, request| {
        let caller = row.holder.map_or(caller, |holder| holder.instance);
        step(row, at, caller, request)
    }),
    ("old secret erased at grant", |row, at, caller, request| {
        let (mut change, reply) = step(row, at, caller, request);
        if let (Some(new), Reply::Granted(_)) = (&mut change, &reply) {
            new.current = None;
        }
        (change, reply)
    }),
    ("a grant without a new token", |row, at, caller, request| {
        let (mut change, reply) = step(row, at, caller, request);
        if let (Some(new), Reply::Granted(_)) = (&mut change, &reply) {
            new.token = row.token;
        }
        (change, reply)
    }),
    ("a lease set, not drawn out", |row, at, caller, request| {
        let (mut change, reply) = step(row, at, caller, request);
        if let (Some(new), Reply::Leased { .. }) = (&mut change, &reply) {
            new.lease_until_ms = at.now_ms;
        }
        (change, reply)
    }),
    ("RENEW before CONFIRM", |row, at, caller, request| match request {
        Request::Renew { .. } => {
            let (change, reply) = step(&Row { next: None, ..row.clone() }, at, caller, request);
            (change.map(|new| Row { next: row.next, ..new }), reply)
        }
        _ => step(row, at, caller, request),
    }),
    ("RENEW after RELEASE", |row, at, caller, request| match request {
        Request::Renew { .. } => step(&Row { released: false, ..row.clone() }, at, caller, request),
        _ => step(row, at, caller, request),
    }),
    ("a halted VM is granted", |row, at, caller, request| match (row.life, request) {
        (Life::Halted, Request::Grant { .. }) => {
            step(&Row { life: Life::Active, released: true, ..row.clone() }, at, caller, request)
        }
        _ => step(row, at, caller, request),
    }),
];
