//! Whatever registers and memory say: an answer with a known code, and no byte where none belongs.

use crate::attest_op::{CERTIFICATES, MANIFEST, OPERATION, Operation, REPORT};
use crate::guest_ram::{BASE, BYTES, GuestRam};
use crate::stand_in::{CODES, StandIn, rax};
use husk::frontend::svsm::{Registers, ResultCode};
use proptest::prelude::*;

/// Numbers near those that mean something.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (0..BYTES as u64 + 8192).prop_map(|at| BASE - 4096 + at),
        (0..BYTES as u64 / 4096).prop_map(|page| BASE + page * 4096),
        Just(OPERATION),
        Just(u64::MAX - 7),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_registers_over_any_bytes_get_a_known_answer(
        protocol in prop_oneof![0..4_u64, any::<u32>().prop_map(u64::from)],
        call in prop_oneof![0..3_u64, any::<u32>().prop_map(u64::from)],
        rcx in number(), rdx in any::<u64>(), r8 in any::<u64>(),
        seed in prop::collection::vec(any::<u8>(), 256),
        fill in prop::array::uniform7(number()),
    ) {
        let (mut ram, mut tpm) = (GuestRam::new(), StandIn::new());
        tpm.certificate = vec![0x30; 500];
        for page in 0..BYTES as u64 / 256 {
            ram.put(BASE + page * 256, &seed);
        }
        let mut operation = Operation::of_version(u32::try_from(fill[0] % 3).unwrap());
        operation.report.0 = fill[1];
        operation.manifest.0 = fill[2];
        operation.certificates.0 = fill[3];
        operation.nonce.0 = fill[4];
        operation.report.1 = u32::try_from(fill[5] % 8192).unwrap();
        operation.manifest.1 = u32::try_from(fill[6] % 8192).unwrap();
        ram.put(OPERATION, &operation.bytes());
        let request = Registers { rax: protocol << 32 | call, rcx, rdx, r8, r9: 9 };
        let answer = tpm.call(&mut ram, request);
        prop_assert!(CODES.iter().any(|code| rax(*code) == answer.rax), "{answer:?}");
        // A guest may lay its nonce over its operation: two things to look at, once each.
        let overlap = u32::from(fill[4].abs_diff(rcx) < 0x80);
        prop_assert!(ram.looks_max() <= 1 + overlap);
        prop_assert_eq!(answer.r9, 9);
        let kept = Registers { rax: answer.rax, ..request } == answer;
        let sizes = answer.rax == rax(ResultCode::InvalidParameter) && answer.r8 == 1184;
        prop_assert!(answer.rax == 0 || kept || sizes, "{request:?} {answer:?}");
        if answer.rax != 0 && answer.rax != rax(ResultCode::InvalidAddress) {
            prop_assert!(ram.written.is_empty());
        }
    }

    #[test]
    fn a_call_writes_only_into_the_buffers_that_it_names(
        sizes in prop::array::uniform3(0..6000_u32), version in 0..2_u32,
    ) {
        let (mut ram, mut tpm) = (GuestRam::new(), StandIn::new());
        tpm.certificate = vec![0x30; 500];
        let mut operation = Operation::of_version(version);
        [operation.report.1, operation.manifest.1, operation.certificates.1] = sizes;
        let request = operation.place(&mut ram, 1 << 32 | 1, &[1; 64]);
        tpm.call(&mut ram, request);
        let buffers = [REPORT, MANIFEST, CERTIFICATES].into_iter().zip(sizes);
        let buffers: Vec<_> = buffers.map(|(at, bytes)| at..at + u64::from(bytes)).collect();
        for written in &ram.written {
            prop_assert!(buffers.iter().any(|own| own.start <= written.start && written.end <= own.end));
        }
    }
}
