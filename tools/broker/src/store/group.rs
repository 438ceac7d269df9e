//! Group commit: the requests of many VMs in one transaction.
//!
//! **What.** Whoever brings a request while nobody is deciding leads: it decides everything that waits, in one transaction,
//! and hands the answers out. Whoever comes meanwhile waits for the next.
//! **Laws.** Each is answered only after the durable COMMIT of its transaction. A leader that dies fails everybody, also
//! who comes later. Without company a request waits for nobody.

use super::{Ask, Decided, Serving, StoreError};
use crate::metrics::Metrics;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// How many requests one transaction takes.
const GROUP_MAX: usize = 256;

/// Why a request was not decided.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GroupError {
    /// The store's error, which others may share.
    #[error(transparent)]
    Store(Arc<StoreError>),
    /// A decision died in the middle.
    #[error("a decision of this broker died in the middle; restart it and read its log")]
    Dead,
}

impl From<StoreError> for GroupError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

/// What became of one request.
type Outcome = Result<Decided, GroupError>;

/// A serving store that many threads ask at once.
#[derive(Debug)]
pub struct Group {
    serving: Mutex<Serving>,
    queue: Mutex<Queue>,
    turned: Condvar,
    metrics: Option<Arc<Metrics>>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<(u64, Ask)>,
    done: Vec<(u64, Outcome)>,
    tickets: u64,
    is_led: bool,
    is_dead: bool,
}

impl Group {
    /// Takes a serving store.
    #[must_use]
    pub fn new(serving: Serving) -> Self {
        Self { serving: Mutex::new(serving), queue: Mutex::default(), turned: Condvar::new(), metrics: None }
    }

    /// The same, counted.
    #[must_use]
    pub fn counting(self, metrics: Arc<Metrics>) -> Self {
        Self { metrics: Some(metrics), ..self }
    }

    /// Whether no decision died in the middle.
    #[must_use]
    pub fn is_well(&self) -> bool {
        !self.serving.is_poisoned() && !self.queue().is_dead
    }

    /// The store, for what is not a decision.
    ///
    /// # Errors
    /// [`GroupError::Dead`].
    pub fn serving(&self) -> Result<MutexGuard<'_, Serving>, GroupError> {
        self.serving.lock().map_err(|_| GroupError::Dead)
    }

    /// Decides one request, together with those that wait.
    ///
    /// # Errors
    /// [`GroupError`]; nothing was decided then.
    pub fn decide(&self, ask: Ask) -> Outcome {
        let mut queue = self.queue();
        let ticket = queue.tickets;
        queue.tickets += 1;
        queue.waiting.push((ticket, ask));
        loop {
            if let Some(at) = queue.done.iter().position(|(of, _)| *of == ticket) {
                return queue.done.swap_remove(at).1;
            }
            if queue.is_dead {
                return Err(GroupError::Dead);
            }
            queue = if queue.is_led {
                self.turned.wait(queue).unwrap_or_else(PoisonError::into_inner)
            } else {
                self.lead(queue)
            };
        }
    }

    /// Decides what waits.
    fn lead<'g>(&'g self, mut queue: MutexGuard<'g, Queue>) -> MutexGuard<'g, Queue> {
        let count = queue.waiting.len().min(GROUP_MAX);
        let (tickets, asks): (Vec<u64>, Vec<Ask>) = queue.waiting.drain(..count).unzip();
        queue.is_led = true;
        drop(queue);
        let leader = Leader(self);
        let decided = self.serving().and_then(|mut serving| {
            let begun = Instant::now();
            let decided = serving.decide_all(&asks)?;
            if let Some(metrics) = &self.metrics {
                metrics.decided(asks.len(), begun.elapsed());
            }
            Ok(decided)
        });
        std::mem::forget(leader);
        let outcomes: Vec<Outcome> = match decided {
            Ok(decided) => decided.into_iter().map(|one| Ok(one?)).collect(),
            Err(error) => tickets.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut queue = self.queue();
        queue.is_led = false;
        queue.done.extend(tickets.into_iter().zip(outcomes));
        self.turned.notify_all();
        queue
    }

    /// No step with this lock held can leave the queue half changed, so a poisoned one is as good.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Dropped only by a panic of a decision.
struct Leader<'g>(&'g Group);

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.is_led = false;
        queue.is_dead = true;
        drop(queue);
        self.0.turned.notify_all();
    }
}
