//! A tenant's authority beside a TPM that is made before there is a VM.
//!
//! **What.** [`AuthorityArgs`] names it; [`Certifier`] certifies the endorsement keys of that TPM, and notes them as the VM's.
//! **Trust.** The keys come from the process that made the TPM: nobody challenges it.
//! **Laws.** A VM that has shown other keys gets no certificate for these. What is noted is what the broker's own answer would have been.
//! **Not here.** The TPM: `husk vm prepare`.

use super::{Database, RootKey, token};
use crate::authority::AuthorityKey;
use crate::authority::certificate::{Launch, endorsement};
use crate::ids::{TenantId, VmId, VmName};
use crate::store::{Authority, Endorsed, Location, NotEndorsed, Store, StoreError};
use crate::world::Machine;
use anyhow::{Context as _, bail};
use clap::Args;
use husk::attest::launch::LaunchConfig;
use husk::engine::{EndorsementKey, Maker};
use husk_evidence::EndorsementPublic;
use std::path::PathBuf;

/// No report named the keys: their tenant made them.
const NO_REPORT: [u8; 48] = [0; 48];

/// The authority, if it is to certify the keys at once: all of it or nothing.
#[derive(Args, Clone, Debug)]
pub struct AuthorityArgs {
    /// The broker's database, where it is at hand and the tenant has its authority there: the endorsement keys are certified now, and the certificates
    /// are in the TPM from the start.
    #[arg(long, value_name = "FILE|URL", requires = "root_key")]
    database: Option<Location>,
    /// The root key file that `husk broker init` wrote.
    #[arg(long, value_name = "FILE", requires = "database")]
    root_key: Option<PathBuf>,
    /// A private file whose first line is the passphrase that protects the root key file.
    #[arg(long, value_name = "FILE", requires = "root_key")]
    passphrase_file: Option<PathBuf>,
    #[command(flatten)]
    token: token::TokenPlace,
}

impl AuthorityArgs {
    /// The authority of the tenant of `config`, for the VM of it, if one is named.
    ///
    /// # Errors
    /// One line: what, whose fault, what to do.
    pub fn certifier(&self, config: &LaunchConfig) -> anyhow::Result<Option<Certifier>> {
        let Self { database: Some(location), root_key: Some(root_key), passphrase_file, token } = self else {
            return Ok(None);
        };
        let vm = VmName { tenant: TenantId(config.tenant), vm: VmId(config.vm) };
        let mut store = Database { database: location.clone() }.open()?;
        let (root_key, passphrase_file) = (root_key.clone(), passphrase_file.clone());
        let keys = RootKey { root_key, passphrase_file, token: token.clone() }.read()?;
        store.belongs_to(&keys)?;
        if store.enrolment(&vm)?.host_data != config.host_data() {
            bail!("the VM is enrolled with another launch configuration; give that one");
        }
        let authority = store.authority(vm.tenant)?;
        let authority = authority.context("the tenant has no authority; see `husk tenant authority init`")?;
        let wrapped = authority.wrapped.as_ref().context(
            "the tenant's authority is elsewhere, and its certificates are brought once the VM has shown its keys; leave --database out",
        )?;
        let key = AuthorityKey::of(&keys.unwrap_authority(vm.tenant, wrapped)?)?;
        let host_data = config.host_data();
        Ok(Some(Certifier { store, authority, key, vm, host_data }))
    }
}

/// An authority and the VM that it certifies keys of.
#[expect(missing_debug_implementations, reason = "it holds the authority's key")]
pub struct Certifier {
    store: Store,
    authority: Authority,
    key: AuthorityKey,
    vm: VmName,
    host_data: [u8; 32],
}

impl Certifier {
    /// Certifies those of the `keys` (each a TPMT_PUBLIC) that the authority certifies, and notes them as the VM's; DER.
    ///
    /// # Errors
    /// One line: what, whose fault, what to do. Nothing is noted then.
    pub fn certify(
        &mut self,
        maker: Maker,
        keys: &[(EndorsementKey, Vec<u8>)],
    ) -> anyhow::Result<Vec<(EndorsementKey, Vec<u8>)>> {
        let Self { store, authority, key, vm, host_data } = self;
        let mut wanted = Vec::new();
        for (kind, public) in keys.iter().filter(|(kind, _)| authority.keys & kind.bit() != 0) {
            wanted.push(EndorsementPublic::parse(*kind, public)?);
        }
        let launch = Launch { vm: *vm, maker, host_data: *host_data, report_digest: NO_REPORT };
        let issue = |one: &Endorsed| {
            let public = wanted.iter().find(|public| public.key().bit() == one.kind);
            let public = public.ok_or(StoreError::Damaged)?;
            let issuer = (&*key, authority.certificate.as_slice());
            endorsement(&Machine::start(), issuer, public, &launch).map(Some).map_err(StoreError::from)
        };
        let noted: Vec<Endorsed> = wanted.iter().map(Endorsed::of).collect();
        let all = match store.endorse(vm, &noted, issue)? {
            Ok(all) => all,
            Err(NotEndorsed::Changed) => bail!(
                "the VM has other endorsement keys already; if its TPM is to be another, `husk tenant authority forget` them first"
            ),
            Err(NotEndorsed::OtherVm(other)) => bail!("VM {other} has one of these keys; make another TPM"),
        };
        let kind = |bit| EndorsementKey::ALL.into_iter().find(|kind| kind.bit() == bit);
        Ok(all.into_iter().filter_map(|one| Some((kind(one.kind)?, one.certificate?))).collect())
    }
}
