//! A guest that asks for a secret, and shows what it likes: it has the session's keys, and no TPM.
//!
//! The endorsement key is one that the VM has shown, so that a request gets as far as a challenge; whoever answers it has neither the credential nor a quote of this conversation.

use super::framed;
use crate::bench::{Bench, VM};
use crate::input::{Input, sized};
use husk::engine::EndorsementKey;
use husk::release::frame;
use husk::release::record::{Caller, REQUEST_BODY_AT};
use husk::release::transcript::{AgreementKey, vm_keys};
use husk::release::wire::{
    FRAME_BYTES_MAX, FrameKind, Hello, Operation, PROTOCOL, SUITE, ServerHello, Status, UnlockAnswer,
    UnlockAsk, UnlockChallenge, UnlockShow, UnlockVerdict, WirePublic,
};
use husk_broker::store::{Endorsed, KeptUnlock, Store};
use husk_broker::unlock::PcrPolicy;
use husk_broker::world::WorldEntropy;
use husk_evidence::EndorsementPublic;
use std::collections::BTreeMap;
use std::path::Path;
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromZeros, IntoBytes};

const NAME: &str = "disk";
/// As tpm2_createek writes it: a TPM2B_PUBLIC, whose first two bytes are its size; so the other.
const ENDORSEMENT: &[u8] = include_bytes!("../../../data/tpm/p384.ek");
const ATTESTATION: &[u8] = include_bytes!("../../../data/tpm/p384.ak");
/// What that key has once quoted, for somebody else.
const QUOTE: &[u8] = include_bytes!("../../../data/tpm/p384.quote");
const SIGNATURE: &[u8] = include_bytes!("../../../data/tpm/p384.signature");

/// A database with a VM's key and secret lies where memory is: opening it must cost little.
fn folder() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    let place = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
    tempfile::tempdir_in(place).unwrap()
}

/// A guest in a session of its own.
struct Guest<'i> {
    bench: Bench,
    caller: Caller,
    input: Input<'i>,
    /// How often it got a challenge.
    challenges: u32,
    _folder: tempfile::TempDir,
}

impl Guest<'_> {
    fn new(data: &[u8]) -> Guest<'_> {
        let folder = folder();
        let path = folder.path().join("db");
        let bench = Bench::with(Some(&path), true);
        let mut store = Store::open(&path).unwrap();
        let public = EndorsementPublic::parse(EndorsementKey::P384, &ENDORSEMENT[2..]).unwrap();
        store.endorse(&VM, &[Endorsed::of(&public)], |_| Ok(None)).unwrap().unwrap();
        let policy = PcrPolicy::new(vec![BTreeMap::from([(11, [0x11; 32])])]).unwrap();
        let sealed = bench.keys.wrap_unlock(&*bench.world, &VM, (NAME, &policy), b"a passphrase").unwrap();
        store.keep_unlock(&VM, &KeptUnlock { name: NAME.to_owned(), policy, sealed }, false).unwrap();
        drop(store);
        let caller = greeted(&bench);
        Guest { bench, caller, input: Input::new(data), challenges: 0, _folder: folder }
    }

    /// One sealed request; its body where it is answered with Ok.
    fn said(&mut self, operation: Operation, body: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = vec![0; FRAME_BYTES_MAX];
        bytes[REQUEST_BODY_AT..REQUEST_BODY_AT + body.len()].copy_from_slice(body);
        let (length, asked) = self.caller.seal(operation, &mut bytes, body.len()).unwrap();
        let mut answer = self.bench.service.handle(&bytes[..length]);
        assert!(self.bench.service.is_well());
        let (kind, reply) = frame::open(&mut answer).unwrap();
        if kind != FrameKind::Reply {
            return None;
        }
        let (status, said) = self.caller.open(&asked, reply).unwrap();
        (status == Status::Ok).then(|| said.to_vec())
    }

    fn ask(&mut self) {
        let mut ask = UnlockAsk::new_zeroed();
        ask.name[..NAME.len()].copy_from_slice(NAME.as_bytes());
        (ask.endorsement, ask.attestation) = (public(&ENDORSEMENT[2..]), public(&ATTESTATION[2..]));
        let honest = ask;
        super::patch(ask.as_mut_bytes(), &mut self.input);
        let Some(said) = self.said(Operation::UnlockAsk, ask.as_bytes()) else { return };
        let challenge: UnlockChallenge = frame::exactly(&said).unwrap();
        let is_given = challenge.verdict == UnlockVerdict::Ok as u8;
        self.challenges += u32::from(is_given);
        let same = (ask.name, ask.endorsement.as_bytes()) == (honest.name, honest.endorsement.as_bytes());
        assert!(!is_given || same, "another name or key is challenged");
        assert_eq!(is_given, challenge.pcrs.get() == 1 << 11, "a refusal tells nothing of the policy");
    }

    fn show(&mut self) {
        let mut show = UnlockShow::new_zeroed();
        show.quote_bytes = U16::new(u16::try_from(QUOTE.len()).unwrap());
        show.signature_bytes = U16::new(u16::try_from(SIGNATURE.len()).unwrap());
        show.quote[..QUOTE.len()].copy_from_slice(QUOTE);
        show.signature[..SIGNATURE.len()].copy_from_slice(SIGNATURE);
        show.values[..32].copy_from_slice(&[0x11; 32]);
        super::patch(show.as_mut_bytes(), &mut self.input);
        let Some(said) = self.said(Operation::UnlockShow, show.as_bytes()) else { return };
        let answer: UnlockAnswer = frame::exactly(&said).unwrap();
        assert_ne!(answer.verdict, UnlockVerdict::Ok as u8, "IT HAS THE SECRET");
        assert!(answer.sealed.iter().chain(&answer.tag).all(|byte| *byte == 0), "a refusal carries nothing");
    }

    fn step(&mut self) {
        match self.input.byte() {
            0 => self.ask(),
            1 => self.show(),
            2 => self.caller = greeted(&self.bench),
            _ => {
                let operation = Operation::ALL[self.input.below(Operation::ALL.len())];
                let body = self.input.sized().to_vec();
                let said = self.said(operation, &body[..body.len().min(UnlockShow::BYTES)]);
                let is_for_guests = matches!(operation, Operation::UnlockAsk | Operation::UnlockShow);
                assert!(said.is_none() || is_for_guests, "a guest does {operation:?}");
            }
        }
    }
}

