//! The tenant: signs orders, keeps the recovery key, fetches and opens backups.

use crate::stage::Stage;
use husk::keys::BackupSecret;
use husk::nv::Envelope;
use husk::release::backup::{BackupHeader, BackupOrder};
use husk::release::frame;
use husk::release::recovery::RecoveryCertificate;
use husk::release::statement::{Outcome, Statement, StatusRequest};
use husk::release::ticket::{Ticket, TicketOrder};
use husk::release::transcript::{AgreementKey, point_digest};
use husk::release::wire::{
    BACKUP_PART_BYTES_MAX, BackupAsked, BackupPiece, FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FrameKind,
};
use husk::volume::backup::open_part;
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
        let request = StatusRequest { tenant: stage.launch.tenant, vm: stage.launch.vm, nonce: [0; 32] };
        let now = statement(&asked(stage, FrameKind::StatusRequest, request.as_bytes()));
        let mut ticket = Ticket::new_zeroed();
        (ticket.vm, ticket.order) = (stage.launch.vm, TicketOrder::Backup as u8);
        (ticket.token, ticket.generation) = (now.token, now.generation);
        ticket.until_ms.set(u64::MAX);
        ticket.subject = point_digest(&self.certificate.key);
        self.operator.sign(&*stage.nature, &mut ticket).expect("a signature");
        ticket
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

    /// How far the toy had counted in a backup; nothing if that does not open as a whole.
    pub(crate) fn count(&self, file: &[u8]) -> Option<u64> {
        let (header, parts) = BackupHeader::read(file)?;
        let secret = BackupSecret::open(&header, &self.key)?;
        if header.total_bytes() != file.len() as u64 {
            return None;
        }
        let mut state = Vec::new();
        for (number, part) in (1..).zip(parts.chunks(BACKUP_PART_BYTES_MAX)) {
            state.extend_from_slice(open_part(&secret, &header, number, &mut part.to_vec()).ok()?);
        }
        let counter = state.get(Envelope::BYTES..Envelope::BYTES + 8)?;
        Some(u64::from_le_bytes(counter.try_into().ok()?))
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
