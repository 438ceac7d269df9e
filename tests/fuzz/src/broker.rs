//! The broker: frames in and out of order, HTTP, and the policies that it is given.

mod bringing;
pub(crate) mod unlocking;

use crate::bench::{Bench, Launch, VM};
use crate::input::{Input, sized};
use bringing::Bringing;
use husk::attest::binding::report_data;
use husk::release::record::{Caller, REQUEST_BODY_AT};
use husk::release::statement::{Outcome, Statement};
use husk::release::ticket::TicketOrder;
use husk::release::transcript::{AgreementKey, point_digest, vm_keys};
use husk::release::wire::{
    Activate, Attest, BackupPart, Challenge, Confirm, Endorse, EndorsementRequest, FRAME_BYTES_MAX,
    FrameKind, GrantReply, Hello, Operation, PROTOCOL, RecordHeader, SUITE, ServerHello, Status, WireHead,
};
use husk::release::{Head, frame};
use husk::seams::Reporter;
use husk_broker::ids::{TenantId, VmId};
use husk_broker::policy::{Floors, Policy, chip, measurement, tcb};
use husk_broker::vault::RecoveryKey;
use husk_broker::world::WorldEntropy;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::OnceLock;
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromZeros, IntoBytes};

fn framed(kind: FrameKind, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; FRAME_BYTES_MAX];
    bytes[5..5 + body.len()].copy_from_slice(body);
    let length = frame::frame(kind, &mut bytes, body.len()).unwrap();
    bytes.truncate(length);
    bytes
}

fn patch(bytes: &mut [u8], input: &mut Input<'_>) {
    let at = usize::from(input.short()) % bytes.len();
    bytes[at..].iter_mut().zip(input.sized()).for_each(|(to, from)| *to = *from);
}

/// A VM's end of a session, in which the script says what it likes.
struct Session {
    caller: Caller,
    attested: bool,
    /// What it was granted last; 0 before.
    token: u64,
    generation: u32,
    /// Its keys were challenged.
    challenged: bool,
}

struct Script<'i> {
    bench: Bench,
    launch: Launch,
    session: Option<Session>,
    input: Input<'i>,
    /// A backup that is brought, once the script began with it.
    bringing: Option<Bringing>,
}

