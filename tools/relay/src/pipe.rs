//! To the broker and back.

use crate::frames::is_frame;
use husk::release::wire::FRAME_BYTES_MAX;
use std::time::Duration;
use ureq::Agent;

/// How long a connection to the broker may take to come about.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(3);
/// How long one exchange may take.
pub(crate) const EXCHANGE_WAIT_MAX: Duration = Duration::from_secs(10);

/// Why an exchange gave no answer. None of these says what the broker did.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PipeError {
    /// No answer came.
    #[error("the broker did not answer ({0}); check that it runs and that its address is right")]
    Unreachable(String),
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
    /// A pipe to the broker at `base`, such as `http://127.0.0.1:8630`. Connects with the first frame.
    #[must_use]
    pub fn new(base: &str) -> Self {
        Self { agent: agent(EXCHANGE_WAIT_MAX), url: format!("{}/husk/v1/frame", base.trim_end_matches('/')) }
    }
}

/// A client that waits so long for an exchange, follows nobody elsewhere and leaves statuses to its user.
pub(crate) fn agent(wait_max: Duration) -> Agent {
    let config = Agent::config_builder()
        .timeout_connect(Some(CONNECT_WAIT_MAX))
        .timeout_global(Some(wait_max))
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .build();
    config.into()
}

impl Pipe for HttpPipe {
    fn carry(&self, frame: &[u8]) -> Result<Vec<u8>, PipeError> {
        let unreachable = |error: ureq::Error| PipeError::Unreachable(error.to_string());
        let mut answer = self
            .agent
            .post(&self.url)
            .header("content-type", "application/octet-stream")
            .send(frame)
            .map_err(unreachable)?;
        if answer.status() != 200 {
            return Err(PipeError::NotABroker(answer.status().as_u16()));
        }
        // One byte more than a frame may have, so that a longer answer is seen to be one.
        let limit = FRAME_BYTES_MAX as u64 + 1;
        let bytes = answer.body_mut().with_config().limit(limit).read_to_vec().map_err(unreachable)?;
        if is_frame(&bytes) { Ok(bytes) } else { Err(PipeError::NotAFrame) }
    }
}
