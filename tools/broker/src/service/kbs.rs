//! The service as a CoCo KBS.

use super::admission::admits;
use super::{Service, locked};
use crate::ids::{TenantId, VmId, VmName};
use crate::kbs::jwe::sealed_to;
use crate::kbs::{Answer, Attestation, Proof, Said, Sessions, is_path, request_is_spoken};
use crate::kbs::{PROTOCOL, Proven};
use crate::policy::{Genuine, Refusal, Rule, holds};
use crate::rules::Life;
use crate::store::Criteria;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use husk::attest::report::Report;
use husk::release::wire::{DeniedReason, RefusalReason};
use husk::seams::REPORT_BYTES;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::net::IpAddr;
use std::sync::MutexGuard;
use std::time::{SystemTime, UNIX_EPOCH};

/// Whom the log names while nobody is known.
const NOBODY: VmName = VmName { tenant: TenantId([0; 16]), vm: VmId([0; 16]) };

/// Why a client gets nothing.
enum Refused {
    /// A rule; it is in the log.
    Denied,
    /// The broker cannot tell.
    Unavailable,
}

impl From<RefusalReason> for Refused {
    fn from(reason: RefusalReason) -> Self {
        match reason {
            RefusalReason::Unavailable => Self::Unavailable,
            _ => Self::Denied,
        }
    }
}

impl Service {
    /// Answers a client of the KBS, whatever it says.
    #[must_use]
    pub fn kbs(&self, peer: IpAddr, said: &Said<'_>) -> Answer {
        let (request, answered) = match said {
            Said::Auth { body } => ("auth", self.kbs_challenge(peer, body)),
            Said::Attest { cookie, body } => ("attest", self.kbs_attest(cookie, body)),
            Said::Resource { proof, path } => ("resource", self.kbs_resource(*proof, path)),
        };
        let answer = answered.unwrap_or_else(|refused| match refused {
            Refused::Denied => Answer::refused(),
            Refused::Unavailable => Answer::unavailable(),
        });
        self.count(|metrics| metrics.kbs_request(request, answer.status));
        answer
    }

