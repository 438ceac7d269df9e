//! Digests of IGVM launches, and what is said of the files.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test ends where its world fails"
)]

mod support;

use husk_image::digest::{LaunchDigest, PAGE_BYTES, PageType};
use husk_image::hashes::KernelHashes;
use husk_image::igvm_file::{Directive, HeaderProblem, IgvmFile, IgvmFileError};
use husk_image::inspect::inspect;
use husk_image::ovmf::Ovmf;
use husk_image::ovmf_launch::OvmfLaunch;
use husk_image::plan::{IgvmLaunch, Plan, PlanError, Remark, VmsaScope, ZeroPages};
use husk_image::run::{Content, Run};
use husk_image::vcpu::{CpuSignature, KVM_VMSA_GPA, RESET_VECTOR, Vcpus, reset_vmsa};
use igvm::{IgvmDirectiveHeader, IgvmRevision};
use igvm_defs::IgvmPageDataType;
use support::{
    MASK, POLICY, SECTIONS, area, data, igvm_file, insert, memory_map, ovmf, page, pages_of, vmsa,
};

const V2: IgvmRevision = IgvmRevision::V2 { arch: igvm::Arch::X64, page_size: 4096 };

fn vcpus(count: u32) -> Vcpus {
    Vcpus { count, signature: CpuSignature::of_model("EPYC-Milan").unwrap(), features: 1 }
}

fn launch(count: u32) -> IgvmLaunch {
    IgvmLaunch { vcpus: vcpus(count), zeros: ZeroPages::AsContent, vmsas: VmsaScope::All }
}

/// The digest of pages, each with its type, address and content, by the specification's formula alone.
fn chain(pages: &[(PageType, u64, u8)]) -> LaunchDigest {
    let mut digest = LaunchDigest::default();
    pages.iter().for_each(|(kind, gpa, byte)| digest.extend(*kind, *gpa, &[*byte; PAGE_BYTES]));
    digest
}

fn measured(file: &[u8], how: &IgvmLaunch) -> Result<(LaunchDigest, Vec<Remark>), PlanError> {
    let file = IgvmFile::parse(file).unwrap();
    let plan = Plan::of(&file, how)?;
    Ok((plan.digest(), plan.remarks_on(&plan.digest().value())))
}

/// `sev-snp-measure` reads no IGVM: this ties the two kinds of launch together, and with them that tool.
#[test]
fn a_file_with_the_pages_of_an_ovmf_launch_has_its_digest() {
    let image = ovmf(SECTIONS);
    let firmware = Ovmf::parse(&image).unwrap();
    for count in [1, 2, 4, 8] {
        let kernel = Some(KernelHashes::new([3; 32], None, "quiet"));
        let how = OvmfLaunch { ovmf: &firmware, image_digest: None, kernel, vcpus: vcpus(count) };
        let whole =
            Run { page_type: PageType::Normal, gpa: firmware.gpa(), content: Content::Pages(firmware.image) };
        let mut directives = pages_of(&whole);
        directives.extend(how.sections().unwrap().iter().flat_map(pages_of));
        directives.extend(how.vmsas().unwrap().zip(0..).map(|(page, index)| vmsa(index, &page)));
        for revision in [IgvmRevision::V1, V2] {
            let file = igvm_file(revision, directives.clone());
            let native = IgvmLaunch { zeros: ZeroPages::Native, ..launch(count) };
            let (digest, remarks) = measured(&file, &native).unwrap();
            assert_eq!(digest, how.digest().unwrap());
            assert!(remarks.is_empty(), "{remarks:?}");
            // QEMU has no native zero pages in IGVM files, so that it never gets that digest from one.
            assert_ne!(measured(&file, &launch(count)).unwrap().0, digest);
        }
    }
}

