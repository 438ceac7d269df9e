//! Requests that concern neither the state nor the lease: certificates, backups, and what a restore needs before its CONFIRM.
//!
//! **Laws.** Only the VM's newest instance is heard, as for RENEW, in a session that has attested; for a restore, only one that was granted it.

use super::sessions::{Session, Stage};
use super::{Service, bodies, unlock};
use crate::rules::{Reply, Request};
use husk::release::frame::exactly;
use husk::release::wire::{
    Activate, BackupPart, BackupRequest, DeniedReason, Endorse, EndorsementRequest, Operation, RefusalReason,
    RestorePartRequest, RestoreRequest, Status,
};

/// What a request comes to: a body, or an answer of the rules.
pub(super) type Answer = Result<Result<Vec<u8>, Reply>, RefusalReason>;

/// Whether an operation is decided here.
pub(super) const fn concerns(operation: Operation) -> bool {
    matches!(
        operation,
        Operation::Endorsement
            | Operation::Endorse
            | Operation::Activate
            | Operation::Backup
            | Operation::BackupPart
            | Operation::Restore
            | Operation::RestorePart
    )
}

impl Service {
    /// Answers one of them: the status, and the body's length at the front of `room`.
    pub(super) fn aside(
        &self,
        session: &mut Session,
        (operation, body): (Operation, &[u8]),
        room: &mut [u8],
    ) -> Result<(Status, usize), RefusalReason> {
        let written = match self.aside_answer(session, operation, body)? {
            Ok(body) => room.get_mut(..body.len()).map(|room| {
                room.copy_from_slice(&body);
                (Status::Ok, body.len())
            }),
            Err(reply) => bodies::reply(&reply, room),
        };
        written.ok_or(RefusalReason::Unavailable)
    }

    fn aside_answer(&self, session: &mut Session, operation: Operation, body: &[u8]) -> Answer {
        if unlock::concerns(operation) {
            return self.unlock(session, operation, body);
        }
        let Stage::Attested { report_digest, .. } = session.stage else {
            return Ok(Err(Reply::Denied(DeniedReason::Order)));
        };
        let Some((token, generation)) = named(operation, body) else {
            return Ok(Err(Reply::Denied(DeniedReason::Order)));
        };
        let request = match operation {
            Operation::Restore | Operation::RestorePart => Request::Restore { token, generation },
            _ => Request::Renew { token, generation },
        };
        let (standing, _) = self.ask(session, &request)?;
        if !matches!(standing, Reply::Leased { .. } | Reply::Done) {
            return Ok(Err(standing));
        }
        match operation {
            Operation::Restore => self.restore(session).map(Ok),
            Operation::RestorePart => self.restore_part(session, body).map(Ok),
            Operation::Backup => self.backup(session).map(Ok),
            Operation::BackupPart => self.backup_part(session, body).map(Ok),
            _ => self.endorsement(session, (operation, body), report_digest),
        }
    }
}

/// Token and generation that a request names, if it has its size.
fn named(operation: Operation, body: &[u8]) -> Option<(u64, u32)> {
    match operation {
        Operation::Endorsement => {
            exactly::<EndorsementRequest>(body).ok().map(|asked| (asked.token.get(), asked.generation.get()))
        }
        Operation::Endorse => {
            exactly::<Endorse>(body).ok().map(|asked| (asked.token.get(), asked.generation.get()))
        }
        Operation::Activate => {
            exactly::<Activate>(body).ok().map(|asked| (asked.token.get(), asked.generation.get()))
        }
        Operation::Backup => {
            exactly::<BackupRequest>(body).ok().map(|asked| (asked.token.get(), asked.generation.get()))
        }
        Operation::BackupPart => {
            exactly::<BackupPart>(body).ok().map(|asked| (asked.token.get(), asked.generation.get()))
        }
        Operation::Restore => {
            exactly::<RestoreRequest>(body).ok().map(|asked| (asked.token.get(), asked.generation.get()))
        }
        Operation::RestorePart => {
            exactly::<RestorePartRequest>(body).ok().map(|asked| (asked.token.get(), asked.generation.get()))
        }
        _ => None,
    }
}
