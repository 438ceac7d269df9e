//! The calls of an SVSM's guest, over memory that it fills and bends; and the services manifests that a relying party reads.

use crate::attest_op::{ALL, NONCE, OPERATION, Operation, SINGLE};
use crate::guest_ram::{BASE, BYTES, GuestRam};
use crate::input::{Input, sized};
use crate::stand_in::{CODES, Processor, StandIn, rax};
use husk::engine::EndorsementKey;
use husk::frontend::svsm::{HEADER_GUID, ManifestHeader, ManifestKey, Registers, ResultCode, VTPM_GUID};
use husk_evidence::{Manifest, ServiceContent, VtpmManifest};
use sha2::{Digest, Sha512};
use std::ops::Range;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromZeros, IntoBytes};

const QUERY: u64 = 2 << 32;
const COMMAND: u64 = 2 << 32 | 1;
/// One input makes at most so many calls.
const CALLS_MAX: usize = 6;

/// For each call: what the world does, what the guest writes before, and its registers.
pub(crate) fn call(data: &[u8]) {
    let mut input = Input::new(data);
    let mut ram = GuestRam::new();
    for _ in 0..CALLS_MAX {
        if input.is_over() {
            break;
        }
        let mut tpm = world(&mut input, &mut ram);
        for _ in 0..input.below(8) {
            let at = usize::from(input.short()) % BYTES;
            let bytes = input.sized();
            ram.put(BASE + at as u64, &bytes[..bytes.len().min(BYTES - at)]);
        }
        let request = registers(&mut input);
        ram.forget();
        let before = ram.clone();
        let answer = tpm.call(&mut ram, request);
        judge(&before, request, answer, &ram, &tpm);
    }
}

fn world(input: &mut Input<'_>, ram: &mut GuestRam) -> StandIn {
    let mut tpm = StandIn::new();
    let what = input.byte();
    tpm.processor = match what & 3 {
        0 | 1 => Processor::Honest,
        2 => Processor::OtherData,
        _ => Processor::Silent,
    };
    tpm.signing_key = u32::from(what >> 2 & 1);
    tpm.endorsement_known = what & 0x38 != 0x38;
    tpm.permits = if what & 0xC0 == 0xC0 { u32::from(input.byte() & 1) } else { u32::MAX };
    tpm.certificate = vec![0x30; usize::from(input.short()) % 3000];
    tpm.response = input.sized().iter().copied().take(4096).collect();
    let bend = input.byte();
    ram.scribble = (bend & 1 == 1).then_some(bend);
    let page = BASE + u64::from(bend >> 4) * 4096;
    ram.forbidden = if bend & 2 == 2 { page..page + 4096 } else { 0..0 };
    tpm
}

fn registers(input: &mut Input<'_>) -> Registers {
    let which = input.byte();
    let rax = match which & 7 {
        0 => ALL,
        1 | 2 => SINGLE,
        3 | 4 => COMMAND,
        5 => QUERY,
        _ => input.quad(),
    };
    let rcx = match which >> 3 & 7 {
        0 | 1 => OPERATION,
        2..=4 => BASE + u64::from(input.short()),
        5 => BASE - 64 + u64::from(input.byte()),
        6 => BASE + BYTES as u64 - u64::from(input.byte()),
        _ => input.quad(),
    };
    Registers { rax, rcx, rdx: input.word().into(), r8: input.word().into(), r9: 9 }
}

/// What the guest finds is what the documents promise.
fn judge(before: &GuestRam, request: Registers, answer: Registers, ram: &GuestRam, tpm: &StandIn) {
    assert!(CODES.iter().any(|code| rax(*code) == answer.rax), "{answer:?}");
    assert_eq!(answer.r9, request.r9);
    let kept = Registers { rax: answer.rax, ..request } == answer;
    if answer.rax != 0 {
        let sizes = answer.rax == rax(ResultCode::InvalidParameter) && answer.r8 == 1184;
        assert!(kept || sizes, "{request:?} {answer:?}");
        assert!(ram.written.is_empty() || answer.rax == rax(ResultCode::InvalidAddress), "{answer:?}");
        return;
    }
    match request.rax {
        QUERY => assert_eq!((answer.rcx, answer.rdx, ram.written.len()), (1 << 8, 0, 0)),
        COMMAND => sent(before, request, ram, tpm),
        ALL | SINGLE => attested(request, answer, before, ram, tpm),
        _ => panic!("{request:?} has succeeded"),
    }
}

