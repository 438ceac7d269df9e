//! Secrets for guests that prove what they were started as by their TPM.
//!
//! **What.** `src/release/protocol.md`, section 14: who asks, which challenge; what was shown, and whether it is enough.
//! **Trust.** Nobody in such a session: its keys show that the end is one, the quote whose it is. The endorsement keys of a VM are those that its attested firmware
//! named and its TPM answered for ([`endorsement`](super::endorsement)).
//! **Laws.** A challenge is of one session and is answered once. Nothing is unwrapped before the transaction that enters it in the tenant's log is durable.

use super::Service;
use super::aside::Answer;
use super::sessions::{Session, Stage};
use crate::authority::credential::{self, CredentialError};
use crate::ids::VmName;
use crate::policy::{Refusal, Rule};
use crate::rules::Reply;
use crate::store::{KeptUnlock, ShownTpm};
use crate::unlock::{PcrValues, is_name};
use husk::engine::EndorsementKey;
use husk::release::frame::exactly;
use husk::release::unlock::{qualifying, seal};
use husk::release::wire::{
    DeniedReason, Operation, RefusalReason, UnlockAnswer, UnlockAsk, UnlockChallenge, UnlockShow,
    UnlockVerdict, WirePublic,
};
use husk_evidence::{AttestationKey, EndorsementPublic, Hash, Quote, QuoteSignature, VerifiedQuote};
use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromZeros, IntoBytes};
use zeroize::Zeroizing;

/// A guest that was challenged.
pub(super) struct Unlocking {
    name: String,
    endorsement: EndorsementPublic,
    attestation: AttestationKey,
    carried: Zeroizing<[u8; 32]>,
    qualifying: [u8; 32],
    pcrs: u32,
}

/// Why a guest has nothing: what it is told, and what its tenant is told.
type Refused = (UnlockVerdict, Refusal);

/// Whether an operation is decided here.
pub(super) const fn concerns(operation: Operation) -> bool {
    matches!(operation, Operation::UnlockAsk | Operation::UnlockShow)
}

impl Service {
    /// Answers one of the two requests of a guest, in a session that shows no report.
    pub(super) fn unlock(&self, session: &mut Session, operation: Operation, body: &[u8]) -> Answer {
        let challenged = session.unlocking.take();
        let said = match (session.stage, operation, challenged) {
            (Stage::Greeted, Operation::UnlockAsk, _) => match exactly(body) {
                Ok(ask) => self.unlock_challenge(session, &ask)?.as_bytes().to_vec(),
                Err(_) => return Ok(Err(Reply::Denied(DeniedReason::Order))),
            },
            (Stage::Greeted, Operation::UnlockShow, Some(challenged)) => match exactly(body) {
                Ok(show) => self.unlock_answer(session, &challenged, &show)?.as_bytes().to_vec(),
                Err(_) => return Ok(Err(Reply::Denied(DeniedReason::Order))),
            },
            _ => return Ok(Err(Reply::Denied(DeniedReason::Order))),
        };
        Ok(Ok(said))
    }