#[test]
fn each_kind_of_page_is_measured_as_qemu_hands_it_over() {
    let file = igvm_file(
        IgvmRevision::V1,
        vec![
            area(7, 2),
            memory_map(7),
            insert(0x9000, 7),
            page(0x1000, 0xAA),
            data(0x2000, None, IgvmPageDataType::NORMAL, false),
            data(0x3000, Some(&[0xBB; PAGE_BYTES]), IgvmPageDataType::NORMAL, true),
            data(0x4000, None, IgvmPageDataType::SECRETS, false),
            data(0x5000, Some(&[0xCC; PAGE_BYTES]), IgvmPageDataType::CPUID_DATA, false),
            data(0x6000, None, IgvmPageDataType::CPUID_XF, false),
            IgvmDirectiveHeader::RequiredMemory {
                gpa: 0x10_0000,
                compatibility_mask: MASK,
                number_of_bytes: 0x8000,
                vtl2_protectable: false,
            },
        ],
    );
    let mut expected = chain(&[
        (PageType::Unmeasured, 0x9000, 0),
        (PageType::Unmeasured, 0xA000, 0),
        (PageType::Normal, 0x1000, 0xAA),
        (PageType::Normal, 0x2000, 0),
        (PageType::Unmeasured, 0x3000, 0),
        (PageType::Secrets, 0x4000, 0),
        (PageType::Cpuid, 0x5000, 0),
        (PageType::Cpuid, 0x6000, 0),
    ]);
    let reset = reset_vmsa(RESET_VECTOR, &vcpus(2));
    (0..2).for_each(|_| expected.extend(PageType::Vmsa, KVM_VMSA_GPA, &reset));
    assert_eq!(measured(&file, &launch(2)).unwrap(), (expected, vec![Remark::NoBootVmsa]));
}

/// QEMU gathers pages and hands them over late: an area between pages comes before those that were gathered.
#[test]
fn an_area_after_pages_is_measured_before_them_and_that_is_said() {
    let own = reset_vmsa(0xFFFF_0000, &vcpus(1));
    let file = igvm_file(
        IgvmRevision::V1,
        vec![vmsa(0, &own), area(0, 1), page(0x1000, 1), page(0x2000, 2), insert(0x3000, 0), page(0x4000, 4)],
    );
    let mut expected = chain(&[
        (PageType::Unmeasured, 0x3000, 0),
        (PageType::Normal, 0x1000, 1),
        (PageType::Normal, 0x2000, 2),
        (PageType::Normal, 0x4000, 4),
    ]);
    expected.extend(PageType::Vmsa, KVM_VMSA_GPA, &own);
    assert_eq!(measured(&file, &launch(1)).unwrap(), (expected, vec![Remark::Order]));
    // Pages that the next page flushed are in the file's order.
    let file = igvm_file(
        IgvmRevision::V1,
        vec![area(0, 1), insert(0x3000, 0), page(0x1000, 1), page(0x8000, 2), vmsa(0, &own)],
    );
    assert_eq!(measured(&file, &launch(1)).unwrap().1, []);
}

/// KVM measures every processor's VMSA, last; those that the file does not give start out of reset.
#[test]
fn processors_without_a_vmsa_are_measured_out_of_reset() {
    let own = reset_vmsa(0x80_0000, &vcpus(4));
    let file = igvm_file(IgvmRevision::V1, vec![vmsa(0, &own), page(0x1000, 1)]);
    let reset = reset_vmsa(RESET_VECTOR, &vcpus(4));
    let mut expected = chain(&[(PageType::Normal, 0x1000, 1)]);
    expected.extend(PageType::Vmsa, KVM_VMSA_GPA, &own);
    let alone = expected.clone();
    (0..3).for_each(|_| expected.extend(PageType::Vmsa, KVM_VMSA_GPA, &reset));
    assert_eq!(measured(&file, &launch(4)).unwrap(), (expected, vec![]));
    let file_only = IgvmLaunch { vmsas: VmsaScope::FileOnly, ..launch(4) };
    assert_eq!(measured(&file, &file_only).unwrap(), (alone, vec![]));
}

