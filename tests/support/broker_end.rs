//! The other end of the protocol, as small and honest as it can be: one tenant, one VM, one row, in memory.
//!
//! It makes no decisions of policy (a report convinces it if it binds the session) and takes no times: the test sets
//! `busy`, `deny` and `fence`. Everything it does can be bent through [`Bend`], for a broker that is not honest.

use husk::attest::binding::report_data;
use husk::attest::launch::{Kbs, LaunchConfig, Mode, Serve};
use husk::release::record::{Answerer, REPLY_BODY_AT, session_of};
use husk::release::transcript::{
    AgreementKey, Digest, SigningKey, broker_keys, certificate_digest, grant_digest, point_digest,
    server_hello_digest,
};
use husk::release::wire::{
    AnchorRequest, Attest, BrokerCertificate, Bump, Bumped, Busy, Confirm, Denied, DeniedReason,
    FRAME_BYTES_MAX, FrameKind, GrantIntent, GrantReply, Hello, Lease, Operation, RefusalReason,
    ReleaseRequest, Renew, Resume, ServerHello, StateMissing, Status, Wire, WireHead,
};
use husk::release::{Head, frame};
use husk::seams::{Entropy, EntropyError};
use sha2::{Digest as _, Sha384};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

pub(crate) const TENANT: [u8; 16] = [0xA1; 16];
pub(crate) const VM: [u8; 16] = [0xB2; 16];
pub(crate) const LEASE_MS: u32 = 60_000;

/// SHA-384 of a seed and a counter.
pub(crate) struct Seeded {
    seed: u64,
    count: u64,
}

impl Seeded {
    pub(crate) const fn new(seed: u64) -> Self {
        Self { seed, count: 0 }
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out).unwrap();
        out
    }
}

impl Entropy for Seeded {
    fn fill(&mut self, into: &mut [u8]) -> Result<(), EntropyError> {
        for chunk in into.chunks_mut(48) {
            self.count += 1;
            let digest = Sha384::new().chain_update(self.seed.to_le_bytes());
            let digest = digest.chain_update(self.count.to_le_bytes()).finalize();
            chunk.copy_from_slice(&digest[..chunk.len()]);
        }
        Ok(())
    }
}

/// Ways to bend what the broker signs and sends, before it signs.
#[derive(Default)]
pub(crate) struct Bend {
    pub(crate) certificate: Option<fn(&mut BrokerCertificate)>,
    pub(crate) server_hello: Option<fn(&mut ServerHello)>,
    pub(crate) grant: Option<fn(&mut GrantReply)>,
    /// Signs grants for another session or report.
    pub(crate) grant_transcript: Option<Digest>,
    pub(crate) grant_report: Option<Digest>,
    /// Signs certificates with another key than the tenant root key that it shows.
    pub(crate) certifier: Option<SigningKey>,
    /// Replies with this status instead of the honest answer.
    pub(crate) status: Option<Status>,
    /// Appends a byte to every reply's body.
    pub(crate) longer_replies: bool,
    /// Replies to this operation with this instead of the honest answer, which is acted upon all the same.
    pub(crate) reply: Option<(Operation, Status, Vec<u8>)>,
}

struct Session {
    answerer: Answerer,
    instance: [u8; 97],
    report_digest: Option<Digest>,
    resumed: bool,
}

/// What the broker remembers of the VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) active: bool,
    pub(crate) token: u64,
    pub(crate) generation: u32,
    pub(crate) epoch: u64,
    pub(crate) head: Head,
    pub(crate) current: [u8; 32],
    pub(crate) next: [u8; 32],
    pub(crate) released: bool,
    pub(crate) instance: Option<[u8; 97]>,
    /// A bump: the token before it and the one that it gave.
    pub(crate) bump: Option<(u64, u64)>,
    pub(crate) alarm: Option<u32>,
}

pub(crate) struct BrokerEnd {
    /// The tenant root key.
    pub(crate) root: SigningKey,
    key: SigningKey,
    entropy: Seeded,
    sessions: Vec<([u8; 16], Session)>,
    pub(crate) row: Row,
    pub(crate) bend: Bend,
    /// What the launch configuration names.
    pub(crate) mode: Mode,
    pub(crate) busy: bool,
    pub(crate) deny: Option<DeniedReason>,
    pub(crate) key_generation: u32,
    pub(crate) certificate_seen: usize,
}

