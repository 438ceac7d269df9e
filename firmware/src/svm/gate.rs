//! VMMCALL as an SVSM's call gate: which calls there are, and how one waits for its answer.
//!
//! On SEV-SNP a guest asks its SVSM by VMGEXIT, with the protocol and the call in RAX (AMD 58019, section 5, "Calling
//! convention"); here VMMCALL stands for it, with the same registers. On AMD's processors VMMCALL is also the hypercall of KVM
//! and others, whose numbers all have zeros in RAX 63:32, where the core protocol is too: so protocol 0 is not offered, and such a
//! hypercall finds what a processor without a hypervisor has, #UD. So does a caller that cannot make a call: one outside of
//! 64-bit mode has no such RAX, and one outside of ring 0 is no guest's kernel.
//!
//! A call is answered by the processor that serves, between commands from the CRB, in turn. The caller waits in the layer, as it
//! would at VMPL 0; only INIT, a reset and the end of the machine take it away.

use super::vmcb::{EFER_LMA, Save};
use crate::wishes::Gate;
use husk::frontend::crb::handover::Doorbell;
use husk::frontend::svsm::Registers;
use spin::Mutex;

/// The protocol of this layer alone: "HUSK". Its call 0 says that something was written to a CRB in the guest's memory.
pub const DOORBELL: Doorbell = Doorbell { protocol: 0x4855_534B, call: 0 };
const DOORBELL_RAX: u64 = (DOORBELL.protocol as u64) << 32 | DOORBELL.call as u64;

/// The code segment among [`Save::segments`].
const CODE: usize = 1;

/// What a VMMCALL is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// No instruction of this guest.
    Undefined,
    /// Look at the CRB.
    Doorbell,
    /// A call, which `husk::frontend::svsm` answers.
    Call(Registers),
}

/// Judges a VMMCALL of a guest in the state `save`.
#[must_use]
pub fn judge(gate: Gate, save: &Save, registers: Registers) -> Ruling {
    let in_long_mode = save.efer & EFER_LMA != 0 && save.segments[CODE].is_long();
    match (gate, registers.rax >> 32) {
        (Gate::Closed, _) | (Gate::Open, 0) => Ruling::Undefined,
        _ if save.cpl != 0 || !in_long_mode => Ruling::Undefined,
        _ if registers.rax == DOORBELL_RAX => Ruling::Doorbell,
        _ => Ruling::Call(registers),
    }
}

/// One virtual processor's call. Its processor posts, withdraws and collects; the one that serves takes and answers.
#[derive(Debug)]
pub struct Slot(Mutex<Phase>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// There is none.
    Free,
    /// One waits.
    Posted(Registers),
    /// One is served.
    Served,
    /// One is served whose caller is gone: nobody will see the answer.
    Orphaned,
    /// There is an answer.
    Answered(Registers),
}

impl Slot {
    /// One without a call.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(Phase::Free))
    }

    /// Posts a call; false while one of an earlier life of this virtual processor is still served.
    #[must_use]
    pub fn post(&self, call: Registers) -> bool {
        let mut phase = self.0.lock();
        let free = *phase == Phase::Free;
        if free {
            *phase = Phase::Posted(call);
        }
        free
    }

    /// The caller is gone.
    pub fn withdraw(&self) {
        let mut phase = self.0.lock();
        *phase = match *phase {
            Phase::Free | Phase::Posted(_) | Phase::Answered(_) => Phase::Free,
            Phase::Served | Phase::Orphaned => Phase::Orphaned,
        };
    }

    /// The answer, once there is one.
    #[must_use]
    pub fn collect(&self) -> Option<Registers> {
        let mut phase = self.0.lock();
        match *phase {
            Phase::Answered(answer) => {
                *phase = Phase::Free;
                Some(answer)
            }
            Phase::Free | Phase::Posted(_) | Phase::Served | Phase::Orphaned => None,
        }
    }

    /// Takes a call that waits, to serve it.
    #[must_use]
    pub fn take(&self) -> Option<Registers> {
        let mut phase = self.0.lock();
        match *phase {
            Phase::Posted(call) => {
                *phase = Phase::Served;
                Some(call)
            }
            Phase::Free | Phase::Served | Phase::Orphaned | Phase::Answered(_) => None,
        }
    }

    /// Answers the call that was taken.
    pub fn answer(&self, answer: Registers) {
        let mut phase = self.0.lock();
        *phase = match *phase {
            Phase::Served => Phase::Answered(answer),
            Phase::Orphaned => Phase::Free,
            other @ (Phase::Free | Phase::Posted(_) | Phase::Answered(_)) => other,
        };
    }
}

