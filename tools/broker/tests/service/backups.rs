//! Backups, with the component's own client as the VM: who may order one, and what the broker takes for one.

use crate::bench::{Bench, OTHER_VM, Running, VM, head};
use crate::{created, opened};
use husk::keys::BackupSecret;
use husk::release::ReleaseFault;
use husk::release::backup::{BackupHeader, BackupOrder};
use husk::release::frame;
use husk::release::recovery::RecoveryCertificate;
use husk::release::statement::{Outcome, Statement};
use husk::release::ticket::{Ticket, TicketOrder};
use husk::release::transcript::point_digest;
use husk::release::wire::{
    BACKUP_PART_BYTES_MAX, BackupAsked, BackupPiece, BackupState, BackupVerdict, FRAME_BYTES_MAX,
    FRAME_HEADER_BYTES, FrameKind, Refusal, RefusalReason, WireHead,
};
use husk::volume::backup::Part;
use husk_broker::ids::VmName;
use husk_broker::vault::{OperatorKey, RecoveryKey, TenantRoot};
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::{U32, U64};

const STATE: [u8; 5000] = [0x5A; 5000];

/// What an operator hands in: an order for the key of `recovery`.
fn ticket(bench: &Bench, operator: &OperatorKey, recovery: &RecoveryCertificate) -> Ticket {
    let mut ticket = bench.ticket(&VM, TicketOrder::Backup);
    ticket.subject = point_digest(&recovery.key);
    operator.sign(&*bench.world, &mut ticket).unwrap();
    ticket
}

fn exchanged(bench: &Bench, kind: FrameKind, body: &[u8]) -> Vec<u8> {
    let mut bytes = [0; FRAME_BYTES_MAX];
    bytes[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + body.len()].copy_from_slice(body);
    let length = frame::frame(kind, &mut bytes, body.len()).unwrap();
    bench.service.handle(&bytes[..length])
}

/// The outcome, or why there is none.
fn handed(bench: &Bench, ticket: &Ticket, rest: &[u8]) -> Result<Outcome, RefusalReason> {
    let mut answer = exchanged(bench, FrameKind::Ticket, &[ticket.as_bytes(), rest].concat());
    match frame::open(&mut answer).unwrap() {
        (FrameKind::Statement, body) => {
            let statement: Statement = frame::exactly(body).unwrap();
            Ok(Outcome::from_number(statement.outcome).unwrap())
        }
        (_, body) => {
            let refusal: Refusal = frame::exactly(body).unwrap();
            Err(RefusalReason::from_number(refusal.reason.get()).unwrap())
        }
    }
}

fn recovery(bench: &Bench) -> (RecoveryKey, RecoveryCertificate) {
    RecoveryKey::generate(&*bench.world, bench.root(), VM.tenant).unwrap()
}

impl Running {
    fn wanted(&mut self) -> Result<Option<BackupOrder>, ReleaseFault> {
        let Self { launch, tenure } = self;
        launch.on(|platform| tenure.backup_order(platform))
    }

    fn hand(&mut self, number: u32, bytes: &[u8]) -> Result<BackupVerdict, ReleaseFault> {
        let Self { launch, tenure } = self;
        launch.on(|platform| tenure.keep_backup_part(platform, number, bytes))
    }

    /// An honest header, and the two parts of its state.
    fn made(&mut self, order: &BackupOrder) -> (BackupHeader, [Part; 2]) {
        let standing = self.tenure.standing().clone();
        let mut header = BackupHeader::of(order);
        (header.tenant, header.vm) = (VM.tenant.0, VM.vm.0);
        (header.token, header.epoch) = (U64::new(standing.token()), U64::new(standing.epoch()));
        header.head = WireHead::from(standing.head());
        header.state_bytes = U32::new(5000);
        self.launch.on(|platform| {
            let secret = BackupSecret::draw(platform.entropy).unwrap();
            secret.seal(&mut header, &order.recovery, platform.entropy).unwrap();
            (header, [1, 2].map(|number| Part::seal(&secret, &header, number, &STATE).unwrap()))
        })
    }
}

fn piece(bench: &Bench, vm: &VmName, id: [u8; 16]) -> Option<(BackupState, usize)> {
    let asked = BackupAsked { tenant: vm.tenant.0, vm: vm.vm.0, id, number: U32::new(0) };
    let mut answer = exchanged(bench, FrameKind::BackupAsked, asked.as_bytes());
    let Ok((FrameKind::BackupPiece, body)) = frame::open(&mut answer) else { return None };
    let piece: BackupPiece = frame::exactly(body).unwrap();
    Some((BackupState::from_number(piece.state).unwrap(), usize::from(piece.bytes.get())))
}