#[test]
fn what_qemu_refuses_has_no_digest() {
    let good = reset_vmsa(RESET_VECTOR, &vcpus(1));
    let mut star = good.clone();
    star[0x200] = 1;
    let mut plain = good.clone();
    plain[0x3B0] = 0;
    let mut secure_tsc = good.clone();
    secure_tsc[0x3B1] = 2;
    let elsewhere = |gpa| match vmsa(0, &good) {
        IgvmDirectiveHeader::SnpVpContext { compatibility_mask, vp_index, vmsa, .. } => {
            IgvmDirectiveHeader::SnpVpContext { gpa, compatibility_mask, vp_index, vmsa }
        }
        other => other,
    };
    let range = IgvmDirectiveHeader::ErrorRange { gpa: 0x1000, compatibility_mask: MASK, size_bytes: 4096 };
    let one = page(0x1000, 1);
    for (directives, error) in [
        (vec![one.clone(), elsewhere(0x2000)], PlanError::VmsaAddress(0x2000)),
        (vec![one.clone(), vmsa(1, &good)], PlanError::NoSuchVcpu(1)),
        (vec![one.clone(), vmsa(0, &good), vmsa(0, &good)], PlanError::VmsaTwice(0)),
        (vec![one.clone(), vmsa(0, &star)], PlanError::VmsaField(0x200)),
        (vec![one.clone(), vmsa(0, &plain)], PlanError::Features(0)),
        (vec![one.clone(), range], PlanError::Unknown(0x30D)),
        (vec![one.clone(), area(3, 1 << 20), insert(0x2000, 3)], PlanError::TooManyPages),
        (vec![one.clone(), area(3, 0), memory_map(3), insert(0x2000, 3)], PlanError::Area(3)),
    ] {
        assert_eq!(measured(&igvm_file(IgvmRevision::V1, directives), &launch(1)).unwrap_err(), error);
    }
    let mixed = vec![one, vmsa(0, &good), vmsa(1, &secure_tsc)];
    assert_eq!(
        measured(&igvm_file(IgvmRevision::V1, mixed), &launch(2)).unwrap_err(),
        PlanError::MixedFeatures
    );
}

/// Bits that KVM or the processor set by themselves are asked for, since the digest would differ.
#[test]
fn a_vmsa_that_kvm_changes_is_remarked() {
    let mut own = reset_vmsa(RESET_VECTOR, &vcpus(1));
    own[0xD1] = 0; // EFER.SVME
    own[0x158] = 0; // CR0.ET
    let file = igvm_file(IgvmRevision::V1, vec![page(0x1000, 1), vmsa(0, &own)]);
    assert_eq!(measured(&file, &launch(1)).unwrap().1, [Remark::Svme(0), Remark::Et(0)]);
}

