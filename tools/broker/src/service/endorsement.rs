//! Certificates for the endorsement keys of a VM that serves.
//!
//! **What.** Which keys the tenant's authority certifies; the challenge to keys that were named; what is issued where it was answered.
//! **Trust.** The session has attested, so that a measured firmware names the keys; the challenge shows that its TPM holds them.
//! **Laws.** A challenge is of one session, and is answered once.

use super::Service;
use super::aside::Answer;
use super::sessions::Session;
use crate::authority::AuthorityKey;
use crate::authority::certificate::{Launch, endorsement};
use crate::authority::credential::{self, CredentialError};
use crate::ids::VmName;
use crate::rules::Reply;
use crate::store::{Authority, Endorsed, NotEndorsed, StoreError};
use husk::engine::{ChallengeObject, EndorsementKey, Maker};
use husk::release::endorsement::conversation;
use husk::release::frame::exactly;
use husk::release::wire::{
    Activate, Certificates, Certified, Challenge, DeniedReason, ENDORSEMENT_KEYS, Endorse,
    EndorsementVerdict, Operation, RefusalReason, WireCertificate, WirePublic,
};
use husk_evidence::EndorsementPublic;
use subtle::ConstantTimeEq;
use zerocopy::byteorder::little_endian::U16;
use zerocopy::{FromZeros, IntoBytes};

/// Keys that were named, and what opens their credentials.
pub(super) struct Challenged {
    maker: Maker,
    keys: Vec<(EndorsementPublic, [u8; 32])>,
}

impl Service {
    /// Answers one of the three requests of who serves.
    pub(super) fn endorsement(
        &self,
        session: &mut Session,
        (operation, body): (Operation, &[u8]),
        report_digest: [u8; 48],
    ) -> Answer {
        let vm = session.vm;
        let authority = self.stored(&vm, |serving| serving.store().authority(vm.tenant))?;
        let challenged = session.challenged.take();
        Ok(Ok(match (operation, authority) {
            (Operation::Endorsement, authority) => {
                let keys = authority.map_or(0, |authority| authority.keys);
                Certified { keys, reserved: [0; 3] }.as_bytes().to_vec()
            }
            (Operation::Endorse, Some(authority)) => {
                let (challenge, challenged) = self.challenge(session, &authority, body)?;
                session.challenged = challenged;
                challenge.as_bytes().to_vec()
            }
            (_, Some(authority)) => {
                self.certificates(&vm, &authority, (challenged, body), report_digest)?.as_bytes().to_vec()
            }
            (_, None) => return Ok(Err(Reply::Denied(DeniedReason::Order))),
        }))
    }

    fn challenge(
        &self,
        session: &Session,
        authority: &Authority,
        body: &[u8],
    ) -> Result<(Challenge, Option<Challenged>), RefusalReason> {
        let vm = &session.vm;
        let mut challenge = Challenge::new_zeroed();
        let Some((maker, keys)) = endorse(body, authority.keys) else {
            challenge.verdict = refused(vm, EndorsementVerdict::Malformed) as u8;
            return Ok((challenge, None));
        };
        let object = ChallengeObject::of(conversation(session.answerer.transcript())).name();
        let mut challenged = Challenged { maker, keys: Vec::new() };
        for key in keys {
            let mut carried = [0; 32];
            self.world.fill(&mut carried).map_err(|_| RefusalReason::Unavailable)?;
            let made = match credential::make(&*self.world, &key, &object, &carried) {
                Ok(made) => made,
                Err(CredentialError::Entropy) => return Err(RefusalReason::Unavailable),
                Err(CredentialError::BadKey) => {
                    let mut challenge = Challenge::new_zeroed();
                    challenge.verdict = refused(vm, EndorsementVerdict::Malformed) as u8;
                    return Ok((challenge, None));
                }
            };
            let place = challenge.credentials.get_mut(key.key() as usize);
            place.and_then(|place| made.write(place)).ok_or(RefusalReason::Unavailable)?;
            challenged.keys.push((key, carried));
        }
        Ok((challenge, Some(challenged)))
    }