/// SVSM_VTPM_CMD (58019, tables 15 to 17), read a second time.
fn sent(before: &GuestRam, request: Registers, ram: &GuestRam, tpm: &StandIn) {
    let head = before.get(request.rcx, 9);
    assert_eq!(head[..5], [8, 0, 0, 0, 0], "SEND_COMMAND at locality 0 and no other");
    let bytes = u32::from_le_bytes(head[5..].try_into().unwrap());
    assert_eq!(tpm.commands, [before.get(request.rcx + 9, bytes as usize)]);
    within(ram, std::slice::from_ref(&(request.rcx..request.rcx + 4096)));
    let shown = u32::from_le_bytes(ram.get(request.rcx, 4).try_into().unwrap()) as usize;
    let whole = tpm.response.len() <= 4092;
    assert_eq!(shown, if whole { tpm.response.len() } else { 10 });
    assert!(!whole || ram.get(request.rcx + 4, shown) == tpm.response);
}

/// SVSM_ATTEST_SERVICES and SVSM_ATTEST_SINGLE_SERVICE (tables 11 and 13), read a second time.
fn attested(request: Registers, answer: Registers, before: &GuestRam, ram: &GuestRam, tpm: &StandIn) {
    let operation = before.get(request.rcx, 0x40);
    let quad = |at: usize| u64::from_le_bytes(operation[at..at + 8].try_into().unwrap());
    let word = |at: usize| u64::from(u32::from_le_bytes(operation[at..at + 4].try_into().unwrap()));
    let buffers = [(0x00, answer.r8), (0x20, answer.rcx), (0x30, answer.rdx)];
    for (at, bytes) in buffers {
        assert!(bytes <= word(at + 8), "no more than there is room for");
    }
    within(ram, &buffers.map(|(at, _)| quad(at)..quad(at) + word(at + 8)));
    assert_eq!(tpm.reported.len(), 1, "one call, one report");
    // What a guest has laid over one another only it can tell apart; a nonce that another look had changed is its own affair, too.
    let apart = |a: &Range<u64>, b: &Range<u64>| a.end <= b.start || b.end <= a.start;
    let ranges = buffers.map(|(at, bytes)| quad(at)..quad(at) + bytes);
    let nonce = quad(0x10)..quad(0x10) + 64;
    let clear = (0..3).all(|one| (0..one).all(|other| apart(&ranges[one], &ranges[other])));
    if clear && apart(&nonce, &(request.rcx..request.rcx + 0x58)) {
        let bytes =
            |range: &Range<u64>| ram.get(range.start, usize::try_from(range.end - range.start).unwrap());
        let manifest = bytes(&ranges[1]);
        let expected = Sha512::new().chain_update(before.get(nonce.start, 64)).chain_update(manifest);
        assert_eq!(tpm.reported[0][..], expected.finalize()[..]);
        assert_eq!(bytes(&ranges[0]), tpm.report_of(&tpm.reported[0]));
        Manifest::parse(manifest).expect("what a guest gets, a relying party reads");
    }
}

/// Nothing is written but there.
fn within(ram: &GuestRam, ranges: &[Range<u64>]) {
    for written in ram.written.iter().filter(|written| !written.is_empty()) {
        let inside = |own: &Range<u64>| own.start <= written.start && written.end <= own.end;
        assert!(ranges.iter().any(inside), "{written:x?} lies in none of {ranges:x?}");
    }
}

pub(crate) fn call_seeds() -> Vec<Vec<u8>> {
    let response = b"\x80\x01\0\0\0\x10\0\0\0\0\0\x04abcd";
    let calm = |what: u8, certificate: u16, bend: u8| {
        [&[what][..], &certificate.to_le_bytes(), &sized(response), &[bend]].concat()
    };
    let put = |address: u64, bytes: &[u8]| {
        [&u16::try_from(address - BASE).unwrap().to_le_bytes()[..], &sized(bytes)].concat()
    };
    let tail = [0; 8];
    let command = b"\x08\0\0\0\0\x0c\0\0\0\x80\x01\0\0\0\x0c\0\0\x01\x7b\0\x04";
    let mut seeds = vec![[&calm(0, 0, 0)[..], &[0, 5], &tail].concat()];
    for at in [0_u16, 1, 0xFF0, 0xFF8, 0xFFFF] {
        for bend in [0, 1, 2] {
            let memory = put(BASE + u64::from(at), command);
            let registers = [&[3 | 2 << 3][..], &at.to_le_bytes(), &tail].concat();
            seeds.push([&calm(0, 0, bend)[..], &[1], &memory, &registers].concat());
        }
    }
    for (call, version) in [(0_u8, 0), (1, 0), (1, 1)] {
        for (what, certificate, bend) in [(0, 0, 0), (4, 1000, 1), (3, 0, 0), (0xC0, 9, 0), (0, 100, 0x22)] {
            let operation = Operation::of_version(version);
            let memory = [put(OPERATION, &operation.bytes()), put(NONCE, &[0x5A; 64])].concat();
            let permits: &[u8] = if what == 0xC0 { &[1] } else { &[] };
            let [what, rest @ ..] = &calm(what, certificate, bend)[..] else { continue };
            seeds.push([&[*what][..], permits, rest, &[2], &memory, &[call], &tail].concat());
        }
    }
    seeds
}

