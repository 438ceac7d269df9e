//! The database's tables, one migration per version.

use super::StoreError;

/// The version that this code reads and writes.
pub(super) const VERSION: u32 = 16;
/// One script per version, oldest first. A released script is never changed, only followed. They are SQLite's; see
/// [`for_postgres`].
const MIGRATIONS: [&str; VERSION as usize] = [
    "
CREATE TABLE broker (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    root_check BLOB NOT NULL,
    now_ms INTEGER NOT NULL,
    lease_ms_max INTEGER NOT NULL
) STRICT;
CREATE TABLE tenants (
    tenant BLOB PRIMARY KEY,
    root BLOB NOT NULL,
    certificate BLOB NOT NULL
) STRICT;
CREATE TABLE vms (
    tenant BLOB NOT NULL REFERENCES tenants (tenant),
    vm BLOB NOT NULL,
    host_data BLOB NOT NULL,
    policy TEXT NOT NULL,
    life INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    token INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    digest BLOB NOT NULL,
    current_token INTEGER,
    next_token INTEGER,
    holder BLOB,
    holder_report BLOB,
    lease_until_ms INTEGER NOT NULL,
    released INTEGER NOT NULL,
    bumped_from INTEGER,
    PRIMARY KEY (tenant, vm)
) STRICT;
CREATE TABLE secrets (
    tenant BLOB NOT NULL,
    vm BLOB NOT NULL,
    token INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    salt BLOB NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (tenant, vm, token),
    FOREIGN KEY (tenant, vm) REFERENCES vms (tenant, vm)
) STRICT;
CREATE TABLE launches (
    report_id BLOB NOT NULL,
    tenant BLOB NOT NULL,
    vm BLOB NOT NULL,
    instance BLOB NOT NULL,
    PRIMARY KEY (tenant, vm, report_id)
) STRICT;
",
    // The clock of the database's own machine at the last transaction; how far a start assumed leases; how many
    // transactions decided something; in which order launches were bound.
    "
ALTER TABLE broker ADD COLUMN server_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE broker ADD COLUMN assumed_until_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE broker ADD COLUMN commits INTEGER NOT NULL DEFAULT 0;
ALTER TABLE launches ADD COLUMN bound INTEGER NOT NULL DEFAULT 0;
",
    // Orders by ticket: each ticket's id, for ever; `is_open` while a CONFIRM has still to use it up. Tickets of operator keys
    // below the highest generation seen are refused.
    "
ALTER TABLE vms ADD COLUMN forced INTEGER NOT NULL DEFAULT 0;
ALTER TABLE vms ADD COLUMN overlap_until_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tenants ADD COLUMN operator_generation INTEGER NOT NULL DEFAULT 0;
CREATE TABLE tickets (
    tenant BLOB NOT NULL,
    id BLOB NOT NULL,
    vm BLOB NOT NULL,
    digest BLOB NOT NULL,
    is_open INTEGER NOT NULL,
    PRIMARY KEY (tenant, id),
    FOREIGN KEY (tenant, vm) REFERENCES vms (tenant, vm)
) STRICT;
",
    // The tenants' authorities for endorsement keys, and the keys that were shown to them. A certificate of no length is not issued yet.
    "
CREATE TABLE authorities (
    tenant BLOB PRIMARY KEY REFERENCES tenants (tenant),
    certificate BLOB NOT NULL,
    keys INTEGER NOT NULL,
    salt BLOB,
    sealed BLOB
) STRICT;
CREATE TABLE endorsements (
    tenant BLOB NOT NULL,
    vm BLOB NOT NULL,
    kind INTEGER NOT NULL,
    name BLOB NOT NULL,
    public BLOB NOT NULL,
    certificate BLOB NOT NULL,
    PRIMARY KEY (tenant, vm, kind),
    UNIQUE (tenant, name),
    FOREIGN KEY (tenant, vm) REFERENCES vms (tenant, vm)
) STRICT;
",
    // Each tenant's log; `digest` is the head of the log with the entry.
    "
CREATE TABLE audit (
    tenant BLOB NOT NULL REFERENCES tenants (tenant),
    number INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    calendar_s INTEGER NOT NULL,
    vm BLOB NOT NULL,
    event TEXT NOT NULL,
    detail TEXT NOT NULL,
    digest BLOB NOT NULL,
    PRIMARY KEY (tenant, number)
) STRICT;
CREATE INDEX audit_of_vm ON audit (tenant, vm, number);
",
    // What resetCount is counted from: a signed column for any 64 bits.
    "
ALTER TABLE vms ADD COLUMN reset_base INTEGER NOT NULL DEFAULT 0;
",
    // What a KBS gives to a VM.
    "
CREATE TABLE resources (
    tenant BLOB NOT NULL,
    vm BLOB NOT NULL,
    path TEXT NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (tenant, vm, path),
    FOREIGN KEY (tenant, vm) REFERENCES vms (tenant, vm)
) STRICT;
CREATE INDEX vms_by_host_data ON vms (host_data);
",
    // The highest GUEST_SVN that a VM had keys with.
    "
ALTER TABLE vms ADD COLUMN guest_svn INTEGER NOT NULL DEFAULT 0;
",
    // Backups: `made` counts each VM's, 0 while one is only wanted, and its file has no length then. `given` is the ticket's order; those
    // that were open before ordered FORCE.
    "
ALTER TABLE tickets ADD COLUMN given INTEGER NOT NULL DEFAULT 4;
CREATE TABLE backups (
    tenant BLOB NOT NULL,
    id BLOB NOT NULL,
    vm BLOB NOT NULL,
    ticket BLOB NOT NULL,
    recovery BLOB NOT NULL,
    made INTEGER NOT NULL,
    file BLOB NOT NULL,
    PRIMARY KEY (tenant, id),
    FOREIGN KEY (tenant, vm) REFERENCES vms (tenant, vm)
) STRICT;
CREATE INDEX backups_of_vm ON backups (tenant, vm, made);
",
    // Requests of tenants' operators that were done not long ago.
    "
CREATE TABLE requests (
    tenant BLOB NOT NULL REFERENCES tenants (tenant),
    nonce BLOB NOT NULL,
    until_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, nonce)
) STRICT;
",
    // Certificates of processors' keys and of who issues them, revocation lists by their issuer; `trust` grows with each change of
    // what every report is judged by.
    "
