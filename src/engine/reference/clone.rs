//! Makes a TPM that is another's no more: new seeds and proofs in every hierarchy, and nothing of whom it was copied from.
//!
//! The platform does it with its own commands, since its authorization is empty after every TPM Reset (TPM 2.0 part 3): TPM2_Clear takes what
//! the owner defined and set, and renews the storage hierarchy; what indices are left are the platform's, and it undefines them, the certificates
//! of endorsement keys among them; TPM2_ChangePPS and TPM2_ChangeEPS renew the other hierarchies. Each evicts the objects beneath. What stays is
//! how the TPM is set up: banks of PCRs and their policies, which commands are audited and which take physical presence.

use super::super::{Command, Engine, EngineFault, ResponseCode};
use super::ReferenceEngine;
use super::certified::{NV_UNDEFINE_SPACE, for_index};
use super::endorsement::{GET_CAPABILITY, PLATFORM};
use super::inquiry::Request;
use crate::nv::NvImage;

/// TPM_CC_ChangeEPS, TPM_CC_ChangePPS (TPM 2.0 part 2, table TPM_CC).
const CHANGE_EPS: u32 = 0x124;
const CHANGE_PPS: u32 = 0x125;
/// TPM_CAP_HANDLES (part 2, table TPM_CAP), and where NV indices begin (part 2, table TPM_HC: HR_NV_INDEX).
const HANDLES: u32 = 1;
const NV_INDEX_FIRST: u32 = 0x0100_0000;
/// More than a state has indices.
const INDICES_MAX: usize = 1024;

impl ReferenceEngine {
    /// Leaves the stored state with new seeds, shut down in order. The engine is off, before and afterwards.
    pub(super) fn renew(&mut self, nv: &mut NvImage<'_>) -> Result<(), EngineFault> {
        let renewed = self.clear_as_platform(nv).and_then(|()| self.renew_cleared(nv));
        self.power_off();
        renewed
    }

    fn renew_cleared(&mut self, nv: &mut NvImage<'_>) -> Result<(), EngineFault> {
        self.undefine_all(nv)?;
        self.expect(nv, Request::authorized(CHANGE_PPS, PLATFORM))?;
        self.expect(nv, Request::authorized(CHANGE_EPS, PLATFORM))?;
        self.expect(nv, Request::new(false, Command::SHUTDOWN).put(&[0, 0])).map(drop)
    }

    fn undefine_all(&mut self, nv: &mut NvImage<'_>) -> Result<(), EngineFault> {
        for _ in 0..INDICES_MAX {
            let Some(index) = self.first_index(nv)? else { return Ok(()) };
            // One with TPMA_NV_POLICY_DELETE goes by its own policy alone.
            if self.ask(nv, for_index(NV_UNDEFINE_SPACE, index))?.code() != ResponseCode::SUCCESS {
                return Err(EngineFault::CloneRefused);
            }
        }
        Err(EngineFault::CloneRefused)
    }

    fn first_index(&mut self, nv: &mut NvImage<'_>) -> Result<Option<u32>, EngineFault> {
        let request = Request::new(false, GET_CAPABILITY).word(HANDLES).word(NV_INDEX_FIRST).word(1);
        self.expect(nv, request)?.first_listed().ok_or(EngineFault::Failed)
    }
}
