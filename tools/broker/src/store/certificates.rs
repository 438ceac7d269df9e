//! Certificates of processors' keys, of who issues them, and what was revoked.
//!
//! **What.** A VM whose host has no certificate at hand is judged by the one that is kept here; intermediates and revocation lists count
//! for every report.
//! **Trust.** None: what is kept is verified when it comes and again, down to a pinned root, before it is used.
//! **Laws.** An older revocation list never takes a newer one's place. Every change of intermediates or lists raises a number, by which
//! each broker that serves the database notices it at the next report.

use super::sql::{Columns, Sql};
use super::{Store, StoreError};
use sha2::{Digest as _, Sha256};

/// How many certificates are tried for one report.
const CANDIDATES_MAX: u32 = 16;

/// What a certificate is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptKind {
    /// An intermediate: ASK or ASVK.
    Intermediate,
    /// A chip's key.
    Vcek,
    /// A provider's key.
    Vlek,
}

impl KeptKind {
    const ALL: [Self; 3] = [Self::Intermediate, Self::Vcek, Self::Vlek];

    const fn number(self) -> i64 {
        match self {
            Self::Intermediate => 0,
            Self::Vcek => 1,
            Self::Vlek => 2,
        }
    }

    /// The word for people.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Intermediate => "intermediate",
            Self::Vcek => "VCEK",
            Self::Vlek => "VLEK",
        }
    }
}

/// A certificate to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptCertificate {
    /// What it is of.
    pub kind: KeptKind,
    /// Whose it is, for people.
    pub name: String,
    /// The chip, padded with zeros; zeros if it is no chip's.
    pub chip: [u8; 64],
    /// The TCB_VERSION that the key was derived for; zeros for an intermediate.
    pub tcb: [u8; 8],
    /// The certificate.
    pub der: Vec<u8>,
}

impl KeptCertificate {
    /// SHA-256 of the DER: its name in commands.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.der).into()
    }
}

/// What every report is judged by, beside the roots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trusted {
    /// Grows with each change.
    pub version: u64,
    /// DER certificates.
    pub intermediates: Vec<Vec<u8>>,
    /// DER revocation lists.
    pub lists: Vec<Vec<u8>>,
}

impl Store {
    /// Keeps a certificate; false if it was there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn keep_certificate(&mut self, kept: &KeptCertificate) -> Result<bool, StoreError> {
        self.change(|sql| {
            let statement = "INSERT INTO certificates (digest, kind, name, chip, tcb, der)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING";
            let values = [
                kept.digest().into(),
                kept.kind.number().into(),
                kept.name.clone().into(),
                kept.chip.into(),
                kept.tcb.into(),
                kept.der.as_slice().into(),
            ];
            let added = sql.execute(statement, &values)? == 1;
            if added && kept.kind == KeptKind::Intermediate {
                raise(sql)?;
            }
            Ok(added)
        })
    }

    /// Every certificate, by kind and name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn kept_certificates(&mut self) -> Result<Vec<KeptCertificate>, StoreError> {
        self.transact(|sql| {
            let statement =
                "SELECT kind, name, chip, tcb, der FROM certificates ORDER BY kind, name, tcb, digest";
            sql.query(statement, &[])?.into_iter().map(kept).collect()
        })
    }

    /// Removes a certificate.
    ///
    /// # Errors
    /// [`StoreError::UnknownCertificate`] and others.
    pub fn forget_certificate(&mut self, digest: &[u8; 32]) -> Result<(), StoreError> {
        self.change(|sql| {
            let gone = sql.execute("DELETE FROM certificates WHERE digest = ?1", &[(*digest).into()])?;
            raise(sql)?;
            if gone == 1 { Ok(()) } else { Err(StoreError::UnknownCertificate(hex::encode(digest))) }
        })
    }

    /// Certificates of this chip's key, or, for a chip of zeros, of providers' keys, at this TCB_VERSION.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn certificates_for(
        &mut self,
        kind: KeptKind,
        chip: &[u8; 64],
        tcb: &[u8; 8],
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        self.transact(|sql| {
            let statement =
                "SELECT der FROM certificates WHERE kind = ?1 AND chip = ?2 AND tcb = ?3 LIMIT ?4";
            let most = i64::from(CANDIDATES_MAX).into();
            let found = sql.query(statement, &[kind.number().into(), (*chip).into(), (*tcb).into(), most])?;
            found.into_iter().map(|mut row| row.bytes()).collect()
        })
    }

    /// Keeps a revocation list in place of its issuer's older one, if `succeeds` says so of the old one.
    ///
    /// # Errors
    /// [`StoreError::OlderList`] and others.
    pub fn keep_list(
        &mut self,
        issuer: &str,
        der: &[u8],
        succeeds: impl FnOnce(&[u8]) -> bool,
    ) -> Result<(), StoreError> {
        self.change(|sql| {
            let named = || issuer.to_owned().into();
            let old = sql.one("SELECT der FROM revocations WHERE issuer = ?1", &[named()])?;
            if let Some(mut old) = old {
                if !succeeds(&old.bytes()?) {
                    return Err(StoreError::OlderList(issuer.to_owned()));
                }
                sql.execute("DELETE FROM revocations WHERE issuer = ?1", &[named()])?;
            }
            sql.execute("INSERT INTO revocations (issuer, der) VALUES (?1, ?2)", &[named(), der.into()])?;
            raise(sql)
        })
    }

    /// What every report is judged by.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn trusted(&mut self) -> Result<Trusted, StoreError> {
        self.transact(|sql| {
            let intermediates = "SELECT der FROM certificates WHERE kind = 0 ORDER BY digest";
            Ok(Trusted {
                version: version(sql)?,
                intermediates: all(sql.query(intermediates, &[])?)?,
                lists: all(sql.query("SELECT der FROM revocations ORDER BY issuer", &[])?)?,
            })
        })
    }
}

/// The number that grows with each change of what every report is judged by.
pub(super) fn version(sql: &mut dyn Sql) -> Result<u64, StoreError> {
    sql.one("SELECT trust FROM broker", &[])?.ok_or(StoreError::Damaged)?.number()
}

fn raise(sql: &mut dyn Sql) -> Result<(), StoreError> {
    sql.execute("UPDATE broker SET trust = trust + 1", &[]).map(drop)
}

fn all(rows: Vec<Columns>) -> Result<Vec<Vec<u8>>, StoreError> {
    rows.into_iter().map(|mut row| row.bytes()).collect()
}

fn kept(mut columns: Columns) -> Result<KeptCertificate, StoreError> {
    let number = columns.integer()?;
    let kind = KeptKind::ALL.into_iter().find(|kind| kind.number() == number).ok_or(StoreError::Damaged)?;
    Ok(KeptCertificate {
        kind,
        name: columns.text()?,
        chip: columns.array()?,
        tcb: columns.array()?,
        der: columns.bytes()?,
    })
}
