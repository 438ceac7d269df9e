//! A broker, a VM that serves, its TPM, and a guest that asks, honestly or not.

use crate::bench::{Bench, Launch, VM, head};
use crate::swtpm::Swtpm;
use husk::attest::launch::LaunchConfig;
use husk::release::open::{Granted, Verdict};
use husk::release::session::SessionMemory;
use husk::release::tenure::Tenure;
use husk::release::unlock::{Guest, qualifying, verdict};
use husk::release::wire::{
    UnlockAsk, UnlockChallenge, UnlockShow, UnlockVerdict, WireCredential, WirePublic,
};
use husk::release::{Head, ReleaseFault};
use husk::seams::{Channel, ChannelError};
use husk_attester::tpm::{Keys, Tpm, TpmError};
use husk_attester::unlock::{UnlockError, unlock};
use husk_attester::wire::Selection;
use husk_broker::ids::VmName;
use husk_broker::rules::{Life, Order};
use husk_broker::service::Service;
use husk_broker::store::{Endorsed, KeptUnlock, Location, Store};
use husk_broker::unlock::{PcrPolicy, PcrValues};
use husk_broker::world::WorldEntropy;
use husk_evidence::EndorsementPublic;
use std::cell::Cell;
use std::sync::Arc;
use zerocopy::FromZeros as _;
use zerocopy::byteorder::little_endian::U16;
use zeroize::Zeroizing;

type Earned = Result<Zeroizing<Vec<u8>>, UnlockError>;

/// What is done to frame number so many, and whether it is a reply.
type Change<'c> = &'c mut dyn FnMut(usize, &mut Vec<u8>, bool);

/// The verdict that a guest was refused with.
#[track_caller]
pub(crate) fn refused(earned: Earned) -> UnlockVerdict {
    match earned {
        Err(UnlockError::Refused(verdict)) => verdict,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("IT HAS THE SECRET"),
    }
}

/// A host between guest and broker.
struct Host<'c> {
    service: Arc<Service>,
    count: usize,
    change: Change<'c>,
}

impl Channel for Host<'_> {
    fn exchange(&mut self, request: &[u8], reply: &mut [u8]) -> Result<usize, ChannelError> {
        let mut request = request.to_vec();
        (self.change)(self.count, &mut request, false);
        let mut answer = self.service.handle(&request);
        (self.change)(self.count, &mut answer, true);
        self.count += 1;
        reply[..answer.len()].copy_from_slice(&answer);
        Ok(answer.len())
    }
}

/// A broker that has given a VM its TPM, which is this one.
pub(crate) struct Site {
    pub(crate) bench: Bench,
    pub(crate) tpm: Swtpm,
    place: Location,
    launches: Cell<u8>,
}

impl Site {
    pub(crate) fn new(place: &Location) -> Self {
        let bench = Bench::on(Some(place), true);
        let site = Self { bench, tpm: Swtpm::start(), place: place.clone(), launches: Cell::new(0) };
        site.endorse(&VM, &site.tpm);
        site.serve(&VM);
        site
    }

    pub(crate) fn store(&self) -> Store {
        Store::open_at(&self.place).unwrap()
    }

    /// A launch of `vm` that serves.
    pub(crate) fn serve(&self, vm: &VmName) {
        self.launches.set(self.launches.get() + 1);
        // The launch before is not waited for, whose lease a database's own clock may end.
        if self.store().row(vm).unwrap().life == Life::Active {
            self.store().operate(vm, Order::Force).unwrap();
        }
        let number = self.launches.get();
        let launch = self.bench.launch(vm, number);
        serving(launch, &head(number.into(), number));
    }

    /// The VM is started again, and so is its TPM.
    pub(crate) fn restart(&mut self) {
        self.serve(&VM);
        self.tpm.restart();
        // A launch that no TPM of this test saw is made up for.
        let row = self.store().row(&VM).unwrap();
        while u64::from(self.resets()) < row.token - row.reset_base {
            self.tpm.restart();
        }
    }

    /// The TPM's own count of its resets.
    fn resets(&self) -> u32 {
        let mut tpm = Tpm::open(&self.tpm.place()).unwrap();
        let (kind, _) = tpm.certified_key().unwrap();
        let keys = tpm.keys(kind).unwrap();
        let (quote, _) = tpm.quote(&keys, &[0; 32], Selection { bank: 0x000B, pcrs: 1 }).unwrap();
        tpm.forget(&keys).unwrap();
        husk_evidence::Quote::parse(&quote).unwrap().resets
    }

