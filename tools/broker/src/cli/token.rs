//! Where a PKCS #11 token is.

use crate::token::{Label, Token};
use anyhow::Context as _;
use clap::Args;
use std::path::PathBuf;

/// A token, if one is named: all of it or nothing.
#[derive(Args, Clone, Debug)]
pub(super) struct TokenPlace {
    /// The PKCS #11 library of the token that seals the root key file or holds the counter. It runs in this process.
    #[arg(long, value_name = "FILE", requires_all = ["pkcs11_token", "pkcs11_pin_file"])]
    pkcs11_module: Option<PathBuf>,
    /// The label of the token.
    #[arg(long, value_name = "LABEL", requires = "pkcs11_module")]
    pkcs11_token: Option<Label>,
    /// A private file whose first line is the PIN of the token's user.
    #[arg(long, value_name = "FILE", requires = "pkcs11_module")]
    pkcs11_pin_file: Option<PathBuf>,
}

impl TokenPlace {
    /// Logs in, if a token is named.
    pub(super) fn open(&self) -> anyhow::Result<Option<Token>> {
        let (Some(module), Some(label), Some(pin)) =
            (&self.pkcs11_module, &self.pkcs11_token, &self.pkcs11_pin_file)
        else {
            return Ok(None);
        };
        let token = Token::open(module, label, pin).context("the token was not opened")?;
        Ok(Some(token))
    }

    /// Logs in to the token that must be named, for what `flag` asks.
    pub(super) fn required(&self, flag: &str) -> anyhow::Result<Token> {
        let named = self.open()?;
        named.with_context(|| {
            format!("{flag} needs a token: --pkcs11-module, --pkcs11-token and --pkcs11-pin-file")
        })
    }
}