    fn kbs_sessions(&self) -> Result<MutexGuard<'_, Sessions>, Refused> {
        Ok(locked(&self.kbs_sessions)?)
    }

    fn drawn<const N: usize>(&self) -> Result<[u8; N], Refused> {
        let mut bytes = [0; N];
        self.world.fill(&mut bytes).map_err(|_| Refused::Unavailable)?;
        Ok(bytes)
    }

    fn kbs_challenge(&self, peer: IpAddr, body: &[u8]) -> Result<Answer, Refused> {
        if !request_is_spoken(body) {
            tracing::warn!("KBS: a request that is not of version {PROTOCOL} for SEV-SNP was refused");
            return Err(Refused::Denied);
        }
        let (id, nonce) = (hex::encode(self.drawn::<16>()?), self.drawn()?);
        self.kbs_sessions()?.begin(self.world.now_ms(), peer, &id, nonce);
        let body = json!({ "nonce": STANDARD.encode(nonce), "extra-params": "" });
        Ok(Answer { session: Some(id), ..Answer::ok(body) })
    }

    fn kbs_attest(&self, cookie: &str, body: &[u8]) -> Result<Answer, Refused> {
        let now_ms = self.world.now_ms();
        let nonce = self.kbs_sessions()?.take_nonce(now_ms, cookie).ok_or(Refused::Denied)?;
        let attestation = Attestation::parse(body).ok_or(Refused::Denied)?;
        let report = Report::parse(&attestation.report).map_err(|_| Refused::Denied)?;
        let vm = self.kbs_vm(report.host_data())?;
        let criteria = self.criteria(&vm)?;
        let genuine = self.genuine((&vm, &criteria), &attestation.report, &attestation.certificate)?;
        let judged = genuine.and_then(|genuine| {
            let seen = report.report_data();
            let is_bound = nonce == attestation.nonce && Some(*seen) == attestation.report_data();
            holds(is_bound, || {
                Refusal::new(Rule::Binding, "REPORT_DATA of this KBS session", hex::encode(seen))
            })?;
            let named = attestation.init_data.as_ref().map(|text| <[u8; 32]>::from(Sha256::digest(text)));
            holds(named.is_none_or(|named| named == *report.host_data()), || {
                let seen = hex::encode(named.unwrap_or_default());
                Refusal::new(Rule::Configuration, hex::encode(report.host_data()), seen)
            })?;
            Ok(genuine)
        });
        let genuine = match judged {
            Ok(genuine) => genuine,
            Err(refusal) => return Err(self.kbs_refuse(&vm, &refusal)),
        };
        self.kbs_admits((&vm, &criteria), &attestation.report, &genuine)?;
        let token = self.token()?;
        let proven = Proven { vm, key: attestation.key, report: attestation.report, genuine };
        if !self.kbs_sessions()?.prove(now_ms, cookie, &token, proven) {
            return Err(Refused::Denied);
        }
        Ok(Answer::ok(json!({ "token": token })))
    }

    /// The VM that was enrolled with this HOST_DATA, which is the digest of a configuration with its name in it.
    fn kbs_vm(&self, host_data: &[u8; 32]) -> Result<VmName, Refused> {
        let found = self.stored(&NOBODY, |serving| serving.store().enrolled_with(host_data))?;
        found.ok_or_else(|| {
            tracing::warn!("KBS: HOST_DATA {} is no VM's here", hex::encode(host_data));
            Refused::Denied
        })
    }

    /// The whole policy, as for a grant.
    fn kbs_admits(
        &self,
        (vm, criteria): (&VmName, &Criteria),
        report: &[u8; REPORT_BYTES],
        genuine: &Genuine,
    ) -> Result<(), Refused> {
        let lives = matches!(criteria.row.life, Life::Virgin | Life::Active);
        let judged = admits(criteria, report, genuine)?;
        let judged = judged.and_then(|()| holds(lives, || DeniedReason::Lifecycle.into()));
        judged.map_err(|refusal| self.kbs_refuse(vm, &refusal))
    }

    /// Tells the tenant why; the client learns nothing.
    fn kbs_refuse(&self, vm: &VmName, refusal: &Refusal) -> Refused {
        self.refuse(vm, refusal).map_or_else(Refused::from, |_| Refused::Denied)
    }

    fn kbs_resource(&self, proof: Proof<'_>, path: &str) -> Result<Answer, Refused> {
        if !is_path(path) {
            return Err(Refused::Denied);
        }
        let proven = self.kbs_sessions()?.proven(self.world.now_ms(), proof).ok_or(Refused::Denied)?;
        let vm = &proven.vm;
        self.kbs_admits((vm, &self.criteria(vm)?), &proven.report, &proven.genuine)?;
        let sealed = self.stored(vm, |serving| serving.store().resource(vm, path))?;
        let Some(sealed) = sealed else {
            tracing::warn!(%vm, "KBS: there is no resource {path}");
            return Err(Refused::Denied);
        };
        let content = self.keys.unwrap_resource(vm, path, &sealed).map_err(|error| {
            tracing::error!(%vm, "KBS: {path}: {error}");
            Refused::Unavailable
        })?;
        let jwe = sealed_to(&proven.key, &content, &*self.world).map_err(|error| {
            tracing::error!(%vm, "KBS: {path}: {error}");
            Refused::Unavailable
        })?;
        tracing::info!(%vm, "KBS: gave {path}");
        Ok(Answer::ok(jwe))
    }

    /// A token in the form of a JWT, since clients read when it ends. It is a secret that this process looks up; no key signs it.
    fn token(&self) -> Result<String, Refused> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let header = json!({ "alg": "none", "typ": "JWT" });
        let claims =
            json!({ "iss": "husk", "iat": now, "nbf": now, "exp": now + crate::kbs::SESSION_MS / 1000 });
        let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        Ok(format!("{header}.{claims}.{}", URL_SAFE_NO_PAD.encode(self.drawn::<32>()?)))
    }
}
