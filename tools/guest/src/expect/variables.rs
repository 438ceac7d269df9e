//! The variables that a UEFI firmware begins with, as `virt-fw-vars` and OVMF's build write them.
//!
//! **What.** The file's authenticated variables, and of them PCR 7: which keys Secure Boot has, and which of them let the kernel image start.
//! **Trust.** The tenant's own file; a wrong one gives an error or another PCR, and nothing else.
//! **Laws.** What the firmware would find is found here: a variable counts if it was added and not deleted, and each is there once.
//! **Not here.** What the firmware does with a file that it repairs: `husk vm enroll` names the file as it is.

use super::ExpectError;
use super::pcr::{Pcr, digest, separator};
use sha2::{Digest as _, Sha256};

/// EFI_SYSTEM_NV_DATA_FV_GUID (EDK2, MdeModulePkg/Include/Guid/SystemNvDataGuid.h), as it lies in memory.
const NV_DATA: [u8; 16] = guid(0xfff1_2b8d, 0x7696, 0x4c8b, [0xa9, 0x85, 0x27, 0x47, 0x07, 0x5b, 0x4f, 0x50]);
/// EFI_AUTHENTICATED_VARIABLE_GUID (EDK2, MdeModulePkg/Include/Guid/VariableFormat.h).
const AUTHENTICATED: [u8; 16] =
    guid(0xaaf3_2c78, 0x947b, 0x439a, [0xa1, 0x80, 0x2e, 0x14, 0x4e, 0xc3, 0x77, 0x92]);
/// EFI_GLOBAL_VARIABLE (UEFI 2.10, section 3.3).
const GLOBAL: [u8; 16] = guid(0x8be4_df61, 0x93ca, 0x11d2, [0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c]);
/// EFI_IMAGE_SECURITY_DATABASE_GUID (UEFI 2.10, section 32.6.1).
const DATABASE: [u8; 16] =
    guid(0xd719_b2cb, 0x3d3a, 0x4596, [0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f]);
/// EFI_CERT_X509_GUID (UEFI 2.10, section 32.4.1).
const X509: [u8; 16] = guid(0xa5c0_59a1, 0x94e4, 0x4aa7, [0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72]);

/// VARIABLE_STORE_HEADER: signature, size, format, state and reserved.
const STORE_HEADER_BYTES: usize = 28;
/// VARIABLE_DATA, VARIABLE_STORE_FORMATTED and VARIABLE_STORE_HEALTHY.
const ADDED: u8 = 0x3F;
const FORMATTED: u8 = 0x5A;
const HEALTHY: u8 = 0xFE;
const VARIABLE_START: u16 = 0x55AA;
/// AUTHENTICATED_VARIABLE_HEADER, packed.
const VARIABLE_HEADER_BYTES: usize = 60;
/// HEADER_ALIGNMENT.
const ALIGNMENT: usize = 4;
/// More than OVMF's store has room for.
const VARIABLES_MAX: usize = 4096;

/// EFI_SIGNATURE_LIST up to SignatureHeader, and EFI_SIGNATURE_DATA's SignatureOwner (UEFI 2.10, section 32.4.1).
const LIST_HEADER_BYTES: usize = 28;
const OWNER_BYTES: usize = 16;

/// What Secure Boot is measured by, in this order (TCG PC Client Platform Firmware Profile 1.06, section 3.3.4.8 "PCR[7]"). OVMF measures a
/// database that is not there as one without data.
const MEASURED: [(&str, [u8; 16]); 5] =
    [("SecureBoot", GLOBAL), ("PK", GLOBAL), ("KEK", GLOBAL), ("db", DATABASE), ("dbx", DATABASE)];

/// The variables in a file.
#[derive(Debug)]
pub(super) struct Variables<'f> {
    variables: Vec<Variable<'f>>,
}

#[derive(Debug)]
struct Variable<'f> {
    vendor: &'f [u8],
    /// UTF-16, with its end.
    name: &'f [u8],
    data: &'f [u8],
}

