//! The root key file, open or protected by a passphrase or a PKCS #11 token.
//!
//! **What.** Lines of text. Open: title, `broker`, `wrapping`, `signing`, in hexadecimal. Protected: another title,
//! `broker`, `argon2id` with its costs and salt or `pkcs11` with the key's label and the nonce, and `sealed`: both keys
//! under AES-256-GCM, with everything above as additional data.
//! **Trust.** Who may read the file (mode 0600 is checked), and the passphrase or the token.
//! **Laws.** The key is Argon2id's (RFC 9106) over a fresh salt, so the nonce may be zero; a token's key seals many files,
//! so the nonce is drawn. Costs that a file names are bounded before they are paid. A file is read as what it is: nothing
//! is asked for an open one, nothing is guessed.

use super::{RootKeys, StoredKey, VaultError};
use crate::token::{IV_BYTES, Label, Token};
use crate::world::World;
use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use argon2::{Algorithm, Argon2, Params, Version};
use husk::secret::Secret;
use std::path::Path;
use zeroize::Zeroizing;

const OPEN_TITLE: &str = "husk broker root 1";
const PROTECTED_TITLE: &str = "husk broker root 2";
const TOKEN_TITLE: &str = "husk broker root 3";
/// RFC 9106, section 4, the second recommendation: 64 MiB, three passes, four lanes.
const COSTS: Costs = Costs { memory_kib: 65_536, passes: 3, lanes: 4 };
/// What a file may ask of this machine.
const COSTS_MAX: Costs = Costs { memory_kib: 1 << 21, passes: 16, lanes: 16 };
const PLAIN_BYTES: usize = 32 + 48;
const SEALED_BYTES: usize = PLAIN_BYTES + 16;

#[derive(Clone, Copy)]
struct Costs {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

/// What opens a root key file.
#[derive(Clone, Copy, Debug)]
pub enum Opener<'o> {
    /// Nothing but its mode protects it.
    Open,
    /// A passphrase.
    Passphrase(&'o Passphrase),
    /// A token.
    Token(&'o Token),
}

/// A passphrase that protects a root key file.
#[derive(Debug)]
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// Reads the first line of a file that only its owner may touch.
    ///
    /// # Errors
    /// [`VaultError::File`], [`VaultError::PassphraseLength`].
    pub fn read(path: &Path) -> Result<Self, VaultError> {
        let text = husk_files::read(path)?;
        let line = text.lines().next().unwrap_or_default();
        if !(12..=1024).contains(&line.len()) {
            return Err(VaultError::PassphraseLength);
        }
        Ok(Self(Zeroizing::new(line.to_owned())))
    }

    fn cipher(&self, salt: &[u8; 16], costs: Costs) -> Result<Aes256Gcm, VaultError> {
        let params = Params::new(costs.memory_kib, costs.passes, costs.lanes, Some(32));
        let params = params.map_err(|_| VaultError::Bug)?;
        let mut key = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(self.0.as_bytes(), salt, key.as_mut_slice())
            .map_err(|_| VaultError::Bug)?;
        Ok(Aes256Gcm::new(&(*key).into()))
    }
}

impl RootKeys {
    /// Writes a new root key file that nothing but its mode protects.
    ///
    /// # Errors
    /// [`VaultError::File`].
    pub fn write(&self, path: &Path) -> Result<(), VaultError> {
        let mut text = Zeroizing::new(String::with_capacity(512));
        push_line(&mut text, "", OPEN_TITLE);
        push_line(&mut text, "broker ", &hex::encode(self.broker));
        self.wrapping.with(|key| push_line(&mut text, "wrapping ", &Zeroizing::new(hex::encode(key))));
        self.signing.scalar.with(|key| push_line(&mut text, "signing ", &Zeroizing::new(hex::encode(key))));
        Ok(husk_files::create(path, &text)?)
    }

