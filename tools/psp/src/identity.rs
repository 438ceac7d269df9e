//! Who a simulated processor is: its roots, its chip and the key that signs reports.
//!
//! **What.** [`Identity`] is made by `husk psp init`, kept in a folder, or made from the published test root.
//! **Trust.** None is deserved: see the crate's head. The files with keys are readable by their owner alone.
//! **Laws.** The root's own key is thrown away when it has signed the intermediate (but the published root's, which lies in the source). An existing folder is never
//! overwritten.
//! **Not here.** The shape of certificates: `issue.rs`.

use crate::issue::{self, Content, Revocations};
use husk::attest::report::{Generation, Layout, SIGNED_BYTES, Tcb};
use husk::seams::EntropyError;
use p384::ecdsa::signature::Signer;
use p384::ecdsa::{Signature, SigningKey};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use rsa::RsaPrivateKey;
use rsa::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use x509_cert::der::pem::{self, LineEnding};
use zerocopy::IntoBytes;
use zeroize::Zeroizing;

/// Where a processor's random bytes come from.
pub type Entropy = Box<dyn FnMut(&mut [u8]) -> Result<(), EntropyError> + Send>;

/// The operating system's entropy.
#[must_use]
pub fn os_entropy() -> Entropy {
    Box::new(|into| getrandom::fill(into).map_err(|_| EntropyError))
}

/// What the processor plays: EPYC 9004 at patch levels seen in the field.
pub(crate) const GENERATION: Generation = Generation::Genoa;
/// Family, model, stepping.
pub(crate) const CPUID: [u8; 3] = [0x19, 0x11, 0x01];
/// The patch levels: all of CURRENT, REPORTED, COMMITTED and LAUNCH_TCB, and the VCEK's.
pub(crate) const TCB: Tcb = Tcb { fmc: None, bootloader: 10, tee: 0, snp: 25, microcode: 84 };

const RSA_BITS: usize = 4096;
/// The intermediate's common name has to follow the root's, as AMD's do: `ARK-x`, `SEV-x`.
const NAME: &str = "Husk-Simulated";
const PUBLISHED_NAME: &str = "Husk-Simulated-Published";

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file or folder.
    #[error("cannot use {path}: {why}. Check the path and its permissions")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        why: std::io::Error,
    },
    /// A file's content.
    #[error("{0} is not what `husk psp init` wrote. Make a new folder with it")]
    Garbled(PathBuf),
    /// No entropy.
    #[error("the system gives no entropy. Nothing can be made without it")]
    Entropy,
    /// The cryptographic library failed.
    #[error("a certificate or key could not be made. This is a defect of this program")]
    Encoding,
}

impl From<x509_cert::der::Error> for IdentityError {
    fn from(_: x509_cert::der::Error) -> Self {
        Self::Encoding
    }
}

impl From<EntropyError> for IdentityError {
    fn from(_: EntropyError) -> Self {
        Self::Entropy
    }
}

/// The authority that makes chips: the root's certificate, the intermediate with its key.
#[derive(Clone)]
struct Authority {
    /// `x` of `ARK-x` and `SEV-x`.
    name: String,
    ark_der: Vec<u8>,
    ask_der: Vec<u8>,
    ask_key: RsaPrivateKey,
}

/// One simulated chip: its certificates and the key that signs its reports.
#[derive(Clone)]
pub struct Identity {
    authority: Authority,
    hwid: [u8; 64],
    vcek_der: Vec<u8>,
    vcek: SigningKey,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity of a simulated processor under ARK-{}", self.authority.name)
    }
}

impl Identity {
    /// Makes a root of its own and one chip under it. Takes seconds: two RSA-4096 keys.
    ///
    /// # Errors
    /// [`IdentityError::Entropy`], [`IdentityError::Encoding`].
    pub fn generate(entropy: &mut Entropy) -> Result<Self, IdentityError> {
        let authority = Authority::generate(NAME, entropy)?;
        Self::issue(authority, entropy)
    }

    /// Makes another chip under this one's root.
    ///
    /// # Errors
    /// [`IdentityError::Entropy`], [`IdentityError::Encoding`].
    pub fn sibling(&self, entropy: &mut Entropy) -> Result<Self, IdentityError> {
        Self::issue(self.authority.clone(), entropy)
    }

