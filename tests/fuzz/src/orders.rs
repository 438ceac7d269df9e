//! What a broker that holds the session's keys shows a VM as its tenant's orders, and as the parts of a backup.

use crate::broker_end::{BrokerEnd, Seeded, TENANT, VM};
use crate::input::{Input, sized};
use crate::relay_world::World;
use husk::release::backup::{BackupHeader, BackupOrder, backup_digest};
use husk::release::recovery::RecoveryCertificate;
use husk::release::session::SessionMemory;
use husk::release::tenure::Tenure;
use husk::release::ticket::{OperatorCertificate, Ticket, TicketOrder};
use husk::release::transcript::{SigningKey, point_digest};
use husk::release::wire::{
    BACKUP_CHUNK_BYTES, BACKUP_PART_BYTES_MAX, BackupWanted, Operation, RestorePart, RestoreWanted, Status,
    Wire,
};
use std::mem::offset_of;
use std::sync::OnceLock;
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromZeros, IntoBytes};

/// The generation that [`BrokerEnd`] grants.
const GENERATION: u32 = 1;
/// The state of the one backup: two parts.
const STATE_BYTES: usize = BACKUP_CHUNK_BYTES + 100;
/// More parts are not asked for.
const PARTS_MAX: u32 = 4;

/// What the tenant signed, once for all inputs: the world's keys are the same in each.
struct Honest {
    backup: BackupWanted,
    /// A restore, and a clone of another VM.
    restores: [RestoreWanted; 2],
    parts: Vec<RestorePart>,
}

fn honest() -> &'static Honest {
    static HONEST: OnceLock<Honest> = OnceLock::new();
    HONEST.get_or_init(|| Honest::of(&BrokerEnd::new(1).root))
}

impl Honest {
    fn of(root: &SigningKey) -> Self {
        let operator = SigningKey::generate(&mut Seeded::new(0x09)).unwrap();
        let ticket = |order: TicketOrder, generation, subject| {
            let mut certificate = OperatorCertificate::new_zeroed();
            (certificate.tenant, certificate.key) = (TENANT, *operator.point());
            certificate.orders = U32::new(TicketOrder::ALL.iter().fold(0, |bits, order| bits | order.bit()));
            certificate.signature = root.sign(&certificate.digest()).unwrap();
            let mut ticket = Ticket::new_zeroed();
            (ticket.certificate, ticket.vm, ticket.order) = (certificate, VM, order as u8);
            (ticket.generation, ticket.subject) = (U32::new(generation), subject);
            ticket.sign(&operator).unwrap();
            ticket
        };
        let mut recovery = RecoveryCertificate::new_zeroed();
        (recovery.tenant, recovery.key) = (TENANT, *operator.point());
        recovery.signature = root.sign(&recovery.digest()).unwrap();
        let mut backup = BackupWanted::new_zeroed();
        (backup.wanted, backup.recovery, backup.tenant_root) = (1, recovery, *root.point());
        backup.ticket = ticket(TicketOrder::Backup, GENERATION, point_digest(&recovery.key));
        let parts = parts();
        let restores = [(TicketOrder::Restore, VM), (TicketOrder::Clone, [9; 16])].map(|(order, vm)| {
            let mut header = BackupHeader::of(&BackupOrder { id: [7; 16], recovery: recovery.key });
            (header.tenant, header.vm) = (TENANT, vm);
            header.state_bytes.set(u32::try_from(STATE_BYTES).unwrap());
            let bodies = parts.iter().flat_map(|part| &part.part[..usize::from(part.bytes.get())]);
            let file: Vec<u8> = header.as_bytes().iter().chain(bodies).copied().collect();
            RestoreWanted {
                header,
                ticket: ticket(order, 0, backup_digest(&file)),
                tenant_root: *root.point(),
            }
        });
        Self { backup, restores, parts }
    }
}

/// No secret is needed: which file it is, its digest says.
fn parts() -> Vec<RestorePart> {
    let lengths = [BACKUP_PART_BYTES_MAX, STATE_BYTES - BACKUP_CHUNK_BYTES + 16];
    lengths
        .into_iter()
        .map(|length| {
            let mut part = RestorePart::new_zeroed();
            part.bytes = U16::new(u16::try_from(length).unwrap());
            part.part[..length].fill(0x5A);
            part
        })
        .collect()
}

/// The structure with a piece of it changed, or something else altogether.
fn bent<T: Wire>(honest: &T, input: &mut Input<'_>) -> Vec<u8> {
    let mut bytes = honest.as_bytes().to_vec();
    match input.below(4) {
        0 => {}
        1 => {
            let at = usize::from(input.short()) % bytes.len();
            bytes[at..].iter_mut().zip(input.sized()).for_each(|(to, from)| *to = *from);
        }
        2 => bytes.truncate(usize::from(input.short()) % (bytes.len() + 1)),
        _ => bytes = input.sized().to_vec(),
    }
    bytes
}

/// A VM that asks for its orders, and what it is shown.
struct Asking<'m, 'i> {
    world: World,
    tenure: Tenure<'m>,
    input: Input<'i>,
}

impl Asking<'_, '_> {
    fn answers(&mut self, operation: Operation, body: &[u8]) {
        self.world.relay.broker.bend.reply = Some((operation, Status::Ok, body.to_vec()));
    }