impl Default for Slot {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::{DOORBELL_RAX, Ruling, Slot, judge};
    use crate::svm::vmcb::{EFER_LMA, Save, Vmcb};
    use crate::wishes::Gate;
    use husk::frontend::svsm::Registers;
    use std::boxed::Box;

    const LONG: u16 = 1 << 9;

    fn caller(cpl: u8, efer: u64, code: u16) -> Save {
        let mut save = Box::new(Vmcb::EMPTY).save;
        (save.cpl, save.efer, save.segments[1].attributes) = (cpl, efer, code);
        save
    }

    fn ruled(gate: Gate, save: &Save, rax: u64) -> Ruling {
        judge(gate, save, Registers { rax, ..Registers::default() })
    }

    #[test]
    fn only_a_kernel_in_64_bit_mode_calls_and_only_through_an_open_gate() {
        let call = |rax| Ruling::Call(Registers { rax, ..Registers::default() });
        let kernel = caller(0, EFER_LMA, LONG);
        for rax in [1 << 32, 2 << 32 | 1, 7 << 32, u64::MAX, DOORBELL_RAX | 1] {
            assert_eq!(ruled(Gate::Open, &kernel, rax), call(rax));
            assert_eq!(ruled(Gate::Closed, &kernel, rax), Ruling::Undefined);
            for other in [caller(3, EFER_LMA, LONG), caller(0, EFER_LMA, 0), caller(0, 0, LONG)] {
                assert_eq!(ruled(Gate::Open, &other, rax), Ruling::Undefined);
            }
        }
        assert_eq!(ruled(Gate::Open, &kernel, DOORBELL_RAX), Ruling::Doorbell);
        assert_eq!(ruled(Gate::Closed, &kernel, DOORBELL_RAX), Ruling::Undefined);
        assert_eq!(ruled(Gate::Open, &caller(3, EFER_LMA, LONG), DOORBELL_RAX), Ruling::Undefined);
    }

    /// KVM's hypercalls (Linux, `include/uapi/linux/kvm_para.h`), VMware's magic number and the core protocol.
    #[test]
    fn the_hypercalls_of_others_are_no_instruction() {
        for rax in [0, 1, 5, 9, 10, 12, 0x564D_5868, 0xFFFF_FFFF] {
            assert_eq!(ruled(Gate::Open, &caller(0, EFER_LMA, LONG), rax), Ruling::Undefined);
        }
    }

    fn registers(rax: u64) -> Registers {
        Registers { rax, ..Registers::default() }
    }

    #[test]
    fn a_call_is_taken_once_and_its_answer_collected_once() {
        let slot = Slot::new();
        assert_eq!((slot.take(), slot.collect()), (None, None));
        assert!(slot.post(registers(1)) && !slot.post(registers(2)));
        assert_eq!((slot.collect(), slot.take(), slot.take()), (None, Some(registers(1)), None));
        slot.answer(registers(3));
        assert_eq!((slot.collect(), slot.collect()), (Some(registers(3)), None));
        slot.answer(registers(4));
        assert_eq!(slot.collect(), None, "an answer to nothing");
    }

    #[test]
    fn who_starts_anew_never_gets_the_answer_to_an_earlier_call() {
        let slot = Slot::new();
        assert!(slot.post(registers(1)));
        slot.withdraw();
        assert_eq!(slot.take(), None, "it was not begun, so it is not begun any more");
        assert!(slot.post(registers(2)));
        assert_eq!(slot.take(), Some(registers(2)));
        slot.withdraw();
        assert!(!slot.post(registers(3)), "not before the earlier one is done");
        slot.answer(registers(9));
        assert_eq!(slot.collect(), None);
        assert!(slot.post(registers(3)));
        assert_eq!(slot.take(), Some(registers(3)));
        slot.answer(registers(4));
        slot.withdraw();
        assert_eq!(slot.collect(), None);
    }
}
