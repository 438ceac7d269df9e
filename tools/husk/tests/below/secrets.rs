//! Where the secrets of a launch are while a guest runs, and that they are nowhere when it is off.

use crate::caller::Caller;
use crate::keys;
use crate::layer::Symbols;
use crate::needles::{Found, Needles};
use crate::spy::Spy;
use crate::world::{World, image};
use std::collections::BTreeMap;

/// TPM2_GetRandom of 16 bytes.
const GET_RANDOM: [u8; 12] = [0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x7B, 0, 16];
/// Owner, endorsement and platform: each primary key comes from the seed of its hierarchy.
const HIERARCHIES: [u32; 3] = [0x4000_0001, 0x4000_000B, 0x4000_000C];
/// What the component and its engine hold as long as they serve: VMPCK0 to ask for reports, the volume's key to write, and what the
/// TPM's keys come from. The epoch secret has no further use, and VMPCK1 to 3 never had one here.
const HELD: [&str; 8] =
    ["VMPCK0", "volume key of epoch 1", "EPSeed", "SPSeed", "PPSeed", "phProof", "shProof", "ehProof"];
/// What a console and a channel say at least in one launch, in bytes.
const HEARD_BYTES_MIN: usize = 1000;
const NOT_HELD: [&str; 3] = ["VMPCK1", "VMPCK2", "VMPCK3"];

#[test]
fn secrets_are_in_the_layers_own_region_and_nowhere_else_and_gone_when_the_guest_is_off() {
    let world = World::new();
    let spy = Spy::new(world.folder());
    let mut guest = Caller::start(&world, &["--qemu", &spy.qemu().display().to_string()]);
    use_the_tpm(&mut guest);
    let serving = guest.machine().memory();
    let (off, console) = guest.end_and_look();
    let [to_host, to_layer] = spy.heard();
    let symbols = Symbols::of(&image());
    let region = symbols.secrets();
    let mut known = keys::of_the_processor(&spy.secrets_page());
    let folder = world.without_daemons();
    known.extend(keys::of_the_tpm(folder.path()));
    let needles = Needles::new(&known);

    // The search finds what is there: in the layer's memory, and VMPCKs in what the processor gave.
    let found = needles.search(serving.all());
    let named = |name: &str| found.iter().any(|found| found.secret == format!("{name}, as it is"));
    let missing: Vec<_> = HELD.iter().filter(|name| !named(name)).collect();
    assert!(missing.is_empty(), "not found, so the search shows nothing: {missing:?}");
    assert_eq!(needles.search(&spy.secrets_page()).len(), 8, "four keys of two pieces");
    eprintln!("found while it serves: {}", counted(&found));
    // And nothing where nothing may be.
    let outside: Vec<_> = found.iter().filter(|found| !region.contains(&found.at)).collect();
    assert!(outside.is_empty(), "outside of {region:x?}: {}", shown(&outside, &symbols));
    let idle: Vec<_> = found.iter().filter(|found| is_one_of(found, &NOT_HELD)).collect();
    assert!(idle.is_empty(), "nobody needs it: {}", shown(&idle, &symbols));
    for (what, heap) in [("console", &console), ("channel to the host", &to_host), ("channel", &to_layer)] {
        assert!(heap.len() > HEARD_BYTES_MIN, "{what}: only {} bytes", heap.len());
        assert_eq!(needles.search(heap), [], "{what}");
    }
    // When the guest is off.
    assert_eq!(needles.search(off.all()), [], "the machine is off");
    let left = off.at(&region).iter().filter(|byte| **byte != 0).count();
    assert_eq!(left, 0, "bytes of the region are not wiped");
}

/// Whether it is one of these, in whatever form.
fn is_one_of(found: &Found, names: &[&str]) -> bool {
    names.iter().any(|name| found.secret.starts_with(&format!("{name}, ")))
}

/// How often each was found.
fn counted(found: &[Found]) -> String {
    let mut counts = BTreeMap::new();
    found.iter().for_each(|found| *counts.entry(found.secret.as_str()).or_insert(0) += 1);
    counts.iter().map(|(secret, count)| format!("{secret}: {count}")).collect::<Vec<_>>().join("; ")
}

/// Each name with the place where it was found, and what lies there in the image.
fn shown(found: &[&Found], symbols: &Symbols) -> String {
    let line = |found: &&Found| format!("{} at {:#x} in {}", found.secret, found.at, symbols.at(found.at));
    found.iter().map(line).collect::<Vec<_>>().join("; ")
}

fn use_the_tpm(guest: &mut Caller) {
    assert_eq!(code(&guest.command(&GET_RANDOM)), 0);
    for hierarchy in HIERARCHIES {
        let made = guest.command(&create_primary(hierarchy));
        assert_eq!(code(&made), 0, "{hierarchy:#x}");
        let handle = &made[10..14];
        if hierarchy == HIERARCHIES[0] {
            assert_eq!(code(&guest.command(&evict_control(handle))), 0);
        }
        assert_eq!(code(&guest.command(&[&[0x80, 1, 0, 0, 0, 14, 0, 0, 1, 0x65], handle].concat())), 0);
    }
}

fn code(response: &[u8]) -> u32 {
    u32::from_be_bytes(*response[6..].first_chunk().expect("a header"))
}

/// An empty password session: its size, TPM_RS_PW, no nonce, no attributes, no password.
const PASSWORD: [u8; 13] = [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0];

/// TPM2_CreatePrimary of an HMAC key (SHA-256).
fn create_primary(hierarchy: u32) -> Vec<u8> {
    let public = [0, 8, 0, 0x0B, 0, 4, 0, 0x72, 0, 0, 0, 5, 0, 0x0B, 0, 0];
    let rest = [&[0, 4, 0, 0, 0, 0, 0, 16][..], &public, &[0; 6]].concat();
    with_password(0x131, &hierarchy.to_be_bytes(), &rest)
}

/// TPM2_EvictControl: the key stays, which is a change of NV memory.
fn evict_control(handle: &[u8]) -> Vec<u8> {
    with_password(
        0x120,
        &[&HIERARCHIES[0].to_be_bytes()[..], handle].concat(),
        &0x8100_0000_u32.to_be_bytes(),
    )
}

fn with_password(command: u32, handles: &[u8], parameters: &[u8]) -> Vec<u8> {
    let body = [&command.to_be_bytes()[..], handles, &PASSWORD, parameters].concat();
    let size = u32::try_from(6 + body.len()).expect("little");
    [&[0x80, 2][..], &size.to_be_bytes(), &body].concat()
}
