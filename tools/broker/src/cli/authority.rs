//! `husk tenant authority`: who certifies the endorsement keys of a tenant's VMs.

use super::{Database, RootKey, Shape, or_remove};
use crate::authority::{AuthorityKey, certificate};
use crate::ids::{TenantId, VmId, VmName};
use crate::store::Authority;
use crate::vault::fresh_secret;
use crate::world::Machine;
use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use husk::engine::{CERTIFICATE_BYTES_MAX, EndorsementKey};
use husk_evidence::{EkAuthorities, EndorsementPublic};
use husk_files::write_new;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use x509_cert::der::Encode as _;
use x509_cert::der::pem::{LineEnding, encode_string};

/// Seconds of a Julian year.
const YEAR_SECONDS: u64 = 31_557_600;

/// `husk tenant authority …`
#[derive(Subcommand, Debug)]
pub enum AuthorityCommand {
    /// Make the tenant's authority in the broker: from then on its VMs' endorsement keys are certified when they start.
    Init(InitArgs),
    /// Name an authority elsewhere: the broker challenges the keys, and that authority's certificates are brought here.
    External(ExternalArgs),
    /// List the endorsement keys that the tenant's VMs have shown to hold.
    Keys(KeysArgs),
    /// Bring the certificate that the authority elsewhere has issued; the VM writes it into its TPM at its next launch.
    Certify(CertifyArgs),
    /// Forget what is known of a VM's endorsement keys, after its TPM was given another seed (TPM2_ChangeEPS): at its next launch others are certified.
    Forget(ForgetArgs),
}

/// `husk tenant authority external`
#[derive(Args, Debug)]
pub struct ExternalArgs {
    #[command(flatten)]
    database: Database,
    /// The tenant.
    #[arg(long, value_name = "HEX")]
    tenant: TenantId,
    /// The certificate of that authority: what it issues is verified under it (PEM or DER).
    #[arg(long, value_name = "FILE")]
    certificate: PathBuf,
    /// Which endorsement keys it certifies.
    #[arg(long, value_delimiter = ',', value_name = "KINDS", default_value = "rsa2048,p256,p384")]
    keys: Vec<Kind>,
    #[command(flatten)]
    shape: Shape,
}

/// `husk tenant authority keys`
#[derive(Args, Debug)]
pub struct KeysArgs {
    #[command(flatten)]
    database: Database,
    /// The tenant.
    #[arg(long, value_name = "HEX")]
    tenant: TenantId,
    /// Where to write each public key, as VM-KIND.pem.
    #[arg(long, value_name = "FOLDER")]
    out_folder: Option<PathBuf>,
    #[command(flatten)]
    shape: Shape,
}

/// `husk tenant authority certify`
#[derive(Args, Debug)]
pub struct CertifyArgs {
    #[command(flatten)]
    database: Database,
    /// The tenant.
    #[arg(long, value_name = "HEX")]
    tenant: TenantId,
    /// The VM.
    #[arg(long, value_name = "HEX")]
    vm: VmId,
    /// The certificate of one of its endorsement keys (PEM or DER).
    #[arg(long, value_name = "FILE")]
    certificate: PathBuf,
    #[command(flatten)]
    shape: Shape,
}

/// `husk tenant authority forget`
#[derive(Args, Debug)]
pub struct ForgetArgs {
    #[command(flatten)]
    database: Database,
    /// The tenant.
    #[arg(long, value_name = "HEX")]
    tenant: TenantId,
    /// The VM.
    #[arg(long, value_name = "HEX")]
    vm: VmId,
    #[command(flatten)]
    shape: Shape,
}

/// `husk tenant authority init`
#[derive(Args, Debug)]
pub struct InitArgs {
    #[command(flatten)]
    database: Database,
    #[command(flatten)]
    root_key: RootKey,
    /// The tenant.
    #[arg(long, value_name = "HEX")]
    tenant: TenantId,
    /// Where to write the authority's certificate (PEM), for everyone who verifies.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Which endorsement keys it certifies. RSA costs a VM's first start the most.
    #[arg(long, value_delimiter = ',', value_name = "KINDS", default_value = "rsa2048,p256,p384")]
    keys: Vec<Kind>,
    /// How long its certificates hold; for ever if not given.
    #[arg(long, value_name = "YEARS")]
    years: Option<u16>,
    #[command(flatten)]
    shape: Shape,
}

/// An endorsement key, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Template L-1.
    Rsa2048,
    /// Template L-2.
    P256,
    /// Template H-3.
    P384,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Rsa2048, Self::P256, Self::P384];

    const fn word(self) -> &'static str {
        match self {
            Self::Rsa2048 => "rsa2048",
            Self::P256 => "p256",
            Self::P384 => "p384",
        }
    }

    fn of(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.key().bit() == number)
    }

    const fn key(self) -> EndorsementKey {
        match self {
            Self::Rsa2048 => EndorsementKey::Rsa2048,
            Self::P256 => EndorsementKey::P256,
            Self::P384 => EndorsementKey::P384,
        }
    }
}

impl AuthorityCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// One chain of causes for the operator.
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Init(args) => init(&args),
            Self::External(args) => external(&args),
            Self::Keys(args) => keys(&args),
            Self::Certify(args) => certify(&args),
            Self::Forget(args) => forget(&args),
        }
    }
}