    /// Writes a new root key file that the passphrase protects.
    ///
    /// # Errors
    /// [`VaultError::File`], [`VaultError::Entropy`].
    pub fn write_protected(
        &self,
        path: &Path,
        passphrase: &Passphrase,
        world: &dyn World,
    ) -> Result<(), VaultError> {
        let mut salt = [0; 16];
        world.fill(&mut salt).map_err(|_| VaultError::Entropy)?;
        let mut text = above(&self.broker, COSTS, &salt);
        let mut sealed = Zeroizing::new([0; SEALED_BYTES]);
        let (body, tag) = sealed.split_at_mut(PLAIN_BYTES);
        body.copy_from_slice(self.both_keys().as_slice());
        let made = passphrase
            .cipher(&salt, COSTS)?
            .encrypt_inout_detached(&Nonce::default(), text.as_bytes(), (&mut *body).into())
            .map_err(|_| VaultError::Bug)?;
        tag.copy_from_slice(&made);
        push_line(&mut text, "sealed ", &hex::encode(*sealed));
        Ok(husk_files::create(path, &text)?)
    }

    /// Writes a new root key file that a key in a token protects.
    ///
    /// # Errors
    /// [`VaultError::File`], [`VaultError::Entropy`], [`VaultError::Token`].
    pub fn write_under_token(
        &self,
        path: &Path,
        token: &Token,
        label: &Label,
        world: &dyn World,
    ) -> Result<(), VaultError> {
        let mut iv = [0; IV_BYTES];
        world.fill(&mut iv).map_err(|_| VaultError::Entropy)?;
        let mut text = above_token(&self.broker, label, &iv);
        let sealed = token.seal(label, iv, text.as_bytes(), self.both_keys().as_slice())?;
        push_line(&mut text, "sealed ", &hex::encode(sealed));
        Ok(husk_files::create(path, &text)?)
    }

    /// The wrapping key and the signing key.
    fn both_keys(&self) -> Zeroizing<[u8; PLAIN_BYTES]> {
        let mut both = Zeroizing::new([0; PLAIN_BYTES]);
        let (wrapping, signing) = both.split_at_mut(32);
        self.wrapping.with(|key| wrapping.copy_from_slice(key));
        self.signing.scalar.with(|key| signing.copy_from_slice(key));
        both
    }

    fn of_both_keys(broker: [u8; 16], both: &mut [u8]) -> Option<Self> {
        let (wrapping, signing) = both.split_first_chunk_mut::<32>()?;
        let signing = StoredKey::of(signing.try_into().ok()?)?;
        Some(Self { broker, wrapping: Secret::take(wrapping), signing })
    }

    /// Whether a root key file says that a token sealed it.
    ///
    /// # Errors
    /// [`VaultError::File`].
    pub fn is_under_token(path: &Path) -> Result<bool, VaultError> {
        Ok(husk_files::read(path)?.lines().next() == Some(TOKEN_TITLE))
    }

    /// Reads a root key file that only its mode protects.
    ///
    /// # Errors
    /// As [`RootKeys::read_with`].
    pub fn read(path: &Path) -> Result<Self, VaultError> {
        Self::read_with(path, Opener::Open)
    }

