//! Laws of the endorsement keys: what the engine tells is what a guest's own TPM2_CreatePrimary makes, whatever state the
//! guest brought the TPM into, at no cost to it.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "support/engine_bench.rs"]
mod engine_bench;
#[path = "support/tpm.rs"]
mod tpm;

use engine_bench::Bench;
use husk::engine::{EndorsementKey, EngineFault, Start};

/// Every endorsement key with the name of its template.
const KEYS: [(EndorsementKey, &str); 3] =
    [(EndorsementKey::Rsa2048, "L-1"), (EndorsementKey::P256, "L-2"), (EndorsementKey::P384, "H-3")];

impl Bench {
    /// The keys as a guest makes them for itself.
    fn made(&mut self) -> [Vec<u8>; 3] {
        KEYS.map(|(_, template)| {
            let created =
                self.send(&tpm::create_primary(tpm::ENDORSEMENT, &tpm::endorsement_template(template))).ok();
            self.send(&tpm::flush(created.handle())).ok();
            tpm::created_public(&created).to_vec()
        })
    }

    /// The keys as the engine tells them.
    fn told(&self) -> Result<[Vec<u8>; 3], EngineFault> {
        let [rsa, p256, p384] = KEYS.map(|(key, _)| self.endorsement(key));
        Ok([rsa?, p256?, p384?])
    }

    /// Learns, and launches from the stored state.
    fn learn_and_start(&mut self, reset_count: u32) {
        self.learn().unwrap();
        self.power_on(Start::Load, reset_count).unwrap();
        self.send(&tpm::startup_clear()).ok();
    }

    /// How many transient objects fit now; they are flushed again.
    fn free_slots(&mut self) -> usize {
        let handles = self.fill();
        handles.iter().for_each(|handle| drop(self.send(&tpm::flush(*handle)).ok()));
        handles.len()
    }

    /// Loads transient objects until no slot is left.
    fn fill(&mut self) -> Vec<u32> {
        let mut handles = Vec::new();
        loop {
            let reply = self.send(&tpm::create_primary(tpm::NULL, &tpm::ecc_storage_template()));
            match reply.code() {
                0 => handles.push(reply.handle()),
                code => {
                    assert_eq!(code, 0x902, "TPM_RC_OBJECT_MEMORY");
                    return handles;
                }
            }
        }
    }
}

#[test]
fn what_is_told_is_what_a_guest_makes_for_itself() {
    let mut bench = Bench::started();
    let made = bench.made();
    assert_eq!(bench.told(), Err(EngineFault::EndorsementUnknown), "nobody asked for it");
    bench.learn_and_start(2);
    assert_eq!(bench.told().unwrap(), made);
    assert_eq!(bench.made(), made);
}

#[test]
fn learning_leaves_no_trace() {
    let mut bench = Bench::started();
    bench.send(&tpm::nv_define(0x0150_0001, tpm::NV_AUTH_AND_OWNER | tpm::NV_NO_DA, 8, b"pin")).ok();
    bench.send(&tpm::shutdown_clear()).ok();
    let before = bench.image();
    bench.engine_off();
    let version = bench.nv.version();
    bench.learn().unwrap();
    assert_eq!((bench.image(), bench.nv.version()), (before.clone(), version));
    bench.power_on(Start::Load, 2).unwrap();
    bench.send(&tpm::startup_clear()).ok();
    assert_eq!(bench.clock().reset_count, 2);
    assert_eq!(bench.free_slots(), 3);
    let told = bench.told().unwrap();
    let image = bench.image();
    assert_eq!(bench.told().unwrap(), told);
    assert_eq!(bench.image(), image, "telling stores nothing");
    // A TPM that was never asked comes to the very same state.
    let mut other = {
        drop(bench);
        Bench::new(7)
    };
    other.put_back(&before);
    other.power_on(Start::Load, 2).unwrap();
    other.send(&tpm::startup_clear()).ok();
    assert_eq!(other.made(), told);
}

