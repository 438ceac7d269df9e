//! Certificates for the endorsement keys, before the guest runs.

use super::Vtpm;
use super::fault::VtpmFault;
use super::power::power_on_facts;
use super::serve::Power;
use super::trust::Trust;
use crate::engine::{
    CERTIFICATE_BYTES_MAX, CHALLENGE_SECRET_BYTES, CertifiedEngine, ChallengeObject, Credential,
    ENDORSEMENT_BYTES_MAX, EndorsementKey, EngineFault, Maker, Start, Written,
};
use crate::fault::Fault;
use crate::nv::NvImage;
use crate::release::ReleaseFault;
use crate::release::endorsement::verdict;
use crate::release::tenure::Tenure;
use crate::release::wire::{
    self, Activate, Certificates, Challenge, ENDORSEMENT_KEYS, Endorse, EndorsementVerdict, WireCredential,
};
use crate::seams::{Console, Platform};
use zerocopy::FromZeros;
use zerocopy::byteorder::little_endian::U16;
use zeroize::Zeroize;

// The wire has room for what the engine has, and no more.
const _: () = assert!(
    ENDORSEMENT_KEYS == EndorsementKey::ALL.len()
        && wire::PUBLIC_BYTES_MAX == ENDORSEMENT_BYTES_MAX
        && wire::CREDENTIAL_SECRET_BYTES == CHALLENGE_SECRET_BYTES
        && wire::CERTIFICATE_BYTES_MAX == CERTIFICATE_BYTES_MAX
);

/// How the TPM stands with certificates of its endorsement keys. It works in every case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certification {
    /// Nobody certifies: there is no broker, or the tenant has no authority there.
    NoAuthority,
    /// All that are to be had were there already.
    Present,
    /// They were written now.
    Written,
    /// The TPM's NV memory did not take all of them.
    NoRoom,
    /// The authority has not issued all of them yet; they are asked for again at the next launch.
    Pending,
    /// The broker will not certify these keys.
    Refused(EndorsementVerdict),
    /// The broker did not answer as it should; it is asked again at the next launch.
    Unanswered(ReleaseFault),
}

impl Certification {
    /// For a console that shows static text.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::NoAuthority => "husk: nobody certifies the endorsement keys",
            Self::Present => "husk: the endorsement keys' certificates are there",
            Self::Written => "husk: the endorsement keys' certificates are written",
            Self::NoRoom => "husk: the endorsement keys' certificates found no room",
            Self::Pending => "husk: the endorsement keys' certificates are not issued yet",
            Self::Refused(_) => "husk: the endorsement keys were not certified: refused",
            Self::Unanswered(_) => "husk: the endorsement keys were not certified: no answer",
        }
    }

    /// Says it.
    pub fn show(self, console: &mut dyn Console) {
        console.line(self.text(), self.number());
    }

    /// What goes with the text: a verdict or a fault's code.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Refused(verdict) => verdict as u32,
            Self::Unanswered(fault) => fault.fault().code(),
            _ => 0,
        }
    }
}

impl<E: CertifiedEngine> Vtpm<'_, E> {
    /// Has the endorsement keys certified whose certificates are missing, and writes what is issued to the NV indices of the TCG EK Credential Profile.
    /// The firmware calls this before its guest runs; the TPM is reset where anything was looked at, and what was written is durable then.
    ///
    /// # Errors
    /// As [`reset`](Vtpm::reset), and the engine's faults; [`VtpmFault::PoweredOff`] for a TPM that a guest has started. A certificate that is not to be
    /// had is no error: see [`Certification`].
    pub fn certify(&mut self, platform: &mut Platform<'_>) -> Result<Certification, Fault> {
        self.alive()?;
        if self.power != Power::Initialized {
            return Err(VtpmFault::PoweredOff.into());
        }
        let Trust::Sealed { tenure, .. } = &mut self.trust else { return Ok(Certification::NoAuthority) };
        let certified = match tenure.certified_keys(platform) {
            Ok(0) => return Ok(Certification::NoAuthority),
            Ok(certified) => certified,
            Err(fault) => return Ok(Certification::Unanswered(fault)),
        };
        self.power_off();
        let outcome = self.obtain(platform, certified).map_err(|fault| self.latch(fault.into()))?;
        self.reset(platform)?;
        Ok(outcome)
    }

    /// The engine is off, before and afterwards.
    fn obtain(&mut self, platform: &mut Platform<'_>, certified: u8) -> Result<Certification, EngineFault> {
        let missing = certified & !self.engine.certificates(self.nv.image_mut())?;
        if missing == 0 {
            return Ok(Certification::Present);
        }
        self.engine.learn_endorsement(self.nv.image_mut())?;
        let facts = power_on_facts(self.nv.image(), self.trust.token(), Start::Load);
        let Self { engine, nv, trust, .. } = self;
        let Trust::Sealed { tenure, .. } = trust else { return Ok(Certification::NoAuthority) };
        let issued = match issue(engine, nv.image_mut(), tenure, platform, missing)? {
            Ok(issued) => issued,
            Err(outcome) => return Ok(outcome),
        };
        let mut certificates = [None; ENDORSEMENT_KEYS];
        let wanted = EndorsementKey::ALL.into_iter().zip(&issued.certificates).zip(&mut certificates);
        for ((key, issued), certificate) in wanted {
            let der = issued.certificate.get(..usize::from(issued.bytes.get())).unwrap_or(&[]);
            *certificate = Some(der).filter(|der| missing & key.bit() != 0 && !der.is_empty());
        }
        let all = EndorsementKey::ALL.into_iter().zip(&certificates);
        let all = all.fold(true, |all, (key, der)| all && (der.is_some() || missing & key.bit() == 0));
        match engine.write_certificates(nv.image_mut(), facts, &certificates)? {
            Written::Refused => Ok(Certification::NoRoom),
            Written::All if all => Ok(Certification::Written),
            Written::All => Ok(Certification::Pending),
        }
    }
}

