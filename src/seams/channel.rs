/// Why an exchange gave no reply. None of these says anything about what the broker did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelError {
    /// No reply within the implementer's bound, or no way to send.
    Unreachable,
    /// The reply is longer than the buffer.
    ReplyTooLong,
}

/// A pipe to the broker through hands that are not trusted: one frame out, one frame back.
pub trait Channel {
    /// Sends `request` and writes the reply into `reply`; returns the reply's length in bytes.
    ///
    /// Bounded in time by the implementer (seconds, not minutes).
    ///
    /// # Errors
    /// [`ChannelError`]; the request may have reached the broker all the same.
    fn exchange(&mut self, request: &[u8], reply: &mut [u8]) -> Result<usize, ChannelError>;
}
