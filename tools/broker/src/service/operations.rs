//! What the broker's own operator asks, beside the log.

use super::{Service, locked};
use crate::ids::VmName;
use crate::metrics::{Census, Metrics, Standing};
use crate::store::{GroupError, Overview};
use std::sync::Arc;

impl Service {
    /// The same, counted.
    #[must_use]
    pub fn counting(self, metrics: Arc<Metrics>) -> Self {
        let group = self.group.counting(Arc::clone(&metrics));
        Self { group, metrics: Some(metrics), ..self }
    }

    /// Has it counted, where somebody does.
    pub(super) fn count(&self, what: impl FnOnce(&Metrics)) {
        if let Some(metrics) = &self.metrics {
            what(metrics);
        }
    }

    /// Whether it can decide now: no decision died, the database answers, is not older than what was acknowledged, and is under the root
    /// key at hand.
    ///
    /// # Errors
    /// [`GroupError`], which says in words why it cannot.
    pub fn readiness(&self) -> Result<(), GroupError> {
        if !self.is_well() {
            return Err(GroupError::Dead);
        }
        Ok(self.group.serving()?.now_ms().map(drop)?)
    }

    /// What is not counted but looked up.
    #[must_use]
    pub fn standing_of_all(&self) -> Standing {
        let (greeted, established) = locked(&self.sessions).map_or((0, 0), |sessions| sessions.counts());
        Standing { greeted, established, database: self.census().ok() }
    }

    fn census(&self) -> Result<Census, GroupError> {
        let mut serving = self.group.serving()?;
        // Whether it would decide, too.
        serving.now_ms()?;
        let lives = serving.store().lives()?;
        Ok(Census { lives, set_backs: serving.set_backs() })
    }

    /// A page of all tenants' VMs behind `after`.
    ///
    /// # Errors
    /// [`GroupError`].
    pub fn overview(&self, after: Option<VmName>) -> Result<Overview, GroupError> {
        Ok(self.group.serving()?.overview(after)?)
    }
}
