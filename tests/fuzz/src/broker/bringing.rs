//! A backup that an operator brings to the broker, whole or spoilt, and what the instance that is granted it asks for.

use super::{Script, framed, patch};
use crate::bench::{Bench, OTHER_VM, VM};
use husk::keys::BackupSecret;
use husk::release::backup::{BackupHeader, BackupOrder, backup_digest};
use husk::release::frame;
use husk::release::restore::{OpenedBackup, RestoreKey};
use husk::release::statement::{Outcome, Statement};
use husk::release::ticket::{Ticket, TicketOrder};
use husk::release::wire::{
    BACKUP_PART_BYTES_MAX, BackupBrought, FrameKind, Operation, RestoreKeyAsked, RestorePartRequest,
    RestoreRequest,
};
use husk::volume::backup::Part;
use husk_broker::vault::RecoveryKey;
use husk_broker::world::WorldEntropy;
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromZeros, IntoBytes};

/// The state of the one backup: two parts, in two pieces.
const STATE: &[u8] = &[0x5A; 5000];

/// A backup with its order.
pub(super) struct Bringing {
    ticket: Ticket,
    opened: OpenedBackup,
    file: Vec<u8>,
    /// How many pieces of it came unspoilt, one after the other, from the first on.
    came: usize,
}

impl Bringing {
    /// Of the VM, to be restored, or of the other, to be cloned.
    fn new(bench: &Bench, order: TicketOrder) -> Self {
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
        let mut answer = bench.service.handle(&framed(FrameKind::RestoreKeyAsked, asked.as_bytes()));
        let shown: RestoreKey = frame::exactly(frame::open(&mut answer).unwrap().1).unwrap();
        let digest = backup_digest(&file);
        let opened = secret.hand_over(&shown, &digest, &mut entropy).unwrap();
        let mut ticket = bench.ticket(&VM, order);
        (ticket.subject, ticket.until_ms) = (digest, u64::MAX.into());
        bench.operator(&[order]).sign(&*bench.world, &mut ticket).unwrap();
        Self { ticket, opened, file, came: 0 }
    }

    /// The frame's body with the piece of that number.
    fn piece(&self, number: usize) -> Vec<u8> {
        let piece = self.file.chunks(BACKUP_PART_BYTES_MAX).nth(number).unwrap_or_default();
        let mut brought = BackupBrought::new_zeroed();
        (brought.ticket, brought.opened) = (self.ticket, self.opened);
        brought.number = U32::new(u32::try_from(number).unwrap());
        brought.bytes = U16::new(u16::try_from(piece.len()).unwrap());
        brought.piece[..piece.len()].copy_from_slice(piece);
        brought.as_bytes().to_vec()
    }
}

impl Script<'_> {
    /// A piece of a backup, which the script spoils: then nothing is ordered.
    pub(super) fn bring(&mut self) {
        let order = [TicketOrder::Restore, TicketOrder::Clone][self.input.below(2)];
        let number = self.input.below(3);
        let mut bringing = self.bringing.take().unwrap_or_else(|| Bringing::new(&self.bench, order));
        let honest = bringing.piece(number);
        let mut bytes = honest.clone();
        patch(&mut bytes, &mut self.input);
        let (kind, body) = self.handle(&framed(FrameKind::BackupBrought, &bytes));
        let outcome = (kind == FrameKind::Statement).then(|| {
            let said: Statement = frame::exactly(&body).unwrap();
            Outcome::from_number(said.outcome).unwrap()
        });
        let last = bringing.file.len() / BACKUP_PART_BYTES_MAX;
        let fits = bytes == honest && (number == 0 || number == bringing.came);
        match outcome {
            Some(Outcome::Brought) => bringing.came = if fits { number + 1 } else { usize::MAX },
            Some(Outcome::Open | Outcome::Done) => {
                assert!(fits && number == last, "a spoilt backup is ordered");
                bringing.came = usize::MAX;
            }
            _ => {}
        }
        self.bringing = Some(bringing);
    }

    /// The instance asks what is to be restored, or for a part of it.
    pub(super) fn restore(&mut self) {
        let Some(session) = &self.session else { return };
        let (token, generation) = (session.token.into(), session.generation.into());
        let number = self.input.byte();
        if number == 0 {
            self.ask(Operation::Restore, RestoreRequest { token, generation }.as_bytes(), false);
        } else {
            let asked = RestorePartRequest { token, generation, number: u32::from(number).into() };
            self.ask(Operation::RestorePart, asked.as_bytes(), false);
        }
    }
}

/// A restore and a clone that are carried out; `granted` is a script to a grant.
pub(super) fn seeds(granted: &[u8]) -> Vec<Vec<u8>> {
    let honest = [0; 4];
    let mut seeds = Vec::new();
    for order in [0, 1] {
        let piece = |number: u8| [&[11, order, number][..], &honest].concat();
        let brought = [piece(0), piece(1)].concat();
        seeds.push([&brought[..], granted, &[12, 0, 12, 1, 12, 2, 12, 9, 9, 12, 1]].concat());
        seeds.push([piece(1), piece(0), piece(0), piece(2)].concat());
        seeds.push([&brought[..], &brought].concat());
        // Another byte of the ticket, of its key, of the file.
        for at in [100_u16, 700, 1500] {
            let spoilt = [&[11, order, 0][..], &at.to_le_bytes(), &[1, 0, 0xFF]].concat();
            seeds.push([&spoilt[..], &piece(1)].concat());
        }
    }
    seeds
}

/// The seeds get as far as the last part, and no further.
#[test]
fn the_seeds_reach_the_confirmation_of_what_was_brought() {
    for seed in super::frame_seeds().iter().filter(|seed| seed.ends_with(&[9, 9, 12, 1])) {
        let mut script = Script::new(Bench::new(), seed);
        while !script.input.is_over() {
            script.step();
        }
        assert_eq!(script.bench.asked(&VM, [5; 32]).generation.get(), 1, "it is carried out");
    }
}
