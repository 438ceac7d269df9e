//! What was measured, as a table and as JSON.

use super::Three;
use super::cost::DiskCost;
use std::time::Duration;

/// One operation on the three TPMs: husk with its broker, husk without, swtpm.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Outcome {
    pub(super) op: &'static str,
    /// The median in microseconds.
    pub(super) median_us: Three<f64>,
    /// Time on a processor in microseconds, the kernel's part included: the mean, with what belongs to a round but is
    /// not timed. Unknown of a process that ended.
    pub(super) cpu_us: Option<Three<f64>>,
    /// Of a cold start, the medians of what husk waited for and of the rest: its broker, the simulated processor, husk itself.
    pub(super) parts_us: Option<Three<f64>>,
    /// Memory in RAM when the last round was over.
    pub(super) resident_kib: Option<Three<u64>>,
    /// What husk asked of its disk, as it counted itself, where durable memory changes.
    pub(super) disk: Option<DiskCost>,
    /// What swtpm wrote, as the kernel counted.
    pub(super) swtpm_disk: Option<DiskCost>,
}

impl Outcome {
    /// Times and nothing else.
    pub(super) fn of_times(op: &'static str, samples: &Three<Vec<Duration>>) -> Self {
        let median_us = samples.each_ref().map(|samples| median_us(samples));
        Self { op, median_us, cpu_us: None, parts_us: None, resident_kib: None, disk: None, swtpm_disk: None }
    }

    /// husk's time to swtpm's.
    fn ratio(&self) -> f64 {
        let [husk, _, swtpm] = self.median_us;
        husk / swtpm
    }