#[test]
fn every_directive_is_described_and_like_pages_are_folded() {
    let own = reset_vmsa(0x80_0000, &vcpus(1));
    let mut directives = vec![area(7, 2), memory_map(7), insert(0x9000, 7)];
    directives.extend((0..5).map(|index| page(0x10_0000 + index * 0x1000, index as u8 + 1)));
    directives.push(page(0x20_0000, 9));
    directives.push(data(0x4000, None, IgvmPageDataType::SECRETS, false));
    directives.push(data(0x5000, None, IgvmPageDataType::CPUID_DATA, false));
    directives.push(vmsa(0, &own));
    let bytes = igvm_file(V2, directives);
    let inspection = inspect(&IgvmFile::parse(&bytes).unwrap());
    assert_eq!((inspection.version, inspection.policy), (2, Some(POLICY)));
    let lines: Vec<_> =
        inspection.lines.iter().map(|line| (line.gpa, line.pages, line.measured.word())).collect();
    assert_eq!(
        lines,
        [
            (Some(0x9000), 2, "address"),
            (Some(0x10_0000), 5, "content"),
            (Some(0x20_0000), 1, "content"),
            (Some(0x4000), 1, "address"),
            (Some(0x5000), 1, "address"),
            (None, 1, "content"),
        ]
    );
    let text = inspection.text();
    for part in [
        "AMD SEV-SNP",
        "no debugging",
        "memory map",
        "starts at 0x800000 in real mode",
        "HOST_DATA",
        "0x9000, 0x5000",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert_eq!(inspection.json()["lines"][1]["pages"], 5);
}

/// What this crate reads, crate `igvm` reads too, and the same.
#[test]
fn files_are_read_as_crate_igvm_reads_them() {
    let own = reset_vmsa(0x80_0000, &vcpus(1));
    let bytes = igvm_file(
        V2,
        vec![page(0x1000, 1), data(0x2000, None, IgvmPageDataType::NORMAL, true), vmsa(0, &own)],
    );
    let theirs = igvm::IgvmFile::new_from_binary(&bytes, None).unwrap();
    let ours = IgvmFile::parse(&bytes).unwrap();
    for (their, our) in theirs.directives().iter().zip(&ours.directives) {
        match (their, our) {
            (
                IgvmDirectiveHeader::PageData { gpa, data, flags, .. },
                Directive::Page { gpa: own, data: page, unmeasured, .. },
            ) => {
                assert_eq!((gpa, flags.unmeasured()), (own, *unmeasured));
                assert_eq!(data.as_slice(), page.map_or(&[][..], |page| &page[..]));
            }
            (
                IgvmDirectiveHeader::SnpVpContext { vp_index, .. },
                Directive::VpContext { index, vmsa, .. },
            ) => {
                assert_eq!(vp_index, index);
                assert_eq!(vmsa.unwrap(), &*own);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(theirs.directives().len(), ours.directives.len());
}

#[test]
fn a_damaged_file_is_refused_by_what_is_wrong() {
    let bytes = igvm_file(IgvmRevision::V1, vec![page(0x1000, 1)]);
    let refused = |bytes: &[u8]| IgvmFile::parse(bytes).unwrap_err();
    assert_eq!(refused(b""), IgvmFileError::NotIgvm);
    assert_eq!(refused(b"MGVI and much more than that"), IgvmFileError::NotIgvm);
    let is = bytes.len() - 1;
    assert_eq!(refused(&bytes[..is]), IgvmFileError::Size { said: bytes.len() as u32, is });
    let changed = |at: usize, byte: u8| {
        let mut other = bytes.clone();
        other[at] = byte;
        other
    };
    assert_eq!(refused(&changed(4, 3)), IgvmFileError::Version(3));
    assert_eq!(refused(&changed(8, 32)), IgvmFileError::Headers);
    assert_eq!(refused(&changed(15, 0xFF)), IgvmFileError::Headers);
    assert_eq!(refused(&changed(20, bytes[20] ^ 1)), IgvmFileError::Checksum);
    assert_eq!(refused(&changed(40, bytes[40] ^ 1)), IgvmFileError::Checksum);
    // With the checksum made right: page data before the data section, and an unaligned address.
    let headers = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    let directive = 24 + headers - 24;
    let patched = |at: usize, byte: u8| {
        let mut other = changed(at, byte);
        other[20..24].fill(0);
        let sum = crc32fast::hash(&other[..24 + headers]);
        other[20..24].copy_from_slice(&sum.to_le_bytes());
        other
    };
    let at = directive - 8;
    for (offset, byte, problem) in [
        (0, 1, HeaderProblem::Unaligned),
        (12, 1, HeaderProblem::Data),
        (16, 1, HeaderProblem::Reserved),
        (20, 9, HeaderProblem::PageKind(9)),
    ] {
        assert_eq!(refused(&patched(directive + offset, byte)), IgvmFileError::Header { at, problem });
    }
    assert_eq!(
        refused(&patched(directive - 4, 23)),
        IgvmFileError::Header { at, problem: HeaderProblem::Length }
    );
}
