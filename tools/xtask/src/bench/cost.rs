//! What the kernel and husk counted, and which processor does what.

use super::client::Client;
use super::outcome::median_us;
use crate::failure::Failure;
use crate::process;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// What strace is to write down: every way to ask that bytes reach the disk.
pub(super) const FLUSHES: &str = "trace=fsync,fdatasync,sync,syncfs,sync_file_range,msync";

/// How many flushes a trace holds, a line each.
pub(super) fn flushes_in(trace: &Path) -> Result<f64, Failure> {
    let text = text(&trace.to_string_lossy())?;
    // A call that another thread's line cut in two has a second line.
    let whole = text.lines().filter(|line| !line.is_empty() && !line.contains("resumed>"));
    Ok(whole.count() as f64)
}

/// What one process has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reading {
    cpu_ns: u64,
    written: DiskCost,
}

impl Reading {
    /// Reads process `pid`, which serves `client`: its responses are no writes to the disk.
    pub(super) fn of(pid: u32, client: &Client) -> Result<Self, Failure> {
        let io = text(&format!("/proc/{pid}/io"))?;
        let number = |name| field(&io, name).ok_or_else(|| unreadable("/proc/PID/io"));
        let less = |all: u64, replies: u64| all.saturating_sub(replies) as f64;
        let written = DiskCost {
            bytes: less(number("wchar:")?, client.reply_bytes),
            writes: less(number("syscw:")?, client.replies),
            flushes: None,
        };
        Ok(Self { cpu_ns: cpu_ns(pid)?, written })
    }

    pub(super) fn cpu_us_since(&self, before: &Self) -> f64 {
        self.cpu_ns.saturating_sub(before.cpu_ns) as f64 / 1000.0
    }

    pub(super) fn written_since(&self, before: &Self) -> DiskCost {
        self.written.since(&before.written)
    }
}

/// What was asked of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct DiskCost {
    pub(super) bytes: f64,
    pub(super) writes: f64,
    /// Unknown where only the kernel counted, which does not count them.
    pub(super) flushes: Option<f64>,
}

impl DiskCost {
    /// What `husk vtpmd` said at its end: `vtpmd: disk: 3 writes, 1536 bytes, 3 flushes`.
    pub(super) fn of_log(log: &Path) -> Result<Self, Failure> {
        let text = text(&log.to_string_lossy())?;
        Self::of_line(&text).ok_or_else(|| unreadable("the counts in vtpmd's log"))
    }

    fn of_line(text: &str) -> Option<Self> {
        let (_, counts) = text.rsplit_once("vtpmd: disk: ")?;
        let mut words = counts.lines().next()?.split(' ');
        let mut next = |unit: &str| {
            let number: u32 = words.next()?.parse().ok()?;
            (words.next()?.trim_end_matches(',') == unit).then(|| f64::from(number))
        };
        let (writes, bytes, flushes) = (next("writes")?, next("bytes")?, next("flushes")?);
        Some(Self { bytes, writes, flushes: Some(flushes) })
    }

    pub(super) fn since(&self, before: &Self) -> Self {
        let flushes = self.flushes.zip(before.flushes).map(|(after, before)| after - before);
        Self { bytes: self.bytes - before.bytes, writes: self.writes - before.writes, flushes }
    }

    pub(super) fn per(&self, commands: f64) -> Self {
        let flushes = self.flushes.map(|flushes| flushes / commands);
        Self { bytes: self.bytes / commands, writes: self.writes / commands, flushes }
    }
}

/// What the disk below `folder` takes for the least that a durable change can be: the yardstick for commits.
pub(super) fn bare_flush_us(folder: &Path) -> Result<f64, Failure> {
    let path = folder.join("yardstick");
    let failed = |error| Failure::io("write", &path, &error);
    let file = File::create(&path).map_err(failed)?;
    file.write_all_at(&[1; 1 << 16], 0).and_then(|()| file.sync_all()).map_err(failed)?;
    let once = |at: u64| {
        let started = Instant::now();
        file.write_all_at(&[2; 512], at * 512).and_then(|()| file.sync_data()).map(|()| started.elapsed())
    };
    let samples: Result<Vec<_>, _> = (0..100).map(once).collect();
    samples.map(|samples| median_us(&samples)).map_err(failed)
}

/// The memory of a process that lies in RAM, in KiB.
pub(super) fn resident_kib(pid: u32) -> Result<u64, Failure> {
    let status = text(&format!("/proc/{pid}/status"))?;
    field(&status, "VmRSS:").ok_or_else(|| unreadable("/proc/PID/status"))
}

