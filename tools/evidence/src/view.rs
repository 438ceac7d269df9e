//! The JSON form of what was read and of what was verified; `json.md` describes it.
#![expect(missing_docs, reason = "json.md lists the fields")]

mod pcrs;
mod tpm;

pub use pcrs::{PcrRow, table};
pub use tpm::{AttestationKeyView, EkCertificateView, QuoteView, VerifiedQuoteView};

use crate::{
    Dates, EndorsementPublic, Manifest, ServiceContent, Vek, VekCertificate, Verified, VtpmManifest,
};
use husk::attest::binding::{IDENTIFY_LABEL, REPORT_DATA_LABEL};
use husk::attest::report::{PlatformInfo, Policy, Report, SigningKey, Tcb};
use husk::engine::EndorsementKey;
use husk::frontend::svsm::{Persistence, Serving};
use serde::Serialize;

/// A report's fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReportView {
    pub version: u32,
    pub guest_svn: u32,
    pub policy: PolicyView,
    pub family_id: String,
    pub image_id: String,
    pub vmpl: u32,
    pub platform_info: FlagsView,
    pub signing_key: &'static str,
    pub author_key_enabled: bool,
    pub chip_key_masked: bool,
    pub report_data: String,
    pub report_data_is: &'static str,
    pub measurement: String,
    pub host_data: String,
    pub id_key_digest: String,
    pub author_key_digest: String,
    pub report_id: String,
    pub report_id_ma: String,
    pub cpuid: Option<CpuidView>,
    pub generation: Option<&'static str>,
    pub chip_id: String,
    pub current_tcb: String,
    pub reported_tcb: String,
    pub committed_tcb: String,
    pub launch_tcb: String,
    pub current_firmware: String,
    pub committed_firmware: String,
    pub launch_mit_vector: Option<u64>,
    pub current_mit_vector: Option<u64>,
}

/// POLICY.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyView {
    pub raw: u64,
    pub abi: String,
    pub flags: Vec<&'static str>,
}

/// A field of flags.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlagsView {
    pub raw: u64,
    pub flags: Vec<&'static str>,
}

/// CPUID of a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CpuidView {
    pub family: u8,
    pub model: u8,
    pub stepping: u8,
}

impl From<&Report<'_>> for ReportView {
    fn from(report: &Report<'_>) -> Self {
        let policy = report.policy();
        let (major, minor) = policy.abi();
        let shown = policy - Policy::ABI - Policy::RESERVED_ONE;
        let platform = report.platform_info();
        Self {
            version: report.version(),
            guest_svn: report.guest_svn(),
            policy: PolicyView {
                raw: policy.bits(),
                abi: format!("{major}.{minor}"),
                flags: shown.iter_names().map(|(name, _)| name).collect(),
            },
            family_id: hex::encode(report.family_id()),
            image_id: hex::encode(report.image_id()),
            vmpl: report.vmpl(),
            platform_info: FlagsView { raw: platform.bits(), flags: platform_flags(platform) },
            signing_key: match report.signing_key() {
                SigningKey::Vcek => "VCEK",
                SigningKey::Vlek => "VLEK",
                SigningKey::None => "none",
            },
            author_key_enabled: report.author_key_enabled(),
            chip_key_masked: report.chip_key_masked(),
            report_data: hex::encode(report.report_data()),
            report_data_is: bound(report.report_data()),
            measurement: hex::encode(report.measurement()),
            host_data: hex::encode(report.host_data()),
            id_key_digest: hex::encode(report.id_key_digest()),
            author_key_digest: hex::encode(report.author_key_digest()),
            report_id: hex::encode(report.report_id()),
            report_id_ma: hex::encode(report.report_id_ma()),
            cpuid: report.cpuid().map(|(family, model, stepping)| CpuidView { family, model, stepping }),
            generation: report.generation().map(|generation| generation.name()),
            chip_id: hex::encode(report.chip_id()),
            current_tcb: hex::encode(report.current_tcb()),
            reported_tcb: hex::encode(report.reported_tcb()),
            committed_tcb: hex::encode(report.committed_tcb()),
            launch_tcb: hex::encode(report.launch_tcb()),
            current_firmware: firmware(report.current_firmware()),
            committed_firmware: firmware(report.committed_firmware()),
            launch_mit_vector: report.launch_mit_vector(),
            current_mit_vector: report.current_mit_vector(),
        }
    }
}