    /// One object on one line. Of names and numbers that are ours, so nothing needs escaping.
    pub(super) fn json(&self) -> String {
        let [husk, unanchored, swtpm] = self.median_us;
        let mut fields = vec![
            format!(r#""op":"{}""#, self.op),
            format!(r#""husk_us":{husk:.1},"husk_unanchored_us":{unanchored:.1},"swtpm_us":{swtpm:.1}"#),
            format!(r#""ratio":{:.3}"#, self.ratio()),
        ];
        fields.extend(self.disk.map(|disk| disk.json("")));
        fields.extend(self.swtpm_disk.map(|disk| disk.json("swtpm_")));
        let three = ["husk", "husk_unanchored", "swtpm"];
        if let Some(cpu_us) = self.cpu_us {
            let times = three.iter().zip(cpu_us);
            fields.extend(times.map(|(whose, time)| format!(r#""{whose}_cpu_us":{time:.1}"#)));
        }
        if let Some(parts_us) = self.parts_us {
            let parts = ["broker", "processor", "own"].iter().zip(parts_us);
            fields.extend(parts.map(|(part, time)| format!(r#""husk_{part}_us":{time:.1}"#)));
        }
        if let Some(resident_kib) = self.resident_kib {
            let sizes = three.iter().zip(resident_kib);
            fields.extend(sizes.map(|(whose, size)| format!(r#""{whose}_resident_kib":{size}"#)));
        }
        format!("{{{}}}", fields.join(","))
    }
}

impl DiskCost {
    fn json(&self, prefix: &str) -> String {
        let counts =
            [("bytes_written", Some(self.bytes)), ("writes", Some(self.writes)), ("flushes", self.flushes)];
        let known = counts.iter().filter_map(|(name, count)| Some((name, (*count)?)));
        let fields: Vec<String> =
            known.map(|(name, count)| format!(r#""{prefix}{name}":{}"#, number(count))).collect();
        fields.join(",")
    }

    fn line(&self, name: &str) -> String {
        let flushes = self.flushes.map_or_else(|| "-".to_owned(), number);
        let [bytes, writes] = [self.bytes, self.writes].map(number);
        format!("{name:34}{bytes:>10}{writes:>11}{flushes:>10}\n")
    }
}

/// Whole numbers without a point.
fn number(count: f64) -> String {
    if count.fract() == 0.0 { format!("{count:.0}") } else { format!("{count:.2}") }
}

/// The middle of the samples in microseconds, or of the two in the middle their mean; 0 of none.
pub(super) fn median_us(samples: &[Duration]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let middle = sorted.len() / 2;
    let us = |at: usize| sorted.get(at).map_or(0.0, |sample| sample.as_secs_f64() * 1e6);
    if sorted.len() % 2 == 1 { us(middle) } else { (us(middle.saturating_sub(1)) + us(middle)) / 2.0 }
}

/// For people: times, then what durable changes ask of the disk.
pub(super) fn table(outcomes: &[Outcome]) -> String {
    let mut text =
        format!("{:34}{:>10}{:>11}{:>10}{:>7}", "median, µs", "husk", "no broker", "swtpm", "ratio");
    text += &format!("   {:>9}{:>11}{:>9}\n", "CPU husk", "no broker", "swtpm");
    for outcome in outcomes {
        let [husk, unanchored, swtpm] = outcome.median_us;
        let ratio = outcome.ratio();
        text += &format!("{:34}{husk:10.1}{unanchored:11.1}{swtpm:10.1}{ratio:7.2}", outcome.op);
        if let Some([husk, unanchored, swtpm]) = outcome.cpu_us {
            text += &format!("   {husk:9.1}{unanchored:11.1}{swtpm:9.1}");
        }
        text += "\n";
    }
    text += &parts(outcomes);
    text += &format!("\n{:34}{:>10}{:>11}{:>10}\n", "one durable change", "bytes", "writes", "flushes");
    for outcome in outcomes.iter().filter(|outcome| outcome.disk.is_some()) {
        let costs = [("husk", outcome.disk), ("swtpm", outcome.swtpm_disk)];
        let known = costs.iter().filter_map(|(who, disk)| Some((who, disk.as_ref()?)));
        text.extend(known.map(|(who, disk)| disk.line(&format!("{}: {who}", outcome.op))));
    }
    text
}

/// What cold starts of husk are made of; nothing of none.
fn parts(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for outcome in outcomes {
        if let Some([broker, processor, own]) = outcome.parts_us {
            if text.is_empty() {
                text += &format!(
                    "\n{:34}{:>10}{:>11}{:>10}{:>7}\n",
                    "of husk's, µs", "broker", "processor", "rest", "ratio"
                );
            }
            let ratio = own / outcome.median_us[2];
            text += &format!("{:34}{broker:10.1}{processor:11.1}{own:10.1}{ratio:7.2}\n", outcome.op);
        }
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::cost::DiskCost;
    use super::super::operations::{OPERATIONS, OPERATIONS_FROM_RAM};
    use super::{Outcome, median_us, table};
    use std::time::Duration;

    pub(in super::super) fn two() -> [Outcome; 2] {
        let husk = DiskCost { bytes: 512.0, writes: 1.0, flushes: Some(1.0) };
        let swtpm = DiskCost { bytes: 1300.5, writes: 1.0, flushes: None };
        let none = [(); 3].map(|()| Vec::new());
        let plain = Outcome { median_us: [30.0, 29.0, 30.0], ..Outcome::of_times("PCR_Read", &none) };
        let durable = Outcome {
            op: "NV_Increment",
            median_us: [900.0, 300.0, 100.0],
            cpu_us: Some([90.0, 60.0, 55.0]),
            parts_us: Some([20.0, 5.0, 7.5]),
            resident_kib: Some([9652, 9336, 6896]),
            disk: Some(husk),
            swtpm_disk: Some(swtpm),
        };
        [plain, durable]
    }

    #[test]
    fn the_median_is_the_middle() {
        let of = |samples: &[u64]| {
            median_us(&samples.iter().map(|us| Duration::from_micros(*us)).collect::<Vec<_>>())
        };
        let near = |found: f64, wanted: f64| (found - wanted).abs() < 1e-6;
        assert!(near(of(&[]), 0.0));
        assert!(near(of(&[7]), 7.0));
        assert!(near(of(&[1000, 1, 3]), 3.0));
        assert!(near(of(&[1000, 1, 3, 5]), 4.0));
    }

    #[test]
    fn an_object_has_what_was_measured_and_nothing_else() {
        let [plain, nv] = two().map(|outcome| outcome.json()).map(|line| {
            assert!(!line.contains('\n'), "an object a line");
            serde_json::from_str::<serde_json::Value>(&line).expect("JSON")
        });
        let times = serde_json::json!({
            "op": "PCR_Read", "husk_us": 30.0, "husk_unanchored_us": 29.0, "swtpm_us": 30.0, "ratio": 1.0,
        });
        assert_eq!(plain, times);
        let all = serde_json::json!({
            "op": "NV_Increment", "husk_us": 900.0, "husk_unanchored_us": 300.0, "swtpm_us": 100.0, "ratio": 9.0,
            "bytes_written": 512, "writes": 1, "flushes": 1,
            "swtpm_bytes_written": 1300.5, "swtpm_writes": 1,
            "husk_cpu_us": 90.0, "husk_unanchored_cpu_us": 60.0, "swtpm_cpu_us": 55.0,
            "husk_broker_us": 20.0, "husk_processor_us": 5.0, "husk_own_us": 7.5,
            "husk_resident_kib": 9652, "husk_unanchored_resident_kib": 9336, "swtpm_resident_kib": 6896,
        });
        assert_eq!(nv, all);
    }

    #[test]
    fn names_need_no_escape_in_json() {
        let names = OPERATIONS.iter().chain(OPERATIONS_FROM_RAM).map(|operation| operation.name);
        assert!(names.clone().count() > 10);
        for name in names {
            assert!(
                name.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\') || c == ' '),
                "{name}"
            );
        }
    }

    #[test]
    fn the_table_has_a_line_for_each() {
        let text = table(&two());
        assert_eq!(text.lines().count(), 3 + 3 + 2 + 2);
        let line = text.lines().find(|line| line.starts_with("NV_Increment ")).expect("a line");
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words, ["NV_Increment", "900.0", "300.0", "100.0", "9.00", "90.0", "60.0", "55.0"]);
        let cost = text.lines().find(|line| line.starts_with("NV_Increment: swtpm")).expect("a line");
        assert!(cost.contains('-'), "{cost}");
    }
}