impl Script<'_> {
    fn new(bench: Bench, data: &[u8]) -> Script<'_> {
        let launch = bench.launch(&VM, 1);
        Script { bench, launch, session: None, input: Input::new(data), bringing: None }
    }

    /// Whatever goes in, one frame comes out.
    fn handle(&self, bytes: &[u8]) -> (FrameKind, Vec<u8>) {
        let mut answer = self.bench.service.handle(bytes);
        let (kind, body) = frame::open(&mut answer).unwrap();
        assert!(self.bench.service.is_well());
        (kind, body.to_vec())
    }

    fn hello(&mut self) {
        let mut entropy = WorldEntropy(&*self.bench.world);
        let [ephemeral, instance] = [(); 2].map(|()| AgreementKey::generate(&mut entropy).unwrap());
        let mut hello = Hello {
            protocol: U16::new(PROTOCOL),
            suite: U16::new(SUITE),
            flags: U32::new(0),
            tenant: VM.tenant.0,
            vm: VM.vm.0,
            nonce: [4; 32],
            ephemeral: *ephemeral.point(),
            instance: *instance.point(),
        };
        patch(hello.as_mut_bytes(), &mut self.input);
        let (kind, body) = self.handle(&framed(FrameKind::Hello, hello.as_bytes()));
        if kind == FrameKind::ServerHello {
            let server: ServerHello = frame::exactly(&body).unwrap();
            self.session = vm_keys(&ephemeral, &instance, &hello, &server).ok().map(|keys| Session {
                caller: Caller::new(keys),
                attested: false,
                token: 0,
                generation: 0,
                challenged: false,
            });
        }
    }

    /// One sealed request; `tamper` changes its record afterwards.
    fn ask(&mut self, operation: Operation, body: &[u8], tamper: bool) {
        let Some(mut session) = self.session.take() else { return };
        let mut bytes = vec![0; FRAME_BYTES_MAX];
        let body = &body[..body.len().min(BackupPart::BYTES)];
        bytes[REQUEST_BODY_AT..REQUEST_BODY_AT + body.len()].copy_from_slice(body);
        let (length, asked) = session.caller.seal(operation, &mut bytes, body.len()).unwrap();
        bytes.truncate(length);
        let sealed = bytes.clone();
        if tamper {
            patch(&mut bytes[5..], &mut self.input);
        }
        let (kind, mut reply) = self.handle(&bytes);
        if kind == FrameKind::Reply {
            assert!(bytes == sealed, "a record that was changed is answered");
            let (status, said) = session.caller.open(&asked, &mut reply).unwrap();
            match (operation, status) {
                (Operation::Grant, Status::Ok) => {
                    let grant: GrantReply = frame::exactly(said).unwrap();
                    (session.token, session.generation) = (grant.token.get(), grant.generation.get());
                }
                (Operation::Endorse, Status::Ok) => {
                    let challenge: Challenge = frame::exactly(said).unwrap();
                    session.challenged = challenge.credentials.iter().any(|one| one.blob_bytes.get() > 0);
                }
                _ => {}
            }
            // A guest's requests have laws of their own: `unlocking`.
            let allowed = session.attested
                || matches!(
                    operation,
                    Operation::Attest | Operation::Resume | Operation::UnlockAsk | Operation::UnlockShow
                );
            assert!(allowed || status != Status::Ok, "{operation:?} before an attestation");
            session.attested |= operation == Operation::Attest && status == Status::Ok;
            assert!(session.attested || !session.challenged, "keys are challenged before an attestation");
        }
        self.session = Some(session);
    }

    fn attest(&mut self) {
        let Some(session) = &self.session else { return };
        let mut config = [0; 2048];
        let config_bytes = self.launch.config.write_to(&mut config).unwrap();
        let mut attest = Attest::new_zeroed();
        let data = report_data(session.caller.transcript(), &self.launch.config.digest());
        self.launch.processor.report(&data, &mut attest.report).unwrap();
        attest.config_bytes = U16::new(u16::try_from(config_bytes).unwrap());
        let honest = [attest.as_bytes(), &config[..config_bytes]].concat();
        let mut body = honest.clone();
        let before = session.attested;
        patch(&mut body, &mut self.input);
        self.ask(Operation::Attest, &body, false);
        let attested = self.session.as_ref().is_some_and(|session| session.attested);
        assert!(before || !attested || body == honest, "a changed attestation is accepted");
    }

    fn step(&mut self) {
        match self.input.byte() {
            0 => self.hello(),
            1 => self.attest(),
            2 => self.ask(Operation::Grant, &[], false),
            3 => {
                let operation = Operation::ALL[self.input.below(Operation::ALL.len())];
                let body = self.input.sized().to_vec();
                self.ask(operation, &body, false);
            }
            4 => {
                let operation = Operation::ALL[self.input.below(Operation::ALL.len())];
                self.ask(operation, &[], true);
            }
            5 => self.bench.world.pass(u64::from(self.input.word())),
            6 => {
                let kind = FrameKind::ALL[self.input.below(FrameKind::ALL.len())];
                let body = self.input.sized().to_vec();
                self.handle(&framed(kind, &body));
            }
            8 => self.ticket(),
            9 => self.confirm(),
            10 => self.endorsement(),
            11 => self.bring(),
            12 => self.restore(),
            _ => {
                let bytes = self.input.sized().to_vec();
                self.handle(&bytes);
            }
        }
    }

    /// The state that a first launch makes.
    fn confirm(&mut self) {
        let Some(session) = &self.session else { return };
        let mut confirm = Confirm::new_zeroed();
        (confirm.token, confirm.epoch) = (session.token.into(), 1.into());
        confirm.generation = session.generation.into();
        confirm.new = WireHead::from(&Head { sequence: 1, digest: [1; 48] });
        self.ask(Operation::Confirm, confirm.as_bytes(), false);
    }

    /// One of the three requests about endorsement keys, of the instance that serves; the script says what is in it.
    fn endorsement(&mut self) {
        let Some(session) = &self.session else { return };
        let mut token = [0; 12];
        token[..8].copy_from_slice(&session.token.to_le_bytes());
        let kinds = [
            (Operation::Endorsement, EndorsementRequest::BYTES),
            (Operation::Endorse, Endorse::BYTES),
            (Operation::Activate, Activate::BYTES),
        ];
        let (operation, bytes) = kinds[self.input.below(kinds.len())];
        let mut body = vec![0; bytes];
        body[..12].copy_from_slice(&token);
        if bytes > 12 {
            let rest = self.input.sized().to_vec();
            body[12..].iter_mut().zip(rest).for_each(|(to, from)| *to = from);
        }
        self.ask(operation, &body, false);
    }

    /// An operator's ticket, which the script changes: then it orders nothing, and the next status is the same.
    fn ticket(&mut self) {
        let order = TicketOrder::ALL[self.input.below(TicketOrder::ALL.len())];
        let mut ticket = self.bench.ticket(&VM, order);
        let mut certificate = Vec::new();
        if order.has_subject() {
            let world = &*self.bench.world;
            let (_, recovery) = RecoveryKey::generate(world, self.bench.root(), VM.tenant).unwrap();
            ticket.subject = point_digest(&recovery.key);
            certificate.extend_from_slice(recovery.as_bytes());
        }
        self.bench.operator(&[order]).sign(&*self.bench.world, &mut ticket).unwrap();
        let honest = [ticket.as_bytes(), &certificate].concat();
        let mut bytes = honest.clone();
        patch(&mut bytes, &mut self.input);
        let before = self.bench.asked(&VM, [5; 32]);
        let (kind, body) = self.handle(&framed(FrameKind::Ticket, &bytes));
        if bytes == honest {
            return;
        }
        if kind == FrameKind::Statement {
            let said: Statement = frame::exactly(&body).unwrap();
            assert_eq!(Outcome::from_number(said.outcome), Some(Outcome::Untrusted));
        }
        assert!(self.bench.asked(&VM, [5; 32]).as_bytes() == before.as_bytes(), "a changed ticket works");
    }
}