/// A session in which nothing is shown.
fn greeted(bench: &Bench) -> Caller {
    let mut entropy = WorldEntropy(&*bench.world);
    let [ephemeral, instance] = [(); 2].map(|()| AgreementKey::generate(&mut entropy).unwrap());
    let hello = Hello {
        protocol: U16::new(PROTOCOL),
        suite: U16::new(SUITE),
        flags: U32::new(0),
        tenant: VM.tenant.0,
        vm: VM.vm.0,
        nonce: [4; 32],
        ephemeral: *ephemeral.point(),
        instance: *instance.point(),
    };
    let mut answer = bench.service.handle(&framed(FrameKind::Hello, hello.as_bytes()));
    let (_, body) = frame::open(&mut answer).unwrap();
    let server: ServerHello = frame::exactly(body).unwrap();
    Caller::new(vm_keys(&ephemeral, &instance, &hello, &server).unwrap())
}

fn public(area: &[u8]) -> WirePublic {
    let mut public = WirePublic::new_zeroed();
    public.bytes = U16::new(u16::try_from(area.len()).unwrap());
    public.public[..area.len()].copy_from_slice(area);
    public
}

/// What a guest without a TPM sends.
pub(crate) fn run(data: &[u8]) {
    let mut guest = Guest::new(data);
    for _ in 0..8 {
        if !guest.input.is_over() {
            guest.step();
        }
    }
}

const UNPATCHED: [u8; 4] = [0; 4];

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let [ask, show] = [0_u8, 1].map(|step| [&[step][..], &UNPATCHED].concat());
    let patched = |step: u8, at: u16, bytes: &[u8]| [&[step][..], &at.to_le_bytes(), &sized(bytes)].concat();
    let key_at = u16::try_from(64 + 2).unwrap();
    vec![
        [&ask[..], &show].concat(),
        show.clone(),
        [&ask[..], &show, &show].concat(),
        [&ask[..], &[2], &show].concat(),
        [&ask[..], &ask, &show].concat(),
        patched(0, 0, b"other"),
        patched(0, key_at, &[0xFF; 8]),
        patched(0, key_at + 110, &[1; 8]),
        [&ask[..], &patched(1, 0, &[0xFF; 4])].concat(),
        [&ask[..], &patched(1, 4, &[0; 64])].concat(),
        [&[3, 2][..], &sized(&[]), &ask].concat(),
    ]
}

/// The first seed gets as far as a challenge.
#[test]
fn the_seeds_reach_a_challenge() {
    let seeds = seeds();
    let mut guest = Guest::new(&seeds[0]);
    guest.step();
    assert_eq!(guest.challenges, 1);
    let mut stranger = Guest::new(&seeds[5]);
    stranger.step();
    assert_eq!(stranger.challenges, 0);
}