/// A manifest in any of its forms: what it says, written again, is the manifest.
pub(crate) fn manifest(data: &[u8]) {
    match Manifest::parse(data) {
        Ok(Manifest::Version0(key)) => assert_eq!(key.public(), data),
        Ok(Manifest::Services(services)) => {
            let blobs: Vec<_> = services
                .iter()
                .map(|service| match &service.content {
                    ServiceContent::Vtpm(key) => (service.guid, key.public()),
                    ServiceContent::Other(blob) => (service.guid, blob.as_slice()),
                })
                .collect();
            assert_eq!(table(&blobs), data);
        }
        Ok(Manifest::Version1(manifest)) => assert_eq!(version_1(&manifest), data),
        Err(_) => {}
    }
}

fn size(bytes: usize) -> U32 {
    U32::new(u32::try_from(bytes).unwrap())
}

/// The table of all services (58019, table 12).
fn table(services: &[([u8; 16], &[u8])]) -> Vec<u8> {
    let mut end = 24 * (1 + services.len());
    let mut entries = Vec::new();
    for (guid, blob) in services {
        entries.extend([guid, size(end).as_bytes(), size(blob.len()).as_bytes()].concat());
        end += blob.len();
    }
    let head = [&HEADER_GUID, size(end).as_bytes(), size(services.len()).as_bytes()].concat();
    let blobs = services.iter().flat_map(|(_, blob)| blob.iter().copied());
    head.into_iter().chain(entries).chain(blobs).collect()
}

/// Version 1, by the layout in `manifest.md`.
fn version_1(said: &VtpmManifest) -> Vec<u8> {
    let keys = said.keys.each_ref().map(|key| key.public());
    let mut end = size_of::<ManifestHeader>() + keys.len() * size_of::<ManifestKey>();
    let entries: Vec<u8> = EndorsementKey::ALL
        .into_iter()
        .zip(keys)
        .flat_map(|(key, public)| {
            let certificate_index = U32::new(key.certificate_index());
            let entry = ManifestKey { certificate_index, offset: size(end), bytes: size(public.len()) };
            end += public.len();
            entry.as_bytes().to_vec()
        })
        .collect();
    let mut header = ManifestHeader::new_zeroed();
    header.magic = ManifestHeader::MAGIC;
    (header.bytes, header.keys, header.kbs) = (size(end), 3, u8::from(said.kbs_required));
    (header.persistence, header.serving) = (said.persistence as u8, said.serving as u8);
    (header.tenant, header.vm, header.generation) = (said.tenant, said.vm, U32::new(said.generation));
    (header.epoch, header.token) = (U64::new(said.epoch), U64::new(said.token));
    (header.sequence, header.digest) = (U64::new(said.sequence), said.digest);
    header.engine[..said.engine.len()].copy_from_slice(said.engine.as_bytes());
    [header.as_bytes(), &entries, &keys.concat()].concat()
}

pub(crate) fn manifest_seeds() -> Vec<Vec<u8>> {
    let services = include_bytes!("../../data/svsm/services.bin");
    let rsa = &services[0x30..];
    let other = ([7; 16], &b"another service"[..]);
    vec![
        services.to_vec(),
        rsa.to_vec(),
        include_bytes!("../../data/svsm/manifest-1.bin").to_vec(),
        table(&[other, (VTPM_GUID, rsa)]),
        table(&[(VTPM_GUID, rsa), other, ([8; 16], &[])]),
        table(&[]),
    ]
}
