//! The rules that can be taken away, one at a time. What ships has no such switch: a rule of the broker is taken away by a
//! wrapper around the shipped step, one of an instance by what the model does around the shipped machine, or by a wrapper
//! around the shipped order.

use husk::nv::order::{self, Change, Due, Outcome};
use husk::release::Head;
use husk_broker::rules::{
    InstanceId, Life, Moment, Move, Order, Reply, Request, Row, SecretName, operate, step,
};

pub(crate) type Step = fn(&Row, Moment, InstanceId, &Request) -> (Option<Row>, Reply);

/// The rule of an instance that is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// None is.
    None,
    /// An answer counts only for the newest sending of the outstanding request.
    AnswersAreBound,
    /// Nothing is answered while a commit is undecided.
    AnswerAfterAnchored,
    /// The right to answer ends with the lease.
    LeaseEnds,
    /// The window is counted from the sending.
    WindowFromSending,
    /// RELEASE ends serving before it is sent.
    ReleaseEndsServing,
    /// Nothing is answered before CONFIRM.
    NothingBeforeConfirmed,
    /// CONFIRM and ANCHOR are sent after the flush.
    FlushBeforeAnchor,
    /// The end of a lease is not used: clocks may run apart by as much.
    Margin,
    /// A state is taken by its digest, not by the key that opens it.
    OpenByDigest,
    /// Where the broker permits each command, a permission is for one command.
    PermissionIsSpent,
    /// Where the broker permits each command, nothing is answered without one.
    PermissionIsAsked,
}

impl Rule {
    /// What is due after that: as shipped, or one rule short.
    pub(crate) const fn next(self, change: Change, due: Due, outcome: Outcome) -> Due {
        match (self, due, outcome) {
            (Self::AnswerAfterAnchored, Due::Flush, Outcome::Done) => Due::Permit,
            (Self::FlushBeforeAnchor, Due::Write, Outcome::Done) => Due::Anchor,
            _ => order::next(change, due, outcome),
        }
    }
}

pub(crate) type Operate = fn(&Row, Order) -> Result<Row, Life>;

/// What the broker decides by: of requests, and of orders.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Broker {
    pub(crate) step: Step,
    pub(crate) operate: Operate,
}

/// The broker as it ships.
pub(crate) const SHIPPED: Broker = Broker { step, operate };

/// `request` decided on a row that lies, and what that lie changed put right again.
fn lied(
    (lie, truth): (Row, &Row),
    at: Moment,
    caller: InstanceId,
    request: &Request,
    mend: fn(Row, &Row) -> Row,
) -> (Option<Row>, Reply) {
    let (change, reply) = step(&lie, at, caller, request);
    (change.map(|new| mend(new, truth)), reply)
}

/// A grant waits for the lease.
pub(crate) fn no_lease_wait(
    row: &Row,
    at: Moment,
    caller: InstanceId,
    asked: &Request,
) -> (Option<Row>, Reply) {
    if !matches!(asked, Request::Grant { .. }) {
        return step(row, at, caller, asked);
    }
    let lie = Row { released: true, ..row.clone() };
    lied((lie, row), at, caller, asked, |new, row| Row { released: row.released, ..new })
}

/// CONFIRM clears `released`.
pub(crate) fn release_outlives_confirm(
    row: &Row,
    at: Moment,
    caller: InstanceId,
    asked: &Request,
) -> (Option<Row>, Reply) {
    let (mut change, reply) = step(row, at, caller, asked);
    if let (Some(new), Request::Confirm(_)) = (&mut change, asked) {
        new.released = row.released;
    }
    (change, reply)
}

/// A repeated request is answered for the current token only; and an instance is known by its own token.
pub(crate) fn tokens_unchecked(
    row: &Row,
    at: Moment,
    caller: InstanceId,
    asked: &Request,
) -> (Option<Row>, Reply) {
    let asked = match *asked {
        Request::Anchor(to) => Request::Anchor(Move { token: row.token, ..to }),
        Request::Renew { generation, .. } => Request::Renew { token: row.token, generation },
        other => other,
    };
    let caller = row.holder.map_or(caller, |holder| holder.instance);
    step(row, at, caller, &asked)
}

/// The next epoch's secret is of one token.
pub(crate) fn next_secret_reissued(
    row: &Row,
    at: Moment,
    caller: InstanceId,
    asked: &Request,
) -> (Option<Row>, Reply) {
    let (mut change, mut reply) = step(row, at, caller, asked);
    if let (Some(new), Reply::Granted(grant), Some(next)) = (&mut change, &mut reply, row.next) {
        (new.next, grant.next) = (Some(next), next);
    }
    (change, reply)
}