    /// Reads a root key file.
    ///
    /// # Errors
    /// [`VaultError::File`], [`VaultError::Malformed`], and what is wrong with the passphrase or the token.
    pub fn read_with(path: &Path, opener: Opener<'_>) -> Result<Self, VaultError> {
        let text = husk_files::read(path)?;
        let name = || path.display().to_string();
        let keys = match (text.lines().next(), opener) {
            (Some(OPEN_TITLE), Opener::Open) => read_open(&text),
            (Some(PROTECTED_TITLE), Opener::Passphrase(passphrase)) => {
                Protected::read(&text).map(|protected| protected.open(passphrase, &name())).transpose()?
            }
            (Some(TOKEN_TITLE), Opener::Token(token)) => {
                UnderToken::read(&text).map(|under| under.open(token, &name())).transpose()?
            }
            (Some(PROTECTED_TITLE), _) => return Err(VaultError::PassphraseNeeded(name())),
            (Some(TOKEN_TITLE), _) => return Err(VaultError::TokenNeeded(name())),
            (Some(OPEN_TITLE), Opener::Passphrase(_)) => {
                return Err(VaultError::PassphraseForNothing(name()));
            }
            (Some(OPEN_TITLE), Opener::Token(_)) => return Err(VaultError::TokenForNothing(name())),
            _ => None,
        };
        keys.ok_or_else(|| VaultError::Malformed(name(), "broker root key file", "husk broker init"))
    }
}

fn read_open(text: &str) -> Option<RootKeys> {
    let mut lines = text.lines().skip(1);
    let broker = key_line(lines.next(), "broker ")?;
    let mut wrapping = Zeroizing::new(key_line::<32>(lines.next(), "wrapping ")?);
    let mut signing = Zeroizing::new(key_line::<48>(lines.next(), "signing ")?);
    let signing = StoredKey::of(&mut signing)?;
    lines.next().is_none().then(|| RootKeys { broker, wrapping: Secret::take(&mut wrapping), signing })
}

/// Everything above `sealed`, and what `sealed` is bound to.
fn above(broker: &[u8; 16], costs: Costs, salt: &[u8; 16]) -> String {
    let Costs { memory_kib, passes, lanes } = costs;
    let (broker, salt) = (hex::encode(broker), hex::encode(salt));
    format!(
        "{PROTECTED_TITLE}\nbroker {broker}\nargon2id memory_kib={memory_kib} passes={passes} lanes={lanes} salt={salt}\n"
    )
}

/// A protected file, taken apart.
struct Protected {
    broker: [u8; 16],
    costs: Costs,
    salt: [u8; 16],
    sealed: [u8; SEALED_BYTES],
}

impl Protected {
    fn read(text: &str) -> Option<Self> {
        let mut lines = text.lines().skip(1);
        let broker = key_line(lines.next(), "broker ")?;
        let mut words = lines.next()?.strip_prefix("argon2id ")?.split(' ');
        let mut number = |name: &str, most: u32| {
            let number = words.next()?.strip_prefix(name)?.parse().ok()?;
            (1..=most).contains(&number).then_some(number)
        };
        let costs = Costs {
            memory_kib: number("memory_kib=", COSTS_MAX.memory_kib)?,
            passes: number("passes=", COSTS_MAX.passes)?,
            lanes: number("lanes=", COSTS_MAX.lanes)?,
        };
        let salt = key_line(words.next(), "salt=")?;
        let sealed = key_line(lines.next(), "sealed ")?;
        let is_whole = words.next().is_none() && lines.next().is_none();
        is_whole.then_some(Self { broker, costs, salt, sealed })
    }

    fn open(self, passphrase: &Passphrase, name: &str) -> Result<RootKeys, VaultError> {
        let wrong = || VaultError::PassphraseWrong(name.to_owned());
        let Self { broker, costs, salt, sealed } = self;
        let mut sealed = Zeroizing::new(sealed);
        let (body, tag) = sealed.split_at_mut(PLAIN_BYTES);
        let tag = <[u8; 16]>::try_from(&*tag).map_err(|_| wrong())?;
        passphrase
            .cipher(&salt, costs)?
            .decrypt_inout_detached(
                &Nonce::default(),
                above(&broker, costs, &salt).as_bytes(),
                (&mut *body).into(),
                &Tag::from(tag),
            )
            .map_err(|_| wrong())?;
        RootKeys::of_both_keys(broker, body).ok_or_else(wrong)
    }
}

/// Everything above `sealed` of a file under a token.
fn above_token(broker: &[u8; 16], label: &Label, iv: &[u8; IV_BYTES]) -> String {
    let (broker, label, iv) = (hex::encode(broker), label.text(), hex::encode(iv));
    format!("{TOKEN_TITLE}\nbroker {broker}\npkcs11 key={label} iv={iv}\n")
}

/// A file under a token, taken apart.
struct UnderToken {
    broker: [u8; 16],
    label: Label,
    iv: [u8; IV_BYTES],
    sealed: [u8; SEALED_BYTES],
}

impl UnderToken {
    fn read(text: &str) -> Option<Self> {
        let mut lines = text.lines().skip(1);
        let broker = key_line(lines.next(), "broker ")?;
        let mut words = lines.next()?.strip_prefix("pkcs11 ")?.split(' ');
        let label = words.next()?.strip_prefix("key=")?.parse().ok()?;
        let iv = key_line(words.next(), "iv=")?;
        let sealed = key_line(lines.next(), "sealed ")?;
        let is_whole = words.next().is_none() && lines.next().is_none();
        is_whole.then_some(Self { broker, label, iv, sealed })
    }

