//! One frame in, one frame out.
//!
//! **What.** [`Service::handle`] is the broker without its network: hello, attestation, then requests of a proven
//! instance, decided by the store.
//! **Trust.** A session's records once their tag verifies; a report once its signature holds down to a root.
//! **Laws.** Total over any bytes. A frame that does not authenticate changes nothing, and its refusal says nothing
//! that a stranger could not know. Policy is checked in one order, each rule with its own reason. A grant needs an
//! attestation in the very same session. Tables are bounded.
//! **Not here.** HTTP (`http`); what is granted to whom (`rules`); the bytes of records (`husk::release::record`).

mod admin;
mod admission;
mod aside;
mod backup;
mod bodies;
mod endorsement;
mod kbs;
mod notes;
mod operations;
mod orders;
mod restore;
mod sessions;
mod unlock;

pub use sessions::{ESTABLISHED_MAX, GREETED_MAX, GREETED_OF_PEER_MAX};

use crate::evidence::Evidence;
use crate::ids::{TenantId, VmId, VmName};
use crate::metrics::{Metrics, word};
use crate::policy::{Genuine, Refusal, Rule, guest_is_closed, holds};
use crate::rules::{Grant, InstanceId, Keeps, Order, Reply, Request};
use crate::store::{
    Ask, Criteria, Decided, Enrolment, GrantSecrets, Group, GroupError, Quota, Serving, StoreError, Tenant,
};
use crate::vault::RootKeys;
use crate::world::{World, WorldEntropy};
use admission::{admits, bears, bound, kept_by, shown};
use bodies::AttestParts;
use husk::attest::report::Report;
use husk::release::frame;
use husk::release::record::{Answerer, Asked, REPLY_BODY_AT, session_of};
use husk::release::transcript::{AgreementKey, broker_keys, grant_digest, point_digest, server_hello_digest};
use husk::release::wire::{
    DeniedReason, FRAME_BYTES_MAX, FrameKind, GrantReply, Hello, Operation, PROTOCOL, RefusalReason,
    SIGNATURE_BYTES, SUITE, ServerHello, Status, WireHead,
};
use husk::volume::VolumeFault;
use notes::{named, note, outcome_word};
use sessions::{Proven, Session, Sessions, Stage};
use sha2::{Digest as _, Sha384};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::{U32, U64};
use zeroize::Zeroize;

/// The broker without its network.
pub struct Service {
    group: Group,
    sessions: Mutex<Sessions>,
    kbs_sessions: Mutex<crate::kbs::Sessions>,
    keys: Arc<RootKeys>,
    world: Arc<dyn World>,
    evidence: Box<dyn Evidence>,
    metrics: Option<Arc<Metrics>>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Service")
    }
}

/// What a request comes to: an answer, with the secrets of a grant.
type Outcome = Result<(Reply, Option<GrantSecrets>), RefusalReason>;

impl Service {
    /// A broker on a store that has begun to serve.
    #[must_use]
    pub fn new(
        serving: Serving,
        keys: Arc<RootKeys>,
        world: Arc<dyn World>,
        evidence: Box<dyn Evidence>,
    ) -> Self {
        let sessions = Mutex::new(Sessions::new(GREETED_MAX, GREETED_OF_PEER_MAX, ESTABLISHED_MAX));
        let (group, kbs_sessions) = (Group::new(serving), Mutex::default());
        Self { group, sessions, kbs_sessions, keys, world, evidence, metrics: None }
    }