    /// The VM has shown that it holds that TPM's key.
    pub(crate) fn endorse(&self, vm: &VmName, tpm: &Swtpm) {
        let mut tpm = Tpm::open(&tpm.place()).unwrap();
        let (kind, _) = tpm.certified_key().unwrap();
        let keys = tpm.keys(kind).unwrap();
        tpm.forget(&keys).unwrap();
        let key = EndorsementPublic::parse(kind, &keys.endorsement.public).unwrap();
        let public = key.public().to_vec();
        let key = Endorsed { kind: kind.bit(), name: key.name(), public, certificate: None };
        self.store().endorse(vm, &[key], |_| Ok(None)).unwrap().unwrap();
    }

    pub(crate) fn wrapped(
        &self,
        vm: &VmName,
        name: &str,
        allowed: Vec<PcrValues>,
        secret: &[u8],
    ) -> KeptUnlock {
        let policy = PcrPolicy::new(allowed).unwrap();
        let sealed = self.bench.keys.wrap_unlock(&*self.bench.world, vm, (name, &policy), secret).unwrap();
        KeptUnlock { name: name.to_owned(), policy, sealed }
    }

    pub(crate) fn keep(&self, vm: &VmName, name: &str, allowed: Vec<PcrValues>, secret: &[u8]) {
        self.store().keep_unlock(vm, &self.wrapped(vm, name, allowed, secret), true).unwrap();
    }

    pub(crate) fn ask(&self, name: &str) -> Earned {
        self.ask_with(&VM, name, &self.tpm)
    }

    pub(crate) fn ask_with(&self, vm: &VmName, name: &str, tpm: &Swtpm) -> Earned {
        self.earned(&self.bench.config(vm), name, tpm, &mut |_, _, _| {})
    }

    pub(crate) fn ask_as(&self, config: &LaunchConfig, name: &str) -> Earned {
        self.earned(config, name, &self.tpm, &mut |_, _, _| {})
    }

    pub(crate) fn ask_through(&self, name: &str, change: Change<'_>) -> Earned {
        self.earned(&self.bench.config(&VM), name, &self.tpm, change)
    }

    fn earned(&self, config: &LaunchConfig, name: &str, tpm: &Swtpm, change: Change<'_>) -> Earned {
        let mut tpm = Tpm::open(&tpm.place()).unwrap();
        let mut entropy = WorldEntropy(&*self.bench.world);
        unlock(name, config, (&mut self.host(change), &mut entropy), &mut tpm)
    }

    fn host<'c>(&self, change: Change<'c>) -> Host<'c> {
        Host { service: Arc::clone(&self.bench.service), count: 0, change }
    }

    /// All frames of a conversation that succeeds: each request with its reply.
    pub(crate) fn watched(&self, name: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut seen: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        self.ask_through(name, &mut |_, bytes, is_reply| {
            if is_reply {
                seen.last_mut().unwrap().1.clone_from(bytes);
            } else {
                seen.push((bytes.clone(), Vec::new()));
            }
        })
        .unwrap();
        seen
    }

    /// Asks with this TPM's endorsement key and the attestation key of another, which quotes.
    pub(crate) fn ask_mixed(&self, other: &Swtpm) -> UnlockVerdict {
        let mut theirs = Tpm::open(&other.place()).unwrap();
        let (kind, _) = theirs.certified_key().unwrap();
        let keys = theirs.keys(kind).unwrap();
        let mut memory = SessionMemory::new();
        let mut raw = self.raw(&mut memory, |ask| area(&mut ask.attestation, &keys.attestation.public));
        assert!(raw.opened().is_err(), "it is for a key that is not there");
        let data = qualifying(raw.guest.transcript(), &[0; 32], &raw.ask);
        let show = shown((&mut theirs, &keys), &data, raw.challenge.pcrs.get());
        theirs.forget(&keys).unwrap();
        raw.show(self, &show).unwrap()
    }

    /// Shows a quote that was made for an earlier conversation of the same guest.
    pub(crate) fn ask_with_an_old_quote(&self) -> UnlockVerdict {
        let [mut first, mut second] = [SessionMemory::new(), SessionMemory::new()];
        let old = self.raw(&mut first, |_| {}).quoted();
        self.raw(&mut second, |_| {}).show(self, &old).unwrap()
    }

    /// Shows what is right a second time, in the same session.
    pub(crate) fn show_twice(&self) -> Result<UnlockVerdict, ReleaseFault> {
        let mut memory = SessionMemory::new();
        let mut raw = self.raw(&mut memory, |_| {});
        let show = raw.quoted();
        assert_eq!(raw.show(self, &show), Ok(UnlockVerdict::Ok));
        raw.show(self, &show)
    }

    /// A challenged guest, in the test's own words.
    fn raw<'m>(&self, memory: &'m mut SessionMemory, asks: impl FnOnce(&mut UnlockAsk)) -> Raw<'m> {
        let mut unchanged = |_: usize, _: &mut Vec<u8>, _: bool| {};
        let mut host = self.host(&mut unchanged);
        let mut entropy = WorldEntropy(&*self.bench.world);
        let config = self.bench.config(&VM);
        let mut guest = Guest::hello(&config, (&mut host, &mut entropy), memory).unwrap();
        let mut tpm = Tpm::open(&self.tpm.place()).unwrap();
        let (kind, _) = tpm.certified_key().unwrap();
        let keys = tpm.keys(kind).unwrap();
        let mut ask = UnlockAsk::new_zeroed();
        ask.name[..4].copy_from_slice(b"root");
        area(&mut ask.endorsement, &keys.endorsement.public);
        area(&mut ask.attestation, &keys.attestation.public);
        asks(&mut ask);
        let challenge = guest.ask(&mut host, &ask).unwrap();
        assert_eq!(verdict(challenge.verdict), UnlockVerdict::Ok);
        Raw { guest, tpm, keys, ask, challenge }
    }
}