fn init(args: &InitArgs) -> anyhow::Result<()> {
    let keys = args.root_key.read()?;
    let mut store = args.database.open()?;
    store.belongs_to(&keys)?;
    let world = Machine::start();
    let secret = fresh_secret(&world)?;
    let now =
        SystemTime::now().duration_since(UNIX_EPOCH).context("the machine's calendar is before 1970")?;
    let seconds = args.years.map(|years| u64::from(years) * YEAR_SECONDS);
    let der =
        certificate::authority(&world, &AuthorityKey::of(&secret)?, args.tenant, (now.as_secs(), seconds))?;
    let wrapped = Some(keys.wrap_authority(&world, args.tenant, &secret)?);
    let pem =
        encode_string("CERTIFICATE", LineEnding::LF, &der).context("the certificate was not encoded")?;
    write_new(&args.out, pem.as_bytes(), 0o644)?;
    or_remove(&args.out, || {
        Ok(store.authorize(args.tenant, &Authority { certificate: der, keys: sum(&args.keys), wrapped })?)
    })?;
    args.shape.print(&json!({
        "tenant": args.tenant.to_string(),
        "certificate": args.out.display().to_string(),
        "keys": words(&args.keys),
    }));
    Ok(())
}

fn sum(kinds: &[Kind]) -> u8 {
    kinds.iter().fold(0, |sum, kind| sum | kind.key().bit())
}

fn words(kinds: &[Kind]) -> String {
    kinds.iter().map(|kind| kind.word()).collect::<Vec<_>>().join(",")
}

/// The one certificate in a file, as DER.
fn certificate_in(file: &Path) -> anyhow::Result<Vec<u8>> {
    let name = || file.display().to_string();
    let bytes = std::fs::read(file).with_context(name)?;
    husk_evidence::key_certificate_in(&bytes).with_context(name)
}

fn external(args: &ExternalArgs) -> anyhow::Result<()> {
    let certificate = certificate_in(&args.certificate)?;
    EkAuthorities::new(&certificate).with_context(|| args.certificate.display().to_string())?;
    let authority = Authority { certificate, keys: sum(&args.keys), wrapped: None };
    args.database.open()?.authorize(args.tenant, &authority)?;
    args.shape.print(&json!({ "tenant": args.tenant.to_string(), "keys": words(&args.keys) }));
    Ok(())
}

fn keys(args: &KeysArgs) -> anyhow::Result<()> {
    let mut store = args.database.open()?;
    store.tenant(args.tenant)?;
    let mut all = Vec::new();
    for vm in store.vms(Some(args.tenant))? {
        for key in store.endorsed(&vm)? {
            let kind = Kind::of(key.kind).context("the database names a kind of key that is none")?;
            if let Some(folder) = &args.out_folder {
                let public = EndorsementPublic::parse(kind.key(), &key.public)?;
                let info = certificate::key_info(&public)?.to_der().context("the key was not encoded")?;
                let pem =
                    encode_string("PUBLIC KEY", LineEnding::LF, &info).context("the key was not encoded")?;
                write_new(&folder.join(format!("{}-{}.pem", vm.vm, kind.word())), pem.as_bytes(), 0o644)?;
            }
            all.push(json!({
                "vm": vm.vm.to_string(),
                "kind": kind.word(),
                "name": hex::encode(&key.name),
                "public": hex::encode(&key.public),
                "certificate": key.certificate.as_deref().map(hex::encode),
            }));
        }
    }
    if args.shape.json {
        println!("{}", serde_json::Value::Array(all));
    } else {
        for key in all {
            args.shape.print(&key);
        }
    }
    Ok(())
}

/// Nothing is brought that the authority does not vouch for, or that is of a key which the VM has not shown.
fn certify(args: &CertifyArgs) -> anyhow::Result<()> {
    let mut store = args.database.open()?;
    let vm = VmName { tenant: args.tenant, vm: args.vm };
    let authority = store.authority(args.tenant)?;
    let authority = authority.context("the tenant has no authority; see `husk tenant authority external`")?;
    let der = certificate_in(&args.certificate)?;
    if der.len() > CERTIFICATE_BYTES_MAX {
        anyhow::bail!("the certificate is longer than what an NV index holds: {CERTIFICATE_BYTES_MAX} bytes");
    }
    let now =
        SystemTime::now().duration_since(UNIX_EPOCH).context("the machine's calendar is before 1970")?;
    let verified = EkAuthorities::new(&authority.certificate)?.verify(&der, now.as_secs())?;
    let mut of = None;
    for key in store.endorsed(&vm)? {
        let kind = Kind::of(key.kind).context("the database names a kind of key that is none")?;
        let public = EndorsementPublic::parse(kind.key(), &key.public)?;
        if verified.certificate().certifies(&public).is_ok() {
            of = Some(kind);
        }
    }
    let kind = of.context("the VM has shown no such endorsement key; see `husk tenant authority keys`")?;
    store.bring_certificate(&vm, kind.key().bit(), &der)?;
    args.shape.print(&json!({ "vm": args.vm.to_string(), "kind": kind.word() }));
    Ok(())
}

fn forget(args: &ForgetArgs) -> anyhow::Result<()> {
    let mut store = args.database.open()?;
    let vm = VmName { tenant: args.tenant, vm: args.vm };
    store.enrolment(&vm)?;
    let forgotten = store.forget_endorsed(&vm)?;
    args.shape.print(&json!({ "vm": args.vm.to_string(), "forgotten": forgotten }));
    Ok(())
}
