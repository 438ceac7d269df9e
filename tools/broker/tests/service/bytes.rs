//! The broker against bytes: whatever comes, one frame goes back, and only what was asked in order changes a thing.

use crate::bench::{Bench, Launch, VM};
use husk::attest::binding::report_data;
use husk::release::frame;
use husk::release::record::{Asked, Caller, REQUEST_BODY_AT};
use husk::release::transcript::{AgreementKey, vm_keys};
use husk::release::wire::{
    Attest, Denied, DeniedReason, FRAME_BYTES_MAX, FrameKind, GrantReply, Hello, Operation, PROTOCOL,
    Refusal, RefusalReason, Resume, SUITE, ServerHello, Status,
};
use husk::seams::Reporter;
use husk_broker::world::WorldEntropy;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

type Change = fn(&mut Hello);

/// A VM's end of a session, in which the test may say what it likes.
struct RawSession {
    caller: Caller,
}

fn hello(bench: &Bench) -> (Hello, AgreementKey, AgreementKey) {
    let [ephemeral, instance] =
        [(); 2].map(|()| AgreementKey::generate(&mut WorldEntropy(&*bench.world)).unwrap());
    let hello = Hello {
        protocol: U16::new(PROTOCOL),
        suite: U16::new(SUITE),
        flags: U32::new(0),
        tenant: VM.tenant.0,
        vm: VM.vm.0,
        nonce: [4; 32],
        ephemeral: *ephemeral.point(),
        instance: *instance.point(),
    };
    (hello, ephemeral, instance)
}

fn framed(kind: FrameKind, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; FRAME_BYTES_MAX];
    bytes[5..5 + body.len()].copy_from_slice(body);
    let length = frame::frame(kind, &mut bytes, body.len()).unwrap();
    bytes.truncate(length);
    bytes
}

/// The reason of a refusal; panics if it is anything else.
fn refused(mut answer: Vec<u8>) -> RefusalReason {
    let (FrameKind::Refusal, body) = frame::open(&mut answer).unwrap() else { panic!("not a refusal") };
    let refusal: Refusal = frame::exactly(body).unwrap();
    RefusalReason::from_number(refusal.reason.get()).unwrap()
}

impl RawSession {
    fn open(bench: &Bench) -> Self {
        let (hello, ephemeral, instance) = hello(bench);
        let mut answer = bench.service.handle(&framed(FrameKind::Hello, hello.as_bytes()));
        let (FrameKind::ServerHello, body) = frame::open(&mut answer).unwrap() else { panic!("no hello") };
        let server: ServerHello = frame::exactly(body).unwrap();
        Self { caller: Caller::new(vm_keys(&ephemeral, &instance, &hello, &server).unwrap()) }
    }

    fn seal(&mut self, operation: Operation, body: &[u8]) -> (Vec<u8>, Asked) {
        let mut bytes = vec![0; FRAME_BYTES_MAX];
        bytes[REQUEST_BODY_AT..REQUEST_BODY_AT + body.len()].copy_from_slice(body);
        let (length, asked) = self.caller.seal(operation, &mut bytes, body.len()).unwrap();
        bytes.truncate(length);
        (bytes, asked)
    }

    fn ask(&mut self, bench: &Bench, operation: Operation, body: &[u8]) -> (Status, Vec<u8>) {
        let (request, asked) = self.seal(operation, body);
        let mut answer = bench.service.handle(&request);
        let (FrameKind::Reply, body) = frame::open(&mut answer).unwrap() else { panic!("not a reply") };
        let (status, body) = self.caller.open(&asked, body).unwrap();
        (status, body.to_vec())
    }

    fn denied(&mut self, bench: &Bench, operation: Operation, body: &[u8]) -> DeniedReason {
        let (status, body) = self.ask(bench, operation, body);
        assert_eq!(status, Status::Denied);
        let denied: Denied = frame::exactly(&body).unwrap();
        DeniedReason::from_number(denied.reason.get()).unwrap()
    }

    /// The honest ATTEST of `launch` in this session.
    fn attest(&self, launch: &mut Launch) -> Vec<u8> {
        let mut config = [0; 2048];
        let config_bytes = launch.config.write_to(&mut config).unwrap();
        let mut attest = Attest::new_zeroed();
        let data = report_data(self.caller.transcript(), &launch.config.digest());
        launch.processor.report(&data, &mut attest.report).unwrap();
        attest.config_bytes = U16::new(u16::try_from(config_bytes).unwrap());
        [attest.as_bytes(), &config[..config_bytes]].concat()
    }
}

#[test]
fn every_byte_of_attest_is_looked_at() {
    let bench = Bench::new();
    let mut session = RawSession::open(&bench);
    let honest = session.attest(&mut bench.launch(&VM, 1));
    for at in 0..honest.len() {
        let mut changed = honest.clone();
        changed[at] ^= 1;
        session.denied(&bench, Operation::Attest, &changed);
    }
    for cut in [0, 1, 1183, 1187, 1188, honest.len() - 1] {
        assert_eq!(session.denied(&bench, Operation::Attest, &honest[..cut]), DeniedReason::Order, "{cut}");
    }
    let longer = [&honest[..], &[0]].concat();
    assert_eq!(session.denied(&bench, Operation::Attest, &longer), DeniedReason::Order);
    assert_eq!(session.ask(&bench, Operation::Attest, &honest), (Status::Ok, vec![]));
    assert_eq!(session.ask(&bench, Operation::Grant, &[]).1.len(), GrantReply::BYTES);
}