    /// **For tests alone**: chip number `chip` under a root whose keys are public, lying in this crate's source.
    ///
    /// Takes no time and needs no entropy; the same number gives the same chip everywhere.
    ///
    /// # Errors
    /// [`IdentityError::Encoding`] if the crate's files are not the ones it was released with.
    pub fn published(chip: u8) -> Result<Self, IdentityError> {
        let ask_key = RsaPrivateKey::from_pkcs8_der(include_bytes!("../data/published/ask.key"))
            .map_err(|_| IdentityError::Encoding)?;
        let authority = Authority {
            name: PUBLISHED_NAME.to_owned(),
            ark_der: include_bytes!("../data/published/ark.der").to_vec(),
            ask_der: include_bytes!("../data/published/ask.der").to_vec(),
            ask_key,
        };
        let mut counter = 0u8;
        let mut entropy: Entropy = Box::new(move |into| {
            for (index, byte) in into.iter_mut().enumerate() {
                *byte = chip ^ counter.wrapping_mul(97) ^ index.wrapping_mul(59).to_le_bytes()[0] ^ 0x5A;
            }
            counter = counter.wrapping_add(1);
            Ok(())
        });
        Self::issue(authority, &mut entropy)
    }

    /// **For tests alone**: what the published root has revoked.
    ///
    /// # Errors
    /// [`IdentityError::Encoding`] if the crate's files are not the ones it was released with.
    pub fn published_revocations(what: &Revocations) -> Result<Vec<u8>, IdentityError> {
        let key = RsaPrivateKey::from_pkcs8_der(include_bytes!("../data/published/ark.key"))
            .map_err(|_| IdentityError::Encoding)?;
        what.sign(PUBLISHED_NAME, &key, &mut ChaCha20Rng::from_seed([7; 32]))
    }

    fn issue(authority: Authority, entropy: &mut Entropy) -> Result<Self, IdentityError> {
        let mut hwid = [0; 64];
        entropy(&mut hwid)?;
        let mut scalar = Zeroizing::new([0; 48]);
        entropy(&mut scalar[..])?;
        let vcek = SigningKey::from_slice(&scalar[..]).map_err(|_| IdentityError::Encoding)?;
        let content = Content {
            serial: 0,
            issuer: format!("SEV-{}", authority.name),
            subject: "SEV-VCEK".to_owned(),
            key: issue::p384_key(vcek.verifying_key())?,
            extensions: issue::vcek(GENERATION.name(), &TCB, &hwid)?,
        };
        let vcek_der = content.sign(&authority.ask_key, &mut generator(entropy)?)?;
        Ok(Self { authority, hwid, vcek_der, vcek })
    }

    /// The DER certificate of the key that signs reports.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.vcek_der
    }

    /// The chip.
    #[must_use]
    pub const fn hwid(&self) -> &[u8; 64] {
        &self.hwid
    }

    /// Signs a report of any content in place. A simulated processor can say anything; a real one only what is so.
    ///
    /// # Errors
    /// [`IdentityError::Encoding`].
    pub fn sign(&self, report: &mut Layout) -> Result<(), IdentityError> {
        let signature: Signature =
            self.vcek.try_sign(&report.as_bytes()[..SIGNED_BYTES]).map_err(|_| IdentityError::Encoding)?;
        let (r, s) = signature.split_bytes();
        for (stored, scalar) in [(&mut report.signature_r, r), (&mut report.signature_s, s)] {
            stored[..48].copy_from_slice(&scalar);
            stored[..48].reverse();
        }
        Ok(())
    }

    /// What this chip's derived keys come from: its signing key, as good as a secret of its own in a simulation.
    pub(crate) fn root_of_keys(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.vcek.to_bytes().to_vec())
    }

    /// Intermediate and root as PEM: what a verifier that accepts this simulation is given.
    ///
    /// # Errors
    /// [`IdentityError::Encoding`].
    pub fn chain_pem(&self) -> Result<String, IdentityError> {
        let encode = |der: &[u8]| {
            pem::encode_string("CERTIFICATE", LineEnding::LF, der).map_err(|_| IdentityError::Encoding)
        };
        Ok(encode(&self.authority.ask_der)? + &encode(&self.authority.ark_der)?)
    }

    /// Writes everything into the new folder `dir`: `chain.pem`, `ark.der`, `ask.der`, `vcek.der`, `hwid`, and the keys
    /// `ask.key` (PKCS #8) and `vcek.key` (a P-384 scalar), readable by their owner alone.
    ///
    /// # Errors
    /// [`IdentityError::File`], also if the folder exists and is not empty.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        let fail = |why| IdentityError::File { path: dir.to_owned(), why };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(fail)?;
        let ask_key = self.authority.ask_key.to_pkcs8_der().map_err(|_| IdentityError::Encoding)?;
        let vcek = Zeroizing::new(self.vcek.to_bytes());
        write_new(&dir.join("ask.key"), 0o600, ask_key.as_bytes())?;
        write_new(&dir.join("vcek.key"), 0o600, &vcek[..])?;
        write_new(&dir.join("ark.der"), 0o644, &self.authority.ark_der)?;
        write_new(&dir.join("ask.der"), 0o644, &self.authority.ask_der)?;
        write_new(&dir.join("vcek.der"), 0o644, &self.vcek_der)?;
        write_new(&dir.join("hwid"), 0o644, &self.hwid)?;
        write_new(&dir.join("chain.pem"), 0o644, self.chain_pem()?.as_bytes())
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// [`IdentityError::File`], [`IdentityError::Garbled`].
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let read = |name: &str| {
            let path = dir.join(name);
            std::fs::read(&path).map_err(|why| IdentityError::File { path, why })
        };
        let garbled = |name: &str| IdentityError::Garbled(dir.join(name));
        let ask_key = Zeroizing::new(read("ask.key")?);
        let vcek = Zeroizing::new(read("vcek.key")?);
        let ark_der = read("ark.der")?;
        let authority = Authority {
            name: issue::root_name(&ark_der).ok_or_else(|| garbled("ark.der"))?,
            ark_der,
            ask_der: read("ask.der")?,
            ask_key: RsaPrivateKey::from_pkcs8_der(&ask_key).map_err(|_| garbled("ask.key"))?,
        };
        Ok(Self {
            authority,
            hwid: read("hwid")?.try_into().map_err(|_| garbled("hwid"))?,
            vcek_der: read("vcek.der")?,
            vcek: SigningKey::from_slice(&vcek).map_err(|_| garbled("vcek.key"))?,
        })
    }
}