CREATE TABLE certificates (
    digest BLOB PRIMARY KEY,
    kind INTEGER NOT NULL,
    name TEXT NOT NULL,
    chip BLOB NOT NULL,
    tcb BLOB NOT NULL,
    der BLOB NOT NULL
) STRICT;
CREATE INDEX certificates_of_chip ON certificates (kind, chip, tcb);
CREATE TABLE revocations (
    issuer TEXT PRIMARY KEY,
    der BLOB NOT NULL
) STRICT;
ALTER TABLE broker ADD COLUMN trust INTEGER NOT NULL DEFAULT 1;
",
    // Restores: the generation that the next CONFIRM begins, and the backups that were brought for it. `ordered` is 0 while pieces of the file
    // are still to come.
    "
ALTER TABLE vms ADD COLUMN restoring INTEGER;
CREATE TABLE restores (
    tenant BLOB NOT NULL,
    vm BLOB NOT NULL,
    ordered INTEGER NOT NULL,
    ticket BLOB NOT NULL,
    opened BLOB NOT NULL,
    file BLOB NOT NULL,
    PRIMARY KEY (tenant, vm, ordered),
    FOREIGN KEY (tenant, vm) REFERENCES vms (tenant, vm)
) STRICT;
",
    // What the operator says that a tenant may have; nothing: what everybody may.
    "
ALTER TABLE tenants ADD COLUMN vms_max INTEGER;
ALTER TABLE tenants ADD COLUMN sessions_max INTEGER;
ALTER TABLE tenants ADD COLUMN requests_max INTEGER;
",
    // Backups that are brought for a restore, a row for each piece; `place` is how much of the file comes before it, in bytes.
    "
CREATE TABLE restore_pieces (
    tenant BLOB NOT NULL,
    vm BLOB NOT NULL,
    ordered INTEGER NOT NULL,
    place INTEGER NOT NULL,
    piece BLOB NOT NULL,
    PRIMARY KEY (tenant, vm, ordered, place),
    FOREIGN KEY (tenant, vm) REFERENCES vms (tenant, vm)
) STRICT;
INSERT INTO restore_pieces (tenant, vm, ordered, place, piece) SELECT tenant, vm, ordered, 0, file FROM restores;
ALTER TABLE restores DROP COLUMN file;
",
    // Secrets for guests, with what a guest must have been started as.
    "
CREATE TABLE unlocks (
    tenant BLOB NOT NULL,
    vm BLOB NOT NULL,
    name TEXT NOT NULL,
    policy TEXT NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (tenant, vm, name),
    FOREIGN KEY (tenant, vm) REFERENCES vms (tenant, vm)
) STRICT;
",
    // Whether the newest grant was for a TPM that ends with its launch.
    "
ALTER TABLE vms ADD COLUMN ephemeral INTEGER NOT NULL DEFAULT 0;
",
];

/// The scripts that a database of `version` lacks.
pub(super) fn pending(version: u32) -> Result<&'static [&'static str], StoreError> {
    let pending = usize::try_from(version).ok().and_then(|version| MIGRATIONS.get(version..));
    pending.ok_or(StoreError::Newer)
}

/// The same script in PostgreSQL's words, of which `only` is one; its tables are always strict.
pub(super) fn for_postgres(script: &str) -> String {
    let words = [("INTEGER", "BIGINT"), ("BLOB", "BYTEA"), (") STRICT;", ");"), ("only ", "\"only\" ")];
    words.iter().fold(script.to_owned(), |script, (from, to)| script.replace(from, to))
}
