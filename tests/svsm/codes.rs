//! Every result code that is given (AMD 58019, section 4 "result codes"), and a call that gets it; the operations as bytes.

use crate::attest_op::{ALL, NONCE, OPERATION, Operation, SINGLE};
use crate::guest_ram::{BASE, GuestRam};
use crate::stand_in::{Processor, StandIn, rax};
use husk::frontend::svsm::{Registers, ResultCode};

const COMMAND: u64 = 2 << 32 | 1;

/// Brings TPM and memory into a situation; the call's registers.
type Situation = fn(&mut StandIn, &mut GuestRam) -> Registers;

fn of(rax: u64, rcx: u64) -> Registers {
    Registers { rax, rcx, rdx: 3, r8: 4, r9: 5 }
}

fn attestation(ram: &mut GuestRam) -> Registers {
    Operation::of_version(0).place(ram, ALL, &[0xA5; 64])
}

#[test]
fn section_4_each_result_code_has_its_number_and_a_call_that_gets_it() {
    let cases: [(&str, ResultCode, u64, Situation); 11] = [
        ("SVSM_SUCCESS", ResultCode::Success, 0, |_, _| of(2 << 32, 0)),
        ("SVSM_ERR_UNSUPPORTED_PROTOCOL", ResultCode::UnsupportedProtocol, 0x8000_0001, |_, _| {
            of(3 << 32, 0)
        }),
        ("SVSM_ERR_UNSUPPORTED_CALL", ResultCode::UnsupportedCall, 0x8000_0002, |_, _| of(2 << 32 | 2, 0)),
        (
            "the same, where nobody offers attestation",
            ResultCode::UnsupportedCall,
            0x8000_0002,
            |tpm, ram| {
                tpm.offered = false;
                attestation(ram)
            },
        ),
        ("SVSM_ERR_INVALID_ADDRESS", ResultCode::InvalidAddress, 0x8000_0003, |_, _| of(COMMAND, BASE - 1)),
        ("SVSM_ERR_INVALID_PARAMETER", ResultCode::InvalidParameter, 0x8000_0005, |_, _| of(COMMAND, 0)),
        ("the same, of the other protocol", ResultCode::InvalidParameter, 0x8000_0005, |_, _| {
            of(ALL, BASE + 1)
        }),
        ("SVSM_ERR_INVALID_REQUEST: a changed seed", ResultCode::InvalidRequest, 0x8000_0006, |tpm, ram| {
            tpm.endorsement_known = false;
            attestation(ram)
        }),
        ("SVSM_ERR_BUSY: no lease at the moment", ResultCode::Busy, 0x8000_0007, |tpm, ram| {
            tpm.permits = 0;
            attestation(ram)
        }),
        ("the protocol's own: no report", ResultCode::NoReport, 0x8000_1000, |tpm, ram| {
            tpm.processor = Processor::Silent;
            attestation(ram)
        }),
        ("the protocol's own: the TPM has failed", ResultCode::Failed, 0x8000_1001, |tpm, ram| {
            tpm.latched = true;
            attestation(ram)
        }),
    ];
    for (what, code, number, situation) in cases {
        let (mut tpm, mut ram) = (StandIn::new(), GuestRam::new());
        let request = situation(&mut tpm, &mut ram);
        let answer = tpm.call(&mut ram, request);
        assert_eq!((answer.rax, rax(code)), (number, number), "{what}");
        assert!(answer.rax == 0 || answer == Registers { rax: number, ..request }, "{what}: {answer:?}");
        assert!(ram.written.is_empty(), "{what}");
    }
}

#[test]
fn tables_11_and_13_golden_bytes_of_an_operation() {
    let golden = hex::decode(concat!(
        "0010100000000000",
        "00100000",
        "00000000", // 0x00 report: address, size, reserved
        "0004100000000000",
        "4000",
        "000000000000", // 0x10 nonce: address, size, reserved
        "0020100000000000",
        "00100000",
        "00000000", // 0x20 manifest
        "0040100000000000",
        "00400000",
        "00000000",                         // 0x30 certificates
        "ebf176c42301a5459641b4e7dde5bfe3", // 0x40 service: the vTPM's GUID
        "01000000",
        "00000000", // 0x50 manifest version, reserved
    ))
    .unwrap();
    assert_eq!(Operation::of_version(1).bytes(), golden);
    let (mut tpm, mut ram) = (StandIn::new(), GuestRam::new());
    ram.put(OPERATION, &golden);
    ram.put(NONCE, &[0xA5; 64]);
    assert_eq!(tpm.call(&mut ram, of(SINGLE, OPERATION)).rax, 0);
}