/// A GUID as it lies in memory (UEFI 2.10, appendix A).
const fn guid(a: u32, b: u16, c: u16, d: [u8; 8]) -> [u8; 16] {
    let ([a0, a1, a2, a3], [b0, b1], [c0, c1]) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
    [a0, a1, a2, a3, b0, b1, c0, c1, d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
}

impl<'f> Variables<'f> {
    /// Reads them all.
    ///
    /// # Errors
    /// [`ExpectError::Variables`].
    pub(super) fn parse(file: &'f [u8]) -> Result<Self, ExpectError> {
        let bad = ExpectError::Variables;
        // EFI_FIRMWARE_VOLUME_HEADER (PI 1.8, volume 3, section 3.2.1): its kind at 16, its own length at 48.
        if file.get(16..32) != Some(&NV_DATA[..]) {
            return Err(bad("it is no volume of variables"));
        }
        let header = usize::from(u16_at(file, 48).ok_or(bad("it is cut"))?);
        let store = file.get(header..).ok_or(bad("it is cut"))?;
        let bytes = u32_at(store, 16).ok_or(bad("it is cut"))?;
        let healthy = store.get(20..22) == Some(&[FORMATTED, HEALTHY][..]);
        if store.get(..16) != Some(&AUTHENTICATED[..]) || !healthy {
            return Err(bad("its store is not one of authenticated variables"));
        }
        let store = store.get(STORE_HEADER_BYTES..bytes).ok_or(bad("its store is longer than the file"))?;
        Ok(Self { variables: variables(store)? })
    }

    fn find(&self, vendor: &[u8; 16], name: &str) -> Option<&'f [u8]> {
        let name = utf16(name);
        let mut found = self.variables.iter();
        found
            .find(|variable| variable.vendor == vendor && variable.name.strip_suffix(&[0, 0]) == Some(&name))
            .map(|found| found.data)
    }

    /// PCR 7 of a boot whose kernel image is signed by the certificate with this SHA-256.
    ///
    /// # Errors
    /// [`ExpectError::Variables`] if that certificate, or a key that Secure Boot needs, is not there.
    pub(super) fn pcr_7(&self, certificate: &[u8; 32]) -> Result<Pcr, ExpectError> {
        let mut pcr = Pcr::default();
        for (name, vendor) in MEASURED {
            let data = match name {
                // No variable of the store: the firmware makes it, of whether there is a PK.
                "SecureBoot" => Some(&[1][..]),
                "dbx" => Some(self.find(&vendor, name).unwrap_or_default()),
                _ => self.find(&vendor, name),
            };
            let data = data.ok_or(ExpectError::Variables("Secure Boot's keys are not enrolled in it"))?;
            pcr.extend(&measured(name, &vendor, data));
        }
        pcr.extend(&separator());
        let database = self.find(&DATABASE, "db").unwrap_or_default();
        pcr.extend(&measured("db", &DATABASE, signer(database, certificate)?));
        Ok(pcr)
    }
}

fn variables(store: &[u8]) -> Result<Vec<Variable<'_>>, ExpectError> {
    let cut = || ExpectError::Variables("a variable is cut");
    let (mut found, mut at) = (Vec::new(), 0_usize);
    while u16_at(store, at) == Some(VARIABLE_START) {
        let header = store.get(at..at + VARIABLE_HEADER_BYTES).ok_or_else(cut)?;
        let [name_bytes, data_bytes] = [36, 40].map(|field| u32_at(header, field).unwrap_or_default());
        let rest = &store[at + VARIABLE_HEADER_BYTES..];
        let (name, rest) = rest.split_at_checked(name_bytes).ok_or_else(cut)?;
        let data = rest.get(..data_bytes).ok_or_else(cut)?;
        if header[2] == ADDED {
            found.push(Variable { vendor: &header[44..60], name, data });
        }
        if found.len() > VARIABLES_MAX {
            return Err(ExpectError::Variables("it holds more variables than a firmware keeps"));
        }
        at = (at + VARIABLE_HEADER_BYTES + name_bytes + data_bytes).next_multiple_of(ALIGNMENT);
    }
    Ok(found)
}

/// The digest of UEFI_VARIABLE_DATA (TCG PC Client Platform Firmware Profile 1.06, section 10.2.6).
fn measured(name: &str, vendor: &[u8; 16], data: &[u8]) -> [u8; 32] {
    let name = utf16(name);
    let [units, bytes] = [name.len() / 2, data.len()].map(|length| (length as u64).to_le_bytes());
    digest(&[vendor, &units, &bytes, &name, data])
}

/// EFI_SIGNATURE_DATA of the certificate with this SHA-256, in a database.
fn signer<'d>(database: &'d [u8], certificate: &[u8; 32]) -> Result<&'d [u8], ExpectError> {
    let cut = || ExpectError::Variables("its list of who may sign is cut");
    let mut rest = database;
    while !rest.is_empty() {
        let [list, header, entry] = [16, 20, 24].map(|field| u32_at(rest, field));
        let (Some(list), Some(header), Some(entry)) = (list, header, entry) else { return Err(cut()) };
        let (this, behind) = rest.split_at_checked(list).ok_or_else(cut)?;
        let entries = this.get(LIST_HEADER_BYTES + header..).ok_or_else(cut)?;
        if entry <= OWNER_BYTES {
            return Err(cut());
        }
        let of_certificates = this[..16] == X509;
        let mut entries = entries.chunks_exact(entry).filter(|_| of_certificates);
        if let Some(found) = entries.find(|found| *Sha256::digest(&found[OWNER_BYTES..]) == *certificate) {
            return Ok(found);
        }
        rest = behind;
    }
    Err(ExpectError::Variables(
        "it does not let the kernel image start: its signer's certificate is not in `db`",
    ))
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?)).ok()
}