/// The seeds get as far as the keys, and a point that is on no curve gets no challenge.
#[test]
fn the_seeds_reach_a_challenge_of_endorsement_keys() {
    for (keys, challenged) in [(key_bodies(false), true), (key_bodies(true), false)] {
        let begun = [&[0][..], &UNPATCHED, &[1], &UNPATCHED, &[2, 9, 10, 1], &sized(&keys)].concat();
        let mut script = Script::new(Bench::new(), &begun);
        while !script.input.is_over() {
            script.step();
        }
        assert_eq!(script.session.unwrap().challenged, challenged);
    }
}

/// A script of what one VM, or whoever claims to be it, sends.
pub(crate) fn frames(data: &[u8]) {
    let mut script = Script::new(Bench::new(), data);
    for _ in 0..12 {
        if !script.input.is_over() {
            script.step();
        }
    }
}

/// What follows token and generation in a request to certify keys: of a TPM's P-384 key, or of the same with a bit that is not its point's.
fn key_bodies(is_bad: bool) -> Vec<u8> {
    // As tpm2_createek writes it: a TPM2B_PUBLIC, whose first two bytes are its size.
    let mut public = include_bytes!("../../data/tpm/p384.ek")[2..].to_vec();
    let last = public.len() - 1;
    public[last] ^= u8::from(is_bad);
    let mut endorse = Endorse::new_zeroed();
    endorse.manufacturer = *b"IBM ";
    endorse.keys[2].bytes = U16::new(u16::try_from(public.len()).unwrap());
    endorse.keys[2].public[..public.len()].copy_from_slice(&public);
    endorse.as_bytes()[12..].to_vec()
}

const UNPATCHED: [u8; 4] = [0; 4];

pub(crate) fn frame_seeds() -> Vec<Vec<u8>> {
    let hello = [&[0][..], &UNPATCHED].concat();
    let attest = [&[1][..], &UNPATCHED].concat();
    let granted = [&hello[..], &attest, &[2]].concat();
    let mut seeds = vec![hello.clone(), granted.clone(), [&hello[..], &[2]].concat()];
    let lengths = [2, 8, 0, 140, 140, 12, 12, 68, 12, 12, 986, 108, 12, BackupPart::BYTES, 12, 16];
    for (number, length) in (0u8..).zip(lengths) {
        seeds.push([&granted[..], &[3, number], &sized(&vec![1; length])].concat());
        seeds.push([&hello[..], &[4, number, number, 0], &sized(&[0xFF])].concat());
    }
    seeds.push([&[0, 0, 0], &sized(&[2])[..], &[6, 2], &sized(&[7; RecordHeader::BYTES + 20])].concat());
    for order in (0u8..).take(TicketOrder::ALL.len()) {
        seeds.push([&granted[..], &[8, order], &UNPATCHED].concat());
        seeds.push([&[8, order, 0, 1], &sized(&[1])[..]].concat());
    }
    let serves = [&granted[..], &[9]].concat();
    for keys in [key_bodies(false), key_bodies(true), vec![0xFF; 974]] {
        let endorse = [&[10, 1][..], &sized(&keys)].concat();
        seeds.push([&serves[..], &[10, 0], &endorse, &[10, 2], &sized(&[3; 96])].concat());
    }
    seeds.push([&serves[..], &[10, 2], &sized(&[3; 96])].concat());
    seeds.extend(bringing::seeds(&granted));
    seeds.push([&[7][..], &sized(&framed(FrameKind::Request, &[1; 60]))].concat());
    seeds
}

/// The service on a port of this machine, served by a thread that lives as long as the process.
fn address() -> SocketAddr {
    static ADDRESS: OnceLock<SocketAddr> = OnceLock::new();
    *ADDRESS.get_or_init(|| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let service = Bench::new().service;
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
            runtime.unwrap().block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                husk_broker::http::serve(listener, service, std::future::pending()).await.unwrap();
            });
        });
        address
    })
}

