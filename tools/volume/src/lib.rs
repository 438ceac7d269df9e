//! What an operator can see of a sealed volume without its keys.
//!
//! **What.** [`survey()`] walks the clear headers of an image and computes its digest chains; [`cli`] shows them.
//! **Trust.** None in the image: headers are allegations, and a chain that links is still only *plausible*: whether it is
//! authentic only the VM can tell, which has the key.
//! **Laws.** Nothing is written. Nothing panics on any bytes.
//! **Not here.** Opening, creating or repairing a volume.

pub mod cli;
pub mod survey;

pub use survey::{AreaSurvey, Survey, SurveyError, survey};
