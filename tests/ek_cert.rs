//! Laws of certificates for endorsement keys (`protocol.md`, section 10; TCG EK Credential Profile): the tenant's authority at a real broker, the keys of a
//! real engine, and everyone who wants what is not theirs.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

#[path = "support/engine_bench.rs"]
mod engine_bench;
#[path = "support/nothing.rs"]
mod nothing;
#[path = "support/tpm.rs"]
mod tpm;
#[path = "support/tpm_memory.rs"]
mod tpm_memory;
#[path = "ek_cert/world.rs"]
mod world;

use engine_bench::Bench;
use husk::engine::{CertifiedEngine, ChallengeObject, Credential, EndorsementKey, Written};
use husk::release::wire::{Activate, Challenge, Endorse, EndorsementVerdict};
use husk::release::{ReleaseFault, wire};
use husk::vtpm::Certification;
use husk_evidence::{EkAuthorities, EkCertificate, EvidenceError};
use std::cell::RefCell;
use world::{FRIENDS, Fails, Instance, STRANGERS, World};
use zerocopy::FromZeros;
use zerocopy::byteorder::little_endian::U16;

/// Some day of 2027.
const NOW: u64 = 1_800_000_000;
const P384: usize = EndorsementKey::P384 as usize;

impl Bench {
    /// A TPM whose keys are known, off.
    fn learned(seed: u64) -> Self {
        let mut bench = Self::new(seed);
        bench.power_on(husk::engine::Start::Manufacture, 1).unwrap();
        bench.learn().unwrap();
        bench
    }

    /// The request for the keys in `keys`.
    fn named(&self, keys: u8) -> Endorse {
        let mut request = Endorse::new_zeroed();
        let maker = self.engine.maker().unwrap();
        request.manufacturer = maker.manufacturer;
        request.firmware.set(maker.firmware);
        for (key, place) in EndorsementKey::ALL.into_iter().zip(&mut request.keys) {
            if keys & key.bit() != 0 {
                let public = self.endorsement(key).unwrap();
                place.public[..public.len()].copy_from_slice(&public);
                place.bytes = U16::new(u16::try_from(public.len()).unwrap());
            }
        }
        request
    }

    /// The TPM's answers to a challenge.
    fn answers(&mut self, keys: u8, challenge: &Challenge, conversation: [u8; 48]) -> Activate {
        let mut answers = Activate::new_zeroed();
        let object = ChallengeObject::of(conversation);
        for key in EndorsementKey::ALL.into_iter().filter(|key| keys & key.bit() != 0) {
            let wire = &challenge.credentials[key as usize];
            let credential = Credential {
                blob: &wire.blob[..usize::from(wire.blob_bytes.get())],
                secret: &wire.secret[..usize::from(wire.secret_bytes.get())],
            };
            let opened = self.engine.activate_credential(&mut self.nv, key, &object, &credential).unwrap();
            if let Some(secret) = opened {
                secret.with(|bytes| answers.secrets[key as usize] = *bytes);
            }
        }
        answers
    }

    /// The whole conversation: the certificates that were issued, or why there are none.
    fn certified(
        &mut self,
        instance: &mut Instance<'_>,
        keys: u8,
    ) -> Result<[Vec<u8>; 3], EndorsementVerdict> {
        let (challenge, conversation) = instance.endorse(&mut self.named(keys)).unwrap();
        verdict(challenge.verdict)?;
        let mut answers = self.answers(keys, &challenge, conversation);
        instance.activate(&mut answers).unwrap()
    }
}

fn verdict(number: u8) -> Result<(), EndorsementVerdict> {
    match husk::release::endorsement::verdict(number) {
        EndorsementVerdict::Ok => Ok(()),
        refused => Err(refused),
    }
}

fn subject(certificate: &[u8]) -> EkCertificate {
    EkCertificate::parse(certificate).unwrap()
}

