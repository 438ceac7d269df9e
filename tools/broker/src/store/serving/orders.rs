//! Tickets, and where a VM stands.
//!
//! **What.** [`Serving::order`] carries out a ticket whose signatures held; [`Serving::standing`] tells where a VM stands.
//! **Laws.** A ticket's id is kept, for ever, in the transaction that carries it out: it works once, at whichever instance. One
//! that ends in a boot stays open until the CONFIRM, or the backup, that uses it up. Its end is a moment of the database's clock. A ticket
//! that is not carried out changes nothing.
//! **Not here.** Signatures (`husk::release::ticket`); what an order does to a row (`rules`).

use super::{Made, Serving, UNCHANGED, newest};
use crate::ids::VmName;
use crate::rules::{Order, Row, operate};
use crate::store::columns::{load, swap};
use crate::store::sql::{Sql, transact};
use crate::store::{Enrolment, Restore, StoreError, Tenant, audit, backups, enrolment, restores, tenant};
use husk::release::recovery::RecoveryCertificate;
use husk::release::statement::Outcome;
use husk::release::ticket::{Ticket, TicketOrder};

/// Where a VM stands at a moment.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Its row.
    pub row: Row,
    /// How it was enrolled.
    pub enrolment: Enrolment,
    /// Its tenant.
    pub tenant: Tenant,
    /// The database's clock in milliseconds.
    pub now_ms: u64,
}

impl Serving {
    /// Carries out `order`, which `ticket` gives about `vm`; what became of it.
    ///
    /// # Errors
    /// [`StoreError::UnknownVm`] and others; nothing has changed then.
    pub fn order(&mut self, vm: &VmName, ticket: &Ticket, order: Order) -> Result<Outcome, StoreError> {
        self.carry_out(vm, (ticket, With::Nothing), order)
    }

    /// As [`order`](Self::order), of a ticket that orders a backup for the key that `recovery` certifies.
    ///
    /// # Errors
    /// As those.
    pub fn order_backup(
        &mut self,
        vm: &VmName,
        ticket: &Ticket,
        recovery: &RecoveryCertificate,
    ) -> Result<Outcome, StoreError> {
        self.carry_out(vm, (ticket, With::Recovery(recovery)), Order::Backup)
    }

    /// As [`order`](Self::order), of a ticket that orders a restore or a clone from the backup that was brought with it.
    ///
    /// # Errors
    /// [`StoreError::Raced`] if another was brought meanwhile; as those.
    pub fn order_from_backup(
        &mut self,
        vm: &VmName,
        restore: &Restore,
        order: Order,
    ) -> Result<Outcome, StoreError> {
        self.carry_out(vm, (&restore.ticket, With::Backup(restore)), order)
    }

    fn carry_out(
        &mut self,
        vm: &VmName,
        (ticket, with): (&Ticket, With<'_>),
        order: Order,
    ) -> Result<Outcome, StoreError> {
        self.on_the_newest(|serving| {
            serving.in_time(|sql, now_ms| Ticketed { sql, vm, ticket, with, order, now_ms }.carry_out())
        })
    }

    /// Where `vm` stands now. Changes nothing, the database's clock neither.
    ///
    /// # Errors
    /// [`StoreError::UnknownVm`] and others.
    pub fn standing(&mut self, vm: &VmName) -> Result<Standing, StoreError> {
        self.on_the_newest(|serving| {
            let Self { store, world, seen, commits, root_check, .. } = serving;
            transact(&mut *store.database, |sql| {
                let mut shared = newest(sql, root_check, *commits)?;
                let now_ms = shared.ratchet(sql, *seen, || world.now_ms())?.database_ms;
                let row = load(sql, vm)?.ok_or(StoreError::UnknownVm(*vm))?;
                Ok(Standing { row, enrolment: enrolment(sql, vm)?, tenant: tenant(sql, vm.tenant)?, now_ms })
            })
        })
    }
}

/// What a ticket comes with.
#[derive(Clone, Copy)]
enum With<'t> {
    Nothing,
    /// The certificate of the recovery key that a backup is for.
    Recovery(&'t RecoveryCertificate),
    /// What was brought.
    Backup(&'t Restore),
}

struct Ticketed<'t> {
    sql: &'t mut dyn Sql,
    vm: &'t VmName,
    ticket: &'t Ticket,
    with: With<'t>,
    order: Order,
    now_ms: u64,
}

impl Ticketed<'_> {
    fn carry_out(mut self) -> Result<(Outcome, Made), StoreError> {
        let row = load(self.sql, self.vm)?.ok_or(StoreError::UnknownVm(*self.vm))?;
        if let Some(outcome) = self.refusal(&row)? {
            return Ok((outcome, UNCHANGED));
        }
        let Ok(new) = operate(&row, self.order) else { return Ok((Outcome::Barred, UNCHANGED)) };
        self.keep_id()?;
        let erased = swap(self.sql, self.vm, &row, &new)?;
        match self.with {
            With::Nothing => {}
            With::Recovery(recovery) => backups::order(self.sql, self.vm, (self.ticket, recovery))?,
            With::Backup(restore) => restores::order(self.sql, self.vm, restore)?,
        }
        let (event, detail) = audit::ordered(self.order, &new);
        let what = (event, format!("{detail}, by ticket {}", hex::encode(self.ticket.id)));
        audit::enter(self.sql, self.vm, self.now_ms, what)?;
        let outcome = if self.is_for_a_boot() { Outcome::Open } else { Outcome::Done };
        Ok((outcome, Made { changed: true, erased }))
    }