#[test]
fn no_authorization_no_disabled_hierarchy_and_no_full_slot_hides_the_keys() {
    let mut bench = Bench::started();
    let made = bench.made();
    bench.send(&tpm::change_auth_of_hierarchy(tpm::OWNER, b"", b"owner")).ok();
    bench.send(&tpm::change_auth_of_hierarchy(tpm::ENDORSEMENT, b"", b"endorsement")).ok();
    bench.send(&tpm::change_auth_of_hierarchy(tpm::LOCKOUT, b"", b"lockout")).ok();
    bench.send(&tpm::clear_control(true)).ok();
    bench.learn_and_start(2);
    let refused =
        bench.send(&tpm::create_primary(tpm::ENDORSEMENT, &tpm::endorsement_template("L-2"))).code();
    assert_eq!(refused, 0x9A2, "TPM_RC_BAD_AUTH: the guest's own authorization still stands");
    assert_eq!(bench.fill().len(), 3);
    bench.send(&tpm::hierarchy_control(tpm::ENDORSEMENT, false)).ok();
    bench.send(&tpm::change_auth_of_hierarchy(tpm::PLATFORM, b"", b"platform")).ok();
    assert_eq!(bench.told().unwrap(), made);
}

#[test]
fn the_keys_survive_clear_kills_and_a_saved_state() {
    let mut bench = Bench::started();
    let made = bench.made();
    bench.send(&tpm::clear()).ok();
    assert_eq!(bench.made(), made, "TPM2_Clear keeps the endorsement seed");
    bench.learn_and_start(2);
    assert_eq!(bench.told().unwrap(), made);
    bench.send(&tpm::clear()).ok();
    assert_eq!(bench.told().unwrap(), made, "they are still known after TPM2_Clear");
    bench.send(&tpm::shutdown_state()).ok();
    let image = bench.image();
    bench.put_back(&image);
    bench.learn_and_start(3);
    assert_eq!(bench.told().unwrap(), made);
}

/// The golden state is what libtpms 0.9 once stored; whoever has a certificate over these keys must find them again.
#[test]
fn a_state_of_long_ago_still_has_its_keys() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");
    let mut bench = Bench::new(1);
    bench.put_back_state(&std::fs::read(format!("{folder}/engine/libtpms-0.09.state")).unwrap());
    bench.learn().unwrap();
    let keys = bench.told().unwrap().concat();
    let golden = format!("{folder}/svsm/keys-of-libtpms-0.09.bin");
    if std::env::var_os("HUSK_BLESS").is_some() {
        std::fs::write(&golden, &keys).unwrap();
    }
    assert!(std::fs::read(golden).unwrap() == keys);
}

#[test]
fn another_seed_is_never_shown_with_the_old_keys() {
    let mut bench = Bench::started();
    let first = bench.made();
    bench.learn_and_start(2);
    bench.send(&tpm::change_eps()).ok();
    assert_eq!(bench.told(), Err(EngineFault::EndorsementUnknown), "from the very command on");
    let second = bench.made();
    assert!(first.iter().zip(&second).all(|(old, new)| old != new));
    bench.learn_and_start(3);
    assert_eq!(bench.told().unwrap(), second);
}

#[test]
fn what_fails_while_learning_leaves_nothing_known_and_a_tpm_that_still_starts() {
    let mut bench = Bench::started();
    let made = bench.made();
    bench.engine_off();
    let image = bench.image();
    bench.put_back_state(&image[husk::nv::Envelope::BYTES..][..40]);
    assert_eq!(bench.learn(), Err(EngineFault::StateRefused));
    bench.put_back(&image);
    bench.stop_entropy(true);
    assert!(bench.learn().is_err(), "no keys without entropy");
    assert_eq!(bench.told(), Err(EngineFault::EndorsementUnknown));
    bench.stop_entropy(false);
    bench.learn_and_start(2);
    assert_eq!(bench.told().unwrap(), made);
    assert_eq!(bench.image().len(), image.len());
}