/// The old secret is erased with CONFIRM and not earlier.
pub(crate) fn old_secret_erased_at_grant(
    row: &Row,
    at: Moment,
    caller: InstanceId,
    asked: &Request,
) -> (Option<Row>, Reply) {
    let (mut change, reply) = step(row, at, caller, asked);
    if let (Some(new), Reply::Granted(_)) = (&mut change, &reply) {
        new.current = None;
    }
    (change, reply)
}

/// The epoch moves with CONFIRM and not earlier.
pub(crate) fn rotated_at_grant(
    row: &Row,
    at: Moment,
    caller: InstanceId,
    asked: &Request,
) -> (Option<Row>, Reply) {
    let (mut change, reply) = step(row, at, caller, asked);
    if let (Some(new), Reply::Granted(grant), Life::Active) = (&mut change, &reply, row.life) {
        new.current = Some(grant.next);
    }
    (change, reply)
}

/// The head moves by compare-and-swap on the head, of the current token, forwards: any of the three alone would do, and
/// None is there.
pub(crate) fn anchors_unchecked(
    row: &Row,
    at: Moment,
    caller: InstanceId,
    asked: &Request,
) -> (Option<Row>, Reply) {
    let Request::Anchor(to) = *asked else { return step(row, at, caller, asked) };
    let new = Head { sequence: row.head.sequence + 1, ..to.new };
    let to = Move { token: row.token, epoch: row.epoch, previous: row.head, new, ..to };
    let caller = row.holder.map_or(caller, |holder| holder.instance);
    step(row, at, caller, &Request::Anchor(to))
}

/// Every grant has a token of its own.
pub(crate) fn grant_without_a_token(
    row: &Row,
    at: Moment,
    caller: InstanceId,
    asked: &Request,
) -> (Option<Row>, Reply) {
    let (mut change, mut reply) = step(row, at, caller, asked);
    if let (Some(new), Reply::Granted(grant), true) = (&mut change, &mut reply, row.token > 0) {
        (new.token, grant.token) = (row.token, row.token);
        let next = SecretName { token: row.token, epoch: row.epoch + 1 };
        (new.next, grant.next) = (Some(next), next);
    }
    (change, reply)
}

/// A lease only grows.
pub(crate) fn lease_not_kept(
    row: &Row,
    at: Moment,
    caller: InstanceId,
    asked: &Request,
) -> (Option<Row>, Reply) {
    let (mut change, reply) = step(row, at, caller, asked);
    if let (Some(new), Reply::Leased { .. }) = (&mut change, &reply) {
        new.lease_until_ms = at.now_ms;
    }
    (change, reply)
}

/// BUMP is idempotent.
pub(crate) fn bump_is_no_repetition(
    row: &Row,
    at: Moment,
    caller: InstanceId,
    asked: &Request,
) -> (Option<Row>, Reply) {
    let lie = Row { bumped_from: None, ..row.clone() };
    step(&lie, at, caller, asked)
}

/// The repeated request gets the same answer.
pub(crate) fn repetition_is_conflict(
    row: &Row,
    at: Moment,
    caller: InstanceId,
    asked: &Request,
) -> (Option<Row>, Reply) {
    match *asked {
        Request::Anchor(to) | Request::Confirm(to) if to.new == row.head => (None, Reply::Conflict),
        _ => step(row, at, caller, asked),
    }
}

/// RESTORE leaves the lease as it is, and waits for it.
pub(crate) fn restore_does_not_wait(row: &Row, order: Order) -> Result<Row, Life> {
    let new = operate(row, order)?;
    Ok(if matches!(order, Order::Restore(_)) { Row { released: true, ..new } } else { new })
}

/// What a restore replaces stays until its CONFIRM.
pub(crate) fn restore_erases_at_once(row: &Row, order: Order) -> Result<Row, Life> {
    let new = operate(row, order)?;
    Ok(if matches!(order, Order::Restore(_)) { Row { current: None, ..new } } else { new })
}

/// The CONFIRM of a restore begins its generation.
pub(crate) fn restore_keeps_the_generation(
    row: &Row,
    at: Moment,
    caller: InstanceId,
    asked: &Request,
) -> (Option<Row>, Reply) {
    let (change, reply) = step(row, at, caller, asked);
    (change.map(|new| Row { generation: row.generation, ..new }), reply)
}