    fn unlock_challenge(
        &self,
        session: &mut Session,
        ask: &UnlockAsk,
    ) -> Result<UnlockChallenge, RefusalReason> {
        let mut challenge = UnlockChallenge::new_zeroed();
        let (name, endorsement, attestation) = match asked(ask) {
            Ok(asked) => asked,
            Err(refused) => {
                challenge.verdict = self.not_unlocked(&session.vm, refused)? as u8;
                return Ok(challenge);
            }
        };
        let kept = match self.unlock_known(&session.vm, &name, &endorsement)? {
            Ok(kept) => kept,
            Err(refused) => {
                challenge.verdict = self.not_unlocked(&session.vm, refused)? as u8;
                return Ok(challenge);
            }
        };
        let mut carried = Zeroizing::new([0; 32]);
        self.world.fill(carried.as_mut_slice()).map_err(|_| RefusalReason::Unavailable)?;
        let object = attestation.name().unwrap_or_default();
        let made = match credential::make(&*self.world, &endorsement, object, &carried) {
            Ok(made) => made,
            Err(CredentialError::Entropy) => return Err(RefusalReason::Unavailable),
            Err(CredentialError::BadKey) => {
                challenge.verdict = self.not_unlocked(&session.vm, malformed("a key on its curve"))? as u8;
                return Ok(challenge);
            }
        };
        made.write(&mut challenge.credential).ok_or(RefusalReason::Unavailable)?;
        let pcrs = kept.policy.selection();
        challenge.pcrs = U32::new(pcrs);
        let qualifying = qualifying(session.answerer.transcript(), &carried, ask);
        session.unlocking =
            Some(Box::new(Unlocking { name, endorsement, attestation, carried, qualifying, pcrs }));
        Ok(challenge)
    }

    /// The secret that is asked for, if the key is one of the VM's.
    fn unlock_known(
        &self,
        vm: &VmName,
        name: &str,
        endorsement: &EndorsementPublic,
    ) -> Result<Result<KeptUnlock, Refused>, RefusalReason> {
        let own = endorsement.name();
        let keys = self.stored(vm, |serving| serving.store().endorsed(vm))?;
        if !keys.iter().any(|key| key.name == own) {
            let seen = format!("the name {}", hex::encode(own));
            let refusal = Refusal::new(Rule::UnlockTpm, "an endorsement key of this VM's TPM", seen);
            return Ok(Err((UnlockVerdict::OtherTpm, refusal)));
        }
        let kept = self.stored(vm, |serving| serving.store().unlocks(vm))?;
        let refusal = || Refusal::new(Rule::UnlockName, "the name of a secret of this VM", name);
        let found = kept.into_iter().find(|kept| kept.name == name);
        Ok(found.ok_or_else(|| (UnlockVerdict::NothingThere, refusal())))
    }

    fn unlock_answer(
        &self,
        session: &Session,
        challenged: &Unlocking,
        show: &UnlockShow,
    ) -> Result<UnlockAnswer, RefusalReason> {
        let vm = &session.vm;
        let mut answer = UnlockAnswer::new_zeroed();
        let (resets, values) = match challenged.proven(show) {
            Ok(proven) => proven,
            Err(refused) => {
                answer.verdict = self.not_unlocked(vm, refused)? as u8;
                return Ok(answer);
            }
        };
        let endorsement = challenged.endorsement.name();
        let shown = ShownTpm { endorsement: &endorsement, resets, values: &values };
        let name = challenged.name.as_str();
        let taken = self.stored(vm, |serving| serving.change(|store| store.take_unlock(vm, name, &shown)))?;
        let kept = match taken {
            Ok(kept) => kept,
            Err(verdict) => {
                tracing::warn!(%vm, "{name} is not given: {verdict:?}; the tenant's log says why");
                answer.verdict = verdict as u8;
                return Ok(answer);
            }
        };
        let failed = |error| {
            tracing::error!(%vm, "{name}: {error}");
            RefusalReason::Unavailable
        };
        let secret = self.keys.unwrap_unlock(vm, (name, &kept.policy), &kept.sealed).map_err(failed)?;
        tracing::info!(%vm, "gave {name} to its guest");
        let sealed = seal(session.answerer.transcript(), &challenged.carried, &secret);
        sealed.map_err(|_| RefusalReason::Unavailable)
    }

    /// Tells the tenant why its guest has nothing; the guest is told the verdict alone.
    fn not_unlocked(&self, vm: &VmName, (verdict, refusal): Refused) -> Result<UnlockVerdict, RefusalReason> {
        let entry = self.stored(vm, |serving| serving.store().refused(vm, &refusal))?;
        tracing::warn!(%vm, rule = refusal.rule.word(), entry, "refused a guest, {entry}");
        self.count(|metrics| metrics.refusal(refusal.rule.word()));
        Ok(verdict)
    }
}

