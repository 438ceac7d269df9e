//! What the broker counts for its operator.
//!
//! **What.** [`Metrics`] is asked for in the text format of Prometheus, version 0.0.4.
//! **Laws.** No label names a tenant, a VM, an instance or anything that came from outside: labels are words of this program, so nothing
//! of one tenant shows to another, and their number is bounded.
//! **Not here.** Who may read them (`operations`).

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use std::fmt;
use std::time::Duration;

/// Where times are cut: half a millisecond to ten seconds.
const SECONDS: [f64; 13] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
/// Where numbers of requests are cut: up to what one transaction takes.
const COUNTS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// A metric could not be made or shown: a defect of this program.
#[derive(Debug, thiserror::Error)]
#[error("the metrics failed: {0}")]
pub struct MetricsError(#[from] prometheus::Error);

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    frames: IntCounterVec,
    frame_seconds: HistogramVec,
    requests: IntCounterVec,
    refusals: IntCounterVec,
    orders: IntCounterVec,
    tenant_requests: IntCounterVec,
    kbs_requests: IntCounterVec,
    decisions: Histogram,
    transaction_seconds: Histogram,
    sessions: IntGaugeVec,
    vms: IntGaugeVec,
    database_up: IntGauge,
    set_backs: IntGauge,
}

/// What is looked up when somebody asks.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// Sessions that wait for their proof.
    pub greeted: usize,
    /// Sessions of proven instances.
    pub established: usize,
    /// What the database says; none where it does not answer.
    pub database: Option<Census>,
}

/// What the database says of all tenants together.
#[derive(Clone, Debug, Default)]
pub struct Census {
    /// How many VMs stand where, by the word of their life.
    pub lives: Vec<(&'static str, u64)>,
    /// How often this process found the database set back.
    pub set_backs: u64,
}

impl Metrics {
    /// Begins to count.
    ///
    /// # Errors
    /// [`MetricsError`].
    pub fn new() -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let made = Maker(&registry);
        let frames = made.counters("frames", "Frames that were answered.", &["kind", "outcome"])?;
        let requests =
            made.counters("requests", "Requests of instances in sessions.", &["operation", "outcome"])?;
        let refusals =
            made.counters("refusals", "Instances and clients that a rule refused, by the rule.", &["rule"])?;
        let orders = made.counters("orders", "Tickets that were handed in.", &["order", "outcome"])?;
        let tenant_requests = made.counters(
            "tenant_requests",
            "Signed requests of tenants' operators.",
            &["request", "outcome"],
        )?;
        let kbs_requests = made.counters("kbs_requests", "Requests to the KBS.", &["request", "status"])?;
        let frame_seconds =
            HistogramOpts::new("husk_broker_frame_seconds", "How long a frame took to be answered.");
        let frame_seconds = HistogramVec::new(frame_seconds.buckets(SECONDS.to_vec()), &["kind"])?;
        registry.register(Box::new(frame_seconds.clone()))?;
        Ok(Self {
            frames,
            requests,
            refusals,
            orders,
            tenant_requests,
            kbs_requests,
            frame_seconds,
            decisions: made.histogram(
                "decisions_per_transaction",
                "Requests that were decided in one transaction.",
                &COUNTS,
            )?,
            transaction_seconds: made.histogram(
                "transaction_seconds",
                "How long a transaction of decisions took, with its durable end.",
                &SECONDS,
            )?,
            sessions: made.gauges("sessions", "Sessions that are open.", "stage")?,
            vms: made.gauges("vms", "VMs of all tenants, by their life.", "life")?,
            database_up: made.gauge("database_up", "Whether the database answered when this was asked.")?,
            set_backs: made
                .gauge("database_set_backs", "How often this process found the database set back.")?,
            registry,
        })
    }

    /// A frame was answered.
    pub fn frame(&self, kind: Option<&dyn fmt::Debug>, outcome: Option<&dyn fmt::Debug>, took: Duration) {
        let kind = kind.map_or_else(|| "malformed".to_owned(), word);
        let outcome = outcome.map_or_else(|| "answered".to_owned(), word);
        self.frame_seconds.with_label_values(&[&kind]).observe(took.as_secs_f64());
        self.frames.with_label_values(&[kind, outcome]).inc();
    }

    /// A request within a session was answered.
    pub fn request(&self, operation: &dyn fmt::Debug, outcome: &str) {
        self.requests.with_label_values(&[word(operation).as_str(), outcome]).inc();
    }

    /// A rule refused somebody.
    pub fn refusal(&self, rule: &'static str) {
        self.refusals.with_label_values(&[rule]).inc();
    }

