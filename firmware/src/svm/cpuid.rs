//! What a guest is told of its processor (AMD64 APM volume 3, appendix E).
//!
//! Everything that the layer takes away is not there: SVM and SKINIT, memory encryption, x2APIC, instruction-based sampling,
//! INVLPGB. The bit that says 'below a hypervisor' stays as the machine has it, because it is true; the hypervisor's leaves at 0x40000000
//! read zero: what they offer (a clock that is written to memory, say) would let a guest have the layer's memory written.

/// What CPUID leaves in EAX, EBX, ECX and EDX.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaf {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

const CR4_OSXSAVE: u64 = 1 << 18;
const CR4_PKE: u64 = 1 << 22;

/// Leaf 1, ECX: x2APIC; OSXSAVE, which shows the guest's CR4.
const X2APIC: u32 = 1 << 21;
const OSXSAVE: u32 = 1 << 27;
/// Leaf 7.0, ECX: OSPKE, which shows the guest's CR4.
const OSPKE: u32 = 1 << 4;
/// Leaf 8000_0001, ECX: SVM, IBS, SKINIT.
const SVM_IBS_SKINIT: u32 = 1 << 2 | 1 << 10 | 1 << 12;
/// Leaf 8000_0008, EBX: INVLPGB and TLBSYNC.
const INVLPGB: u32 = 1 << 3;

/// What the guest sees of `found`, which the processor answered for `leaf` and `subleaf`.
#[must_use]
pub const fn filter(leaf: u32, subleaf: u32, found: Leaf, guest_cr4: u64) -> Leaf {
    let Leaf { eax, ebx, ecx, edx } = found;
    match (leaf, subleaf) {
        (1, _) => {
            let shown = if guest_cr4 & CR4_OSXSAVE != 0 { OSXSAVE } else { 0 };
            Leaf { ecx: ecx & !(X2APIC | OSXSAVE) | shown, ..found }
        }
        (7, 0) => {
            let shown = if guest_cr4 & CR4_PKE != 0 { OSPKE } else { 0 };
            Leaf { ecx: ecx & !OSPKE | shown, ..found }
        }
        (0x8000_0001, _) => Leaf { ecx: ecx & !SVM_IBS_SKINIT, ..found },
        (0x8000_0008, _) => Leaf { eax, ebx: ebx & !INVLPGB, ecx, edx },
        // SVM's revision, IBS, memory encryption, and the hypervisor's leaves.
        (0x8000_000A | 0x8000_001B | 0x8000_001F | 0x4000_0000..=0x4FFF_FFFF, _) => {
            Leaf { eax: 0, ebx: 0, ecx: 0, edx: 0 }
        }
        _ => found,
    }
}

#[cfg(test)]
mod tests {
    use super::{Leaf, filter};

    const ALL: Leaf = Leaf { eax: u32::MAX, ebx: u32::MAX, ecx: u32::MAX, edx: u32::MAX };

    #[test]
    fn there_is_no_svm_and_no_hypervisor_to_talk_to() {
        assert_eq!(filter(0x8000_0001, 0, ALL, 0).ecx & 1 << 2, 0);
        for leaf in [0x8000_000A, 0x8000_001F, 0x4000_0000, 0x4000_0001, 0x4000_0100, 0x4FFF_FFFF] {
            assert_eq!(filter(leaf, 0, ALL, 0), Leaf::default());
        }
        assert_eq!(filter(0, 0, ALL, 0), ALL);
    }

    #[test]
    fn bits_that_mirror_cr4_mirror_the_guests() {
        let none = Leaf::default();
        assert_eq!(filter(1, 0, ALL, 0).ecx & (1 << 27 | 1 << 21), 0);
        assert_eq!(filter(1, 0, none, 1 << 18).ecx, 1 << 27);
        assert_eq!(filter(7, 0, none, 1 << 22).ecx, 1 << 4);
        assert_eq!(filter(7, 1, ALL, 0), ALL);
    }
}
