//! Which backups are wanted and kept, on every database.

use crate::bench::{B, Bench, Place, TENANT, VM, confirm, create, grant, head};
use crate::world::TestWorld;
use husk::release::backup::{BackupHeader, BackupOrder};
use husk::release::recovery::RecoveryCertificate;
use husk::release::statement::Outcome;
use husk::release::ticket::{Ticket, TicketOrder};
use husk::release::transcript::point_digest;
use husk::release::wire::WireHead;
use husk_broker::audit::Event;
use husk_broker::rules::{Order, Reply};
use husk_broker::store::{BACKUPS_MAX, Serving};
use husk_broker::vault::{OperatorKey, RecoveryKey, TenantRoot};
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromZeros, IntoBytes};

/// A tenant's operator and recovery key; signatures are looked at before the store.
struct Owner {
    operator: OperatorKey,
    recovery: RecoveryCertificate,
}

impl Owner {
    fn new() -> Self {
        let world = TestWorld::new(0xBAC);
        let root = TenantRoot::generate(&world).unwrap();
        let operator = OperatorKey::generate(&world, &root, TENANT, (TicketOrder::ALL, 0, 1)).unwrap();
        let (_, recovery) = RecoveryKey::generate(&world, &root, TENANT).unwrap();
        Self { operator, recovery }
    }

    /// A ticket that fits the VM as it stands.
    fn ticket(&self, serving: &mut Serving, order: TicketOrder) -> Ticket {
        let row = serving.store().row(&VM).unwrap();
        let mut ticket = Ticket::new_zeroed();
        (ticket.vm, ticket.order, ticket.token) = (VM.vm.0, order as u8, U64::new(row.token));
        (ticket.generation, ticket.until_ms) = (U32::new(row.generation), U64::new(u64::MAX));
        ticket.subject = if order.has_subject() { point_digest(&self.recovery.key) } else { [0; 48] };
        self.operator.sign(&husk_broker::world::Machine::start(), &mut ticket).unwrap();
        ticket
    }

    fn ordered(&self, serving: &mut Serving) -> Ticket {
        let ticket = self.ticket(serving, TicketOrder::Backup);
        assert_eq!(serving.order_backup(&VM, &ticket, &self.recovery).unwrap(), Outcome::Open);
        ticket
    }

    /// The header of what the newest instance would make.
    fn header(&self, serving: &mut Serving, ticket: &Ticket) -> BackupHeader {
        let row = serving.store().row(&VM).unwrap();
        let mut header = BackupHeader::of(&BackupOrder { id: ticket.id, recovery: self.recovery.key });
        (header.tenant, header.vm) = (VM.tenant.0, VM.vm.0);
        (header.token, header.epoch) = (U64::new(row.token), U64::new(row.epoch));
        header.head = WireHead::from(&row.head);
        header
    }
}

pub(crate) fn a_backup_order_is_open_until_the_backup_is_kept(place: Place) {
    let bench = Bench::at(place);
    let mut serving = bench.serving();
    create(&mut serving, B);
    let owner = Owner::new();
    let first = owner.ordered(&mut serving);
    assert_eq!(serving.order(&VM, &first, Order::Backup).unwrap(), Outcome::Untrusted, "without its key");
    let second = owner.ordered(&mut serving);
    assert_eq!(serving.order_backup(&VM, &first, &owner.recovery).unwrap(), Outcome::Used, "it gave way");
    let force = owner.ticket(&mut serving, TicketOrder::Force);
    assert_eq!(serving.order(&VM, &force, Order::Force).unwrap(), Outcome::Open);
    assert!(matches!(grant(&mut serving, B).0, Reply::Granted(_)));
    assert!(matches!(confirm(&mut serving, B, head(2)), Reply::Leased { .. }));
    assert_eq!(serving.order(&VM, &force, Order::Force).unwrap(), Outcome::Used);
    let still = serving.order_backup(&VM, &second, &owner.recovery).unwrap();
    assert_eq!(still, Outcome::Open, "a CONFIRM uses up no backup");
    let wanted = serving.store().wanted_backup(&VM).unwrap().unwrap();
    assert_eq!(wanted.ticket.as_bytes(), second.as_bytes());
    assert_eq!(wanted.recovery.as_bytes(), owner.recovery.as_bytes());

    let header = owner.header(&mut serving, &second);
    let mut older = header;
    older.head.sequence.set(1);
    let of_first = owner.header(&mut serving, &first);
    for other in [older, of_first] {
        assert!(!serving.store().keep_backup(&VM, &other, b"file").unwrap());
    }
    assert_eq!(serving.store().backup(&VM, &second.id).unwrap(), Some(Vec::new()));
    assert!(serving.store().keep_backup(&VM, &header, b"file").unwrap());
    assert!(!serving.store().keep_backup(&VM, &header, b"again").unwrap(), "once");
    assert_eq!(serving.store().backup(&VM, &second.id).unwrap(), Some(b"file".to_vec()));
    assert_eq!(serving.order_backup(&VM, &second, &owner.recovery).unwrap(), Outcome::Used);
    assert!(serving.store().wanted_backup(&VM).unwrap().is_none());
    let log = serving.store().audit(TENANT, 0).unwrap();
    let told: Vec<_> = log.iter().filter(|(entry, _)| entry.event == Event::BackedUp).collect();
    assert_eq!(told.len(), 1);
    assert!(told[0].0.detail.contains(&hex::encode(second.id)), "{}", told[0].0.detail);
}

pub(crate) fn the_newest_backups_of_a_vm_are_kept(place: Place) {
    let bench = Bench::at(place);
    let mut serving = bench.serving();
    create(&mut serving, B);
    let owner = Owner::new();
    let mut made = Vec::new();
    for number in 0..=BACKUPS_MAX {
        let ticket = owner.ordered(&mut serving);
        let header = owner.header(&mut serving, &ticket);
        let file = number.to_le_bytes();
        assert!(serving.store().keep_backup(&VM, &header, &file).unwrap());
        made.push((ticket.id, file));
    }
    let (oldest, newer) = made.split_first().unwrap();
    assert_eq!(serving.store().backup(&VM, &oldest.0).unwrap(), None);
    for (id, file) in newer {
        assert_eq!(serving.store().backup(&VM, id).unwrap().as_deref(), Some(&file[..]));
    }
}