/// Time on a processor, of every thread that lives.
fn cpu_ns(pid: u32) -> Result<u64, Failure> {
    let folder = format!("/proc/{pid}/task");
    let threads =
        std::fs::read_dir(&folder).map_err(|error| Failure::io("read", Path::new(&folder), &error))?;
    let mut sum = 0;
    for thread in threads.flatten() {
        let spent = text(&thread.path().join("schedstat").to_string_lossy())?;
        let first = spent.split(' ').next().and_then(|number| number.parse::<u64>().ok());
        sum += first.ok_or_else(|| unreadable("schedstat"))?;
    }
    Ok(sum)
}

/// The number behind a name, as the kernel's tables have it.
fn field(table: &str, name: &str) -> Option<u64> {
    let value = table.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_whitespace().next()?.parse().ok()
}

fn text(path: &str) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| Failure::io("read", Path::new(path), &error))
}

fn unreadable(what: &str) -> Failure {
    Failure::failed(format!("bench: {what} is not as expected"))
}

/// Which processor runs the TPM in its turn, and which everything else: this client, broker, relay.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pins {
    tpm: Option<u32>,
}

impl Pins {
    /// Keeps this process, and what it starts from now on, on the first processor where there is more than one.
    pub(super) fn choose() -> Result<Self, Failure> {
        let status = text("/proc/self/status")?;
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let Some((first, last)) = ends(list.unwrap_or_default().trim()) else {
            return Ok(Self { tpm: None });
        };
        let own = std::process::id().to_string();
        process::output(Command::new("taskset").args(["-a", "-c", "-p", &first.to_string(), &own]))?;
        Ok(Self { tpm: Some(last) })
    }

    /// The words to put before a TPM's.
    pub(super) fn words(self) -> Option<[String; 2]> {
        self.tpm.map(|processor| ["-c".to_owned(), processor.to_string()])
    }
}

impl fmt::Display for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tpm {
            Some(processor) => write!(f, "TPMs on processor {processor}, everything else on the first"),
            None => f.write_str("one processor for everything: expect noise"),
        }
    }
}

/// The first and the last of a list such as `0-3,8`, if they differ.
fn ends(list: &str) -> Option<(u32, u32)> {
    let number = |text: Option<&str>| text?.parse::<u32>().ok();
    let first = number(list.split([',', '-']).next())?;
    let last = number(list.rsplit([',', '-']).next())?;
    (first != last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::{DiskCost, ends, field, flushes_in};

    #[test]
    fn the_counts_of_a_log_are_its_last_ones() {
        let log = "vtpmd: ready\nvtpmd: disk: 1 writes, 2 bytes, 3 flushes\nvtpmd: disk: 4 writes, 2048 bytes, 5 flushes\n";
        let wanted = DiskCost { bytes: 2048.0, writes: 4.0, flushes: Some(5.0) };
        assert_eq!(DiskCost::of_line(log), Some(wanted));
        assert_eq!(DiskCost::of_line("vtpmd: disk: 4 bytes"), None);
        assert_eq!(DiskCost::of_line("vtpmd: ready"), None);
    }

    #[test]
    fn every_flush_of_a_trace_counts_once() {
        let folder = crate::house::fresh_workshop("unit-trace").expect("folder");
        let trace = folder.join("trace");
        let lines = "7 fdatasync(4) = 0\n8 fsync(5 <unfinished ...>\n7 msync(1, 2, MS_SYNC) = 0\n8 <... fsync resumed>) = 0\n";
        std::fs::write(&trace, lines).expect("written");
        assert_eq!(flushes_in(&trace).ok(), Some(3.0));
    }

    #[test]
    fn costs_are_a_difference_shared_out() {
        let [before, after] = [1.0, 9.0].map(|number| DiskCost {
            bytes: number * 512.0,
            writes: number,
            flushes: Some(number),
        });
        let each = DiskCost { bytes: 512.0, writes: 1.0, flushes: Some(1.0) };
        assert_eq!(after.since(&before).per(8.0), each);
        assert_eq!(after.since(&DiskCost::default()).flushes, None);
    }

    #[test]
    fn the_kernels_tables_and_lists_are_read() {
        assert_eq!(field("Name:\tx\nVmRSS:\t  1234 kB\n", "VmRSS:"), Some(1234));
        assert_eq!(field("wchar: 7\n", "syscw:"), None);
        assert_eq!(ends("0-3,8"), Some((0, 8)));
        assert_eq!(ends("0-1"), Some((0, 1)));
        assert_eq!(ends("2"), None);
        assert_eq!(ends(""), None);
    }
}
