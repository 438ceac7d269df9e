//! Tickets and questions about a VM: no session, since one is signed and the other answered to anybody.

use super::Service;
use super::notes::named;
use crate::ids::{TenantId, VmId, VmName};
use crate::rules::{Keeps, Life, Order, Row};
use crate::store::Standing;
use husk::release::frame;
use husk::release::recovery::RecoveryCertificate;
use husk::release::statement::{LifeWord, Outcome, Statement, StatusRequest};
use husk::release::ticket::{Ticket, TicketOrder};
use husk::release::transcript::point_digest;
use husk::release::wire::{FrameKind, RefusalReason, SIGNATURE_BYTES, WireHead};
use zerocopy::FromBytes;
use zerocopy::byteorder::little_endian::{U32, U64};

impl Service {
    /// Carries out a ticket, and says what became of it.
    pub(super) fn ticket(&self, body: &[u8], reply: &mut [u8]) -> Result<usize, RefusalReason> {
        let (ticket, rest) = Ticket::read_from_prefix(body).map_err(|_| RefusalReason::Malformed)?;
        let recovery = match (TicketOrder::from_number(ticket.order), rest) {
            (Some(TicketOrder::Backup), certificate) => Some(
                frame::exactly::<RecoveryCertificate>(certificate).map_err(|_| RefusalReason::Malformed)?,
            ),
            (_, []) => None,
            _ => return Err(RefusalReason::Malformed),
        };
        let vm = VmName { tenant: TenantId(ticket.certificate.tenant), vm: VmId(ticket.vm) };
        let tenant = self.tenant_of(&vm)?;
        let certified = recovery.filter(|recovery| {
            recovery.is_by(&vm.tenant.0, &tenant.root) && point_digest(&recovery.key) == ticket.subject
        });
        let outcome = match (ticket.order(&vm.tenant.0, &tenant.root), certified) {
            (Some(TicketOrder::Backup), Some(recovery)) => {
                self.stored(&vm, |serving| serving.order_backup(&vm, &ticket, &recovery))?
            }
            (Some(TicketOrder::Backup), None) | (None, _) => Outcome::Untrusted,
            (Some(order), _) => {
                let order = order_of(order).ok_or(RefusalReason::Malformed)?;
                self.stored(&vm, |serving| serving.order(&vm, &ticket, order))?
            }
        };
        let (order, id) = (TicketOrder::from_number(ticket.order), hex::encode(ticket.id));
        tracing::info!(%vm, "ticket {id} ({order:?}): {outcome:?}");
        self.count(|metrics| metrics.order(named(&order), &outcome));
        self.state(&vm, (&Statement::nonce_of_ticket(&ticket.id), outcome), reply)
    }

    /// Says where a VM stands.
    pub(super) fn status(&self, body: &[u8], reply: &mut [u8]) -> Result<usize, RefusalReason> {
        let asked: StatusRequest = frame::exactly(body).map_err(|_| RefusalReason::Malformed)?;
        let vm = VmName { tenant: TenantId(asked.tenant), vm: VmId(asked.vm) };
        self.state(&vm, (&asked.nonce, Outcome::Asked), reply)
    }

    pub(super) fn state(
        &self,
        vm: &VmName,
        (nonce, outcome): (&[u8; 32], Outcome),
        reply: &mut [u8],
    ) -> Result<usize, RefusalReason> {
        let standing = self.stored(vm, |serving| serving.standing(vm))?;
        let mut statement = statement(vm, &standing);
        (statement.nonce, statement.outcome) = (*nonce, outcome as u8);
        let signed = self.keys.signing().sign(&statement.digest());
        statement.signature = signed.map_err(|_| RefusalReason::Unavailable)?;
        frame::frame_of(FrameKind::Statement, reply, &statement).map_err(|_| RefusalReason::Unavailable)
    }
}

/// The order that a ticket alone gives; one to restore or to clone comes with its backup.
const fn order_of(order: TicketOrder) -> Option<Order> {
    match order {
        TicketOrder::Halt => Some(Order::Halt),
        TicketOrder::Resume => Some(Order::Resume),
        TicketOrder::Retire => Some(Order::Retire),
        TicketOrder::Force => Some(Order::Force),
        TicketOrder::Backup => Some(Order::Backup),
        TicketOrder::Restore | TicketOrder::Clone => None,
    }
}

const fn life_word(row: &Row) -> LifeWord {
    match row.life {
        Life::Virgin if matches!(row.keeps, Keeps::Nothing) => LifeWord::Ephemeral,
        Life::Virgin => LifeWord::Virgin,
        Life::Active => LifeWord::Active,
        Life::Halted => LifeWord::Halted,
        Life::Retired => LifeWord::Retired,
    }
}

/// Unsigned, and for nobody's nonce.
fn statement(vm: &VmName, standing: &Standing) -> Statement {
    let Standing { row, enrolment, tenant, now_ms } = standing;
    let until = |end_ms: u64| U32::new(u32::try_from(end_ms.saturating_sub(*now_ms)).unwrap_or(u32::MAX));
    let serves = row.holder.is_some() && row.next.is_none();
    Statement {
        tenant: vm.tenant.0,
        vm: vm.vm.0,
        nonce: [0; 32],
        host_data: enrolment.host_data,
        outcome: Outcome::Asked as u8,
        life: life_word(row) as u8,
        confirmed: u8::from(serves),
        released: u8::from(row.released),
        forced: u8::from(row.forced),
        restoring: u8::from(row.restoring.is_some()),
        reserved: [0; 2],
        generation: U32::new(row.generation),
        lease_ms: if row.released { U32::new(0) } else { until(row.lease_until_ms) },
        overlap_ms: until(row.overlap_until_ms),
        token: U64::new(row.token),
        epoch: U64::new(row.epoch),
        head: WireHead::from(&row.head),
        reset_base: U64::new(row.reset_base),
        time_ms: U64::new(*now_ms),
        tenant_root: tenant.root,
        certificate: tenant.certificate,
        signature: [0; SIGNATURE_BYTES],
    }
}