fn platform_flags(platform: PlatformInfo) -> Vec<&'static str> {
    platform.iter_names().map(|(name, _)| name).collect()
}

fn firmware([build, minor, major]: &[u8; 3]) -> String {
    format!("{major}.{minor}.{build}")
}

fn bound(data: &[u8; 64]) -> &'static str {
    match data.last_chunk() {
        Some(&REPORT_DATA_LABEL) => "husk session",
        Some(&IDENTIFY_LABEL) => "husk identify",
        _ => "other",
    }
}

/// A manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "form")]
pub enum ManifestView {
    #[serde(rename = "services")]
    Services { services: Vec<ServiceView> },
    #[serde(rename = "vtpm 0")]
    Version0 { endorsement_keys: Vec<KeyView> },
    #[serde(rename = "vtpm 1")]
    Version1(Box<VtpmView>),
}

/// An entry of the table of all services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceView {
    pub guid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endorsement_key: Option<KeyView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

/// A manifest of version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VtpmView {
    pub persistence: &'static str,
    pub serving: &'static str,
    pub kbs_required: bool,
    pub tenant: String,
    pub vm: String,
    pub generation: u32,
    pub epoch: u64,
    pub token: u64,
    pub sequence: u64,
    pub digest: String,
    pub engine: String,
    pub endorsement_keys: Vec<KeyView>,
}

/// An endorsement key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyView {
    pub kind: &'static str,
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modulus: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub y: Option<String>,
    pub public: String,
}

impl From<&EndorsementPublic> for KeyView {
    fn from(public: &EndorsementPublic) -> Self {
        let mut parts = public.parts().iter().map(hex::encode);
        let (kind, modulus) = match public.key() {
            EndorsementKey::Rsa2048 => ("rsa2048", parts.next()),
            EndorsementKey::P256 => ("p256", None),
            EndorsementKey::P384 => ("p384", None),
        };
        let (x, y) = (parts.next(), parts.next());
        Self { kind, name: hex::encode(public.name()), modulus, x, y, public: hex::encode(public.public()) }
    }
}

impl From<&Manifest> for ManifestView {
    fn from(manifest: &Manifest) -> Self {
        match manifest {
            Manifest::Version0(public) => Self::Version0 { endorsement_keys: vec![public.into()] },
            Manifest::Version1(manifest) => Self::Version1(Box::new(manifest.as_ref().into())),
            Manifest::Services(services) => {
                let view = |service: &crate::Service| {
                    let (endorsement_key, content) = match &service.content {
                        ServiceContent::Vtpm(public) => (Some(public.into()), None),
                        ServiceContent::Other(bytes) => (None, Some(hex::encode(bytes))),
                    };
                    ServiceView { guid: guid(&service.guid), endorsement_key, content }
                };
                Self::Services { services: services.iter().map(view).collect() }
            }
        }
    }
}

impl From<&VtpmManifest> for VtpmView {
    fn from(manifest: &VtpmManifest) -> Self {
        Self {
            persistence: match manifest.persistence {
                Persistence::Strict => "strict",
                Persistence::HwSealed => "hw-sealed",
                Persistence::Ephemeral => "ephemeral",
                Persistence::Bounded => "bounded",
                Persistence::UnsealedForTesting => "unsealed-for-testing",
            },
            serving: match manifest.serving {
                Serving::Nothing => "nothing",
                Serving::Lease => "lease",
                Serving::PerCommand => "percmd",
                Serving::Detect => "detect",
            },
            kbs_required: manifest.kbs_required,
            tenant: hex::encode(manifest.tenant),
            vm: hex::encode(manifest.vm),
            generation: manifest.generation,
            epoch: manifest.epoch,
            token: manifest.token,
            sequence: manifest.sequence,
            digest: hex::encode(manifest.digest),
            engine: manifest.engine.clone(),
            endorsement_keys: manifest.keys.iter().map(KeyView::from).collect(),
        }
    }
}

