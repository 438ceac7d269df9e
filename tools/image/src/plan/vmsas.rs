//! The VMSAs of a launch.

use super::{IgvmLaunch, PlanError, Remark, VmsaScope, vmsa_run};
use crate::digest::Page;
use crate::igvm_file::{Directive, IgvmFile};
use crate::run::{Content, Run};
use crate::vcpu::{CR0_ET, EFER_SVME, FEATURE_SNP, KVM_VMSA_GPA, RESET_VECTOR, Vcpus, reset_vmsa};
use core::mem::offset_of;
use igvm::snp_defs::SevVmsa;
use std::collections::BTreeMap;
use zerocopy::FromBytes as _;

/// The VMSAs in the order of their processors.
pub(super) fn of<'a>(
    file: &IgvmFile<'a>,
    snp: u32,
    launch: &IgvmLaunch,
    remarks: &mut Vec<Remark>,
) -> Result<Vec<Run<'a>>, PlanError> {
    let given = given(file, snp, launch.vcpus.count, remarks)?;
    if !given.contains_key(&0) {
        remarks.push(Remark::NoBootVmsa);
    }
    let mut features = None;
    for page in given.values() {
        let own = features_of(page);
        if features.is_some_and(|known| known != own) {
            return Err(PlanError::MixedFeatures);
        }
        features = Some(own);
    }
    if launch.vmsas == VmsaScope::FileOnly {
        return Ok(given
            .into_values()
            .map(|page| vmsa_run(Content::Pages(core::slice::from_ref(page))))
            .collect());
    }
    // QEMU initializes SNP with the features of the file's VMSAs, whatever it was told otherwise.
    let vcpus = Vcpus { features: features.unwrap_or(launch.vcpus.features), ..launch.vcpus };
    let reset = reset_vmsa(RESET_VECTOR, &vcpus);
    let all = (0..launch.vcpus.count).map(|index| {
        let own = u16::try_from(index).ok().and_then(|index| given.get(&index));
        vmsa_run(match own {
            Some(page) => Content::Pages(core::slice::from_ref(*page)),
            None => Content::Made(reset.clone()),
        })
    });
    Ok(all.collect())
}

fn given<'a>(
    file: &IgvmFile<'a>,
    snp: u32,
    vcpus: u32,
    remarks: &mut Vec<Remark>,
) -> Result<BTreeMap<u16, &'a Page>, PlanError> {
    let mut given = BTreeMap::new();
    for directive in &file.directives {
        let Directive::VpContext { gpa, mask, index, vmsa: Some(vmsa) } = directive else { continue };
        if mask & snp == 0 {
            continue;
        }
        if *gpa != KVM_VMSA_GPA {
            return Err(PlanError::VmsaAddress(*gpa));
        }
        if u32::from(*index) >= vcpus {
            return Err(PlanError::NoSuchVcpu(*index));
        }
        check(vmsa, *index, remarks)?;
        if given.insert(*index, *vmsa).is_some() {
            return Err(PlanError::VmsaTwice(*index));
        }
    }
    Ok(given)
}

fn word(page: &Page, at: usize) -> u64 {
    let bytes = page.get(at..).and_then(|rest| rest.first_chunk());
    bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn features_of(page: &Page) -> u64 {
    word(page, offset_of!(SevVmsa, sev_features))
}

/// What of a VMSA QEMU hands to KVM: offsets and lengths (AMD APM volume 2, table B-4).
const HANDED: &[(usize, usize)] = &[
    (offset_of!(SevVmsa, es), 160), // all segments and descriptor tables
    (offset_of!(SevVmsa, efer), 8),
    (offset_of!(SevVmsa, cr4), 24), // and CR3, CR0
    (offset_of!(SevVmsa, dr7), 32), // and DR6, RFLAGS, RIP
    (offset_of!(SevVmsa, rsp), 8),
    (offset_of!(SevVmsa, rax), 8),
    (offset_of!(SevVmsa, pat), 8),
    (offset_of!(SevVmsa, rcx), 24), // and RDX, RBX
    (offset_of!(SevVmsa, rbp), 88), // and RSI, RDI, R8 to R15
    (offset_of!(SevVmsa, sev_features), 8),
    (offset_of!(SevVmsa, xcr0), 8),
    (offset_of!(SevVmsa, mxcsr), 4),
    (offset_of!(SevVmsa, x87_fcw), 2),
];

const _: () = assert!(offset_of!(SevVmsa, cr0) == offset_of!(SevVmsa, cr4) + 16);
const _: () = assert!(offset_of!(SevVmsa, rip) == offset_of!(SevVmsa, dr7) + 24);
const _: () = assert!(offset_of!(SevVmsa, rbx) == offset_of!(SevVmsa, rcx) + 16);
const _: () = assert!(offset_of!(SevVmsa, r15) == offset_of!(SevVmsa, rbp) + 80);
const _: () = assert!(offset_of!(SevVmsa, tr) == offset_of!(SevVmsa, es) + 144);

fn check(page: &Page, index: u16, remarks: &mut Vec<Remark>) -> Result<(), PlanError> {
    let handed = |at: usize| HANDED.iter().any(|(start, bytes)| (*start..start + bytes).contains(&at));
    if let Some(at) = (0..page.len()).find(|at| page[*at] != 0 && !handed(*at)) {
        return Err(PlanError::VmsaField(at));
    }
    let features = features_of(page);
    if features & FEATURE_SNP == 0 {
        return Err(PlanError::Features(features));
    }
    if let Ok(vmsa) = SevVmsa::ref_from_bytes(page) {
        if vmsa.efer & EFER_SVME == 0 {
            remarks.push(Remark::Svme(index));
        }
        if vmsa.cr0 & CR0_ET == 0 {
            remarks.push(Remark::Et(index));
        }
    }
    Ok(())
}
