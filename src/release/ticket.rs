//! Orders of the tenant, signed beforehand.
//!
//! **What.** [`Ticket`]: one order about one VM, signed by an operator's key, with the [`OperatorCertificate`] by which the
//! tenant's root key says which orders that key may give.
//! **Trust.** The tenant's root key. The ticket may come from anybody, over anything.
//! **Laws.** [`Ticket::order`] yields an order only if certificate and signature hold and the certificate allows it. A ticket names
//! the token and the generation that its signer saw: one that was overtaken orders nothing.
//! **Not here.** That a ticket works once and when it ends: the broker, which alone remembers and has the clock
//! (`protocol.md`, section 5.1).

#![allow(missing_debug_implementations, reason = "structures of the wire are never printed")]
#![allow(clippy::allow_attributes, reason = "an expectation is not seen inside the macro")]

use super::ReleaseFault;
use super::transcript::{Digest, SigningKey, verifies};
use super::wire::{POINT_BYTES, SIGNATURE_BYTES, numbers, wire};
use core::mem::offset_of;
use sha2::{Digest as _, Sha384};
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const OPERATOR_LABEL: &[u8] = b"HUSK v1 operator certificate\0";
const TICKET_LABEL: &[u8] = b"HUSK v1 ticket\0";

numbers! {
    /// What a ticket orders.
    pub enum TicketOrder: u8 {
        /// Fence the running instance and grant to nobody.
        Halt = 1,
        /// Grant to a halted VM again.
        Resume = 2,
        /// End the VM for good and erase its secrets.
        Retire = 3,
        /// Grant the next time without waiting for the lease.
        Force = 4,
        /// Make a backup at the next launch, for the recovery key that [`Ticket::subject`] names.
        Backup = 5,
        /// Make the TPM anew from the backup that [`Ticket::subject`] names, in a generation of its own.
        Restore = 6,
        /// Make the TPM of a VM that has none from the backup of another VM's, with seeds of its own.
        Clone = 7,
    }
}

impl TicketOrder {
    /// Its bit in [`OperatorCertificate::orders`].
    #[must_use]
    pub const fn bit(self) -> u32 {
        1 << self as u8
    }

    /// Whether it is about something beside the VM.
    #[must_use]
    pub const fn has_subject(self) -> bool {
        match self {
            Self::Halt | Self::Resume | Self::Retire | Self::Force => false,
            Self::Backup | Self::Restore | Self::Clone => true,
        }
    }
}

wire! {
    /// What the tenant root key says of an operator's key.
    pub struct OperatorCertificate {
        /// The tenant.
        pub tenant: [u8; 16],
        /// The operator.
        pub operator: [u8; 16],
        /// The operator's signing key.
        pub key: [u8; POINT_BYTES],
        /// A broker that saw a ticket of a higher generation refuses this one's.
        pub generation: U32,
        /// One bit ([`TicketOrder::bit`]) for each order that it may give. Bits from 16 on are no orders: they say what it may ask of a
        /// broker.
        pub orders: U32,
        /// By the tenant root key.
        pub signature: [u8; SIGNATURE_BYTES],
    }

    /// One order about one VM.
    pub struct Ticket {
        /// Whose order it is.
        pub certificate: OperatorCertificate,
        /// The VM.
        pub vm: [u8; 16],
        /// Random: the ticket works once under this name.
        pub id: [u8; 16],
        /// [`TicketOrder`].
        pub order: u8,
        /// Zero.
        pub reserved: [u8; 3],
        /// The generation that the VM must have.
        pub generation: U32,
        /// The token that the VM must have.
        pub token: U64,
        /// What the order is about beside the VM, by its SHA-384: of [`TicketOrder::Backup`] the recovery key's point
        /// ([`point_digest`](super::transcript::point_digest)), of [`TicketOrder::Restore`] and [`TicketOrder::Clone`] the backup
        /// ([`backup_digest`](super::backup::backup_digest)); zero where there is nothing.
        pub subject: Digest,
        /// The last moment of the broker's clock, in milliseconds, at which it works; [`u64::MAX`]: no end.
        pub until_ms: U64,
        /// By the operator's key.
        pub signature: [u8; SIGNATURE_BYTES],
    }
}

impl OperatorCertificate {
    /// What the tenant root key signs: all of it but the signature.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let signed = &self.as_bytes()[..offset_of!(Self, signature)];
        Sha384::new().chain_update(OPERATOR_LABEL).chain_update(signed).finalize().into()
    }

    /// Whether `root` certified it for `tenant`.
    #[must_use]
    pub fn is_by(&self, tenant: &[u8; 16], root: &[u8; POINT_BYTES]) -> bool {
        self.tenant == *tenant && verifies(root, &self.digest(), &self.signature)
    }
}

