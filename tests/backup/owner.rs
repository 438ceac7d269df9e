//! The tenant: signs orders, keeps the recovery key, fetches and opens backups, and has them restored.
#![allow(dead_code, clippy::panic, reason = "each test uses a part, and ends where its world fails")]
#![allow(clippy::allow_attributes, reason = "what is unused differs from test to test")]

use crate::stage::Stage;
use husk::keys::BackupSecret;
use husk::nv::Envelope;
use husk::release::backup::{BackupHeader, BackupOrder, backup_digest};
use husk::release::frame;
use husk::release::recovery::RecoveryCertificate;
use husk::release::restore::{OpenedBackup, RestoreKey};
use husk::release::statement::{Outcome, Statement, StatusRequest};
use husk::release::ticket::{Ticket, TicketOrder};
use husk::release::transcript::{AgreementKey, point_digest};
use husk::release::wire::{
    BACKUP_PART_BYTES_MAX, BackupAsked, BackupBrought, BackupPiece, FRAME_BYTES_MAX, FRAME_HEADER_BYTES,
    FrameKind, RestoreKeyAsked,
};
use husk::volume::backup::{Part, open_part};
use husk_broker::ids::TenantId;
use husk_broker::vault::{OperatorKey, RecoveryKey};
use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromZeros, IntoBytes};

pub(crate) struct Owner {
    operator: OperatorKey,
    key: AgreementKey,
    certificate: RecoveryCertificate,
}

impl Owner {
    pub(crate) fn new(stage: &Stage) -> Self {
        let tenant = TenantId(stage.launch.tenant);
        let all = (TicketOrder::ALL, 0, 1);
        let operator = OperatorKey::generate(&*stage.nature, &stage.root, tenant, all).expect("a key");
        let (key, certificate) =
            RecoveryKey::generate(&*stage.nature, &stage.root, tenant).expect("a recovery key");
        Self { operator, key: key.key().expect("its scalar"), certificate }
    }

    pub(crate) const fn key(&self) -> &AgreementKey {
        &self.key
    }

    pub(crate) const fn point(&self) -> &[u8; 97] {
        self.key.point()
    }

    /// An order to back up the VM as it stands.
    pub(crate) fn order(&self, stage: &Stage) -> Ticket {
        self.signed(stage, TicketOrder::Backup, point_digest(&self.certificate.key))
    }

    /// An order about nothing beside the VM.
    pub(crate) fn plain(&self, stage: &Stage, order: TicketOrder) -> Ticket {
        self.signed(stage, order, [0; 48])
    }

    fn signed(&self, stage: &Stage, order: TicketOrder, subject: [u8; 48]) -> Ticket {
        let now = self.statement(stage);
        let mut ticket = Ticket::new_zeroed();
        (ticket.vm, ticket.order) = (stage.launch.vm, order as u8);
        (ticket.token, ticket.generation) = (now.token, now.generation);
        ticket.until_ms.set(u64::MAX);
        ticket.subject = subject;
        self.operator.sign(&*stage.nature, &mut ticket).expect("a signature");
        ticket
    }

    /// Where the VM stands.
    pub(crate) fn statement(&self, stage: &Stage) -> Statement {
        let request = StatusRequest { tenant: stage.launch.tenant, vm: stage.launch.vm, nonce: [0; 32] };
        statement(&asked(stage, FrameKind::StatusRequest, request.as_bytes()))
    }

    /// An order to restore the backup `file`, and its key for this broker.
    pub(crate) fn restore(&self, stage: &Stage, file: &[u8]) -> (Ticket, OpenedBackup) {
        self.order_from_backup(stage, file, TicketOrder::Restore)
    }

    /// An order to clone the VM that the backup `file` is of, and its key for this broker.
    pub(crate) fn clone(&self, stage: &Stage, file: &[u8]) -> (Ticket, OpenedBackup) {
        self.order_from_backup(stage, file, TicketOrder::Clone)
    }

    /// Such an order, and the backup's key. What does not open gets a key of nothing.
    fn order_from_backup(&self, stage: &Stage, file: &[u8], order: TicketOrder) -> (Ticket, OpenedBackup) {
        let request = RestoreKeyAsked { tenant: stage.launch.tenant, vm: stage.launch.vm };
        let mut answer = asked(stage, FrameKind::RestoreKeyAsked, request.as_bytes());
        let Ok((FrameKind::RestoreKeyShown, body)) = frame::open(&mut answer) else {
            panic!("no key is shown")
        };
        let shown: RestoreKey = frame::exactly(body).expect("a key");
        assert!(shown.is_vouched_for(&stage.launch), "the tenant's broker shows it");
        let (header, _) = BackupHeader::read(file).expect("a backup");
        let mut entropy = &*stage.nature;
        let secret = BackupSecret::open(&header, &self.key);
        let secret = secret.unwrap_or_else(|| BackupSecret::draw(&mut entropy).expect("entropy"));
        let digest = backup_digest(file);
        let opened = secret.hand_over(&shown, &digest, &mut entropy).expect("it is sealed");
        (self.signed(stage, order, digest), opened)
    }