/// Sends all of `bytes`, hangs up or waits, and gets what came back.
fn exchanged(bytes: &[u8], hangs_up: bool) -> Vec<u8> {
    let mut stream = TcpStream::connect(address()).unwrap();
    let mut back = Vec::new();
    // The server may hang up in the middle of nonsense.
    if stream.write_all(bytes).is_ok() && (!hangs_up || stream.shutdown(Shutdown::Write).is_ok()) {
        stream.read_to_end(&mut back).ok();
    }
    back
}

/// Bytes of one connection. The broker is well afterwards.
pub(crate) fn http(data: &[u8]) {
    let back = exchanged(data, true);
    assert!(back.is_empty() || back.starts_with(b"HTTP/1."), "{back:?}");
    let health = exchanged(b"GET /healthz HTTP/1.1\r\nhost: broker\r\nconnection: close\r\n\r\n", false);
    assert!(health.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&health));
}

pub(crate) fn http_seeds() -> Vec<Vec<u8>> {
    let post = |head: &str, body: &[u8]| {
        let head = format!("POST /husk/v1/frame HTTP/1.1\r\nhost: b\r\n{head}\r\n\r\n");
        [head.as_bytes(), body].concat()
    };
    let post_kbs = |what: &str, body: &[u8]| {
        let head = format!(
            "POST /kbs/v0/{what} HTTP/1.1\r\nhost: b\r\ncookie: a=b; kbs-session-id=00\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    };
    let frame = framed(FrameKind::Request, &[1; 60]);
    let octets = "content-type: application/octet-stream\r\n";
    let chunked = [format!("{:x}\r\n", frame.len()).as_bytes(), &frame, b"\r\n0\r\n\r\n"].concat();
    vec![
        post(&format!("{octets}content-length: {}", frame.len()), &frame),
        post(&format!("{octets}content-length: 9000000"), &frame),
        post(&format!("{octets}transfer-encoding: chunked"), &chunked),
        post("content-type: text/plain\r\ncontent-length: 1", b"x"),
        b"GET /healthz HTTP/1.0\r\n\r\nGET / HTTP/1.1\r\n\r\n".to_vec(),
        post_kbs("auth", br#"{"version":"0.4.0","tee":"snp","extra-params":""}"#),
        post_kbs(
            "attest",
            br#"{"init-data":null,"runtime-data":{"nonce":"","tee-pubkey":{"kty":"EC"}},"tee-evidence":{}}"#,
        ),
        b"GET /kbs/v0/resource/a/b/c HTTP/1.1\r\nauthorization: Bearer e30.e30.AA\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
    ]
}

/// A policy as it rests in the database and as a file, and the words of the command line. What is read can be written and read again; what
/// a file says, somebody can meet, and an error has a place in it.
pub(crate) fn policy(data: &[u8]) {
    if let Ok(policy) = serde_json::from_slice::<Policy>(data) {
        let text = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<Policy>(&text).unwrap(), policy);
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Policy::from_file(text) {
        Ok(policy) => {
            assert!(policy.contradiction().is_none());
            let text = serde_json::to_string(&policy).unwrap();
            assert_eq!(serde_json::from_str::<Policy>(&text).unwrap(), policy);
        }
        Err(error) => assert!(error.line <= text.lines().count() + 1 && error.column > 0),
    }
    if let Ok(floor) = tcb(text) {
        assert!(floor.covers(floor));
    }
    assert!(measurement(text).is_err() || text.len() == 96);
    assert!(chip(text).is_err() || matches!(text.len(), 16 | 128));
    if let (Ok(tenant), Ok(vm)) = (text.parse::<TenantId>(), text.parse::<VmId>()) {
        assert_eq!((tenant.to_string(), tenant.0), (text.to_ascii_lowercase(), vm.0));
    }
}

pub(crate) fn policy_seeds() -> Vec<Vec<u8>> {
    let min_tcb = Floors::Every(tcb("fmc=1,bootloader=4,tee=0,snp=22,microcode=213").unwrap());
    let policy =
        Policy { measurements: vec![[1; 48], [7; 48]], min_tcb, chips: vec![[8; 64]], ..Policy::default() };
    let texts = [
        serde_json::to_string(&policy).unwrap(),
        include_str!("../../../tools/broker/src/cli/policy.toml").to_owned(),
        r#"{"measurements":[],"min_tcb":null,"chips":["0102030405060708"]}"#.to_owned(),
        "bootloader=4,tee=0,snp=22,microcode=213".to_owned(),
        "a5".repeat(16),
        "c3".repeat(48),
        "0f".repeat(64),
    ];
    texts.into_iter().map(String::into_bytes).collect()
}