impl BrokerEnd {
    pub(crate) fn new(seed: u64) -> Self {
        let mut entropy = Seeded::new(seed ^ 0xB0B0);
        Self {
            root: SigningKey::generate(&mut entropy).unwrap(),
            key: SigningKey::generate(&mut entropy).unwrap(),
            entropy,
            sessions: Vec::new(),
            row: Row {
                active: false,
                token: 0,
                generation: 1,
                epoch: 0,
                head: Head::NONE,
                current: [0; 32],
                next: [0; 32],
                released: true,
                instance: None,
                bump: None,
                alarm: None,
            },
            bend: Bend::default(),
            mode: Mode::Strict,
            busy: false,
            deny: None,
            key_generation: 3,
            certificate_seen: 0,
        }
    }

    /// The launch configuration that trusts this broker.
    pub(crate) fn config(&self) -> LaunchConfig {
        LaunchConfig {
            tenant: TENANT,
            vm: VM,
            root: point_digest(self.root.point()),
            mode: self.mode,
            serve: Serve::Lease,
            kbs: Kbs::None,
            min_key_generation: 3,
            processor: None,
            staleness: None,
            variables: None,
        }
    }

    /// Restarts: sessions are gone, the row is not.
    pub(crate) fn forget_sessions(&mut self) {
        self.sessions.clear();
    }

    /// Grants the VM to somebody else.
    pub(crate) fn fence(&mut self) {
        self.row.token += 1;
        self.row.instance = None;
    }

    /// One frame in, one frame out.
    pub(crate) fn answer(&mut self, request: &[u8]) -> Vec<u8> {
        let mut request = request.to_vec();
        let mut reply = vec![0; FRAME_BYTES_MAX];
        let length = match frame::open(&mut request) {
            Ok((FrameKind::Hello, body)) => self.greet(body, &mut reply),
            Ok((FrameKind::Request, body)) => self.serve(body, &mut reply),
            _ => Err(RefusalReason::Malformed),
        };
        let length = length.unwrap_or_else(|reason| frame::refusal(reason, &mut reply).unwrap());
        reply.truncate(length);
        reply
    }

    fn greet(&mut self, body: &[u8], reply: &mut [u8]) -> Result<usize, RefusalReason> {
        let hello = Hello::read_from_bytes(body).map_err(|_| RefusalReason::Malformed)?;
        if (hello.tenant, hello.vm) != (TENANT, VM) {
            return Err(RefusalReason::UnknownVm);
        }
        let ephemeral = AgreementKey::generate(&mut self.entropy).unwrap();
        let mut server = ServerHello::new_zeroed();
        (server.session, server.nonce) = (self.entropy.array(), self.entropy.array());
        (server.ephemeral, server.tenant_root) = (*ephemeral.point(), *self.root.point());
        server.certificate = self.certificate();
        if let Some(bend) = self.bend.server_hello {
            bend(&mut server);
        }
        server.signature = self.key.sign(&server_hello_digest(&hello, &server)).unwrap();
        let keys = broker_keys(&ephemeral, &hello, &server).map_err(|_| RefusalReason::Malformed)?;
        let session = Session {
            answerer: Answerer::new(keys),
            instance: hello.instance,
            report_digest: None,
            resumed: false,
        };
        self.sessions.push((server.session, session));
        Ok(frame::frame_of(FrameKind::ServerHello, reply, &server).unwrap())
    }

    fn certificate(&self) -> BrokerCertificate {
        let mut certificate = BrokerCertificate::new_zeroed();
        (certificate.tenant, certificate.broker) = (TENANT, [0xC3; 16]);
        certificate.key = *self.key.point();
        certificate.key_generation = U32::new(self.key_generation);
        if let Some(bend) = self.bend.certificate {
            bend(&mut certificate);
        }
        let certifier = self.bend.certifier.as_ref().unwrap_or(&self.root);
        certificate.signature = certifier.sign(&certificate_digest(&certificate)).unwrap();
        certificate
    }