/// What the authority of a tenant vouches for is of its VMs' keys, of this TPM's maker, and nobody else vouches for it.
#[test]
fn ek_cert_is_of_the_key_that_was_shown_and_under_its_own_tenants_authority() {
    let world = World::new(7);
    let mut bench = Bench::learned(1);
    let mut instance = world.launch(&FRIENDS[0]);
    assert_eq!(instance.certified_keys(), 7);
    let issued = bench.certified(&mut instance, 7).unwrap();
    let (own, others) = (world.authority(&FRIENDS[0]), world.authority(&STRANGERS));
    for (key, der) in EndorsementKey::ALL.into_iter().zip(&issued) {
        let verified = EkAuthorities::new(&own).unwrap().verify(der, NOW).unwrap();
        let said = verified.certificate();
        let public = husk_evidence::EndorsementPublic::parse(key, &bench.endorsement(key).unwrap()).unwrap();
        said.certifies(&public).unwrap();
        assert_eq!(
            (&said.manufacturer, said.model.as_str(), said.version.as_str()),
            (b"IBM\0", "Husk", "20191023")
        );
        let launch = said.launch.unwrap();
        assert_eq!((launch.tenant, launch.vm), (FRIENDS[0].tenant.0, FRIENDS[0].vm.0));
        assert_eq!(
            (launch.host_data, launch.report_digest),
            (instance.host_data(), instance.report_digest())
        );
        let judged = EkAuthorities::new(&others).unwrap().verify(der, NOW);
        assert!(
            matches!(judged, Err(EvidenceError::EkChain { .. })),
            "another tenant's authority vouches for nothing here"
        );
    }
}

/// Amendment 19.
#[test]
fn ek_cert_is_not_issued_for_a_wrong_answer_nor_for_an_answer_given_twice() {
    let world = World::new(4);
    let mut bench = Bench::learned(2);
    let mut instance = world.launch(&FRIENDS[0]);
    let mut request = bench.named(4);
    for bit in [0, 100, 255] {
        let (challenge, conversation) = instance.endorse(&mut request).unwrap();
        let mut answers = bench.answers(4, &challenge, conversation);
        answers.secrets[P384][bit / 8] ^= 1 << (bit % 8);
        assert_eq!(instance.activate(&mut answers).unwrap(), Err(EndorsementVerdict::WrongAnswer));
        answers.secrets[P384][bit / 8] ^= 1 << (bit % 8);
        let again = instance.activate(&mut answers).unwrap();
        assert_eq!(again, Err(EndorsementVerdict::WrongAnswer), "a challenge is answered once");
    }
    let nothing = instance.activate(&mut Activate::new_zeroed()).unwrap();
    assert_eq!(nothing, Err(EndorsementVerdict::WrongAnswer), "nobody was challenged");
    assert!(world.stored(&FRIENDS[0]).is_empty(), "nothing is noted of keys that were not shown");
    assert!(bench.certified(&mut instance, 4).is_ok());
}

/// Whoever names a key that it does not hold is not helped by holding another.
#[test]
fn ek_cert_challenge_opens_for_its_key_and_its_session_only() {
    let world = World::new(7);
    let mut bench = Bench::learned(3);
    let mut instance = world.launch(&FRIENDS[0]);
    let (challenge, conversation) = instance.endorse(&mut bench.named(7)).unwrap();
    let of_another = bench.answers(7, &challenge, [0xAB; 48]);
    assert_eq!(of_another.secrets, [[0; 32]; 3], "the object of another session opens nothing");
    drop(bench);
    let mut other = Bench::learned(33);
    assert_eq!(other.answers(7, &challenge, conversation).secrets, [[0; 32]; 3], "another TPM opens nothing");
}