    fn backup(&mut self) {
        let honest = &honest().backup;
        let shown = bent(honest, &mut self.input);
        self.answers(Operation::Backup, &shown);
        match self.tenure.backup_order(&mut self.world.platform()) {
            Ok(Some(order)) => {
                assert!(shown == honest.as_bytes(), "a state is sealed by an order that is not the tenant's");
                assert!(order.recovery == honest.recovery.key && order.id == honest.ticket.id);
            }
            Ok(None) => assert!(shown.len() == BackupWanted::BYTES && shown.iter().all(|byte| *byte == 0)),
            Err(_) => assert!(shown != honest.as_bytes(), "the tenant's order is refused"),
        }
    }

    fn restore(&mut self) {
        let which = self.input.below(2);
        let honest = &honest().restores[which];
        let shown = bent(honest, &mut self.input);
        self.answers(Operation::Restore, &shown);
        let Ok(order) = self.tenure.restore_order(&mut self.world.platform()) else {
            assert!(shown != honest.as_bytes(), "the tenant's order is refused");
            return;
        };
        let behind = offset_of!(RestoreWanted, ticket);
        assert!(shown[behind..] == honest.as_bytes()[behind..], "an order that is not the tenant's");
        assert_eq!(order.is_clone, which == 1);
        let mut come = order.begin();
        let (mut given, mut room) = (Vec::new(), [0; BACKUP_PART_BYTES_MAX]);
        for number in 1..=order.header.parts().min(PARTS_MAX) {
            let Some(bytes) = self.part(number, &mut room) else { return };
            come.take(&room[..bytes]);
            given.extend_from_slice(&room[..bytes]);
        }
        let honest_parts = crate::orders::honest().parts.iter();
        let honest_bytes: Vec<u8> =
            honest_parts.flat_map(|part| &part.part[..usize::from(part.bytes.get())]).copied().collect();
        let is_honest = shown == honest.as_bytes() && given == honest_bytes;
        assert_eq!(order.is(come), is_honest, "another file than the one that was ordered");
    }

    /// A part as the VM takes it; its length.
    fn part(&mut self, number: u32, room: &mut [u8; BACKUP_PART_BYTES_MAX]) -> Option<usize> {
        let nothing = RestorePart::new_zeroed();
        let index = usize::try_from(number).unwrap() - 1;
        let shown = bent(honest().parts.get(index).unwrap_or(&nothing), &mut self.input);
        self.answers(Operation::RestorePart, &shown);
        let taken = self.tenure.restore_part(&mut self.world.platform(), number, room);
        taken.ok().inspect(|bytes| assert!(*bytes <= BACKUP_PART_BYTES_MAX))
    }
}

pub(crate) fn shown(data: &[u8]) {
    let (mut world, mut memory) = (World::new(1), SessionMemory::new());
    let (_, tenure) = world.granted(&mut memory).unwrap();
    let mut asking = Asking { world, tenure, input: Input::new(data) };
    for _ in 0..4 {
        match (asking.input.is_over(), asking.input.below(2)) {
            (true, _) => return,
            (false, 0) => asking.backup(),
            (false, _) => asking.restore(),
        }
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    // What is asked; then for each answer whether, where and how it is changed.
    let changed = |at: u16, with: &[u8]| [&[1][..], &at.to_le_bytes(), &sized(with)].concat();
    let cut = |to: u16| [&[2][..], &to.to_le_bytes()].concat();
    let other = |bytes: &[u8]| [&[3][..], &sized(bytes)].concat();
    let mut seeds = vec![
        vec![0, 0, 0, 0],
        vec![1, 0, 0, 0, 0],
        vec![1, 1, 0, 0, 0],
        [&[0][..], &other(&[0; BackupWanted::BYTES])].concat(),
        [&[0][..], &cut(100)].concat(),
        [&[1, 0, 0][..], &cut(9), &[0]].concat(),
        [&[1, 0, 0, 0][..], &changed(0, &[0xFF, 0xFF])].concat(),
        [&[1, 0, 0, 0][..], &changed(0, &[0, 0])].concat(),
        [&[1, 1, 0, 0][..], &changed(500, &[0])].concat(),
    ];
    let of_backup = [
        0,
        offset_of!(BackupWanted, ticket),
        offset_of!(BackupWanted, recovery),
        offset_of!(BackupWanted, tenant_root),
    ];
    seeds.extend(of_backup.map(|at| [&[0][..], &changed(u16::try_from(at).unwrap(), &[2])].concat()));
    // Another length, another VM, another order: what a broker might like to change.
    let of_restore = [
        offset_of!(BackupHeader, state_bytes),
        offset_of!(BackupHeader, vm),
        offset_of!(BackupHeader, generation),
        offset_of!(RestoreWanted, ticket) + offset_of!(Ticket, order),
        offset_of!(RestoreWanted, ticket) + offset_of!(Ticket, subject),
    ];
    for which in [0, 1] {
        seeds.extend(
            of_restore.map(|at| {
                [&[1, which][..], &changed(u16::try_from(at).unwrap(), &[1, 0, 1]), &[0, 0]].concat()
            }),
        );
    }
    seeds
}