#[test]
fn a_backup_is_ordered_by_who_may_and_for_a_key_that_the_tenant_certified() {
    let bench = Bench::new();
    let operator = bench.operator(&[TicketOrder::Backup]);
    let (_, certificate) = recovery(&bench);
    let early = ticket(&bench, &operator, &certificate);
    let with = certificate.as_bytes();
    assert_eq!(handed(&bench, &early, with), Ok(Outcome::Barred), "there is no TPM yet");
    let _running = created(bench.launch(&VM, 1), &head(1, 1));
    let halting = bench.operator(&[TicketOrder::Halt]);
    let not_allowed = ticket(&bench, &halting, &certificate);
    assert_eq!(handed(&bench, &not_allowed, with), Ok(Outcome::Untrusted));
    let fits = ticket(&bench, &operator, &certificate);
    assert_eq!(handed(&bench, &fits, &[]), Err(RefusalReason::Malformed), "its key is missing");
    assert_eq!(handed(&bench, &fits, &with[1..]), Err(RefusalReason::Malformed));
    let (_, another) = recovery(&bench);
    assert_eq!(handed(&bench, &fits, another.as_bytes()), Ok(Outcome::Untrusted), "not the subject");
    let stranger = TenantRoot::generate(&*bench.world).unwrap();
    let (_, of_stranger) = RecoveryKey::generate(&*bench.world, &stranger, VM.tenant).unwrap();
    let for_stranger = ticket(&bench, &operator, &of_stranger);
    assert_eq!(handed(&bench, &for_stranger, of_stranger.as_bytes()), Ok(Outcome::Untrusted));
    let halt = bench.ticket(&VM, TicketOrder::Halt);
    assert_eq!(handed(&bench, &halt, with), Err(RefusalReason::Malformed), "no key belongs there");
    assert_eq!(piece(&bench, &VM, fits.id), None, "nothing was noted");
    assert_eq!(handed(&bench, &fits, with), Ok(Outcome::Open));
    assert_eq!(handed(&bench, &fits, with), Ok(Outcome::Open), "the answer was lost");
    assert_eq!(piece(&bench, &VM, fits.id), Some((BackupState::Awaited, 0)));
    assert_eq!(piece(&bench, &OTHER_VM, fits.id), None, "of this VM");
    assert_eq!(piece(&bench, &VM, [9; 16]), None, "for whoever knows its id");
}

#[test]
fn a_backup_is_kept_whole_and_of_the_newest_state_only() {
    let bench = Bench::new();
    let operator = bench.operator(&[TicketOrder::Backup]);
    let (_, certificate) = recovery(&bench);
    let (mut running, _) = created(bench.launch(&VM, 1), &head(1, 1));
    assert!(running.wanted().unwrap().is_none());
    assert_eq!(running.hand(1, &[0; 20]), Ok(BackupVerdict::Malformed), "nobody asked");
    let ordered = ticket(&bench, &operator, &certificate);
    assert_eq!(handed(&bench, &ordered, certificate.as_bytes()), Ok(Outcome::Open));
    let order = running.wanted().unwrap().unwrap();
    assert_eq!((order.id, order.recovery), (ordered.id, certificate.key));
    let (header, parts) = running.made(&order);
    let altered: [fn(&mut BackupHeader); 9] = [
        |header| header.magic[0] ^= 1,
        |header| header.generation.set(1),
        |header| header.vm[0] ^= 1,
        |header| header.id[0] ^= 1,
        |header| header.token.set(2),
        |header| header.epoch.set(2),
        |header| header.head.sequence.set(2),
        |header| header.recovery[0] ^= 1,
        |header| header.state_bytes.set(u32::MAX),
    ];
    for (number, alter) in altered.iter().enumerate() {
        let mut other = header;
        alter(&mut other);
        assert_eq!(running.hand(0, other.as_bytes()), Ok(BackupVerdict::Malformed), "header {number}");
        assert_eq!(running.hand(1, parts[0].bytes()), Ok(BackupVerdict::Malformed), "it did not begin");
    }
    let out_of_order: [(u32, &[u8]); 4] = [
        (2, parts[1].bytes()),
        (0, parts[0].bytes()),
        (1, parts[1].bytes()),
        (1, &[0; BACKUP_PART_BYTES_MAX - 1]),
    ];
    for (number, bytes) in out_of_order {
        assert_eq!(running.hand(0, header.as_bytes()), Ok(BackupVerdict::Kept));
        assert_eq!(running.hand(number, bytes), Ok(BackupVerdict::Malformed), "part {number}");
        assert_eq!(running.hand(1, parts[0].bytes()), Ok(BackupVerdict::Malformed), "it begins anew");
    }
    assert_eq!(running.hand(0, header.as_bytes()), Ok(BackupVerdict::Kept));
    assert_eq!(running.hand(1, parts[0].bytes()), Ok(BackupVerdict::Kept));
    running.commit(&head(1, 1), &head(2, 1)).unwrap();
    assert_eq!(running.hand(2, parts[1].bytes()), Ok(BackupVerdict::Unwanted), "the state has moved on");
    assert_eq!(piece(&bench, &VM, order.id), Some((BackupState::Awaited, 0)));
    bench.world.pass(u64::from(crate::bench::LEASE_MS));
    let mut newer = opened(bench.launch(&VM, 2), &head(3, 1)).running;
    assert_eq!(running.wanted().err(), Some(ReleaseFault::Fenced), "an older instance backs up nothing");
    let order = newer.wanted().unwrap().unwrap();
    let (header, parts) = newer.made(&order);
    for (number, bytes) in [(0, header.as_bytes()), (1, parts[0].bytes()), (2, parts[1].bytes())] {
        assert_eq!(newer.hand(number, bytes), Ok(BackupVerdict::Kept));
    }
    assert_eq!(piece(&bench, &VM, order.id), Some((BackupState::Kept, BACKUP_PART_BYTES_MAX)));
    assert!(newer.wanted().unwrap().is_none(), "once");
    assert_eq!(newer.hand(0, header.as_bytes()), Ok(BackupVerdict::Unwanted));
    assert_eq!(handed(&bench, &ordered, certificate.as_bytes()), Ok(Outcome::Used));
}