    fn open(self, token: &Token, name: &str) -> Result<RootKeys, VaultError> {
        let above = above_token(&self.broker, &self.label, &self.iv);
        let mut both = token.unseal(&self.label, self.iv, above.as_bytes(), &self.sealed)?;
        let malformed = || VaultError::Malformed(name.to_owned(), "broker root key file", "husk broker init");
        RootKeys::of_both_keys(self.broker, &mut both).ok_or_else(malformed)
    }
}

pub(super) fn push_line(text: &mut String, word: &str, value: &str) {
    text.push_str(word);
    text.push_str(value);
    text.push('\n');
}

fn key_line<const N: usize>(line: Option<&str>, word: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    hex::decode_to_slice(line?.strip_prefix(word)?, &mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::{Opener, Passphrase, RootKeys, VaultError};
    use crate::world::Machine;
    use zeroize::Zeroizing;

    fn passphrase(text: &str) -> Passphrase {
        Passphrase(Zeroizing::new(text.to_owned()))
    }

    #[test]
    fn a_protected_file_opens_with_its_passphrase_and_holds_no_key() {
        let world = Machine::start();
        let keys = RootKeys::generate(&world).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root");
        keys.write_protected(&path, &passphrase("correct horse"), &world).unwrap();
        let read = RootKeys::read_with(&path, Opener::Passphrase(&passphrase("correct horse"))).unwrap();
        assert_eq!(read.database_check().unwrap(), keys.database_check().unwrap());
        assert_eq!(read.signing().point(), keys.signing().point());
        let text = std::fs::read_to_string(&path).unwrap();
        keys.wrapping.with(|key| assert!(!text.contains(&hex::encode(key))));
        keys.signing.scalar.with(|key| assert!(!text.contains(&hex::encode(key))));
        let with = |word: &str| RootKeys::read_with(&path, Opener::Passphrase(&passphrase(word)));
        assert!(matches!(with("correct horsf"), Err(VaultError::PassphraseWrong(_))));
        assert!(matches!(RootKeys::read(&path), Err(VaultError::PassphraseNeeded(_))));
        for (from, to) in [("broker 0", "broker 1"), ("broker ", "broker f"), ("sealed ", "sealed 0")] {
            std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
            let is_changed = std::fs::read_to_string(&path).unwrap() != text;
            assert!(!is_changed || with("correct horse").is_err(), "{from}");
        }
        let dear = text.replacen("memory_kib=65536", "memory_kib=4294967295", 1);
        std::fs::write(&path, dear).unwrap();
        assert!(matches!(with("correct horse"), Err(VaultError::Malformed(..))), "costs are bounded");
        let cheap = text.replacen("passes=3", "passes=1", 1);
        std::fs::write(&path, cheap).unwrap();
        assert!(matches!(with("correct horse"), Err(VaultError::PassphraseWrong(_))), "and bound");
    }

    #[test]
    fn an_open_file_asks_for_no_passphrase_and_takes_none() {
        let world = Machine::start();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root");
        RootKeys::generate(&world).unwrap().write(&path).unwrap();
        let refused = RootKeys::read_with(&path, Opener::Passphrase(&passphrase("correct horse")));
        assert!(matches!(refused, Err(VaultError::PassphraseForNothing(_))));
    }
}
