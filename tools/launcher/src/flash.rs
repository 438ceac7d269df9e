//! The two parts of a UEFI firmware: what is executed, and the store of its variables.

use crate::payload::{PayloadError, read};
use husk_firmware::guest::payload::{FIRMWARE_BYTES_MAX, PAGE_BYTES, VARIABLES_BYTES_MAX};
use std::path::Path;

/// Every volume of a UEFI firmware has these bytes at this place (UEFI PI 1.8, volume 3, "EFI_FIRMWARE_VOLUME_HEADER").
const SIGNATURE: &[u8; 4] = b"_FVH";
const SIGNATURE_AT: usize = 40;
/// The same: which file system the volume has, and how long it is.
const FILE_SYSTEM_AT: usize = 16;
const LENGTH_AT: usize = 32;
/// `EFI_SYSTEM_NV_DATA_FV_GUID`, FFF12B8D-7696-4C8B-A985-2747075B4F50: a volume of variables (EDK II, `MdeModulePkg/Include/Guid/SystemNvDataGuid.h`).
const VARIABLES: [u8; 16] =
    [0x8D, 0x2B, 0xF1, 0xFF, 0x96, 0x76, 0x8B, 0x4C, 0xA9, 0x85, 0x27, 0x47, 0x07, 0x5B, 0x4F, 0x50];

/// A guest's flash; empty parts where there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flash {
    /// What is executed; it ends at 4 GiB.
    pub firmware: Vec<u8>,
    /// What its variables are before any are kept; right below it.
    pub variables: Vec<u8>,
}

impl Flash {
    /// Reads a firmware, and its variables: from the front of its own file, or from `variables`.
    ///
    /// # Errors
    /// [`PayloadError`].
    pub fn read(firmware: &Path, variables: Option<&Path>) -> Result<Self, PayloadError> {
        let whole = read("firmware", firmware)?;
        let refused = || PayloadError::Firmware { path: firmware.to_owned() };
        if !has_pages(&whole, FIRMWARE_BYTES_MAX) || !is_volume(&whole) {
            return Err(refused());
        }
        let own = variables_bytes(&whole);
        let (own, code) = whole.split_at_checked(own).ok_or_else(refused)?;
        if !is_volume(code) {
            return Err(refused());
        }
        let variables = variables.map(|path| store(path, own.len())).transpose()?;
        Ok(Self { firmware: code.to_vec(), variables: variables.unwrap_or_else(|| own.to_vec()) })
    }
}

/// Reads a store of variables that takes the place of one of `own` bytes, if there is one.
fn store(path: &Path, own: usize) -> Result<Vec<u8>, PayloadError> {
    let bytes = read("firmware's variables", path)?;
    if bytes.is_empty() || !has_pages(&bytes, VARIABLES_BYTES_MAX) || variables_bytes(&bytes) != bytes.len() {
        return Err(PayloadError::Variables { path: path.to_owned() });
    }
    if own != 0 && own != bytes.len() {
        let (bytes, path) = (bytes.len(), path.to_owned());
        return Err(PayloadError::OtherVariables { path, bytes, firmware_bytes: own });
    }
    Ok(bytes)
}

fn has_pages(bytes: &[u8], most: u64) -> bool {
    let length = bytes.len() as u64;
    length <= most && length.is_multiple_of(PAGE_BYTES)
}

fn is_volume(bytes: &[u8]) -> bool {
    bytes.get(SIGNATURE_AT..SIGNATURE_AT + SIGNATURE.len()) == Some(SIGNATURE)
}

/// How long the store of variables is with which `bytes` begin; 0 if they begin with something else.
fn variables_bytes(bytes: &[u8]) -> usize {
    let field = |at: usize, length: usize| bytes.get(at..at + length);
    let is_store = is_volume(bytes) && field(FILE_SYSTEM_AT, VARIABLES.len()) == Some(&VARIABLES);
    let length = field(LENGTH_AT, 8).and_then(|length| length.try_into().ok()).map(u64::from_le_bytes);
    let length = length.filter(|length| is_store && length.is_multiple_of(PAGE_BYTES));
    length.and_then(|length| usize::try_from(length).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{FILE_SYSTEM_AT, Flash, LENGTH_AT, SIGNATURE, SIGNATURE_AT, VARIABLES};
    use std::path::Path;

    fn volume(bytes: usize, fill: u8) -> Vec<u8> {
        let mut volume = vec![fill; bytes];
        volume[SIGNATURE_AT..SIGNATURE_AT + 4].copy_from_slice(SIGNATURE);
        volume
    }

    fn store(bytes: usize, fill: u8) -> Vec<u8> {
        let mut store = volume(bytes, fill);
        store[FILE_SYSTEM_AT..FILE_SYSTEM_AT + 16].copy_from_slice(&VARIABLES);
        store[LENGTH_AT..LENGTH_AT + 8].copy_from_slice(&(bytes as u64).to_le_bytes());
        store
    }

    fn read(firmware: &[u8], variables: Option<&[u8]>) -> Result<Flash, String> {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let variables = variables.map(|bytes| put("variables", bytes));
        let firmware = put("firmware", firmware);
        Flash::read(&firmware, variables.as_deref().map(Path::new)).map_err(|why| why.to_string())
    }

    #[test]
    fn a_file_with_both_is_taken_apart_and_one_beside_it_takes_the_stores_place() {
        let (code, own, other) = (volume(0x3000, 0xC0), store(0x2000, 1), store(0x2000, 2));
        let both = [&own[..], &code].concat();
        let flash = |variables: &[u8]| Ok(Flash { firmware: code.clone(), variables: variables.to_vec() });
        assert_eq!(read(&both, None), flash(&own));
        assert_eq!(read(&both, Some(&other)), flash(&other));
        assert_eq!(read(&code, Some(&other)), flash(&other));
        assert_eq!(read(&code, None), flash(&[]));
    }

    #[test]
    fn what_is_no_firmware_or_no_store_of_its_variables_is_refused() {
        let (code, own) = (volume(0x3000, 0xC0), store(0x2000, 1));
        let both = [&own[..], &code].concat();
        for wrong in [&own[..], &both[..0x2800], &[&own[..], &[0; 0x1000]].concat(), &[]] {
            assert!(read(wrong, None).unwrap_err().contains("no UEFI firmware"));
        }
        let mut longer = own.clone();
        longer.resize(0x3000, 0xFF);
        for wrong in [&code[..], &own[..0x1000], &longer, &[], &store(0x8_5000, 1)] {
            assert!(read(&code, Some(wrong)).unwrap_err().contains("no store"));
        }
        assert!(read(&both, Some(&store(0x1000, 1))).unwrap_err().contains("came with the firmware"));
    }
}