impl Authority {
    /// Two RSA keys, side by side since each takes seconds. The root's is dropped once it has signed.
    fn generate(name: &str, entropy: &mut Entropy) -> Result<Self, IdentityError> {
        Self::generate_with_root(name, entropy).map(|(authority, _)| authority)
    }

    fn generate_with_root(name: &str, entropy: &mut Entropy) -> Result<(Self, RsaPrivateKey), IdentityError> {
        let (mut first, mut second, mut signing) =
            (generator(entropy)?, generator(entropy)?, generator(entropy)?);
        let ark = std::thread::spawn(move || RsaPrivateKey::new(&mut first, RSA_BITS));
        let ask_key = RsaPrivateKey::new(&mut second, RSA_BITS).map_err(|_| IdentityError::Encoding)?;
        let ark = ark.join().map_err(|_| IdentityError::Encoding)?.map_err(|_| IdentityError::Encoding)?;
        let root = Content {
            serial: 1,
            issuer: format!("ARK-{name}"),
            subject: format!("ARK-{name}"),
            key: issue::rsa_key(&ark)?,
            extensions: issue::authority(false)?,
        };
        let intermediate = Content {
            serial: 2,
            issuer: format!("ARK-{name}"),
            subject: format!("SEV-{name}"),
            key: issue::rsa_key(&ask_key)?,
            extensions: issue::authority(true)?,
        };
        let authority = Self {
            name: name.to_owned(),
            ark_der: root.sign(&ark, &mut signing)?,
            ask_der: intermediate.sign(&ark, &mut signing)?,
            ask_key,
        };
        Ok((authority, ark))
    }
}

/// A generator seeded from `entropy`.
fn generator(entropy: &mut Entropy) -> Result<ChaCha20Rng, IdentityError> {
    let mut seed = Zeroizing::new([0; 32]);
    entropy(&mut seed[..])?;
    Ok(ChaCha20Rng::from_seed(*seed))
}

/// Writes a file that must not exist yet.
fn write_new(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), IdentityError> {
    let fail = |why| IdentityError::File { path: path.to_owned(), why };
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(fail)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::{Authority, Entropy, Identity, PUBLISHED_NAME};
    use rsa::pkcs8::EncodePrivateKey;
    use std::path::Path;

    #[test]
    #[ignore = "makes data/published anew (the same bytes), which takes seconds"]
    fn remake_the_published_root() {
        let mut counter = 0u8;
        let mut entropy: Entropy = Box::new(move |into| {
            counter += 1;
            into.fill(counter);
            Ok(())
        });
        let (authority, ark) = Authority::generate_with_root(PUBLISHED_NAME, &mut entropy).unwrap();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/published");
        std::fs::write(folder.join("ark.der"), &authority.ark_der).unwrap();
        std::fs::write(folder.join("ask.der"), &authority.ask_der).unwrap();
        std::fs::write(folder.join("ark.key"), ark.to_pkcs8_der().unwrap().as_bytes()).unwrap();
        std::fs::write(folder.join("ask.key"), authority.ask_key.to_pkcs8_der().unwrap().as_bytes()).unwrap();
    }

    #[test]
    fn a_published_chip_is_the_same_everywhere_and_unlike_any_other() {
        let chips: Vec<_> = [0, 0, 1, 255].map(|chip| Identity::published(chip).unwrap()).into();
        assert_eq!(chips[0].certificate(), chips[1].certificate());
        assert_eq!(chips[0].hwid(), chips[1].hwid());
        for (one, other) in [(0, 2), (0, 3), (2, 3)] {
            assert_ne!(chips[one].hwid(), chips[other].hwid());
            assert_ne!(chips[one].vcek.to_bytes(), chips[other].vcek.to_bytes());
        }
    }
}