/// A guest that was challenged.
struct Raw<'m> {
    guest: Guest<'m>,
    tpm: Tpm,
    keys: Keys,
    ask: UnlockAsk,
    challenge: UnlockChallenge,
}

impl Raw<'_> {
    /// What the credential carries.
    fn opened(&mut self) -> Result<[u8; 32], TpmError> {
        let WireCredential { blob_bytes, secret_bytes, blob, secret } = &self.challenge.credential;
        let (blob, secret) = (&blob[..blob_bytes.get().into()], &secret[..secret_bytes.get().into()]);
        self.tpm.activate(&self.keys, blob, secret).map(|carried| carried.as_slice().try_into().unwrap())
    }

    /// What answers the challenge.
    fn quoted(&mut self) -> UnlockShow {
        let carried = self.opened().unwrap();
        let data = qualifying(self.guest.transcript(), &carried, &self.ask);
        shown((&mut self.tpm, &self.keys), &data, self.challenge.pcrs.get())
    }

    fn show(&mut self, site: &Site, show: &UnlockShow) -> Result<UnlockVerdict, ReleaseFault> {
        let mut unchanged = |_: usize, _: &mut Vec<u8>, _: bool| {};
        let answer = self.guest.show(&mut site.host(&mut unchanged), show)?;
        let verdict = verdict(answer.verdict);
        let is_empty = answer.sealed.iter().chain(&answer.tag).all(|byte| *byte == 0);
        assert_eq!(is_empty, verdict != UnlockVerdict::Ok);
        Ok(verdict)
    }
}

impl Drop for Raw<'_> {
    fn drop(&mut self) {
        self.tpm.forget(&self.keys).unwrap();
    }
}

fn area(place: &mut WirePublic, public: &[u8]) {
    *place = WirePublic::new_zeroed();
    place.bytes = U16::new(u16::try_from(public.len()).unwrap());
    place.public[..public.len()].copy_from_slice(public);
}

fn shown((tpm, keys): (&mut Tpm, &Keys), data: &[u8; 32], pcrs: u32) -> UnlockShow {
    let selection = Selection { bank: 0x000B, pcrs };
    let values = tpm.values(selection).unwrap();
    let (quote, signature) = tpm.quote(keys, data, selection).unwrap();
    let mut show = UnlockShow::new_zeroed();
    show.quote_bytes = U16::new(u16::try_from(quote.len()).unwrap());
    show.quote[..quote.len()].copy_from_slice(&quote);
    show.signature_bytes = U16::new(u16::try_from(signature.len()).unwrap());
    show.signature[..signature.len()].copy_from_slice(&signature);
    show.values[..values.len()].copy_from_slice(&values);
    show
}

/// From power-on until it serves.
fn serving(mut launch: Launch, new: &Head) {
    let (client, verdict) = launch.boot().unwrap();
    let Verdict::Granted(granted) = verdict else { panic!("another instance is in the way") };
    let pending = match granted {
        Granted::Create(grant) => grant.pending,
        Granted::Open(grant) => grant.pending,
        Granted::Restore(_) | Granted::Ephemeral(_) => panic!("nobody ordered that"),
    };
    let mut tenure = Tenure::new(client, pending);
    launch.on(|platform| tenure.confirm(platform, new)).map(drop).unwrap();
}
