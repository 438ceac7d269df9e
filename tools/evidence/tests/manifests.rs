//! Laws of the manifests' reader: the golden files mean what they mean, and no byte can change without being seen.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use husk::engine::EndorsementKey;
use husk::frontend::svsm::{Persistence, Serving, VTPM_GUID};
use husk_evidence::view::ManifestView;
use husk_evidence::{EndorsementPublic, EvidenceError, Manifest, ServiceContent};
use proptest::prelude::*;
use std::path::PathBuf;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/svsm").join(name)
}

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).unwrap()
}

/// The three forms.
fn forms() -> [(&'static str, Vec<u8>); 3] {
    let services = golden("services.bin");
    [
        ("version 0", services[0x30..].to_vec()),
        ("services", services),
        ("version 1", golden("manifest-1.bin")),
    ]
}

#[test]
fn a_golden_manifest_says_what_was_put_in() {
    let Manifest::Version1(manifest) = Manifest::parse(&golden("manifest-1.bin")).unwrap() else { panic!() };
    assert_eq!((manifest.persistence, manifest.serving), (Persistence::Strict, Serving::Lease));
    assert!(!manifest.kbs_required);
    assert_eq!((&manifest.tenant, &manifest.vm), (b"tenant of a test", b"the VM of a test"));
    assert_eq!((manifest.generation, manifest.epoch), (3, 0x0102_0304_0506_0708));
    assert_eq!((manifest.token, manifest.sequence), (0x1112_1314_1516_1718, 0x2122_2324_2526_2728));
    assert_eq!((manifest.digest[0], manifest.digest[47]), (0x80, 0xAF));
    assert_eq!(manifest.engine, "stand-in engine of a test");
    let kinds = manifest.keys.each_ref().map(|key| (key.key(), key.parts().len(), key.parts()[0].len()));
    let all = EndorsementKey::ALL;
    assert_eq!(kinds, [(all[0], 1, 256), (all[1], 2, 32), (all[2], 2, 48)]);
    let Manifest::Services(services) = Manifest::parse(&golden("services.bin")).unwrap() else { panic!() };
    let [service] = services.as_slice() else { panic!() };
    assert_eq!(
        (service.guid, &service.content),
        (VTPM_GUID, &ServiceContent::Vtpm(manifest.keys[0].clone()))
    );
}

#[test]
fn every_flipped_bit_is_refused_or_changes_what_is_said() {
    for (form, bytes) in forms() {
        let said = Manifest::parse(&bytes).unwrap();
        for (byte, bit) in (0..bytes.len()).flat_map(|byte| (0..8).map(move |bit| (byte, bit))) {
            let mut other = bytes.clone();
            other[byte] ^= 1 << bit;
            if let Ok(other) = Manifest::parse(&other) {
                assert_ne!(other, said, "{form}: byte {byte:#x}, bit {bit}");
                let shown =
                    |manifest: &Manifest| serde_json::to_string(&ManifestView::from(manifest)).unwrap();
                assert_ne!(shown(&other), shown(&said), "{form}: byte {byte:#x}, bit {bit}, in JSON");
            }
        }
    }
}

#[test]
fn what_is_cut_or_has_a_tail_is_refused() {
    for (form, bytes) in forms() {
        for length in 0..bytes.len() {
            assert!(Manifest::parse(&bytes[..length]).is_err(), "{form} cut at {length}");
        }
        assert!(Manifest::parse(&[&bytes[..], &[0]].concat()).is_err(), "{form} with a tail");
    }
}

/// Changes of version 1 that keep every length: offset, new bytes, what it is.
#[test]
fn a_field_out_of_its_range_is_refused() {
    let cases: [(usize, &[u8], &str); 14] = [
        (0x08, &[0, 0, 0, 0], "size 0"),
        (0x0C, &[0], "persistence 0"),
        (0x0C, &[4], "persistence 4"),
        (0x0C, &[255], "unsealed, yet with a lease"),
        (0x0D, &[0], "strict, yet nothing keeps another instance away"),
        (0x0D, &[4], "serving 4"),
        (0x0E, &[2], "KBS 2"),
        (0x0F, &[2], "two keys"),
        (0x34, &[1], "reserved"),
        (0x48, &[0; 8], "no commit"),
        (0x80, &[0], "an engine without a name"),
        (0x9F, b"x", "bytes behind the engine's name"),
        (0xA0, &[0x0A], "another key first"),
        (0xA4, &[0xC5], "a gap before the first key"),
    ];
    for (at, bytes, what) in cases {
        let mut manifest = golden("manifest-1.bin");
        manifest[at..at + bytes.len()].copy_from_slice(bytes);
        assert!(matches!(Manifest::parse(&manifest), Err(EvidenceError::BadManifest(_))), "{what}");
    }
}

/// At 0x0C and 0x0D: what protects the state, and what keeps a second instance from answering.
#[test]
fn only_what_a_component_can_promise_is_believed() {
    for (persistence, servings) in [
        (Persistence::Strict, &[Serving::Lease, Serving::PerCommand, Serving::Detect][..]),
        (Persistence::Bounded, &[Serving::Lease]),
        (Persistence::HwSealed, &[Serving::Nothing]),
        (Persistence::UnsealedForTesting, &[Serving::Nothing]),
    ] {
        for serving in [Serving::Nothing, Serving::Lease, Serving::PerCommand, Serving::Detect] {
            let mut bytes = golden("manifest-1.bin");
            (bytes[0x0C], bytes[0x0D]) = (persistence as u8, serving as u8);
            let read = Manifest::parse(&bytes);
            assert_eq!(read.is_ok(), servings.contains(&serving), "{persistence:?} {serving:?}: {read:?}");
        }
    }
}

#[test]
fn a_table_of_several_services_is_read_and_its_tricks_are_refused() {
    let one = golden("services.bin");
    let key = one[0x30..].to_vec();
    let table = |entries: &[([u8; 16], usize, &[u8])], count: u32| {
        let head = 24 * (1 + entries.len());
        let blobs: Vec<u8> = entries.iter().flat_map(|(_, _, blob)| blob.to_vec()).collect();
        let total = u32::try_from(head + blobs.len()).unwrap();
        let mut bytes = [&one[..16], &total.to_le_bytes(), &count.to_le_bytes()].concat();
        for (guid, offset, blob) in entries {
            let numbers = [u32::try_from(*offset).unwrap(), u32::try_from(blob.len()).unwrap()];
            bytes.extend([&guid[..], &numbers[0].to_le_bytes(), &numbers[1].to_le_bytes()].concat());
        }
        [bytes, blobs].concat()
    };
    let other = [7; 16];
    let good = table(&[(other, 72, b"abc"), (VTPM_GUID, 75, &key)], 2);
    let Manifest::Services(services) = Manifest::parse(&good).unwrap() else { panic!() };
    assert_eq!(services[0].content, ServiceContent::Other(b"abc".to_vec()));
    assert!(Manifest::parse(&table(&[], 0)).is_ok(), "an SVSM may have no service");
    let bad = [
        (table(&[(other, 72, b"abc"), (VTPM_GUID, 72, &key)], 2), "overlap"),
        (table(&[(other, 73, b"abc"), (VTPM_GUID, 76, &key)], 2), "a gap"),
        (table(&[(VTPM_GUID, 72, &key), (VTPM_GUID, 386, &key)], 2), "the vTPM twice"),
        (table(&[(VTPM_GUID, 48, &key)], 0), "an entry that is not counted"),
        (table(&[(VTPM_GUID, 48, &key)], 2), "an entry too many"),
        (table(&[(VTPM_GUID, 48, &key)], u32::MAX), "2^32 - 1 entries"),
        (table(&[(VTPM_GUID, 48, b"")], 1), "a vTPM without a key"),
    ];
    for (bytes, what) in bad {
        assert!(matches!(Manifest::parse(&bytes), Err(EvidenceError::BadManifest(_))), "{what}");
    }
}

#[test]
fn keys_of_a_real_engine_are_of_the_templates() {
    let bytes = golden("keys-of-libtpms-0.09.bin");
    let (rsa, rest) = bytes.split_at(314);
    let (p256, p384) = rest.split_at(122);
    for (key, public) in EndorsementKey::ALL.into_iter().zip([rsa, p256, p384]) {
        let public = EndorsementPublic::parse(key, public).unwrap();
        assert_eq!(public.name().len(), if key == EndorsementKey::P384 { 50 } else { 34 });
    }
    assert!(EndorsementPublic::parse(EndorsementKey::P256, rsa).is_err());
}

#[test]
fn the_json_form_is_the_one_that_was_published() {
    for name in ["services", "manifest-1"] {
        let manifest = Manifest::parse(&golden(&format!("{name}.bin"))).unwrap();
        let json = serde_json::to_string_pretty(&ManifestView::from(&manifest)).unwrap() + "\n";
        let file = path(&format!("{name}.json"));
        if std::env::var_os("HUSK_BLESS").is_some() {
            std::fs::write(&file, &json).unwrap();
        }
        assert!(std::fs::read_to_string(&file).unwrap() == json, "{} differs", file.display());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_surprise_the_reader(
        form in 0..3_usize, edits in prop::collection::vec((0..900_usize, any::<u8>()), 0..8), length in 0..900_usize,
    ) {
        let (_, mut bytes) = forms()[form].clone();
        for (at, byte) in edits {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        bytes.truncate(length.max(16));
        // Either is fine; a panic is not.
        let said = format!("{:?}", Manifest::parse(&bytes));
        prop_assert!(said.starts_with("Ok") || said.starts_with("Err"));
    }
}
