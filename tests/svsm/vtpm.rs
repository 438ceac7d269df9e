//! The vTPM protocol (AMD 58019, chapter 8).

use crate::guest_ram::{BASE, BYTES, GuestRam};
use crate::stand_in::{StandIn, rax};
use husk::frontend::svsm::{Registers, ResultCode, versions};

const QUERY: u64 = 2 << 32;
const COMMAND: u64 = 2 << 32 | 1;

fn request(platform_command: u32, locality: u8, size: u32, command: &[u8]) -> Vec<u8> {
    [&platform_command.to_le_bytes()[..], &[locality], &size.to_le_bytes(), command].concat()
}

fn send_at(address: u64) -> Registers {
    Registers { rax: COMMAND, rcx: address, rdx: 5, r8: 6, r9: 7 }
}

#[test]
fn section_8_1_query_offers_send_command_and_no_feature() {
    let asked = Registers { rax: QUERY, rcx: 1, rdx: 2, r8: 3, r9: 4 };
    let answer = StandIn::new().call(&mut GuestRam::new(), asked);
    assert_eq!(answer, Registers { rax: 0, rcx: 1 << 8, rdx: 0, r8: 3, r9: 4 });
}

#[test]
fn section_8_2_a_command_goes_in_and_its_response_comes_out() {
    let (mut ram, mut tpm) = (GuestRam::new(), StandIn::new());
    ram.put(BASE, &request(8, 0, 12, b"\x80\x01\0\0\0\x0c\0\0\x01\x7b\0\x04"));
    ram.put(BASE + 21, &[0xEE; 64]);
    tpm.response = b"\x80\x01\0\0\0\x10\0\0\0\0\0\x04abcd".to_vec();
    let answer = tpm.call(&mut ram, send_at(BASE));
    assert_eq!(answer, Registers { rax: 0, ..send_at(BASE) });
    assert_eq!(tpm.commands, [b"\x80\x01\0\0\0\x0c\0\0\x01\x7b\0\x04"]);
    assert_eq!(ram.get(BASE, 4), 16_u32.to_le_bytes());
    assert_eq!(ram.get(BASE + 4, 16), b"\x80\x01\0\0\0\x10\0\0\0\0\0\x04abcd");
    assert_eq!(ram.get(BASE + 20, 1), [4], "nothing behind the response is written");
}

#[test]
fn section_8_2_the_buffer_needs_no_alignment_and_may_lie_across_two_pages() {
    for address in [BASE + 1, BASE + 0xFF0, BASE + 0xFF8, BASE + 0xFFF] {
        let (mut ram, mut tpm) = (GuestRam::new(), StandIn::new());
        ram.put(address, &request(8, 0, 10, b"0123456789"));
        assert_eq!(tpm.call(&mut ram, send_at(address)).rax, 0);
        assert_eq!(tpm.commands, [b"0123456789"]);
        assert_eq!(ram.get(address, 14)[4..], tpm.response[..]);
        assert_eq!(ram.looks_max(), 1);
    }
}

#[test]
fn section_8_2_what_is_malformed_reaches_no_tpm() {
    let good = request(8, 0, 10, b"0123456789");
    let end = BASE + BYTES as u64;
    let invalid = ResultCode::InvalidParameter;
    let cases = [
        (0, good.clone(), invalid, "no address"),
        (BASE, request(9, 0, 10, b"0123456789"), invalid, "another platform command"),
        (BASE, request(1, 0, 10, b"0123456789"), invalid, "TPM_SIGNAL_POWER_ON"),
        (BASE, request(8, 1, 10, b"0123456789"), invalid, "locality 1"),
        (BASE, request(8, 4, 10, b"0123456789"), invalid, "locality 4"),
        (BASE, request(8, 255, 10, b"0123456789"), invalid, "locality 255"),
        (BASE, request(8, 0, 4088, b""), invalid, "one byte more than the buffer holds"),
        (BASE, request(8, 0, u32::MAX, b""), invalid, "4 GiB"),
        (BASE - 1, Vec::new(), ResultCode::InvalidAddress, "begins outside the guest's memory"),
        (end - 8, Vec::new(), ResultCode::InvalidAddress, "its head ends outside"),
        (end - 9, request(8, 0, 1, b""), ResultCode::InvalidAddress, "its command ends outside"),
        (u64::MAX - 4, Vec::new(), ResultCode::InvalidAddress, "wraps around"),
    ];
    for (address, bytes, code, what) in cases {
        let (mut ram, mut tpm) = (GuestRam::new(), StandIn::new());
        if address >= BASE && !bytes.is_empty() {
            ram.put(address, &bytes);
        }
        let answer = tpm.call(&mut ram, send_at(address));
        assert_eq!(answer, Registers { rax: rax(code), ..send_at(address) }, "{what}");
        assert!(tpm.commands.is_empty() && ram.written.is_empty(), "{what}");
    }
}

#[test]
fn section_8_2_every_size_up_to_the_buffer_s_is_the_tpm_s_business() {
    for size in [0, 1, 9, 10, 4087] {
        let (mut ram, mut tpm) = (GuestRam::new(), StandIn::new());
        ram.put(BASE, &request(8, 0, size, &[0x5A; 4087][..size as usize]));
        assert_eq!(tpm.call(&mut ram, send_at(BASE)).rax, 0);
        assert_eq!(tpm.commands[0].len(), size as usize);
    }
}

#[test]
fn a_response_that_does_not_fit_becomes_a_failure_and_never_a_shorter_one() {
    for (bytes, shown) in [(4092, 4092), (4093, 10), (4096, 10)] {
        let (mut ram, mut tpm) = (GuestRam::new(), StandIn::new());
        ram.put(BASE, &request(8, 0, 10, b"0123456789"));
        tpm.response = vec![0x33; bytes];
        assert_eq!(tpm.call(&mut ram, send_at(BASE)).rax, 0);
        assert_eq!(ram.get(BASE, 4), u32::to_le_bytes(shown));
        if shown == 10 {
            assert_eq!(ram.get(BASE + 4, 10), [0x80, 1, 0, 0, 0, 10, 0, 0, 1, 1], "TPM_RC_FAILURE");
        }
    }
}

#[test]
fn a_guest_that_changes_its_buffer_changes_nothing_that_was_taken() {
    let (mut ram, mut tpm) = (GuestRam::new(), StandIn::new());
    ram.put(BASE, &request(8, 0, 10, b"0123456789"));
    ram.scribble = Some(0xFF);
    assert_eq!(tpm.call(&mut ram, send_at(BASE)).rax, 0);
    assert_eq!((tpm.commands.as_slice(), ram.looks_max()), ([b"0123456789".to_vec()].as_slice(), 1));
}

#[test]
fn table_14_other_calls_and_protocols_are_named_unsupported() {
    let code = |rax| StandIn::new().call(&mut GuestRam::new(), Registers { rax, ..send_at(BASE) });
    for asked in [2 << 32 | 2, 2 << 32 | 0xFFFF_FFFF, 1 << 32 | 2] {
        assert_eq!(code(asked), Registers { rax: rax(ResultCode::UnsupportedCall), ..send_at(BASE) });
    }
    for asked in [0, 6, 3 << 32, u64::MAX] {
        assert_eq!(code(asked), Registers { rax: rax(ResultCode::UnsupportedProtocol), ..send_at(BASE) });
    }
    assert_eq!([0, 1, 2, 3].map(versions), [None, Some((1, 1)), Some((1, 1)), None]);
}