    /// Whether it can answer: no request has died in the middle of a decision.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.group.is_well() && !self.sessions.is_poisoned()
    }

    /// Answers one frame, whatever its bytes are, from nobody in particular.
    #[must_use]
    pub fn handle(&self, bytes: &[u8]) -> Vec<u8> {
        self.handle_from(IpAddr::V4(Ipv4Addr::UNSPECIFIED), bytes)
    }

    /// Answers one frame of `peer`, whatever its bytes are. Who the peer is gives it no right, only its own share of the
    /// hellos that may wait.
    #[must_use]
    pub fn handle_from(&self, peer: IpAddr, bytes: &[u8]) -> Vec<u8> {
        let mut reply = vec![0; FRAME_BYTES_MAX];
        let begun = Instant::now();
        let (kind, answered) = if bytes.len() > FRAME_BYTES_MAX {
            (None, Err(RefusalReason::Malformed))
        } else {
            self.answer(peer, &mut bytes.to_vec(), &mut reply)
        };
        self.count(|metrics| metrics.frame(named(&kind), named(&answered.err()), begun.elapsed()));
        // A refusal always fits.
        let length = answered.unwrap_or_else(|reason| frame::refusal(reason, &mut reply).unwrap_or(0));
        reply.truncate(length);
        reply
    }

    /// What a frame is, if it is one, and the length of its answer.
    fn answer(
        &self,
        peer: IpAddr,
        bytes: &mut [u8],
        reply: &mut [u8],
    ) -> (Option<FrameKind>, Result<usize, RefusalReason>) {
        let Ok((kind, body)) = frame::open(bytes) else { return (None, Err(RefusalReason::Malformed)) };
        let answered = match kind {
            FrameKind::Hello => self.hello(peer, body, reply),
            FrameKind::Request => self.request(body, reply),
            FrameKind::Ticket => self.ticket(body, reply),
            FrameKind::StatusRequest => self.status(body, reply),
            FrameKind::BackupAsked => self.backup_asked(body, reply),
            FrameKind::RestoreKeyAsked => self.restore_key_asked(body, reply),
            FrameKind::BackupBrought => self.backup_brought(body, reply),
            FrameKind::ServerHello
            | FrameKind::Reply
            | FrameKind::Statement
            | FrameKind::BackupPiece
            | FrameKind::RestoreKeyShown
            | FrameKind::KbsAuth
            | FrameKind::KbsAttest
            | FrameKind::KbsResource
            | FrameKind::KbsAnswer
            | FrameKind::Refusal => Err(RefusalReason::Malformed),
        };
        (Some(kind), answered)
    }

    fn hello(&self, peer: IpAddr, body: &[u8], reply: &mut [u8]) -> Result<usize, RefusalReason> {
        let hello: Hello = frame::exactly(body).map_err(|_| RefusalReason::Malformed)?;
        if hello.protocol.get() != PROTOCOL || hello.suite.get() != SUITE {
            return Err(RefusalReason::Version);
        }
        if hello.flags.get() != 0 {
            return Err(RefusalReason::Malformed);
        }
        let vm = VmName { tenant: TenantId(hello.tenant), vm: VmId(hello.vm) };
        let tenant = self.tenant_of(&vm)?;
        let (server, ephemeral) = self.server_hello(&hello, &tenant)?;
        let keys = broker_keys(&ephemeral, &hello, &server).map_err(|_| RefusalReason::Malformed)?;
        let session = Session {
            id: server.session,
            answerer: Answerer::new(keys),
            vm,
            instance: InstanceId(point_digest(&hello.instance)),
            stage: Stage::Greeted,
            proven: None,
            challenged: None,
            backup: None,
            unlocking: None,
        };
        locked(&self.sessions)?.greet(peer, session);
        frame::frame_of(FrameKind::ServerHello, reply, &server).map_err(|_| RefusalReason::Unavailable)
    }

    /// The tenant of a VM that is enrolled.
    fn tenant_of(&self, vm: &VmName) -> Result<Tenant, RefusalReason> {
        self.stored(vm, |serving| serving.store().enrolled(vm)).map(|(_, tenant)| tenant)
    }

    fn enrolment(&self, vm: &VmName) -> Result<Enrolment, RefusalReason> {
        self.stored(vm, |serving| serving.store().enrolment(vm))
    }

    /// What the store says of `vm`, beside the decisions.
    fn stored<T>(
        &self,
        vm: &VmName,
        ask: impl FnOnce(&mut Serving) -> Result<T, StoreError>,
    ) -> Result<T, RefusalReason> {
        let said = self.group.serving().and_then(|mut serving| Ok(ask(&mut serving)?));
        said.map_err(|error| unavailable(vm, &error))
    }

    fn server_hello(
        &self,
        hello: &Hello,
        tenant: &Tenant,
    ) -> Result<(ServerHello, AgreementKey), RefusalReason> {
        let no_entropy = |_| RefusalReason::Unavailable;
        let ephemeral = AgreementKey::generate(&mut WorldEntropy(&*self.world)).map_err(no_entropy)?;
        let mut server = ServerHello {
            session: [0; 16],
            nonce: [0; 32],
            ephemeral: *ephemeral.point(),
            tenant_root: tenant.root,
            certificate: tenant.certificate,
            signature: [0; SIGNATURE_BYTES],
        };
        self.world.fill(&mut server.session).map_err(|_| RefusalReason::Unavailable)?;
        self.world.fill(&mut server.nonce).map_err(|_| RefusalReason::Unavailable)?;
        let digest = server_hello_digest(hello, &server);
        server.signature = self.keys.signing().sign(&digest).map_err(|_| RefusalReason::Unavailable)?;
        Ok((server, ephemeral))
    }

    fn request(&self, body: &mut [u8], reply: &mut [u8]) -> Result<usize, RefusalReason> {
        let id = session_of(body).map_err(|_| RefusalReason::Malformed)?;
        let session = locked(&self.sessions)?.find(&id).ok_or(RefusalReason::UnknownSession)?;
        let mut session = locked(&session)?;
        // A newer session of the same instance may have closed this one while it was waited for.
        locked(&self.sessions)?.find(&id).ok_or(RefusalReason::UnknownSession)?;
        let (asked, body) = session.answerer.open(body).map_err(|_| RefusalReason::Malformed)?;
        let operation = asked.operation();
        if aside::concerns(operation) || unlock::concerns(operation) {
            let room = reply.get_mut(REPLY_BODY_AT..).ok_or(RefusalReason::Unavailable)?;
            let (status, length) = self.aside(&mut session, (operation, body), room)?;
            self.count(|metrics| metrics.request(&operation, &word(&status)));
            let sealed = session.answerer.seal(asked, status, reply, length);
            return sealed.map_err(|_| RefusalReason::Unavailable);
        }
        let (answer, secrets) = self.decide(&mut session, operation, body)?;
        note(&session.vm, operation, &answer);
        self.count(|metrics| metrics.request(&operation, outcome_word(&answer)));
        self.seal(&session, asked, (&answer, secrets), reply)
    }

    fn decide(&self, session: &mut Session, operation: Operation, body: &[u8]) -> Outcome {
        let order = Ok((Reply::Denied(DeniedReason::Order), None));
        match (operation, session.stage) {
            (Operation::Attest, Stage::Greeted) => self.attest(session, body),
            (Operation::Resume, Stage::Greeted) => self.resume(session, body),
            (Operation::Grant, Stage::Attested { report_id, .. }) if body.is_empty() => {
                self.grant(session, report_id)
            }
            (Operation::Attest | Operation::Grant, _) => {
                self.refuse(&session.vm, &DeniedReason::Order.into())
            }
            (
                Operation::Confirm
                | Operation::Anchor
                | Operation::Renew
                | Operation::Bump
                | Operation::Release,
                Stage::Attested { .. } | Stage::Resumed,
            ) => match bodies::request(operation, body) {
                Some(request) => self.ask(session, &request),
                None => order,
            },
            (Operation::StateMissing, Stage::Attested { .. } | Stage::Resumed) => {
                self.state_missing(session, body)
            }
            _ => order,
        }
    }

    /// Has the store decide.
    fn ask(&self, session: &Session, request: &Request) -> Outcome {
        let ask = Ask { vm: session.vm, caller: session.instance, request: *request };
        let decided = self.group.decide(ask);
        let Decided { reply, secrets } = decided.map_err(|error| unavailable(&session.vm, &error))?;
        Ok((reply, secrets))
    }

    /// An instance that was granted the newest state and holds a newer one: the database was set back, as far as this VM
    /// goes. Nothing is granted for it until its owner has looked.
    fn state_missing(&self, session: &Session, body: &[u8]) -> Outcome {
        let Some(alarm) = bodies::state_missing(body) else {
            return Ok((Reply::Denied(DeniedReason::Order), None));
        };
        let outcome = self.ask(session, &Request::StateMissing { token: alarm.token.get() })?;
        if outcome.0 == Reply::Done {
            let why = format!("token {}, fault {:#010x}", alarm.token.get(), alarm.fault.get());
            self.stored(&session.vm, |serving| serving.store().missing(&session.vm, why))?;
        }
        if outcome.0 == Reply::Done && alarm.fault.get() == VolumeFault::NewerThanAnchor.fault().code() {
            let vm = &session.vm;
            self.stored(vm, |serving| serving.store().operate(vm, Order::Halt))?;
            tracing::error!(
                %vm,
                "ALARM: halted: its disk holds a newer state than this database. If the database \
                 was restored from a copy, restore the newest; if there is none, or if the host tampered with the \
                 disk, its owner decides, by a ticket to resume or to retire it (`husk vm ticket`)"
            );
        }
        Ok(outcome)
    }

    /// The tenant may demand more than when the instance attested, while it waited for another's lease to end.
    fn grant(&self, session: &Session, report_id: [u8; 32]) -> Outcome {
        let vm = &session.vm;
        let Some(proven) = &session.proven else {
            return self.refuse(vm, &DeniedReason::Order.into());
        };
        if let Err(refusal) = admits(&self.criteria(vm)?, &proven.report, &proven.genuine)? {
            return self.refuse(vm, &refusal);
        }
        let guest_svn = Report::parse(&proven.report).map_err(|_| RefusalReason::Malformed)?.guest_svn();
        let request = match proven.keeps {
            Keeps::State => Request::Grant { report_id, guest_svn },
            Keeps::Nothing => Request::Ephemeral { report_id, guest_svn },
        };
        let outcome = self.ask(session, &request)?;
        match outcome.0 {
            Reply::Denied(reason) => self.refuse(vm, &reason.into()),
            _ => Ok(outcome),
        }
    }

    /// Denies an instance, and tells its tenant why. Everybody else who reads along learns where the tenant has it.
    fn refuse(&self, vm: &VmName, refusal: &Refusal) -> Outcome {
        let entry = self.stored(vm, |serving| serving.store().refused(vm, refusal))?;
        tracing::warn!(%vm, rule = refusal.rule.word(), entry, "refused, {entry}");
        self.count(|metrics| metrics.refusal(refusal.rule.word()));
        Ok((Reply::Denied(refusal.reason()), None))
    }

    fn resume(&self, session: &mut Session, body: &[u8]) -> Outcome {
        let Some(request) = bodies::request(Operation::Resume, body) else {
            return Ok((Reply::Denied(DeniedReason::Order), None));
        };
        let outcome = self.ask(session, &request)?;
        if matches!(outcome.0, Reply::Leased { .. }) {
            let vm = &session.vm;
            let quota = self.stored(vm, |serving| serving.store().quota(vm.tenant))?;
            self.establish(session, &quota)?;
            session.stage = Stage::Resumed;
        }
        Ok(outcome)
    }

    /// The instance has proven itself; its tenant has so many sessions at most.
    fn establish(&self, session: &Session, quota: &Quota) -> Result<(), RefusalReason> {
        locked(&self.sessions)?.establish(&session.id, quota.sessions as usize);
        Ok(())
    }

    fn attest(&self, session: &mut Session, body: &[u8]) -> Outcome {
        let Some(parts) = bodies::attest(body) else {
            return self.refuse(&session.vm, &DeniedReason::Order.into());
        };
        let criteria = self.criteria(&session.vm)?;
        match self.judge(session, &criteria, &parts)? {
            Ok((report_id, genuine)) => {
                let report = parts.fixed.report;
                let report_digest = Sha384::digest(report).into();
                session.stage = Stage::Attested { report_digest, report_id };
                let keeps = kept_by(parts.config);
                session.proven = Some(Box::new(Proven { report, genuine, keeps }));
                self.establish(session, &criteria.quota)?;
                Ok((Reply::Done, None))
            }
            Err(refusal) => self.refuse(&session.vm, &refusal),
        }
    }

    /// The whole policy, in order; yields REPORT_ID and what the certificate says.
    fn judge(
        &self,
        session: &Session,
        criteria: &Criteria,
        parts: &AttestParts<'_>,
    ) -> Result<Result<([u8; 32], Genuine), Refusal>, RefusalReason> {
        let (vm, enrolment) = (&session.vm, &criteria.enrolment);
        let raw = &parts.fixed.report;
        let genuine = match self.genuine((vm, criteria), raw, parts.certificate)? {
            Ok(genuine) => genuine,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let report = Report::parse(raw).map_err(|_| RefusalReason::Malformed)?;
        let in_session = guest_is_closed(&report)
            .and_then(|()| bears(&report, enrolment))
            .and_then(|()| shown(parts.config, enrolment))
            .and_then(|()| bound(&report, session.answerer.transcript(), parts.config));
        if let Err(refusal) = in_session {
            return Ok(Err(refusal));
        }
        if let Err(refusal) = admits(criteria, raw, &genuine)? {
            return Ok(Err(refusal));
        }
        let report_id = *report.report_id();
        let bind = |serving: &mut Serving| serving.store().bind_launch(vm, &report_id, session.instance);
        let first = self.stored(vm, bind)?;
        let reused = || Refusal::new(Rule::Instance, "one instance key for a launch", "another one for it");
        Ok(holds(first, reused).map(|()| (report_id, genuine)))
    }

    fn seal(
        &self,
        session: &Session,
        asked: Asked,
        (answer, secrets): (&Reply, Option<GrantSecrets>),
        reply: &mut [u8],
    ) -> Result<usize, RefusalReason> {
        let room = reply.get_mut(REPLY_BODY_AT..).ok_or(RefusalReason::Unavailable)?;
        let written = match (answer, secrets, session.stage) {
            (Reply::Granted(grant), Some(secrets), Stage::Attested { report_digest, .. }) => {
                self.write_grant(session.answerer.transcript(), &report_digest, (grant, &secrets), room)
            }
            _ => bodies::reply(answer, room),
        };
        let (status, length) = written.ok_or(RefusalReason::Unavailable)?;
        session.answerer.seal(asked, status, reply, length).map_err(|_| RefusalReason::Unavailable)
    }

    /// Writes a signed grant to the front of `room`; sealing encrypts it there.
    fn write_grant(
        &self,
        transcript: &[u8; 48],
        report_digest: &[u8; 48],
        (grant, secrets): (&Grant, &GrantSecrets),
        room: &mut [u8],
    ) -> Option<(Status, usize)> {
        let mut body = GrantReply {
            intent: bodies::intent(grant) as u8,
            reserved: [0; 3],
            generation: U32::new(grant.generation),
            token: U64::new(grant.token),
            epoch: U64::new(grant.epoch),
            head: WireHead::from(&grant.head),
            epoch_secret: [0; 32],
            next_secret: [0; 32],
            signature: [0; SIGNATURE_BYTES],
        };
        if let Some(current) = &secrets.current {
            current.with(|bytes| body.epoch_secret = *bytes);
        }
        if grant.keeps == Keeps::State {
            secrets.next.with(|bytes| body.next_secret = *bytes);
        }
        let signed = self.keys.signing().sign(&grant_digest(transcript, report_digest, &body));
        let written = signed.ok().and_then(|signature| {
            body.signature = signature;
            room.get_mut(..GrantReply::BYTES)?.copy_from_slice(body.as_bytes());
            Some((Status::Ok, GrantReply::BYTES))
        });
        body.as_mut_bytes().zeroize();
        written
    }
}

/// Nobody else may have panicked in the middle; if so, this broker answers no more.
fn locked<T>(mutex: &Mutex<T>) -> Result<MutexGuard<'_, T>, RefusalReason> {
    mutex.lock().map_err(|_| RefusalReason::Unavailable)
}

/// Says in the log what failed; a stranger learns no more than that it did.
fn unavailable(vm: &VmName, error: &GroupError) -> RefusalReason {
    if let GroupError::Store(error) = error
        && matches!(**error, StoreError::UnknownTenant(_) | StoreError::UnknownVm(_))
    {
        return RefusalReason::UnknownVm;
    }
    tracing::error!(%vm, "{error}");
    RefusalReason::Unavailable
}
