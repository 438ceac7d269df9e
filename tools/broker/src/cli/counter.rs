//! Where the external counter is.

use crate::store::{Counter, StoreError};
use crate::token::{Label, Token};
use clap::Args;
use std::path::PathBuf;

/// A counter, if one is named.
#[derive(Args, Debug)]
pub(super) struct CounterPlace {
    /// An external counter that `husk broker count` made: without it a database that was set back while no broker
    /// served it is not noticed. One for each instance. `husk broker restore` raises it, so that `serve` takes the restored database for
    /// what it is.
    #[arg(long, value_name = "FILE")]
    counter: Option<PathBuf>,
    /// The label of the counter in the PKCS #11 token, in place of a file.
    #[arg(long, value_name = "LABEL", conflicts_with = "counter", requires = "pkcs11_module")]
    counter_token: Option<Label>,
}

impl CounterPlace {
    /// Whether it is in a token.
    pub(super) const fn is_in_token(&self) -> bool {
        self.counter_token.is_some()
    }

    /// Opens it.
    pub(super) fn open(&self, token: Option<Token>) -> Result<Option<Counter>, StoreError> {
        match (&self.counter, &self.counter_token, token) {
            (Some(path), _, _) => Counter::open(path).map(Some),
            (None, Some(label), Some(token)) => Counter::open_in(token, label.clone()).map(Some),
            (None, Some(label), None) => {
                Err(StoreError::Counter(format!("no token is named that holds {}", label.text())))
            }
            (None, None, _) => Ok(None),
        }
    }
}