    fn serve(&mut self, body: &mut [u8], reply: &mut [u8]) -> Result<usize, RefusalReason> {
        let name = session_of(body).map_err(|_| RefusalReason::Malformed)?;
        let at = self.sessions.iter().position(|(session, _)| *session == name);
        let (_, mut session) = self.sessions.swap_remove(at.ok_or(RefusalReason::UnknownSession)?);
        let opened = session.answerer.open(body).map(|(asked, body)| (asked, body.to_vec()));
        let sealed = match opened {
            Err(_) => Err(RefusalReason::Malformed),
            Ok((asked, body)) => {
                let (status, mut answer) = self.decide(asked.operation(), &body, &mut session);
                if self.bend.longer_replies {
                    answer.push(0);
                }
                let bent = self.bend.reply.clone().filter(|(operation, ..)| *operation == asked.operation());
                let (status, answer) = bent.map_or((status, answer), |(_, status, body)| (status, body));
                reply[REPLY_BODY_AT..][..answer.len()].copy_from_slice(&answer);
                Ok(session.answerer.seal(asked, status, reply, answer.len()).unwrap())
            }
        };
        self.sessions.push((name, session));
        sealed
    }

    fn decide(&mut self, operation: Operation, body: &[u8], session: &mut Session) -> (Status, Vec<u8>) {
        if let Some(status) = self.bend.status {
            return (status, Vec::new());
        }
        if let Some(reason) = self.deny {
            return denied(reason);
        }
        match operation {
            Operation::Attest => self.attest(body, session),
            Operation::Resume => self.resume(&parse::<Resume>(body), session),
            Operation::Grant => self.grant(session),
            _ if session.report_digest.is_none() && !session.resumed => denied(DeniedReason::Order),
            Operation::Confirm => self.confirm(&parse::<Confirm>(body)),
            Operation::Anchor => self.anchor(&parse::<AnchorRequest>(body)),
            Operation::Renew => {
                match parse::<Renew>(body).token.get() == self.row.token && !self.row.released {
                    true => lease(),
                    false => (Status::Fenced, Vec::new()),
                }
            }
            Operation::Bump => self.bump(&parse::<Bump>(body)),
            Operation::Release => {
                let request = parse::<ReleaseRequest>(body);
                if request.token.get() != self.row.token {
                    return (Status::Fenced, Vec::new());
                }
                // Who was lied to may believe another head.
                assert!(self.bend.reply.is_some() || Head::from(&request.head) == self.row.head);
                self.row.released = true;
                (Status::Ok, Vec::new())
            }
            Operation::StateMissing => {
                self.row.alarm = Some(parse::<StateMissing>(body).fault.get());
                (Status::Ok, Vec::new())
            }
            // No authority is here, and no session of these tests asks for one.
            Operation::Endorsement
            | Operation::Endorse
            | Operation::Activate
            | Operation::Backup
            | Operation::BackupPart
            | Operation::Restore
            | Operation::RestorePart
            | Operation::UnlockAsk
            | Operation::UnlockShow => denied(DeniedReason::Order),
        }
    }

    fn attest(&mut self, body: &[u8], session: &mut Session) -> (Status, Vec<u8>) {
        let (attest, rest) = Attest::ref_from_prefix(body).unwrap();
        let (config, certificate) = rest.split_at(usize::from(attest.config_bytes.get()));
        assert_eq!(certificate.len(), usize::from(attest.certificate_bytes.get()));
        self.certificate_seen = certificate.len();
        let Ok(config) = LaunchConfig::parse(config) else { return denied(DeniedReason::LaunchConfig) };
        if config != self.config() {
            return denied(DeniedReason::LaunchConfig);
        }
        let expected = report_data(session.answerer.transcript(), &config.digest());
        if attest.report[0x50..0x90] != expected {
            return denied(DeniedReason::Binding);
        }
        session.report_digest = Some(Sha384::digest(attest.report).into());
        self.close_older(session);
        (Status::Ok, Vec::new())
    }

