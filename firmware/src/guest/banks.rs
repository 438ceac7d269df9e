//! Which PCR banks a new TPM has: the firmware allocates them at its first start, as a PC's does (decision 12).
//!
//! From then on the allocation is the guest's to change (TPM2_PCR_Allocate), and is never touched again.

use super::GuestFault;
use super::measure::{Bank, STARTUP, execute};
use husk::engine::COMMAND_BYTES_MAX;
use husk::frontend::Tpm;

/// The banks of a new TPM.
pub const FIRST: [Bank; 2] = [Bank::Sha256, Bank::Sha384];

/// TPM_ST_SESSIONS, the size, TPM2_PCR_Allocate, TPM_RH_PLATFORM, and a password session with an empty password.
const ALLOCATE: [u8; 27] =
    [0x80, 0x02, 0, 0, 0, 55, 0, 0, 0x01, 0x2B, 0x40, 0, 0, 0x0C, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0];
/// TPML_PCR_SELECTION: how many banks, and each of three bytes of PCRs.
const BANKS: u32 = 4;
const _: () = assert!(BANKS as usize == Bank::ALL.len());
const SELECTION_BYTES: usize = 4 + Bank::ALL.len() * 6;
/// Where the response says whether there was room: behind its header and the size of its parameters.
const SUCCESS_AT: usize = 14;

/// Starts a TPM up that was never used, and allocates [`FIRST`]; that counts from its next reset on.
///
/// # Errors
/// [`GuestFault::NotMeasured`] if it does not start up, [`GuestFault::BanksRefused`].
pub fn allocate(tpm: &mut dyn Tpm) -> Result<(), GuestFault> {
    let mut response = [0; COMMAND_BYTES_MAX];
    execute(tpm, &STARTUP, &mut response)?;
    let response = execute(tpm, &command(), &mut response).map_err(|_| GuestFault::BanksRefused)?;
    if response.get(SUCCESS_AT) == Some(&1) { Ok(()) } else { Err(GuestFault::BanksRefused) }
}

fn command() -> [u8; ALLOCATE.len() + SELECTION_BYTES] {
    let mut command = [0; ALLOCATE.len() + SELECTION_BYTES];
    let (head, selection) = command.split_at_mut(ALLOCATE.len());
    head.copy_from_slice(&ALLOCATE);
    let (count, banks) = selection.split_at_mut(4);
    count.copy_from_slice(&BANKS.to_be_bytes());
    for (bank, into) in Bank::ALL.into_iter().zip(banks.chunks_exact_mut(6)) {
        let [high, low] = bank.algorithm().to_be_bytes();
        let pcrs = if FIRST.contains(&bank) { 0xFF } else { 0 };
        into.copy_from_slice(&[high, low, 3, pcrs, pcrs, pcrs]);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::allocate;
    use crate::guest::GuestFault;
    use crate::guest::measure::tests::{ALL, Pcrs};

    const PCR_ALLOCATE: u32 = 0x12B;

    /// TPM 2.0 part 3, section "TPM2_PCR_Allocate"; the bytes are tpm2-tools' for `sha1:none+sha256:all+sha384:all+sha512:none`.
    #[test]
    fn a_new_tpm_gets_sha256_and_sha384_or_no_guest_starts() {
        let refused = Err(GuestFault::BanksRefused);
        for (refuses, has_room, outcome) in
            [(None, true, Ok(())), (None, false, refused), (Some(PCR_ALLOCATE), true, refused)]
        {
            let mut tpm = Pcrs::with(&ALL);
            (tpm.refuses, tpm.has_room) = (refuses, has_room);
            assert_eq!(allocate(&mut tpm), outcome);
            let command = tpm.allocates;
            assert_eq!(usize::from(command[5]), command.len());
            assert_eq!(
                command[27..],
                [
                    0, 0, 0, 4, 0, 0x04, 3, 0, 0, 0, 0, 0x0B, 3, 0xFF, 0xFF, 0xFF, 0, 0x0C, 3, 0xFF, 0xFF,
                    0xFF, 0, 0x0D, 3, 0, 0, 0
                ]
            );
        }
    }
}
