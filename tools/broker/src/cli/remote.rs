//! A tenant's things, in a database at hand or at a broker that is asked for them.

use super::Database;
use crate::admin::signed::signed;
use crate::admin::{Failure, Request};
use crate::ids::{TenantId, VmId, VmName};
use crate::store::{Location, Store};
use crate::vault::OperatorKey;
use crate::world::Machine;
use anyhow::{Context as _, bail};
use clap::Args;
use husk::release::wire::POINT_BYTES;
use husk_relay::client::{BrokerCa, Client, is_url};
use serde_json::Value;
use std::path::PathBuf;

/// Where a tenant's things are.
#[derive(Args, Clone, Debug)]
pub(super) struct Place {
    /// The broker's database: a SQLite file, or a PostgreSQL database as postgres:///NAME?host=/run/postgresql.
    #[arg(long, value_name = "FILE|URL", required_unless_present = "broker", conflicts_with = "broker")]
    database: Option<Location>,
    /// In place of the database: the broker that serves it, such as `https://broker.example:8630`. It is asked in the tenant's name.
    #[arg(long, value_name = "URL", value_parser = is_url, requires = "operator")]
    broker: Option<String>,
    #[command(flatten)]
    ca: BrokerCa,
    /// With --broker: the key of an operator that the tenant lets ask for this (`husk tenant operator --right`).
    #[arg(long, value_name = "FILE", requires = "broker")]
    operator: Option<PathBuf>,
}

/// The way to a tenant's things.
pub(super) enum Access {
    /// Everything in a database.
    Local(Store),
    /// What a broker tells an operator.
    Remote(Box<Remote>),
}

impl Place {
    /// Opens the database, or reads what is needed to ask.
    pub(super) fn access(&self) -> anyhow::Result<Access> {
        match (&self.database, &self.broker, &self.operator) {
            (Some(database), _, _) => Ok(Access::Local(Database { database: database.clone() }.open()?)),
            (None, Some(url), Some(operator)) => {
                let remote = Remote::new(url, &self.ca, OperatorKey::read(operator)?)?;
                Ok(Access::Remote(Box::new(remote)))
            }
            _ => bail!("either --database, or --broker and --operator"),
        }
    }
}

/// Which tenant, and which VM of it.
#[derive(Args, Clone, Debug)]
pub(super) struct Named {
    #[command(flatten)]
    pub(super) place: Place,
    /// The tenant; with --broker it is the operator's.
    #[arg(long, value_name = "HEX", required_unless_present = "broker")]
    tenant: Option<TenantId>,
    /// The VM.
    #[arg(long, value_name = "HEX")]
    pub(super) vm: VmId,
}

impl Named {
    /// The VM's whole name.
    pub(super) fn name(&self, access: &Access) -> anyhow::Result<VmName> {
        Ok(VmName { tenant: access.tenant(self.tenant)?, vm: self.vm })
    }
}

impl Access {
    /// Whose things are meant.
    pub(super) fn tenant(&self, named: Option<TenantId>) -> anyhow::Result<TenantId> {
        match (self, named) {
            (Self::Local(_), Some(tenant)) => Ok(tenant),
            (Self::Local(_), None) => bail!("--tenant is needed"),
            (Self::Remote(remote), named) => {
                remote.is_of(named)?;
                Ok(remote.tenant())
            }
        }
    }
}

/// A broker, asked by an operator.
pub(super) struct Remote {
    client: Client,
    operator: OperatorKey,
}

impl Remote {
    fn new(url: &str, ca: &BrokerCa, operator: OperatorKey) -> anyhow::Result<Self> {
        let client = Client::new(url, ca.roots(url)?);
        if !client.is_private() {
            bail!("{url} would show the network what is asked and answered; ask by https://");
        }
        Ok(Self { client, operator })
    }

    /// The operator's tenant.
    pub(super) const fn tenant(&self) -> TenantId {
        TenantId(self.operator.certificate().tenant)
    }

    /// Checks that nobody else's tenant was named.
    pub(super) fn is_of(&self, named: Option<TenantId>) -> anyhow::Result<()> {
        let tenant = self.tenant();
        if named.is_some_and(|named| named != tenant) {
            bail!(
                "the operator's key is of tenant {tenant}; a broker is asked for that tenant's things alone"
            );
        }
        Ok(())
    }

    /// Has the broker do `request`.
    pub(super) fn ask(&self, request: &Request) -> anyhow::Result<Value> {
        let greeting = self.exchange(None)?;
        let mut broker = [0; 16];
        let told = greeting["broker"].as_str().and_then(|text| hex::decode_to_slice(text, &mut broker).ok());
        let (Some(()), Some(time_ms)) = (told, greeting["time_ms"].as_u64()) else {
            bail!("{}", Failure::Malformed)
        };
        let json = serde_json::to_vec(request)?;
        let sent = signed(&Machine::start(), &self.operator, (broker, time_ms), &json)?;
        self.exchange(Some(&sent))
    }

    fn exchange(&self, body: Option<&[u8]>) -> anyhow::Result<Value> {
        let (status, bytes) =
            self.client.exchange("/husk/v1/tenant", body).context("the broker was not reached")?;
        let value: Value = serde_json::from_slice(&bytes)
            .with_context(|| format!("what answers is not a husk broker (HTTP status {status})"))?;
        match value["error"].as_str() {
            None if status == 200 => Ok(value),
            word => Err(word.and_then(Failure::from_word).unwrap_or(Failure::Unavailable).into()),
        }
    }

    /// The tenant's root key, which the broker need not be believed: it certified this operator.
    pub(super) fn root(&self) -> anyhow::Result<[u8; POINT_BYTES]> {
        let value = self.ask(&Request::Tenant {})?;
        let mut root = [0; POINT_BYTES];
        let told = value["root"].as_str().and_then(|text| hex::decode_to_slice(text, &mut root).ok());
        let certificate = self.operator.certificate();
        if told.is_none() || !certificate.is_by(&certificate.tenant, &root) {
            bail!("the broker names a root key that did not certify this operator; do not trust it");
        }
        Ok(root)
    }
}