    /// A session that is known to be an instance's closes that instance's older ones.
    fn close_older(&mut self, session: &Session) {
        self.sessions.retain(|(_, old)| old.instance != session.instance);
    }

    fn resume(&mut self, request: &Resume, session: &mut Session) -> (Status, Vec<u8>) {
        let token = request.token.get();
        let before_bump = self.row.bump == Some((token, self.row.token));
        if token != self.row.token && !before_bump {
            return (Status::Fenced, Vec::new());
        }
        if self.row.instance != Some(session.instance) {
            return denied(DeniedReason::Order);
        }
        session.resumed = true;
        self.close_older(session);
        lease()
    }

    fn grant(&mut self, session: &Session) -> (Status, Vec<u8>) {
        let Some(report_digest) = session.report_digest else { return denied(DeniedReason::Order) };
        if self.busy {
            return (Status::Busy, Busy { retry_ms: U32::new(1234) }.as_bytes().to_vec());
        }
        let next = self.entropy.array();
        let row = &mut self.row;
        (row.token, row.next, row.instance) = (row.token + 1, next, Some(session.instance));
        let mut grant = GrantReply::new_zeroed();
        grant.intent = if row.active { GrantIntent::Open } else { GrantIntent::Create } as u8;
        grant.generation = U32::new(row.generation);
        (grant.token, grant.epoch) = (U64::new(row.token), U64::new(row.epoch));
        grant.head = WireHead::from(&row.head);
        (grant.epoch_secret, grant.next_secret) = (row.current, row.next);
        if let Some(bend) = self.bend.grant {
            bend(&mut grant);
        }
        let transcript = self.bend.grant_transcript.unwrap_or(*session.answerer.transcript());
        let report = self.bend.grant_report.unwrap_or(report_digest);
        grant.signature = self.key.sign(&grant_digest(&transcript, &report, &grant)).unwrap();
        (Status::Ok, grant.as_bytes().to_vec())
    }

    fn confirm(&mut self, request: &Confirm) -> (Status, Vec<u8>) {
        let (new, row) = (Head::from(&request.new), &mut self.row);
        if request.token.get() != row.token || request.generation.get() != row.generation {
            return (Status::Fenced, Vec::new());
        }
        if row.head == new && request.epoch.get() == row.epoch {
            return lease();
        }
        if row.head != Head::from(&request.previous) || request.epoch.get() != row.epoch + 1 {
            return (Status::Conflict, Vec::new());
        }
        (row.head, row.epoch, row.current) = (new, row.epoch + 1, row.next);
        (row.active, row.released, row.next) = (true, false, [0; 32]);
        lease()
    }

    fn anchor(&mut self, request: &AnchorRequest) -> (Status, Vec<u8>) {
        let (new, row) = (Head::from(&request.new), &mut self.row);
        let known = request.generation.get() == row.generation && request.epoch.get() == row.epoch;
        if request.token.get() != row.token || !known || row.released || !row.active {
            return (Status::Fenced, Vec::new());
        }
        if row.head != new && row.head != Head::from(&request.previous) {
            return (Status::Conflict, Vec::new());
        }
        row.head = new;
        lease()
    }

    fn bump(&mut self, request: &Bump) -> (Status, Vec<u8>) {
        let (token, row) = (request.token.get(), &mut self.row);
        if row.bump != Some((token, row.token)) {
            if token != row.token || row.released {
                return (Status::Fenced, Vec::new());
            }
            row.bump = Some((token, token + 1));
            row.token += 1;
        }
        let bumped = Bumped { token: U64::new(row.token), lease_ms: U32::new(LEASE_MS) };
        (Status::Ok, bumped.as_bytes().to_vec())
    }
}

fn parse<T: Wire>(body: &[u8]) -> T {
    T::read_from_bytes(body).unwrap()
}

fn lease() -> (Status, Vec<u8>) {
    (Status::Ok, Lease { lease_ms: U32::new(LEASE_MS) }.as_bytes().to_vec())
}

fn denied(reason: DeniedReason) -> (Status, Vec<u8>) {
    (Status::Denied, Denied { reason: U16::new(reason as u16) }.as_bytes().to_vec())
}