impl Ticket {
    /// What the operator's key signs: all of it but the signature, the certificate included.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let signed = &self.as_bytes()[..offset_of!(Self, signature)];
        Sha384::new().chain_update(TICKET_LABEL).chain_update(signed).finalize().into()
    }

    /// Signs it.
    ///
    /// # Errors
    /// As [`SigningKey::sign`].
    pub fn sign(&mut self, operator: &SigningKey) -> Result<(), ReleaseFault> {
        self.signature = operator.sign(&self.digest())?;
        Ok(())
    }

    /// What it orders, if it is the word of an operator that `root`, the root key of `tenant`, allows to give that order.
    #[must_use]
    pub fn order(&self, tenant: &[u8; 16], root: &[u8; POINT_BYTES]) -> Option<TicketOrder> {
        let order = TicketOrder::from_number(self.order)?;
        let is_whole = self.reserved == [0; 3] && order.has_subject() == (self.subject != [0; 48]);
        let allowed = self.certificate.orders.get() & order.bit() != 0 && is_whole;
        let holds = allowed
            && self.certificate.is_by(tenant, root)
            && verifies(&self.certificate.key, &self.digest(), &self.signature);
        holds.then_some(order)
    }
}

#[cfg(test)]
mod tests {
    use super::super::transcript::SigningKey;
    use super::super::transcript::tests::Seeded;
    use super::{OperatorCertificate, Ticket, TicketOrder};
    use zerocopy::byteorder::little_endian::{U32, U64};
    use zerocopy::{FromZeros, IntoBytes};

    const TENANT: [u8; 16] = [3; 16];

    fn keys() -> [SigningKey; 3] {
        let mut entropy = Seeded(0x71C);
        [(); 3].map(|()| SigningKey::generate(&mut entropy).unwrap())
    }

    fn ticket(root: &SigningKey, operator: &SigningKey) -> Ticket {
        let mut certificate = OperatorCertificate::new_zeroed();
        (certificate.tenant, certificate.key) = (TENANT, *operator.point());
        certificate.orders = U32::new(TicketOrder::Halt.bit() | TicketOrder::Force.bit());
        certificate.signature = root.sign(&certificate.digest()).unwrap();
        let mut ticket = Ticket::new_zeroed();
        (ticket.certificate, ticket.order) = (certificate, TicketOrder::Halt as u8);
        (ticket.token, ticket.until_ms) = (U64::new(7), U64::new(u64::MAX));
        ticket.sign(operator).unwrap();
        ticket
    }

    #[test]
    fn every_byte_of_a_ticket_is_signed() {
        let [root, operator, _] = keys();
        let mut ticket = ticket(&root, &operator);
        assert_eq!(ticket.order(&TENANT, root.point()), Some(TicketOrder::Halt));
        for at in 0..Ticket::BYTES {
            ticket.as_mut_bytes()[at] ^= 1;
            assert_eq!(ticket.order(&TENANT, root.point()), None, "byte {at}");
            ticket.as_mut_bytes()[at] ^= 1;
        }
        assert_eq!(ticket.order(&[4; 16], root.point()), None, "another tenant's");
    }

    #[test]
    fn an_operator_gives_the_orders_that_its_certificate_names() {
        let [root, operator, other] = keys();
        let mut ticket = ticket(&root, &operator);
        for &order in TicketOrder::ALL {
            ticket.order = order as u8;
            ticket.subject = [u8::from(order.has_subject()); 48];
            ticket.sign(&operator).unwrap();
            let allowed = matches!(order, TicketOrder::Halt | TicketOrder::Force);
            assert_eq!(ticket.order(&TENANT, root.point()), allowed.then_some(order));
        }
        (ticket.order, ticket.subject) = (TicketOrder::Halt as u8, [1; 48]);
        ticket.sign(&operator).unwrap();
        assert_eq!(ticket.order(&TENANT, root.point()), None, "it is about nothing beside the VM");
        ticket.subject = [0; 48];
        ticket.reserved[1] = 1;
        ticket.sign(&operator).unwrap();
        assert_eq!(ticket.order(&TENANT, root.point()), None, "reserved bytes are zero");
        ticket.reserved[1] = 0;
        ticket.sign(&other).unwrap();
        assert_eq!(ticket.order(&TENANT, root.point()), None, "another key than the certified one");
        ticket.certificate.signature = other.sign(&ticket.certificate.digest()).unwrap();
        ticket.sign(&operator).unwrap();
        assert_eq!(ticket.order(&TENANT, root.point()), None, "another root");
    }
}