/// The conversation with the authority about the `missing` keys.
fn issue<'t, E: CertifiedEngine>(
    engine: &mut E,
    nv: &mut NvImage<'_>,
    tenure: &'t mut Tenure<'_>,
    platform: &mut Platform<'_>,
    missing: u8,
) -> Result<Result<&'t Certificates, Certification>, EngineFault> {
    let Some(maker) = engine.maker() else { return Err(EngineFault::EndorsementUnknown) };
    let mut request = named(engine, nv, missing, maker)?;
    let (challenge, conversation) = match tenure.endorse(platform, &mut request) {
        Ok(challenged) => challenged,
        Err(fault) => return Ok(Err(Certification::Unanswered(fault))),
    };
    if let EndorsementVerdict::Ok = verdict(challenge.verdict) {
    } else {
        return Ok(Err(Certification::Refused(verdict(challenge.verdict))));
    }
    let mut answers = answered(engine, nv, missing, &ChallengeObject::of(conversation), &challenge)?;
    let issued = tenure.activate(platform, &mut answers);
    answers.secrets.zeroize();
    Ok(match issued {
        Ok(issued) => match verdict(issued.verdict) {
            EndorsementVerdict::Ok => Ok(issued),
            refused => Err(Certification::Refused(refused)),
        },
        Err(fault) => Err(Certification::Unanswered(fault)),
    })
}

/// The request for the keys in `keys`.
fn named<E: CertifiedEngine>(
    engine: &E,
    nv: &NvImage<'_>,
    keys: u8,
    maker: Maker,
) -> Result<Endorse, EngineFault> {
    let mut request = Endorse::new_zeroed();
    request.manufacturer = maker.manufacturer;
    request.firmware.set(maker.firmware);
    for (key, public) in EndorsementKey::ALL.into_iter().zip(&mut request.keys) {
        if keys & key.bit() != 0 {
            let bytes = engine.endorsement_key(nv, key, &mut public.public)?;
            public.bytes = U16::new(u16::try_from(bytes).map_err(|_| EngineFault::StateTooLarge)?);
        }
    }
    Ok(request)
}

/// The answers of the TPM; zero where a credential does not open.
fn answered<E: CertifiedEngine>(
    engine: &mut E,
    nv: &mut NvImage<'_>,
    keys: u8,
    object: &ChallengeObject,
    challenge: &Challenge,
) -> Result<Activate, EngineFault> {
    let mut answers = Activate::new_zeroed();
    let asked = EndorsementKey::ALL.into_iter().zip(&challenge.credentials).zip(&mut answers.secrets);
    for ((key, wire), answer) in asked.filter(|((key, _), _)| keys & key.bit() != 0) {
        let opened = match credential(wire) {
            Some(credential) => engine.activate_credential(nv, key, object, &credential)?,
            None => None,
        };
        if let Some(secret) = opened {
            secret.with(|bytes| *answer = *bytes);
        }
    }
    Ok(answers)
}

fn credential(wire: &WireCredential) -> Option<Credential<'_>> {
    let blob = wire.blob.get(..usize::from(wire.blob_bytes.get()))?;
    let secret = wire.secret.get(..usize::from(wire.secret_bytes.get()))?;
    Some(Credential { blob, secret })
}