/// Amendment 19: unique within a tenant, whatever another tenant certifies.
#[test]
fn ek_cert_of_one_vm_is_never_anothers() {
    let world = World::new(4);
    let mut bench = Bench::learned(4);
    let first = bench.certified(&mut world.launch(&FRIENDS[0]), 4).unwrap();
    let refused = bench.certified(&mut world.launch(&FRIENDS[1]), 4);
    assert_eq!(refused, Err(EndorsementVerdict::OtherVm));
    assert!(world.stored(&FRIENDS[1]).is_empty());
    let stranger = bench.certified(&mut world.launch(&STRANGERS), 4).unwrap();
    assert_ne!(first[P384], stranger[P384]);
    let own = EkAuthorities::new(&world.authority(&STRANGERS)).unwrap();
    assert!(own.verify(&stranger[P384], NOW).is_ok() && own.verify(&first[P384], NOW).is_err());
}

/// Amendment 19: issuing again is issuing the same, in another launch and by another instance of the broker.
#[test]
fn ek_cert_is_issued_once_and_told_again() {
    let mut world = World::new(4);
    let mut bench = Bench::learned(5);
    let first = bench.certified(&mut world.launch(&FRIENDS[0]), 4).unwrap();
    assert_eq!(bench.certified(&mut world.launch(&FRIENDS[0]), 4).unwrap(), first);
    world.restart();
    assert_eq!(bench.certified(&mut world.launch(&FRIENDS[0]), 4).unwrap(), first);
    drop(bench);
    let mut other = Bench::learned(55);
    let changed = other.certified(&mut world.launch(&FRIENDS[0]), 4);
    assert_eq!(changed, Err(EndorsementVerdict::Changed), "a VM has one key of a kind");
    world.forget(&FRIENDS[0]);
    let second = other.certified(&mut world.launch(&FRIENDS[0]), 4).unwrap();
    assert_ne!(subject(&second[P384]).serial, subject(&first[P384]).serial);
}

#[test]
fn ek_cert_is_for_the_newest_instance_and_for_keys_of_the_profile() {
    let world = World::new(4);
    let mut bench = Bench::learned(6);
    let mut old = world.launch(&FRIENDS[0]);
    let mut new = world.launch(&FRIENDS[0]);
    assert_eq!(old.endorse(&mut bench.named(4)).err(), Some(ReleaseFault::Fenced));
    let mut patched: Vec<Endorse> = (0..8).map(|_| bench.named(4)).collect();
    patched[0].keys[P384].public[5] ^= 4;
    patched[1].keys[P384].public[30] ^= 1;
    patched[2].keys[P384].bytes = U16::new(0);
    patched[3].keys[P384].bytes = U16::new(u16::MAX);
    patched[4].keys[P384].public[wire::PUBLIC_BYTES_MAX - 1] = 1;
    patched[5] = bench.named(6);
    patched[6].keys.swap(0, P384);
    // A point that is not on the curve.
    patched[7].keys[P384].public[150] ^= 1;
    for (number, request) in patched.iter_mut().enumerate() {
        let (challenge, _) = new.endorse(request).unwrap();
        assert_eq!(verdict(challenge.verdict), Err(EndorsementVerdict::Malformed), "{number}");
    }
    assert!(bench.certified(&mut new, 4).is_ok());
}

#[test]
fn ek_cert_waits_for_an_authority_elsewhere() {
    let world = World::elsewhere(4);
    let mut bench = Bench::learned(7);
    let issued = bench.certified(&mut world.launch(&FRIENDS[0]), 4).unwrap();
    assert!(issued.iter().all(Vec::is_empty), "not issued yet");
    world.bring(&FRIENDS[0], EndorsementKey::P384, b"issued elsewhere");
    let issued = bench.certified(&mut world.launch(&FRIENDS[0]), 4).unwrap();
    assert_eq!(issued[P384], b"issued elsewhere");
    let nobody = world.launch(&STRANGERS).certified_keys();
    assert_eq!(nobody, 0, "a tenant without an authority");
}

