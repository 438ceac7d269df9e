//! Why the database gave nothing: what happened, and what the operator does.

use crate::ids::{TenantId, VmName};
use crate::rules::Life;
use crate::vault::VaultError;

/// Why the database gave nothing. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A statement failed.
    #[error("the database failed: {0}")]
    Database(#[from] DatabaseError),
    /// The database's disk is full.
    #[error("the disk of the database is full, so nothing is decided; free space, and it goes on by itself")]
    Full,
    /// There is no way to the database.
    #[error(
        "the database cannot be reached, so nothing is decided ({0}); what was acknowledged is in it, and it goes on \
         by itself once it can be reached"
    )]
    Unreachable(String),
    /// The database server promises less than this needs.
    #[error("this database server does not promise enough: {0}; change its configuration")]
    Weaker(String),
    /// Fewer commits than were seen before.
    #[error("the database was set back to an older state")]
    SetBack,
    /// The external counter is no use.
    #[error("the external counter failed, so nothing is acknowledged: {0}")]
    Counter(String),
    /// The token gave nothing.
    #[error(transparent)]
    Token(#[from] crate::token::TokenError),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] husk_files::PrivateFileError),
    /// The URL is no use.
    #[error("the database's URL is refused: {0}")]
    Url(String),
    /// The file is another program's.
    #[error("this is not a husk broker database; point to the one that `husk broker init` made")]
    NotOurs,
    /// The file is there already.
    #[error("the database exists already and is never overwritten; choose another, or move it away")]
    Exists,
    /// The file could not be made.
    #[error("the database could not be made: {0}")]
    Uncreatable(String),
    /// The database's own tools make its copies.
    #[error(
        "PostgreSQL makes copies itself, of one moment and while it is served: pg_dump --format=custom --schema=husk; \
         after pg_restore comes `husk broker restore`"
    )]
    CopyElsewhere,
    /// The file is not there.
    #[error("the database does not exist; make one with `husk broker init`")]
    Missing,
    /// The file was written by a newer broker.
    #[error("the database was written by a newer husk; use that one")]
    Newer,
    /// The root key file belongs to another database.
    #[error("this root key file does not belong to this database; use the one that was made with it")]
    OtherKeys,
    /// A row breaks the laws of `rules`.
    #[error(
        "a row of the database is damaged; restore the database, and halt its VMs first if the copy is old"
    )]
    Damaged,
    /// Another broker serves it.
    #[error("another broker serves this database; stop it first")]
    Served,
    /// The lock file could not be made or locked.
    #[error("the lock file beside the database failed: {0}")]
    Lock(String),
    /// Another transaction was in the way.
    #[error("another transaction was in the way for too long; nothing was decided, ask again")]
    Raced,
    /// A counter reached its end.
    #[error("a counter reached its end")]
    WornOut,
    /// The vault refused.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// No such tenant.
    #[error("no tenant {0} is known here; make one with `husk tenant init`")]
    UnknownTenant(TenantId),
    /// No such VM.
    #[error("no VM {0} is enrolled here; see `husk vm list`")]
    UnknownVm(VmName),
    /// The tenant is there.
    #[error("tenant {0} is registered already")]
    TenantExists(TenantId),
    /// The VM is there.
    #[error("VM {0} is enrolled already; `husk vm show` tells how")]
    VmExists(VmName),
    /// The tenant has an authority.
    #[error("tenant {0} has an authority for endorsement keys already")]
    AuthorityExists(TenantId),
    /// The VM has shown no such key.
    #[error("VM {0} has not shown such an endorsement key; it does so when it starts")]
    UnknownKey(VmName),
    /// Something else is issued.
    #[error(
        "VM {0} has another certificate for this endorsement key; `husk tenant authority forget` comes first"
    )]
    CertificateExists(VmName),
    /// A certificate was not issued.
    #[error(transparent)]
    Issue(#[from] crate::authority::certificate::IssueError),
    /// There is such a resource.
    #[error("the VM has a resource {0} already; replace it with --replace")]
    ResourceExists(String),
    /// There is no such resource.
    #[error("the VM has no resource {0}; `husk vm resource list` shows what there is")]
    UnknownResource(String),
    /// There is such a secret.
    #[error("the guest's secret {0} is kept already; replace it with --replace")]
    UnlockExists(String),
    /// There is no such secret.
    #[error("the VM's guest has no secret {0}; `husk vm unlock list` shows what there is")]
    UnknownUnlock(String),
    /// There are too many.
    #[error("the VM's guest has as many secrets as one may have; remove one with `husk vm unlock remove`")]
    UnlocksFull,
    /// There is no such certificate.
    #[error("no certificate {0} is kept; `husk broker certs list` shows what there is")]
    UnknownCertificate(String),
    /// A newer list is kept.
    #[error(
        "a newer revocation list of {0} is kept, and stays; fetch the newest (`husk broker certs fetch-url`)"
    )]
    OlderList(String),
    /// There are too many.
    #[error("the VM has as many resources as one may have; remove one with `husk vm resource remove`")]
    ResourcesFull,
    /// The tenant has as many VMs as it may enrol itself.
    #[error("the tenant has as many VMs as it may enrol itself")]
    VmsFull,
    /// The order makes no sense now.
    #[error("the VM is {0:?}, which bars this order")]
    Barred(Life),
}

/// What a database said.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// SQLite.
    #[error(transparent)]
    Sqlite(rusqlite::Error),
    /// PostgreSQL.
    #[error("{}", .0.as_db_error().map_or_else(|| .0.to_string(), ToString::to_string))]
    Postgres(::postgres::Error),
}

impl StoreError {
    /// Whether it is about one VM's row and leaves the transaction of its neighbours whole.
    pub(super) const fn is_of_one_row(&self) -> bool {
        matches!(
            self,
            Self::Damaged | Self::WornOut | Self::Vault(_) | Self::UnknownTenant(_) | Self::UnknownVm(_)
        )
    }
}