/// A GUID in text form: the first three fields lie in memory little-endian.
fn guid(bytes: &[u8; 16]) -> String {
    let [a, b, c, d, e, f, g, h, tail @ ..] = *bytes;
    let (node, clock) = (hex::encode(&tail[2..]), hex::encode(&tail[..2]));
    let head = [hex::encode([d, c, b, a]), hex::encode([f, e]), hex::encode([h, g])];
    format!("{}-{}-{}-{clock}-{node}", head[0], head[1], head[2])
}

/// The certificate of a signing key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertificateView {
    pub kind: &'static str,
    pub product: String,
    pub chip: Option<String>,
    pub provider: Option<String>,
    pub issuer: String,
    pub not_before: u64,
    pub not_after: u64,
}

impl From<&VekCertificate> for CertificateView {
    fn from(vek: &VekCertificate) -> Self {
        let (chip, provider) = whose(&vek.vek);
        let Dates { not_before, not_after, .. } = vek.certificate.dates();
        let issuer = vek.certificate.issuer().to_owned();
        Self {
            kind: vek.vek.kind(),
            product: vek.product.clone(),
            chip,
            provider,
            issuer,
            not_before,
            not_after,
        }
    }
}

/// The chip's identity, or the provider's.
fn whose(vek: &Vek) -> (Option<String>, Option<String>) {
    match vek {
        Vek::Vcek { hwid } => (Some(hex::encode(hwid)), None),
        Vek::Vlek { csp } => (None, Some(csp.clone())),
    }
}

/// What was verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VerifiedView {
    pub report: ReportView,
    pub silicon: &'static str,
    pub root: Option<String>,
    pub product: String,
    pub generation: &'static str,
    pub key: &'static str,
    pub chip: Option<String>,
    pub provider: Option<String>,
    pub tcb: TcbsView,
    pub certificates: Vec<DatesView>,
    pub out_of_date: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<ManifestView>,
}

/// The four TCB_VERSIONs of a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TcbsView {
    pub current: TcbView,
    pub reported: TcbView,
    pub committed: TcbView,
    pub launch: TcbView,
}

/// A TCB_VERSION taken apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TcbView {
    pub fmc: Option<u8>,
    pub bootloader: u8,
    pub tee: u8,
    pub snp: u8,
    pub microcode: u8,
}

/// The dates of a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DatesView {
    pub name: String,
    pub not_before: u64,
    pub not_after: u64,
}

impl From<Tcb> for TcbView {
    fn from(tcb: Tcb) -> Self {
        let Tcb { fmc, bootloader, tee, snp, microcode } = tcb;
        Self { fmc, bootloader, tee, snp, microcode }
    }
}

impl From<&Dates> for DatesView {
    fn from(dates: &Dates) -> Self {
        Self { name: dates.name.clone(), not_before: dates.not_before, not_after: dates.not_after }
    }
}

impl VerifiedView {
    /// What `verified` says, seen at `now` (seconds since 1970), with the manifest that the report
    /// [covers](Verified::covers), if any.
    #[must_use]
    pub fn new(verified: &Verified<'_>, manifest: Option<&Manifest>, now: u64) -> Self {
        let (chip, provider) = whose(&verified.vek);
        let root = match &verified.silicon {
            crate::Silicon::Amd { .. } => None,
            crate::Silicon::Simulated { root, .. } => Some(root.clone()),
        };
        Self {
            report: (&verified.report).into(),
            silicon: if root.is_some() { "simulated" } else { "amd" },
            root,
            product: verified.product.clone(),
            generation: verified.silicon.generation().name(),
            key: verified.vek.kind(),
            chip,
            provider,
            tcb: TcbsView {
                current: verified.current_tcb().into(),
                reported: verified.reported_tcb().into(),
                committed: verified.committed_tcb().into(),
                launch: verified.launch_tcb().into(),
            },
            certificates: verified.dates.iter().map(DatesView::from).collect(),
            out_of_date: verified.out_of_date(now).map(|dates| dates.name.clone()),
            manifest: manifest.map(ManifestView::from),
        }
    }
}
