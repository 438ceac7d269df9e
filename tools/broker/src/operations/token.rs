//! Who may see the page.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest as _, Sha256};
use std::path::Path;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// Fewer could be guessed.
const CHARS_MIN: usize = 32;

/// A token was not read.
#[derive(Debug, thiserror::Error)]
pub enum PageTokenError {
    /// The file.
    #[error(transparent)]
    File(#[from] husk_files::PrivateFileError),
    /// What is in it.
    #[error(
        "the file's first line must be a token of at least 32 letters, digits, '-' or '_', such as `openssl rand -hex 32` makes"
    )]
    Weak,
}

/// A secret that opens the page; its digest is all that is kept.
pub struct PageToken([u8; 32]);

impl std::fmt::Debug for PageToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PageToken")
    }
}

impl PageToken {
    /// Reads the first line of a file that only its owner may touch.
    ///
    /// # Errors
    /// [`PageTokenError`].
    pub fn read(path: &Path) -> Result<Self, PageTokenError> {
        let text = husk_files::read(path)?;
        Self::new(text.lines().next().unwrap_or_default())
    }

    /// The token of that text.
    ///
    /// # Errors
    /// [`PageTokenError::Weak`].
    pub fn new(text: &str) -> Result<Self, PageTokenError> {
        let is_plain = |letter: u8| letter.is_ascii_alphanumeric() || matches!(letter, b'-' | b'_');
        if text.len() < CHARS_MIN || !text.bytes().all(is_plain) {
            return Err(PageTokenError::Weak);
        }
        Ok(Self(Sha256::digest(text).into()))
    }

    /// Whether an `Authorization` header shows it: as a bearer's token (RFC 6750), or as anybody's password (RFC 7617), which is how
    /// browsers ask for one.
    #[must_use]
    pub fn is_shown_by(&self, header: &str) -> bool {
        let Some((scheme, said)) = header.split_once(' ') else { return false };
        if scheme.eq_ignore_ascii_case("bearer") {
            return self.is(said.as_bytes());
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return false;
        }
        let Ok(pair) = BASE64_STANDARD.decode(said).map(Zeroizing::new) else { return false };
        let password = pair.iter().position(|byte| *byte == b':').and_then(|at| pair.get(at + 1..));
        password.is_some_and(|password| self.is(password))
    }

    fn is(&self, said: &[u8]) -> bool {
        self.0.ct_eq(&<[u8; 32]>::from(Sha256::digest(said))).into()
    }
}

#[cfg(test)]
mod tests {
    use super::PageToken;
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;

    #[test]
    fn the_ui_is_opened_by_its_token_alone() {
        let text = "0123456789abcdef0123456789abcdef";
        let token = PageToken::new(text).unwrap();
        let basic = |pair: &str| format!("Basic {}", BASE64_STANDARD.encode(pair));
        let table = [
            (format!("Bearer {text}"), true),
            (format!("bearer {text}"), true),
            (basic(&format!("anybody:{text}")), true),
            (basic(&format!(":{text}")), true),
            (format!("Bearer {text}0"), false),
            (format!("Bearer {}", &text[1..]), false),
            (format!("Digest {text}"), false),
            (basic(text), false),
            (basic("anybody:"), false),
            ("Basic !".to_owned(), false),
            (text.to_owned(), false),
            (String::new(), false),
        ];
        for (header, opens) in table {
            assert_eq!(token.is_shown_by(&header), opens, "{header}");
        }
        for weak in ["", &text[1..], &format!("{text} x"), &format!("{text}\u{e9}")] {
            assert!(PageToken::new(weak).is_err(), "{weak}");
        }
    }
}
