//! A PKCS #11 token: an HSM, or SoftHSM in its place (OASIS PKCS #11 v2.40).
//!
//! **What.** [`Token`] is one logged-in session. It makes keys that never leave the token and seals root key files under
//! them; it keeps the number of an external counter in a data object.
//! **Trust.** The module (a library that runs in this process), the token, and whoever knows its PIN.
//! **Laws.** A key that the token would give away is refused, not used. Nothing is made anew where something is there
//! already; what is not there is not an empty one.
//! **Not here.** What is sealed (`vault`); what the number means (`store`).

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use std::path::{Path, PathBuf};

/// Nonce of one sealing in bytes (PKCS #11 v2.40, section 2.12.8: `CKM_AES_GCM`).
pub const IV_BYTES: usize = 12;
const TAG_BITS: u64 = 128;
/// AES-256.
const KEY_BYTES: u64 = 32;
/// What a token holds, in the words of its errors.
const KEY: &str = "key";
const DATA: &str = "data object";
/// `CKA_APPLICATION` of what is ours.
const APPLICATION: &[u8] = b"husk";

/// Why a token gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The library is no use.
    #[error("the PKCS #11 module {0} is no use: {1}")]
    Module(PathBuf, cryptoki::error::Error),
    /// No token has that label.
    #[error("no token is labelled {0}; the module shows: {1}")]
    NoToken(String, String),
    /// Two tokens have that label.
    #[error("two tokens are labelled {0}; rename one")]
    TwoTokens(String),
    /// The PIN was not accepted.
    #[error("the token did not accept the PIN ({0}); most lock after a few wrong ones")]
    Pin(cryptoki::error::Error),
    /// The PIN's file could not be read.
    #[error(transparent)]
    File(#[from] husk_files::PrivateFileError),
    /// A label that could not be written plainly.
    #[error("a label has 1 to 32 letters, digits, dots, dashes or underscores, and `{0}` has not")]
    Label(String),
    /// No object of that name.
    #[error("the token holds no {0} labelled {1}; `husk broker {2}` makes one")]
    Missing(&'static str, String, &'static str),
    /// An object of that name is there already.
    #[error("the token holds a {0} labelled {1} already, and it is not overwritten; choose another label")]
    Exists(&'static str, String),
    /// Two objects of that name.
    #[error("the token holds two {0}s labelled {1}; remove the one that is not husk's")]
    Two(&'static str, String),
    /// The token would give the key away.
    #[error(
        "the key {0} is not an AES-256 key that stays in the token; make one with `husk broker token-key`"
    )]
    WeakKey(String),
    /// What was sealed does not open.
    #[error("what the token's key {0} sealed does not open: it was altered, or the key is another")]
    Altered(String),
    /// The token failed.
    #[error("the token failed to {0}: {1}")]
    Failed(&'static str, cryptoki::error::Error),
}

/// A label that can stand in a line of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label(String);

impl Label {
    /// The label as text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Label {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if (1..=32).contains(&text.len()) && text.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(TokenError::Label(text.to_owned()))
        }
    }
}

/// A token, logged in as its user.
#[derive(Debug)]
pub struct Token {
    session: Session,
}