impl Unlocking {
    /// What the quote proves, if it is by the challenged key, of this conversation and of the PCRs that were asked for: resetCount, and their values.
    fn proven(&self, show: &UnlockShow) -> Result<(u32, PcrValues), Refused> {
        let unproven = |seen: &dyn std::fmt::Display| {
            let wanted = "a quote of this conversation and these PCRs, by the key that was challenged";
            (UnlockVerdict::Unproven, Refusal::new(Rule::UnlockQuote, wanted, seen))
        };
        let (quote, signature) =
            (part(&show.quote, show.quote_bytes.get()), part(&show.signature, show.signature_bytes.get()));
        let (Some(quote), Some(signature)) = (quote, signature) else {
            return Err(malformed("a quote and a signature in front of zeros"));
        };
        let quote = verified(quote, signature, &self.attestation).map_err(|error| unproven(&error))?;
        quote.answers(&self.qualifying).map_err(|error| unproven(&error))?;
        let [bank] = quote.quote().selection.as_slice() else {
            return Err(unproven(&"PCRs of another number of banks"));
        };
        let selected =
            bank.pcrs.iter().fold(0, |bits, pcr| bits | 1_u32.checked_shl((*pcr).into()).unwrap_or(0));
        if bank.hash != Hash::Sha256 || selected != self.pcrs {
            return Err(unproven(&"other PCRs than were asked for"));
        }
        let bytes = bank.pcrs.len() * Hash::Sha256.bytes();
        let values = u16::try_from(bytes).ok().and_then(|bytes| part(&show.values, bytes));
        let values = values.ok_or_else(|| malformed("values in front of zeros"))?;
        let values = quote.pcrs(values).map_err(|error| unproven(&error))?;
        let pairs =
            values.iter().filter_map(|value| Some((value.pcr, value.value.as_slice().try_into().ok()?)));
        Ok((quote.quote().resets, pairs.collect()))
    }
}

fn verified(
    quote: &[u8],
    signature: &[u8],
    key: &AttestationKey,
) -> Result<VerifiedQuote, husk_evidence::EvidenceError> {
    Quote::parse(quote)?.verify(&QuoteSignature::parse(signature)?, key)
}

fn malformed(wanted: &str) -> Refused {
    (UnlockVerdict::Malformed, Refusal::new(Rule::UnlockQuote, wanted, "another"))
}

/// Name and keys that a guest asks with.
fn asked(ask: &UnlockAsk) -> Result<(String, EndorsementPublic, AttestationKey), Refused> {
    let length = ask.name.iter().position(|byte| *byte == 0).unwrap_or(ask.name.len());
    let name = u16::try_from(length).ok().and_then(|length| part(&ask.name, length));
    let name = name.and_then(|name| std::str::from_utf8(name).ok()).filter(|name| is_name(name));
    let name = name.ok_or_else(|| malformed("the name of a secret"))?;
    let public = |of: &WirePublic| part(&of.public, of.bytes.get()).map(<[u8]>::to_vec);
    let endorsement = public(&ask.endorsement)
        .and_then(|area| {
            EndorsementKey::ALL.into_iter().find_map(|key| EndorsementPublic::parse(key, &area).ok())
        })
        .ok_or_else(|| malformed("an endorsement key of the profile's templates"))?;
    let attestation = public(&ask.attestation)
        .and_then(|area| AttestationKey::parse(&area).ok())
        .filter(|key| key.name().is_some())
        .ok_or_else(|| malformed("an attestation key that was born in a TPM and signs its words alone"))?;
    Ok((name.to_owned(), endorsement, attestation))
}

/// The front of a field, behind which there are zeros.
fn part(field: &[u8], bytes: u16) -> Option<&[u8]> {
    let (part, rest) = field.split_at_checked(bytes.into())?;
    rest.iter().all(|byte| *byte == 0).then_some(part)
}
