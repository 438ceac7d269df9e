//! A door for fuzzing: one conversation on a connection that the caller made, on the caller's thread.

use super::address::Stream;
use super::{Connections, Sockets, control, data, mssim};
use crate::serving::Serving;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// Which protocol a conversation is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// TPM commands.
    Data,
    /// swtpm's control messages.
    Control,
    /// TPM commands in the TCG simulator's frames.
    MssimCommands,
    /// The signals of the TCG simulator's platform.
    MssimPlatform,
}

/// Serves `stream` until its client goes or talks nonsense.
pub fn converse(door: Door, stream: UnixStream, serving: &Arc<Serving>) {
    let connections = Arc::new(Connections::new(serving, &Sockets::default()));
    let stream = Stream::from(OwnedFd::from(stream));
    match door {
        Door::Data => data::serve(stream, &connections),
        Door::Control => control::serve(stream, &connections),
        Door::MssimCommands => mssim::serve_commands(stream, &connections),
        Door::MssimPlatform => mssim::serve_platform(stream, &connections),
    }
}