impl Token {
    /// Loads the module, finds the token and logs in with the first line of a private file. Once a process.
    ///
    /// # Errors
    /// [`TokenError`]: which of it failed.
    pub fn open(module: &Path, label: &Label, pin_file: &Path) -> Result<Self, TokenError> {
        let unusable = |error| TokenError::Module(module.to_owned(), error);
        let library = Pkcs11::new(module).map_err(unusable)?;
        library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).map_err(unusable)?;
        let slots = library.get_slots_with_token().map_err(unusable)?;
        let mut labels = Vec::new();
        let mut found = Vec::new();
        for slot in slots {
            let shown = library.get_token_info(slot).map_err(unusable)?.label().to_owned();
            if shown == label.0 {
                found.push(slot);
            }
            labels.push(shown);
        }
        let slot = match found.as_slice() {
            [slot] => *slot,
            [] => return Err(TokenError::NoToken(label.0.clone(), labels.join(", "))),
            _ => return Err(TokenError::TwoTokens(label.0.clone())),
        };
        let session =
            library.open_rw_session(slot).map_err(|error| TokenError::Failed("open a session", error))?;
        let pin_text = husk_files::read(pin_file)?;
        let pin = AuthPin::from(pin_text.lines().next().unwrap_or_default());
        session.login(UserType::User, Some(&pin)).map_err(TokenError::Pin)?;
        Ok(Self { session })
    }

    /// Makes an AES-256 key that cannot leave the token.
    ///
    /// # Errors
    /// [`TokenError::Exists`], [`TokenError::Failed`].
    pub fn make_key(&self, label: &Label) -> Result<(), TokenError> {
        if !self.find(ObjectClass::SECRET_KEY, label)?.is_empty() {
            return Err(TokenError::Exists(KEY, label.0.clone()));
        }
        let template = [
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
            Attribute::Label(label.0.clone().into_bytes()),
            Attribute::ValueLen(KEY_BYTES.into()),
        ];
        let made = self.session.generate_key(&Mechanism::AesKeyGen, &template);
        made.map(|_| ()).map_err(|error| TokenError::Failed("make a key", error))
    }

    /// Seals `plain` under the key; `iv` is fresh, `additional` is bound.
    ///
    /// # Errors
    /// [`TokenError::Missing`], [`TokenError::WeakKey`], [`TokenError::Failed`].
    pub fn seal(
        &self,
        label: &Label,
        mut iv: [u8; IV_BYTES],
        additional: &[u8],
        plain: &[u8],
    ) -> Result<Vec<u8>, TokenError> {
        let key = self.key(label)?;
        let failed = |error| TokenError::Failed("seal", error);
        let params = GcmParams::new(&mut iv, additional, TAG_BITS.into()).map_err(failed)?;
        self.session.encrypt(&Mechanism::AesGcm(params), key, plain).map_err(failed)
    }

    /// Opens what [`seal`](Self::seal) made.
    ///
    /// # Errors
    /// [`TokenError::Missing`], [`TokenError::WeakKey`], [`TokenError::Altered`].
    pub fn unseal(
        &self,
        label: &Label,
        mut iv: [u8; IV_BYTES],
        additional: &[u8],
        sealed: &[u8],
    ) -> Result<zeroize::Zeroizing<Vec<u8>>, TokenError> {
        let key = self.key(label)?;
        let altered = |_| TokenError::Altered(label.0.clone());
        let params = GcmParams::new(&mut iv, additional, TAG_BITS.into()).map_err(altered)?;
        let opened = self.session.decrypt(&Mechanism::AesGcm(params), key, sealed);
        opened.map(zeroize::Zeroizing::new).map_err(altered)
    }

    /// The key of that label, if the token keeps it.
    fn key(&self, label: &Label) -> Result<ObjectHandle, TokenError> {
        let key = self.only_key(label)?;
        let wanted = [
            Attribute::KeyType(KeyType::AES),
            Attribute::ValueLen(KEY_BYTES.into()),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::NeverExtractable(true),
        ];
        let names = [
            AttributeType::KeyType,
            AttributeType::ValueLen,
            AttributeType::Sensitive,
            AttributeType::Extractable,
            AttributeType::NeverExtractable,
        ];
        let read = self.session.get_attributes(key, &names);
        let found = read.map_err(|error| TokenError::Failed("describe its key", error))?;
        if wanted.iter().all(|attribute| found.contains(attribute)) {
            Ok(key)
        } else {
            Err(TokenError::WeakKey(label.0.clone()))
        }
    }

    /// Makes a data object that holds `value`.
    ///
    /// # Errors
    /// [`TokenError::Exists`], [`TokenError::Failed`].
    pub fn make_data(&self, label: &Label, value: &[u8]) -> Result<(), TokenError> {
        if !self.find(ObjectClass::DATA, label)?.is_empty() {
            return Err(TokenError::Exists(DATA, label.0.clone()));
        }
        self.add_data(label, value)
    }

    /// The values of the data objects of that label: more than one where [`put_data`](Self::put_data) was cut short.
    ///
    /// # Errors
    /// [`TokenError::Missing`], [`TokenError::Failed`].
    pub fn data(&self, label: &Label) -> Result<Vec<Vec<u8>>, TokenError> {
        let objects = self.find(ObjectClass::DATA, label)?;
        if objects.is_empty() {
            return Err(TokenError::Missing(DATA, label.0.clone(), "count"));
        }
        let value = |object| match self.session.get_attributes(object, &[AttributeType::Value])?.as_slice() {
            [Attribute::Value(value)] => Ok(value.clone()),
            _ => Ok(Vec::new()),
        };
        let values: Result<Vec<_>, _> = objects.into_iter().map(value).collect();
        values.map_err(|error| TokenError::Failed("read an object", error))
    }

    /// Makes a data object that holds `value`, and then takes away those of the label that were there before. (A value in
    /// place is not changed: tokens differ in whether they allow that.)
    ///
    /// # Errors
    /// [`TokenError::Failed`].
    pub fn put_data(&self, label: &Label, value: &[u8]) -> Result<(), TokenError> {
        let before = self.find(ObjectClass::DATA, label)?;
        self.add_data(label, value)?;
        let removed = before.into_iter().try_for_each(|object| self.session.destroy_object(object));
        removed.map_err(|error| TokenError::Failed("remove an object", error))
    }

    fn add_data(&self, label: &Label, value: &[u8]) -> Result<(), TokenError> {
        let template = [
            Attribute::Class(ObjectClass::DATA),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Application(APPLICATION.to_vec()),
            Attribute::Label(label.0.clone().into_bytes()),
            Attribute::Value(value.to_vec()),
        ];
        let made = self.session.create_object(&template);
        made.map(|_| ()).map_err(|error| TokenError::Failed("make an object", error))
    }

    /// The one secret key of that label.
    fn only_key(&self, label: &Label) -> Result<ObjectHandle, TokenError> {
        match self.find(ObjectClass::SECRET_KEY, label)?.as_slice() {
            [object] => Ok(*object),
            [] => Err(TokenError::Missing(KEY, label.0.clone(), "token-key")),
            _ => Err(TokenError::Two(KEY, label.0.clone())),
        }
    }

    fn find(&self, class: ObjectClass, label: &Label) -> Result<Vec<ObjectHandle>, TokenError> {
        let template = [Attribute::Class(class), Attribute::Label(label.0.clone().into_bytes())];
        self.session.find_objects(&template).map_err(|error| TokenError::Failed("look for an object", error))
    }
}

#[cfg(test)]
mod tests {
    use super::Label;

    #[test]
    fn a_label_is_one_plain_word() {
        assert!("root-key_1.a".parse::<Label>().is_ok());
        for wrong in ["", "two words", "line\n", "é", &"x".repeat(33)] {
            assert!(wrong.parse::<Label>().is_err(), "{wrong:?}");
        }
    }
}
