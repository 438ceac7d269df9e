//! Derived keys and the counter's speed, over the component's own messenger and through a host that plays tricks.
#![expect(clippy::unwrap_used, reason = "a test ends where its world fails")]

use husk::attest::AttestFault;
use husk::attest::guest_message::{
    GuestRequest, GuestRequestError, HEADER_BYTES, KeyFields, KeyRequest, KeyRoot, Messenger, PAGE_BYTES,
    TscInfo,
};
use husk::attest::report::Policy;
use husk_psp::{Identity, LocalGuest, Processor, SharedProcessor};
use std::collections::BTreeSet;

const POLICY: u64 = Policy::RESERVED_ONE.union(Policy::SMT).bits();
const PLAIN: KeyRequest = KeyRequest {
    root: KeyRoot::Vcek,
    fields: KeyFields::POLICY.union(KeyFields::MEASUREMENT),
    vmpl: 0,
    guest_svn: 0,
    tcb: [0; 8],
    launch_mit_vector: None,
};

fn processor(chip: u8) -> SharedProcessor {
    let mut counter = 0_u8;
    let entropy = Box::new(move |into: &mut [u8]| {
        counter = counter.wrapping_add(1);
        into.fill(counter);
        Ok(())
    });
    Processor::shared(Identity::published(chip).unwrap(), entropy)
}

/// A launched guest, its messenger, and a host between.
struct Vm {
    host: Host,
    messenger: Messenger,
}

/// Flips one byte of a response.
struct Host {
    guest: LocalGuest,
    flip: Option<usize>,
    seen: Vec<[u8; PAGE_BYTES]>,
}

impl GuestRequest for Host {
    fn exchange(
        &mut self,
        request: &[u8; PAGE_BYTES],
        response: &mut [u8; PAGE_BYTES],
    ) -> Result<(), GuestRequestError> {
        self.seen.push(*request);
        self.guest.exchange(request, response)?;
        if let Some(at) = self.flip {
            response[at] ^= 1;
        }
        Ok(())
    }
}

impl Vm {
    fn launch(processor: &SharedProcessor, firmware: &[u8], policy: u64) -> Self {
        let (guest, secrets) = LocalGuest::launch(processor, firmware, &[2; 32], policy).unwrap();
        assert_eq!(secrets.tsc_factor(), 200);
        let host = Host { guest, flip: None, seen: Vec::new() };
        Self { host, messenger: Messenger::new(secrets) }
    }

    fn key(&mut self, asked: KeyRequest) -> Result<[u8; 32], AttestFault> {
        self.messenger.derive_key(&mut self.host, &asked).map(|key| key.with(|bytes| *bytes))
    }
}

#[test]
fn a_key_is_the_same_for_the_same_guest_and_another_wherever_something_mixed_in_differs() {
    let chips = [processor(0), processor(1)];
    let mut vm = Vm::launch(&chips[0], &[1], POLICY);
    let key = vm.key(PLAIN).unwrap();
    assert_eq!(vm.key(PLAIN), Ok(key));
    assert_eq!(
        Vm::launch(&chips[0], &[1], POLICY).key(PLAIN),
        Ok(key),
        "also after another launch: no freshness"
    );
    let with = |fields: KeyFields| KeyRequest { fields, ..PLAIN };
    let tcb = [10, 0, 0, 0, 0, 0, 25, 84];
    let version_2 = KeyRequest { launch_mit_vector: Some(1), ..PLAIN };
    let others = [
        vm.key(KeyRequest { vmpl: 1, ..PLAIN }),
        vm.key(with(KeyFields::POLICY)),
        vm.key(with(KeyFields::empty())),
        vm.key(KeyRequest { tcb, ..with(PLAIN.fields | KeyFields::TCB_VERSION) }),
        vm.key(with(PLAIN.fields | KeyFields::TCB_VERSION)),
        vm.key(KeyRequest { fields: PLAIN.fields | KeyFields::LAUNCH_MIT_VECTOR, ..version_2 }),
        Vm::launch(&chips[0], &[2], POLICY).key(PLAIN),
        Vm::launch(&chips[0], &[1], POLICY | Policy::DEBUG.bits()).key(PLAIN),
        Vm::launch(&chips[1], &[1], POLICY).key(PLAIN),
    ];
    let keys: BTreeSet<_> = others.into_iter().map(Result::unwrap).chain([key]).collect();
    assert_eq!(keys.len(), 10);
    assert_eq!(vm.key(version_2), Ok(key), "what is not selected is not mixed in");
}

#[test]
fn a_key_that_a_guest_may_not_have_is_refused_and_the_conversation_goes_on() {
    let mut vm = Vm::launch(&processor(0), &[1], POLICY);
    let refused = [
        KeyRequest { vmpl: 4, ..PLAIN },
        KeyRequest { guest_svn: 1, ..PLAIN },
        KeyRequest { tcb: [11, 0, 0, 0, 0, 0, 25, 84], ..PLAIN },
        KeyRequest { root: KeyRoot::Vlek, ..PLAIN },
        KeyRequest { root: KeyRoot::Vmrk, ..PLAIN },
        KeyRequest { launch_mit_vector: Some(2), ..PLAIN },
    ];
    for asked in refused {
        assert_eq!(vm.key(asked), Err(AttestFault::ProcessorRefused), "{asked:?}");
    }
    let sent = vm.host.seen.len();
    let inconsistent = KeyRequest { fields: KeyFields::LAUNCH_MIT_VECTOR, ..PLAIN };
    assert_eq!(vm.key(inconsistent), Err(AttestFault::ProcessorRefused));
    assert_eq!(vm.host.seen.len(), sent, "what version 1 cannot ask is not sent");
    assert!(vm.key(KeyRequest { root: KeyRoot::Installed, ..PLAIN }).is_ok() && !vm.messenger.is_wiped());
}

#[test]
fn a_response_that_was_touched_costs_the_message_key() {
    for at in [0, 0x20, 0x34, 0x35, 0x36, HEADER_BYTES, HEADER_BYTES + 0x20, HEADER_BYTES + 0x3F] {
        let mut vm = Vm::launch(&processor(0), &[1], POLICY);
        vm.host.flip = Some(at);
        assert_eq!(vm.key(PLAIN), Err(AttestFault::MessageRefused), "byte {at:#x}");
        vm.host.flip = None;
        assert_eq!(vm.key(PLAIN), Err(AttestFault::KeyWiped));
        assert_eq!(vm.host.seen.len(), 1, "nothing was sent after that");
        let mut vm = Vm::launch(&processor(0), &[1], POLICY);
        vm.host.flip = Some(at);
        assert_eq!(vm.messenger.tsc_info(&mut vm.host), Err(AttestFault::MessageRefused), "byte {at:#x}");
        assert!(vm.messenger.is_wiped());
    }
}

#[test]
fn the_counter_s_speed_is_told() {
    let mut vm = Vm::launch(&processor(0), &[1], POLICY);
    let info = vm.messenger.tsc_info(&mut vm.host);
    assert_eq!(info, Ok(TscInfo { scale: 1 << 32, offset: 0, factor: 200 }));
    assert_eq!(info.unwrap().mean_khz(2_000_000), Some(1_996_000));
}