#[test]
fn a_report_for_another_session_is_refused() {
    let bench = Bench::new();
    let (first, mut second) = (RawSession::open(&bench), RawSession::open(&bench));
    let report = first.attest(&mut bench.launch(&VM, 1));
    assert_eq!(second.denied(&bench, Operation::Attest, &report), DeniedReason::Binding);
}

#[test]
fn nothing_is_granted_out_of_order() {
    let bench = Bench::new();
    let mut session = RawSession::open(&bench);
    for &operation in Operation::ALL {
        if operation != Operation::Resume {
            assert_eq!(session.denied(&bench, operation, &[]), DeniedReason::Order, "{operation:?}");
        }
    }
    let resume = Resume { token: U64::new(1) };
    assert_eq!(session.ask(&bench, Operation::Resume, resume.as_bytes()), (Status::Fenced, vec![]));
    assert_eq!(session.denied(&bench, Operation::Grant, &[]), DeniedReason::Order);
    let honest = session.attest(&mut bench.launch(&VM, 1));
    assert_eq!(session.ask(&bench, Operation::Attest, &honest), (Status::Ok, vec![]));
    assert_eq!(
        session.denied(&bench, Operation::Grant, &[0]),
        DeniedReason::Order,
        "a body where none belongs"
    );
    assert_eq!(session.denied(&bench, Operation::Resume, resume.as_bytes()), DeniedReason::Order);
    for &operation in &Operation::ALL[3..] {
        assert_eq!(session.denied(&bench, operation, &[1, 2, 3]), DeniedReason::Order, "{operation:?}");
    }
}

/// A record that does not authenticate leaves the session as it was.
#[test]
fn every_bit_of_a_record_is_authenticated() {
    let bench = Bench::new();
    let mut session = RawSession::open(&bench);
    let honest = session.attest(&mut bench.launch(&VM, 1));
    let _attested = session.ask(&bench, Operation::Attest, &honest);
    let (request, asked) = session.seal(Operation::Grant, &[]);
    for bit in 0..request.len() * 8 {
        let mut changed = request.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let reason = refused(bench.service.handle(&changed));
        assert!(matches!(reason, RefusalReason::Malformed | RefusalReason::UnknownSession), "bit {bit}");
    }
    let mut answer = bench.service.handle(&request);
    let (FrameKind::Reply, body) = frame::open(&mut answer).unwrap() else { panic!("not a reply") };
    assert_eq!(session.caller.open(&asked, body).unwrap().0, Status::Ok);
    assert_eq!(refused(bench.service.handle(&request)), RefusalReason::Malformed, "once");
}

#[test]
fn a_hello_that_is_none_is_refused_with_its_reason() {
    let bench = Bench::new();
    let (honest, ..) = hello(&bench);
    let changes: [(Change, RefusalReason); 7] = [
        (|hello| hello.protocol.set(2), RefusalReason::Version),
        (|hello| hello.suite.set(2), RefusalReason::Version),
        (|hello| hello.flags.set(1), RefusalReason::Malformed),
        (|hello| hello.tenant[0] ^= 1, RefusalReason::UnknownVm),
        (|hello| hello.vm[0] ^= 1, RefusalReason::UnknownVm),
        (|hello| hello.ephemeral[1] ^= 1, RefusalReason::Malformed),
        (|hello| hello.instance = [0; 97], RefusalReason::Malformed),
    ];
    for (change, reason) in changes {
        let mut changed = honest;
        change(&mut changed);
        assert_eq!(refused(bench.service.handle(&framed(FrameKind::Hello, changed.as_bytes()))), reason);
    }
}

/// Every kind of frame at every length, and every length field: one frame goes back.
#[test]
fn any_bytes_get_one_frame() {
    let bench = Bench::new();
    let (hello, ..) = hello(&bench);
    let honest = framed(FrameKind::Hello, hello.as_bytes());
    for cut in 0..honest.len() {
        refused(bench.service.handle(&honest[..cut]));
    }
    for kind in 0..=u8::MAX {
        for body in [0, 1, 15, 16, 23, 24, 40, 41, 57, 300] {
            let length = u32::try_from(body + 1).unwrap().to_le_bytes();
            let frame = [&length[..], &[kind], &vec![kind; body]].concat();
            let mut answer = bench.service.handle(&frame);
            assert!(frame::open(&mut answer).is_ok());
            let mut lying = frame.clone();
            lying[0] ^= 1;
            assert_eq!(refused(bench.service.handle(&lying)), RefusalReason::Malformed);
        }
    }
    assert_eq!(refused(bench.service.handle(&vec![0; FRAME_BYTES_MAX + 1])), RefusalReason::Malformed);
}

/// The attestations of others do not end when strangers say hello.
#[test]
fn a_flood_of_hellos_ends_no_proven_session() {
    let bench = Bench::new();
    let mut session = RawSession::open(&bench);
    let honest = session.attest(&mut bench.launch(&VM, 1));
    let _attested = session.ask(&bench, Operation::Attest, &honest);
    let mut waiting = RawSession::open(&bench);
    let (hello, ..) = hello(&bench);
    let hello = framed(FrameKind::Hello, hello.as_bytes());
    for _ in 0..husk_broker::service::GREETED_MAX {
        assert_eq!(bench.service.handle(&hello)[4], FrameKind::ServerHello as u8);
    }
    assert_eq!(session.ask(&bench, Operation::Grant, &[]).0, Status::Ok);
    let (request, _) = waiting.seal(Operation::Grant, &[]);
    assert_eq!(refused(bench.service.handle(&request)), RefusalReason::UnknownSession);
}