/// TCG EK Credential Profile: the NV indices, and who may do what with them.
#[test]
fn ek_cert_index_is_read_by_all_written_once_and_whole() {
    let mut bench = Bench::learned(8);
    let long: Vec<u8> = (0..=255).cycle().take(1100).collect();
    assert_eq!(bench.engine.certificates(&mut bench.nv), Ok(0));
    let facts = husk::engine::PowerOn { start: husk::engine::Start::Load, reset_count: 1, clock_ms_min: 0 };
    let all = [Some(&long[..]), None, Some(&long[..700])];
    assert_eq!(bench.engine.write_certificates(&mut bench.nv, facts, &all), Ok(Written::All));
    assert_eq!(bench.engine.certificates(&mut bench.nv), Ok(5));
    bench.power_on(husk::engine::Start::Load, 2).unwrap();
    bench.send(&tpm::startup_clear()).ok();
    assert_eq!(bench.clock().reset_count, 2, "the writing is no reset of the guest's");
    for (index, length) in [(0x01C0_0002, 1100), (0x01C0_0016, 700)] {
        let public = bench.send(&tpm::nv_read_public(index)).ok();
        assert_eq!(public.u32_at(10 + 2 + 4 + 2), 0x6207_2801, "TPMA_NV, written and locked");
        let read = bench.send(&tpm::nv_read(index, b"", 700)).ok();
        assert_eq!(tpm::nv_data_of(&read), &long[..700]);
        assert!(length >= 700);
        let refused = bench.send(&tpm::nv_write(index, b"", b"x")).code();
        assert_ne!(refused, 0, "its own authorization writes nothing");
        let refused =
            bench.send(&tpm::authorized(0x137, &[tpm::PLATFORM, index], &[b""], &[0, 1, 7, 0, 0])).code();
        assert_eq!(refused, 0x148, "TPM_RC_NV_LOCKED, for the platform too");
        assert_ne!(bench.send(&tpm::nv_undefine(index)).code(), 0, "the owner does not remove it");
    }
    // Where an index is taken the one that stands there is left alone.
    bench.engine_off();
    let others = [Some(&long[..9]), Some(&long[..9]), None];
    assert_eq!(bench.engine.write_certificates(&mut bench.nv, facts, &others), Ok(Written::Refused));
    assert_eq!(bench.engine.certificates(&mut bench.nv), Ok(7));
}

const INDEX: u32 = 0x01C0_0016;
/// TPM_RC_HANDLE for the first handle: there is no such index.
const NO_INDEX: u32 = 0x18B;

/// A launch with an engine of its own, which is gone afterwards.
fn boot(
    world: &World,
    disk: &RefCell<Vec<u8>>,
    fails: Fails,
) -> Result<(Certification, u32), husk::fault::Fault> {
    let bench = Bench::new(9);
    world.boot(&FRIENDS[0], (bench.engine, disk), fails, INDEX)
}

/// A TPM works without certificates, and asks again.
#[test]
fn ek_cert_that_never_arrives_costs_nothing_and_comes_at_the_next_launch() {
    for exchange in 0..3 {
        for fails in [Fails::Request(exchange), Fails::Reply(exchange)] {
            let (world, disk) = (World::new(4), RefCell::new(vec![0; 256 * 1024]));
            let unanswered = Certification::Unanswered(ReleaseFault::Unreachable);
            assert_eq!(boot(&world, &disk, fails), Ok((unanswered, NO_INDEX)), "{fails:?}");
            assert_eq!(boot(&world, &disk, Fails::Nothing), Ok((Certification::Written, 0)), "{fails:?}");
            assert_eq!(boot(&world, &disk, Fails::Nothing), Ok((Certification::Present, 0)), "{fails:?}");
        }
    }
}

/// Wherever power goes: it is there whole, or not at all and written at the next launch.
#[test]
fn ek_cert_is_written_wherever_the_power_failed() {
    let mut cuts = 0;
    loop {
        let (world, disk) = (World::new(4), RefCell::new(vec![0; 256 * 1024]));
        let cut = boot(&world, &disk, Fails::Write(cuts));
        if cut.is_ok() {
            assert_eq!(cut, Ok((Certification::Written, 0)));
            break;
        }
        assert_eq!(boot(&world, &disk, Fails::Nothing), Ok((Certification::Written, 0)), "cut {cuts}");
        cuts += 1;
    }
    assert!(cuts > 0, "nothing was cut");
}
