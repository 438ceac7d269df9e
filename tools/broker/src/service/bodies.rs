//! Bodies of requests as `rules` understands them, and answers as bodies of replies.

use crate::rules::{Grant, Keeps, Move, Reply, Request};
use husk::release::Head;
use husk::release::frame::exactly;
use husk::release::wire::{
    AnchorRequest, Attest, Bump, Bumped, Busy, Confirm, Denied, GrantIntent, Lease, Operation,
    ReleaseRequest, Renew, Resume, StateMissing, Status,
};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

/// Reads the request of an operation that `rules` decides without more; none if the body is malformed, or the
/// operation is another.
pub(super) fn request(operation: Operation, body: &[u8]) -> Option<Request> {
    match operation {
        Operation::Attest
        | Operation::Grant
        | Operation::StateMissing
        | Operation::Endorsement
        | Operation::Endorse
        | Operation::Activate
        | Operation::Backup
        | Operation::BackupPart
        | Operation::Restore
        | Operation::RestorePart
        | Operation::UnlockAsk
        | Operation::UnlockShow => None,
        Operation::Resume => {
            exactly::<Resume>(body).ok().map(|asked| Request::Resume { token: asked.token.get() })
        }
        Operation::Confirm => exactly::<Confirm>(body).ok().map(|asked| {
            Request::Confirm(Move {
                token: asked.token.get(),
                generation: asked.generation.get(),
                epoch: asked.epoch.get(),
                previous: Head::from(&asked.previous),
                new: Head::from(&asked.new),
                reset_base: asked.reset_base.get(),
            })
        }),
        Operation::Anchor => exactly::<AnchorRequest>(body).ok().map(|asked| {
            Request::Anchor(Move {
                token: asked.token.get(),
                generation: asked.generation.get(),
                epoch: asked.epoch.get(),
                previous: Head::from(&asked.previous),
                new: Head::from(&asked.new),
                reset_base: asked.reset_base.get(),
            })
        }),
        Operation::Renew => exactly::<Renew>(body)
            .ok()
            .map(|asked| Request::Renew { token: asked.token.get(), generation: asked.generation.get() }),
        Operation::Bump => exactly::<Bump>(body)
            .ok()
            .map(|asked| Request::Bump { token: asked.token.get(), generation: asked.generation.get() }),
        Operation::Release => exactly::<ReleaseRequest>(body).ok().map(|asked| Request::Release {
            token: asked.token.get(),
            generation: asked.generation.get(),
            head: Head::from(&asked.head),
        }),
    }
}

/// What a grant allows.
pub(super) const fn intent(grant: &Grant) -> GrantIntent {
    match (grant.keeps, grant.restores, grant.current) {
        (Keeps::Nothing, _, _) => GrantIntent::Ephemeral,
        (Keeps::State, true, _) => GrantIntent::Restore,
        (Keeps::State, false, Some(_)) => GrantIntent::Open,
        (Keeps::State, false, None) => GrantIntent::Create,
    }
}

/// The alarm that a VM's disk does not hold the state at head.
pub(super) fn state_missing(body: &[u8]) -> Option<StateMissing> {
    exactly(body).ok()
}

/// The parts of an ATTEST.
pub(super) struct AttestParts<'a> {
    pub(super) fixed: &'a Attest,
    pub(super) config: &'a [u8],
    pub(super) certificate: &'a [u8],
}

/// Takes an ATTEST's body apart; its lengths must account for every byte.
pub(super) fn attest(body: &[u8]) -> Option<AttestParts<'_>> {
    let (fixed, rest) = Attest::ref_from_prefix(body).ok()?;
    let (config, certificate) = rest.split_at_checked(usize::from(fixed.config_bytes.get()))?;
    (certificate.len() == usize::from(fixed.certificate_bytes.get())).then_some(AttestParts {
        fixed,
        config,
        certificate,
    })
}

/// Writes an answer's body to the front of `room` and returns its status and length; none for a grant, which needs
/// its secrets and a signature.
pub(super) fn reply(reply: &Reply, room: &mut [u8]) -> Option<(Status, usize)> {
    let mut put = |bytes: &[u8]| {
        room.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(bytes.len())
    };
    Some(match *reply {
        Reply::Granted(_) => return None,
        Reply::Leased { lease_ms } => (Status::Ok, put(Lease { lease_ms: U32::new(lease_ms) }.as_bytes())?),
        Reply::Bumped { token, lease_ms } => {
            let bumped = Bumped { token: U64::new(token), lease_ms: U32::new(lease_ms) };
            (Status::Ok, put(bumped.as_bytes())?)
        }
        Reply::Done => (Status::Ok, 0),
        Reply::Busy { retry_ms } => (Status::Busy, put(Busy { retry_ms: U32::new(retry_ms) }.as_bytes())?),
        Reply::Denied(reason) => {
            (Status::Denied, put(Denied { reason: U16::new(reason as u16) }.as_bytes())?)
        }
        Reply::Fenced => (Status::Fenced, 0),
        Reply::Conflict => (Status::Conflict, 0),
    })
}