    /// Brings the backup with its order, piece by piece; what became of the order, or nothing where the broker took no more.
    pub(crate) fn bring(
        &self,
        stage: &Stage,
        (ticket, opened): &(Ticket, OpenedBackup),
        file: &[u8],
    ) -> Option<Outcome> {
        for number in 0..=file.len() / BACKUP_PART_BYTES_MAX {
            let piece = file.chunks(BACKUP_PART_BYTES_MAX).nth(number).unwrap_or_default();
            let mut brought = BackupBrought::new_zeroed();
            (brought.ticket, brought.opened) = (*ticket, *opened);
            brought.number.set(u32::try_from(number).expect("it is small"));
            brought.bytes.set(u16::try_from(piece.len()).expect("it is small"));
            brought.piece[..piece.len()].copy_from_slice(piece);
            let mut answer = asked(stage, FrameKind::BackupBrought, brought.as_bytes());
            let Ok((FrameKind::Statement, body)) = frame::open(&mut answer) else { return None };
            let said: Statement = frame::exactly(body).expect("a statement");
            match Outcome::from_number(said.outcome).expect("an outcome") {
                Outcome::Brought => {}
                outcome => return Some(outcome),
            }
        }
        None
    }

    /// Hands an order in that nothing goes with.
    pub(crate) fn hand_in_alone(&self, stage: &Stage, ticket: &Ticket) -> Outcome {
        let said = statement(&asked(stage, FrameKind::Ticket, ticket.as_bytes()));
        Outcome::from_number(said.outcome).expect("an outcome")
    }

    /// Hands it in, with the certificate that it names.
    pub(crate) fn hand_in(&self, stage: &Stage, ticket: &Ticket) -> Outcome {
        let body = [ticket.as_bytes(), self.certificate.as_bytes()].concat();
        let said = statement(&asked(stage, FrameKind::Ticket, &body));
        Outcome::from_number(said.outcome).expect("an outcome")
    }

    /// The file that the broker keeps; nothing if it knows of no such order, no bytes before a launch made it.
    pub(crate) fn file(&self, stage: &Stage, ticket: &Ticket) -> Option<Vec<u8>> {
        let mut file = Vec::new();
        for number in 0.. {
            let (tenant, vm) = (stage.launch.tenant, stage.launch.vm);
            let request = BackupAsked { tenant, vm, id: ticket.id, number: U32::new(number) };
            let mut answer = asked(stage, FrameKind::BackupAsked, request.as_bytes());
            let Ok((FrameKind::BackupPiece, body)) = frame::open(&mut answer) else { return None };
            let piece: BackupPiece = frame::exactly(body).expect("a piece");
            file.extend_from_slice(&piece.piece[..usize::from(piece.bytes.get())]);
            if usize::from(piece.bytes.get()) < BACKUP_PART_BYTES_MAX {
                break;
            }
        }
        Some(file)
    }

    /// A secret, and an unsealed header of a state of so many bytes.
    pub(crate) fn header(&self, stage: &Stage, state_bytes: usize) -> (BackupSecret, BackupHeader) {
        let secret = BackupSecret::draw(&mut &*stage.nature).expect("entropy");
        let mut header = BackupHeader::of(&BackupOrder { id: [7; 16], recovery: *self.point() });
        header.state_bytes.set(u32::try_from(state_bytes).expect("it is small"));
        (secret, header)
    }

    /// The state of a backup as if it had been made in a trusted place, and no instance had ever served it.
    pub(crate) fn prepared(&self, stage: &Stage, file: &[u8]) -> Vec<u8> {
        let state = self.state(file).expect("it opens");
        let secret = BackupSecret::draw(&mut &*stage.nature).expect("entropy");
        let names = (stage.launch.tenant, stage.launch.vm);
        let mut header = BackupHeader::prepared(names, [9; 16], self.point());
        header.fingerprint = BackupHeader::read(file).expect("a backup").0.fingerprint;
        header.state_bytes.set(u32::try_from(state.len()).expect("it is small"));
        secret.seal(&mut header, self.point(), &mut &*stage.nature).expect("it is sealed");
        let mut made = header.as_bytes().to_vec();
        for number in 1..=header.parts() {
            made.extend_from_slice(Part::seal(&secret, &header, number, &state).expect("a part").bytes());
        }
        made
    }

    /// How far the toy had counted in a backup; nothing if that does not open as a whole.
    pub(crate) fn count(&self, file: &[u8]) -> Option<u64> {
        let state = self.state(file)?;
        let counter = state.get(Envelope::BYTES..Envelope::BYTES + 8)?;
        Some(u64::from_le_bytes(counter.try_into().ok()?))
    }

    /// The state in a backup; nothing if that does not open as a whole.
    fn state(&self, file: &[u8]) -> Option<Vec<u8>> {
        let (header, parts) = BackupHeader::read(file)?;
        let secret = BackupSecret::open(&header, &self.key)?;
        if header.total_bytes() != file.len() as u64 {
            return None;
        }
        let mut state = Vec::new();
        for (number, part) in (1..).zip(parts.chunks(BACKUP_PART_BYTES_MAX)) {
            state.extend_from_slice(open_part(&secret, &header, number, &mut part.to_vec()).ok()?);
        }
        Some(state)
    }
}

/// One frame to the broker; its answer.
fn asked(stage: &Stage, kind: FrameKind, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; FRAME_BYTES_MAX];
    bytes[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + body.len()].copy_from_slice(body);
    let length = frame::frame(kind, &mut bytes, body.len()).expect("it fits");
    stage.broker(&bytes[..length])
}

fn statement(answer: &[u8]) -> Statement {
    let mut answer = answer.to_vec();
    let Ok((FrameKind::Statement, body)) = frame::open(&mut answer) else {
        return Statement::new_zeroed();
    };
    frame::exactly(body).expect("a statement")
}
