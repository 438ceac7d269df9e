//! What an operator is told of the answers, in the log and by numbers.

use crate::ids::VmName;
use crate::rules::Reply;
use husk::release::wire::Operation;
use std::fmt::Debug;

/// One line for each answer that an operator may want to know of.
pub(super) fn note(vm: &VmName, operation: Operation, answer: &Reply) {
    match (operation, answer) {
        (Operation::StateMissing, Reply::Done) => {
            tracing::error!(%vm, "ALARM: the VM says that its disk does not hold its newest state");
        }
        (_, Reply::Granted(grant)) => {
            tracing::info!(%vm, "granted token {} {}", grant.token, grant.purpose());
        }
        (Operation::Attest | Operation::Grant, Reply::Denied(_)) => {}
        (_, Reply::Busy { .. } | Reply::Denied(_) | Reply::Fenced | Reply::Conflict) => {
            tracing::warn!(%vm, "{operation:?} answered {answer:?}");
        }
        (Operation::Confirm | Operation::Release, _) => tracing::info!(%vm, "{operation:?}"),
        _ => {}
    }
}

/// Its name, for the metrics.
pub(super) fn named<T: Debug>(value: &Option<T>) -> Option<&dyn Debug> {
    value.as_ref().map(|value| value as &dyn Debug)
}

/// An answer's name.
pub(super) const fn outcome_word(reply: &Reply) -> &'static str {
    match reply {
        Reply::Granted(_) => "granted",
        Reply::Leased { .. } => "leased",
        Reply::Bumped { .. } => "bumped",
        Reply::Done => "done",
        Reply::Busy { .. } => "busy",
        Reply::Denied(_) => "denied",
        Reply::Fenced => "fenced",
        Reply::Conflict => "conflict",
    }
}
