//! A backup that an operator brings to the broker, for a restore or for a clone.

use crate::bench::{Bench, OTHER_VM, VM};
use husk::keys::BackupSecret;
use husk::release::backup::{BackupHeader, BackupOrder, backup_digest};
use husk::release::frame;
use husk::release::restore::{OpenedBackup, RestoreKey};
use husk::release::statement::{Outcome, Statement};
use husk::release::ticket::{Ticket, TicketOrder};
use husk::release::wire::{
    BACKUP_PART_BYTES_MAX, BackupBrought, FRAME_BYTES_MAX, FrameKind, RestoreKeyAsked, Wire,
};
use husk::volume::backup::Part;
use husk_broker::vault::RecoveryKey;
use husk_broker::world::WorldEntropy;
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromZeros, IntoBytes};

/// The state of the one backup: two parts, in two pieces.
const STATE: &[u8] = &[0x5A; 5000];

/// A backup with its order.
pub(crate) struct Brought {
    ticket: Ticket,
    opened: OpenedBackup,
    file: Vec<u8>,
}

impl Brought {
    /// Of the VM, to be restored, or of the other, to be cloned.
    pub(crate) fn new(bench: &Bench, order: TicketOrder) -> Self {
        let mut entropy = WorldEntropy(&*bench.world);
        let (key, certificate) = RecoveryKey::generate(&*bench.world, bench.root(), VM.tenant).unwrap();
        let of = if order == TicketOrder::Clone { OTHER_VM } else { VM };
        let mut header = BackupHeader::of(&BackupOrder { id: [9; 16], recovery: certificate.key });
        (header.tenant, header.vm) = (of.tenant.0, of.vm.0);
        header.state_bytes.set(u32::try_from(STATE.len()).unwrap());
        let secret = BackupSecret::draw(&mut entropy).unwrap();
        secret.seal(&mut header, &certificate.key, &mut entropy).unwrap();
        let mut file = header.as_bytes().to_vec();
        for number in 1..=header.parts() {
            file.extend_from_slice(Part::seal(&secret, &header, number, STATE).unwrap().bytes());
        }
        let secret = BackupSecret::open(&header, &key.key().unwrap()).unwrap();
        let asked = RestoreKeyAsked { tenant: VM.tenant.0, vm: VM.vm.0 };
        let (_, shown) = answered(bench, FrameKind::RestoreKeyAsked, &asked);
        let shown: RestoreKey = frame::exactly(&shown).unwrap();
        let digest = backup_digest(&file);
        let opened = secret.hand_over(&shown, &digest, &mut entropy).unwrap();
        let mut ticket = bench.ticket(&VM, order);
        (ticket.subject, ticket.until_ms) = (digest, u64::MAX.into());
        bench.operator(&[order]).sign(&*bench.world, &mut ticket).unwrap();
        Self { ticket, opened, file }
    }

    /// The number of the last piece.
    pub(crate) fn last(&self) -> usize {
        self.file.len() / BACKUP_PART_BYTES_MAX
    }

    /// The frame's body with the piece of that number.
    pub(crate) fn piece(&self, number: usize) -> BackupBrought {
        let piece = self.file.chunks(BACKUP_PART_BYTES_MAX).nth(number).unwrap_or_default();
        let mut brought = BackupBrought::new_zeroed();
        (brought.ticket, brought.opened) = (self.ticket, self.opened);
        brought.number = U32::new(u32::try_from(number).unwrap());
        brought.bytes = U16::new(u16::try_from(piece.len()).unwrap());
        brought.piece[..piece.len()].copy_from_slice(piece);
        brought
    }

    /// Brings all of it; what became of the order.
    pub(crate) fn bring(&self, bench: &Bench) -> Outcome {
        (0..=self.last()).fold(Outcome::Brought, |came, number| {
            assert_eq!(came, Outcome::Brought, "each piece is taken");
            let (_, body) = answered(bench, FrameKind::BackupBrought, &self.piece(number));
            let said: Statement = frame::exactly(&body).unwrap();
            Outcome::from_number(said.outcome).unwrap()
        })
    }
}

/// What the broker answers to a frame.
fn answered(bench: &Bench, kind: FrameKind, body: &impl Wire) -> (FrameKind, Vec<u8>) {
    let mut bytes = [0; FRAME_BYTES_MAX];
    let length = frame::frame_of(kind, &mut bytes, body).unwrap();
    let mut answer = bench.service.handle(&bytes[..length]);
    let (kind, body) = frame::open(&mut answer).unwrap();
    (kind, body.to_vec())
}