    /// Why it is not carried out; in the order in which a reader would ask.
    fn refusal(&mut self, row: &Row) -> Result<Option<Outcome>, StoreError> {
        let Ticket { certificate, token, generation, until_ms, .. } = self.ticket;
        let is_whole = match self.order {
            Order::Halt | Order::Resume | Order::Retire | Order::Force => matches!(self.with, With::Nothing),
            Order::Backup => matches!(self.with, With::Recovery(_)),
            Order::Restore(_) | Order::Clone(_) => matches!(self.with, With::Backup(_)),
        };
        if !is_whole || certificate.generation.get() < self.operator_generation()? {
            return Ok(Some(Outcome::Untrusted));
        }
        if let Some(outcome) = self.used()? {
            return Ok(Some(outcome));
        }
        if self.now_ms > until_ms.get() {
            return Ok(Some(Outcome::Expired));
        }
        let is_current = (token.get(), generation.get()) == (row.token, row.generation);
        Ok((!is_current).then_some(Outcome::Overtaken))
    }

    const fn is_for_a_boot(&self) -> bool {
        matches!(self.order, Order::Force | Order::Backup | Order::Restore(_) | Order::Clone(_))
    }

    fn operator_generation(&mut self) -> Result<u32, StoreError> {
        let statement = "SELECT operator_generation FROM tenants WHERE tenant = ?1";
        let found = self.sql.one(statement, &[self.vm.tenant.0.into()])?;
        let found = found.ok_or(StoreError::UnknownTenant(self.vm.tenant))?.integer()?;
        u32::try_from(found).map_err(|_| StoreError::Damaged)
    }

    /// The very ticket that is open is told so again, since its answer may have been lost.
    fn used(&mut self) -> Result<Option<Outcome>, StoreError> {
        let statement = "SELECT digest, is_open FROM tickets WHERE tenant = ?1 AND id = ?2";
        let found = self.sql.one(statement, &[self.vm.tenant.0.into(), self.ticket.id.into()])?;
        let Some(mut found) = found else { return Ok(None) };
        let is_this = found.array::<48>()? == self.ticket.digest();
        Ok(Some(if is_this && found.flag()? { Outcome::Open } else { Outcome::Used }))
    }

    /// The ticket is known from now on, and the operator's key makes older ones of its tenant's invalid.
    fn keep_id(&mut self) -> Result<(), StoreError> {
        let (is_open, given) = (self.is_for_a_boot(), given(self.order));
        let Self { sql, vm, ticket, .. } = self;
        let (tenant, generation) = (vm.tenant.0, i64::from(ticket.certificate.generation.get()));
        sql.execute(
            "INSERT INTO tickets (tenant, id, vm, digest, is_open, given) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            &[
                tenant.into(),
                ticket.id.into(),
                vm.vm.0.into(),
                ticket.digest().into(),
                is_open.into(),
                i64::from(given as u8).into(),
            ],
        )?;
        let statement = "UPDATE tenants SET operator_generation = ?2
            WHERE tenant = ?1 AND operator_generation < ?2";
        sql.execute(statement, &[tenant.into(), generation.into()]).map(drop)
    }
}

/// The order as a ticket gives it.
const fn given(order: Order) -> TicketOrder {
    match order {
        Order::Halt => TicketOrder::Halt,
        Order::Resume => TicketOrder::Resume,
        Order::Retire => TicketOrder::Retire,
        Order::Force => TicketOrder::Force,
        Order::Backup => TicketOrder::Backup,
        Order::Restore(_) => TicketOrder::Restore,
        Order::Clone(_) => TicketOrder::Clone,
    }
}
