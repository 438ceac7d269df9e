//! The TPM as front-ends see it: there always is an answer.

use super::Vtpm;
use crate::engine::{Engine, Locality};
use crate::fault::Fault;
use crate::frontend::{Tpm, reply};
use crate::nv::NvFault;
use crate::seams::Platform;
use zeroize::Zeroize;

/// A TPM together with the platform that the firmware lends for this call.
#[expect(missing_debug_implementations, reason = "the platform is made of the firmware's trait objects")]
pub struct Served<'v, 'm, 'p, E: Engine> {
    /// The TPM.
    pub vtpm: &'v mut Vtpm<'m, E>,
    /// What the world supplies.
    pub platform: &'v mut Platform<'p>,
}

impl<E: Engine> Tpm for Served<'_, '_, '_, E> {
    fn execute(&mut self, locality: Locality, command: &[u8], response: &mut [u8]) -> usize {
        let before = self.vtpm.latched();
        let fault = match self.vtpm.execute(self.platform, locality, command, response) {
            Ok(answer) => return answer.len(),
            Err(fault) => fault,
        };
        if before.is_none() && self.vtpm.latched().is_some() {
            self.platform.console.line(fault.means(), fault.code());
        }
        // What the engine answered must not be told, so it must not lie there either.
        response.zeroize();
        // The same fault means 'try again' before a command runs, and is the end after one did.
        let told = if self.vtpm.latched().is_some() { NvFault::Latched.fault() } else { fault };
        reply::write(told, command, response)
    }

    fn established(&mut self) -> bool {
        self.vtpm.engine().established()
    }

    fn reset_established(&mut self, locality: Locality) -> Result<(), Fault> {
        self.vtpm.alive()?;
        self.vtpm.suspended = None;
        Ok(self.vtpm.engine().reset_established(locality)?)
    }

    fn hash_start(&mut self) -> Result<(), Fault> {
        self.vtpm.measure(self.platform, |engine, image| engine.hash_start(image))
    }

    fn hash_data(&mut self, data: &[u8]) -> Result<(), Fault> {
        self.vtpm.measure(self.platform, |engine, image| engine.hash_data(image, data))
    }

    fn hash_end(&mut self) -> Result<(), Fault> {
        self.vtpm.measure(self.platform, |engine, image| engine.hash_end(image))
    }
}