    /// A ticket was handed in.
    pub fn order(&self, order: Option<&dyn fmt::Debug>, outcome: &dyn fmt::Debug) {
        let order = order.map_or_else(|| "unknown".to_owned(), word);
        self.orders.with_label_values(&[order, word(outcome)]).inc();
    }

    /// A tenant's operator asked for something.
    pub fn tenant_request(&self, request: &'static str, outcome: &'static str) {
        self.tenant_requests.with_label_values(&[request, outcome]).inc();
    }

    /// A KBS' client asked for something.
    pub fn kbs_request(&self, request: &'static str, status: u16) {
        self.kbs_requests.with_label_values(&[request, status.to_string().as_str()]).inc();
    }

    /// So many requests were decided in one transaction.
    pub fn decided(&self, requests: usize, took: Duration) {
        self.decisions.observe(f64::from(u32::try_from(requests).unwrap_or(u32::MAX)));
        self.transaction_seconds.observe(took.as_secs_f64());
    }

    /// Everything, as Prometheus reads it.
    ///
    /// # Errors
    /// [`MetricsError`].
    pub fn text(&self, standing: &Standing) -> Result<String, MetricsError> {
        for (stage, count) in [("greeted", standing.greeted), ("established", standing.established)] {
            self.sessions.with_label_values(&[stage]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        // What is not known is not shown, and not taken for none.
        self.vms.reset();
        self.database_up.set(i64::from(standing.database.is_some()));
        if let Some(Census { lives, set_backs }) = &standing.database {
            for (life, count) in lives {
                self.vms.with_label_values(&[life]).set(i64::try_from(*count).unwrap_or(i64::MAX));
            }
            self.set_backs.set(i64::try_from(*set_backs).unwrap_or(i64::MAX));
        }
        Ok(TextEncoder::new().encode_to_string(&self.registry.gather())?)
    }

    /// The content type of [`text`](Self::text).
    #[must_use]
    pub fn format() -> String {
        TextEncoder::new().format_type().to_owned()
    }
}

/// Makes metrics under this program's name, and has them shown.
struct Maker<'r>(&'r Registry);

impl Maker<'_> {
    fn name(name: &str) -> String {
        format!("husk_broker_{name}")
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, MetricsError> {
        let made = IntCounterVec::new(Opts::new(Self::name(&format!("{name}_total")), help), labels)?;
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }

    fn gauges(&self, name: &str, help: &str, label: &str) -> Result<IntGaugeVec, MetricsError> {
        let made = IntGaugeVec::new(Opts::new(Self::name(name), help), &[label])?;
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, MetricsError> {
        let made = IntGauge::new(Self::name(name), help)?;
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }

    fn histogram(&self, name: &str, help: &str, cuts: &[f64]) -> Result<Histogram, MetricsError> {
        let made = Histogram::with_opts(HistogramOpts::new(Self::name(name), help).buckets(cuts.to_vec()))?;
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }
}

/// The name of an enumeration's value, as Prometheus writes words.
pub(crate) fn word(value: &dyn fmt::Debug) -> String {
    let mut word = String::new();
    for letter in format!("{value:?}").chars().take_while(char::is_ascii_alphanumeric) {
        if letter.is_ascii_uppercase() && !word.is_empty() {
            word.push('_');
        }
        word.push(letter.to_ascii_lowercase());
    }
    word
}

#[cfg(test)]
mod tests {
    use super::{Census, Metrics, Standing, word};
    use husk::release::wire::{FrameKind, Operation, RefusalReason};
    use std::time::Duration;

    #[test]
    fn a_value_of_an_enumeration_is_one_word() {
        assert_eq!(word(&FrameKind::StatusRequest), "status_request");
        assert_eq!(word(&Operation::Grant), "grant");
        assert_eq!(word(&Some(7)), "some", "and nothing of what is in it");
    }

    #[test]
    fn what_the_database_does_not_say_is_not_shown() {
        let metrics = Metrics::new().unwrap();
        metrics.frame(Some(&FrameKind::Hello), Some(&RefusalReason::Version), Duration::from_millis(3));
        let known = Census { lives: vec![("active", 4)], set_backs: 1 };
        let text = metrics.text(&Standing { database: Some(known), ..Standing::default() }).unwrap();
        let frames = "husk_broker_frames_total{kind=\"hello\",outcome=\"version\"} 1";
        for line in
            [frames, "husk_broker_vms{life=\"active\"} 4", "husk_broker_database_up 1", "_set_backs 1"]
        {
            assert!(text.contains(line), "{line}: {text}");
        }
        let text = metrics.text(&Standing::default()).unwrap();
        assert!(!text.contains("husk_broker_vms{") && text.contains("husk_broker_database_up 0"), "{text}");
    }
}
