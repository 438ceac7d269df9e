//! To the broker and back.

use crate::client::{Roots, agent, broker_failed};
use crate::frames::is_frame;
use husk::release::wire::FRAME_BYTES_MAX;
use std::time::Duration;
use ureq::Agent;

/// How long one exchange may take.
pub(crate) const EXCHANGE_WAIT_MAX: Duration = Duration::from_secs(10);

/// Why an exchange gave no answer. None of these says what the broker did.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PipeError {
    /// No answer came.
    #[error("the broker did not answer ({0}); check that it runs and that its address is right")]
    Unreachable(String),
    /// The broker's certificate does not hold.
    #[error("the broker's certificate does not hold: {0}")]
    NotTrusted(String),
    /// What answers is not a broker.
    #[error("what answers at that address is not a husk broker (HTTP status {0})")]
    NotABroker(u16),
    /// The answer is not one frame.
    #[error("the broker's answer is not a frame")]
    NotAFrame,
    /// No answer came from the KBS.
    #[error("the KBS did not answer ({0}); check that it runs and that --kbs is right")]
    KbsUnreachable(String),
    /// What the KBS said fits no frame.
    #[error("the KBS's answer is longer than a frame; what it stores there is no envelope")]
    KbsAnswerTooLong,
    /// A test took the answer away.
    #[error("dropped, as this relay was told to")]
    Dropped,
}

/// Carries one frame to the broker and one back.
pub trait Pipe: Send + Sync {
    /// One exchange.
    ///
    /// # Errors
    /// [`PipeError`].
    fn carry(&self, frame: &[u8]) -> Result<Vec<u8>, PipeError>;
}

/// The pipe over HTTP.
#[derive(Debug)]
pub struct HttpPipe {
    agent: Agent,
    url: String,
}

impl HttpPipe {
    /// A pipe to the broker at `base`, such as `https://broker.example:8630`, whose certificate must come from `roots`. Connects
    /// with the first frame.
    #[must_use]
    pub fn new(base: &str, roots: Roots) -> Self {
        let url = format!("{}/husk/v1/frame", base.trim_end_matches('/'));
        Self { agent: agent(EXCHANGE_WAIT_MAX, roots), url }
    }
}

impl Pipe for HttpPipe {
    fn carry(&self, frame: &[u8]) -> Result<Vec<u8>, PipeError> {
        let mut answer = self
            .agent
            .post(&self.url)
            .header("content-type", "application/octet-stream")
            .send(frame)
            .map_err(broker_failed)?;
        if answer.status() != 200 {
            return Err(PipeError::NotABroker(answer.status().as_u16()));
        }
        // One byte more than a frame may have, so that a longer answer is seen to be one.
        let limit = FRAME_BYTES_MAX as u64 + 1;
        let bytes = answer.body_mut().with_config().limit(limit).read_to_vec().map_err(broker_failed)?;
        if is_frame(&bytes) { Ok(bytes) } else { Err(PipeError::NotAFrame) }
    }
}
