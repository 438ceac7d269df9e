//! A guest at the socket of `husk psp serve`.

pub use crate::guest::{PspError, RemoteGuest as Guest};