    /// Issues what was challenged, if `answers` are the right ones.
    fn certificates(
        &self,
        vm: &VmName,
        authority: &Authority,
        (challenged, body): (Option<Challenged>, &[u8]),
        report_digest: [u8; 48],
    ) -> Result<Certificates, RefusalReason> {
        let mut reply = Certificates::new_zeroed();
        let answers = exactly::<Activate>(body).map_err(|_| RefusalReason::Malformed)?;
        let challenged = challenged.filter(|challenged| challenged.is_answered(&answers));
        let Some(Challenged { maker, keys }) = challenged else {
            reply.verdict = refused(vm, EndorsementVerdict::WrongAnswer) as u8;
            return Ok(reply);
        };
        let host_data = self.enrolment(vm)?.host_data;
        let launch = Launch { vm: *vm, maker, host_data, report_digest };
        let key = authority
            .wrapped
            .as_ref()
            .map(|wrapped| AuthorityKey::of(&self.keys.unwrap_authority(vm.tenant, wrapped)?));
        let key = key.transpose().map_err(|error| failed(vm, &error))?;
        let wanted: Vec<Endorsed> = keys.iter().map(|(key, _)| Endorsed::of(key)).collect();
        let issue = |wanted: &Endorsed| match &key {
            None => Ok(None),
            Some(key) => {
                let endorsed = keys.iter().find(|(key, _)| key.key().bit() == wanted.kind);
                let (endorsed, _) = endorsed.ok_or(StoreError::Damaged)?;
                let issuer = (key, authority.certificate.as_slice());
                endorsement(&*self.world, issuer, endorsed, &launch).map(Some).map_err(StoreError::from)
            }
        };
        match self.stored(vm, |serving| serving.change(|store| store.endorse(vm, &wanted, issue)))? {
            Ok(all) => {
                for key in all {
                    write_certificate(&mut reply, &key).ok_or(RefusalReason::Unavailable)?;
                }
                tracing::info!(%vm, "its endorsement keys are certified, as far as they can be");
            }
            Err(NotEndorsed::Changed) => reply.verdict = refused(vm, EndorsementVerdict::Changed) as u8,
            Err(NotEndorsed::OtherVm(other)) => {
                tracing::error!(%vm, "ALARM: its endorsement key is VM {other}'s");
                reply.verdict = refused(vm, EndorsementVerdict::OtherVm) as u8;
            }
        }
        Ok(reply)
    }
}

impl Challenged {
    /// Every credential was opened.
    fn is_answered(&self, answers: &Activate) -> bool {
        self.keys.iter().fold(true, |all, (key, carried)| {
            let answer = answers.secrets.get(key.key() as usize);
            all & answer.is_some_and(|answer| answer.ct_eq(carried).into())
        })
    }
}

fn refused(vm: &VmName, verdict: EndorsementVerdict) -> EndorsementVerdict {
    tracing::warn!(%vm, "its endorsement keys are not certified: {verdict:?}");
    verdict
}

fn failed(vm: &VmName, error: &crate::vault::VaultError) -> RefusalReason {
    tracing::error!(%vm, "{error}");
    RefusalReason::Unavailable
}

/// The keys that a VM names, if there are any, each is of its template, and all of them are certified here.
fn endorse(body: &[u8], certified: u8) -> Option<(Maker, Vec<EndorsementPublic>)> {
    let asked = exactly::<Endorse>(body).ok()?;
    let maker = Maker { manufacturer: asked.manufacturer, firmware: asked.firmware.get() };
    let mut keys = Vec::new();
    for (key, WirePublic { bytes, public }) in EndorsementKey::ALL.into_iter().zip(&asked.keys) {
        let (public, rest) = public.split_at_checked(usize::from(bytes.get()))?;
        if rest.iter().any(|byte| *byte != 0) || (!public.is_empty() && certified & key.bit() == 0) {
            return None;
        }
        if !public.is_empty() {
            keys.push(EndorsementPublic::parse(key, public).ok()?);
        }
    }
    (!keys.is_empty()).then_some((maker, keys))
}

fn write_certificate(reply: &mut Certificates, key: &Endorsed) -> Option<()> {
    let position = EndorsementKey::ALL.iter().position(|one| one.bit() == key.kind)?;
    let WireCertificate { bytes, certificate } = reply.certificates.get_mut(position)?;
    let der = key.certificate.as_deref().unwrap_or_default();
    certificate.get_mut(..der.len())?.copy_from_slice(der);
    *bytes = U16::new(u16::try_from(der.len()).ok()?);
    Some(())
}

const _: () = assert!(ENDORSEMENT_KEYS == EndorsementKey::ALL.len());
