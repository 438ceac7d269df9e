//! What the broker says to its operator, on standard error.
//!
//! **What.** [`begin`] has everything that is said from then on written in a [`LogFormat`]: lines for people, or a JSON object a line.
//! **Laws.** Nothing secret is said: no key, no epoch's secret, no resource, no token, no body of a request (a test searches for them). A
//! line is one line, whatever is in it.
//! **Not here.** A tenant's log (`audit`), which is part of the database.

use std::fmt;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter, layer};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::registry::{LookupSpan, Registry};

/// How a log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// A line of text for each message.
    #[default]
    Text,
    /// A JSON object a line: `timestamp` (UTC), `level`, `message`, and where there is one `vm` and more fields.
    Json,
}

/// Has this process's log written to standard error, from now on.
///
/// # Errors
/// Another format was begun before.
pub fn begin(format: LogFormat) -> anyhow::Result<()> {
    Ok(tracing::subscriber::set_global_default(subscriber(format, std::io::stderr))?)
}

/// What writes a log to `out`.
pub fn subscriber<W>(format: LogFormat, out: W) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let written = match format {
        LogFormat::Text => layer::<Registry>().event_format(Line).with_writer(out).boxed(),
        LogFormat::Json => layer::<Registry>()
            .json()
            .flatten_event(true)
            .with_target(false)
            .with_current_span(false)
            .with_span_list(false)
            .with_writer(out)
            .boxed(),
    };
    // What libraries say is about their own affairs, which may be anybody's.
    let ours = filter_fn(|said| said.target().starts_with("husk"));
    tracing_subscriber::registry().with(written.with_filter(ours))
}

/// `husk-broker: VM: message`
struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut said = Said::default();
        event.record(&mut said);
        out.write_str("husk-broker: ")?;
        if let Some(vm) = &said.vm {
            write!(out, "{vm}: ")?;
        }
        for letter in said.message.chars() {
            out.write_char(if letter.is_control() { ' ' } else { letter })?;
        }
        out.write_char('\n')
    }
}

#[derive(Default)]
struct Said {
    vm: Option<String>,
    message: String,
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "vm" => self.vm = Some(format!("{value:?}")),
            "message" => self.message = format!("{value:?}"),
            // What else there is, the message says in words.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{LogFormat, subscriber};
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn said(format: LogFormat) -> String {
        let kept = Kept::default();
        let out = kept.clone();
        tracing::subscriber::with_default(subscriber(format, move || out.clone()), || {
            tracing::warn!(vm = %"a/b", entry = 7, "refused,\n{}", "entry 7");
            tracing::info!("ending");
            tracing::info!(target: "hyper", "a library's affair");
        });
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_message_is_one_line_of_text() {
        assert_eq!(said(LogFormat::Text), "husk-broker: a/b: refused, entry 7\nhusk-broker: ending\n");
    }

    #[test]
    fn a_message_is_one_object_of_json() {
        let text = said(LogFormat::Json);
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!((&lines[0]["level"], &lines[0]["vm"]), (&"WARN".into(), &"a/b".into()));
        assert_eq!((&lines[0]["message"], &lines[0]["entry"]), (&"refused,\nentry 7".into(), &7.into()));
        assert!(lines[1]["timestamp"].as_str().is_some_and(|text| text.ends_with('Z')));
    }
}
