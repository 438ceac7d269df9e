//! `cargo xtask bench image`: what the layer costs a guest, beside the same kernel in a machine without a layer and a TPM.

use super::entry::await_entry;
use crate::below::{Below, MEMORY_MIB, PATIENCE, Start};
use crate::failure::Failure;
use crate::guest::{Report, image_with};
use crate::process::Daemon;
use crate::product::Profile;
use crate::setup::Kernel;
use crate::{house, setup};
use std::path::Path;
use std::time::{Duration, Instant};

/// How often each machine boots.
const ROUNDS: usize = 3;
/// What measures lateness in the guest (Debian's package rt-tests).
const METER: &str = "cyclictest";
const SCRIPT: &str = "gaps";
/// The kernel speaks as soon as it runs.
const SPEAKS_EARLY: &str = "earlycon=uart8250,io,0x3f8,115200 console=ttyS0 loglevel=6";
/// What the layer says when it enters the guest.
pub(super) const ENTERS: &str = "husk: the guest starts";
/// The first line of a kernel.
const FIRST_LINE: &str = "Linux version ";
const END_PATIENCE: Duration = Duration::from_secs(60);

/// What one boot showed.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// From QEMU's or the launcher's start to the kernel's entry.
    entry: Duration,
    /// From the same to the kernel's first line, which it says once it has unpacked itself.
    first_line: Duration,
    longest_gap: Duration,
    /// Keys that the TPM made meanwhile.
    keys: u64,
}

/// Boots both machines in turn and shows medians.
pub(crate) fn run(json: bool) -> Result<(), Failure> {
    setup::to_boot()?;
    let folder = house::fresh_workshop("bench-image")?;
    let kernel = setup::fetched_kernel()?;
    let initramfs = image_with(&[METER])?;
    let mut below = Below::set_built(Profile::Release, &folder, kernel.clone(), initramfs.clone())?;
    let (mut alone_seen, mut below_seen) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        eprintln!("bench: round {round} of {ROUNDS}");
        alone_seen.push(alone(&kernel, &initramfs, &folder.join(format!("alone-{round}.console")))?);
        below_seen.push(below_the_image(&mut below)?);
    }
    show(&[("alone", &alone_seen), ("below the image", &below_seen)], json);
    drop(below);
    std::fs::remove_dir_all(&folder).map_err(|error| Failure::io("remove", &folder, &error))
}

/// The kernel in QEMU alone, without a TPM.
fn alone(kernel: &Kernel, initramfs: &Path, log: &Path) -> Result<Seen, Failure> {
    let program = setup::program("qemu-system-x86_64")?;
    let append = format!("{SPEAKS_EARLY} panic=-1 husk.script={SCRIPT} husk.set.driver=none");
    let words = "-no-user-config -accel tcg -cpu EPYC -M q35 -nodefaults -display none -serial stdio -no-reboot -smp 1 -m";
    let mut line: Vec<String> = words.split(' ').map(str::to_owned).collect();
    let socket = log.with_extension("stub");
    let paths = [kernel.image.as_path(), initramfs, &socket].map(|path| path.to_string_lossy().into_owned());
    let [kernel, initrd, stub] = paths;
    line.extend([
        MEMORY_MIB.into(),
        "-kernel".into(),
        kernel,
        "-initrd".into(),
        initrd,
        "-append".into(),
        append,
        "-S".into(),
        "-gdb".into(),
        format!("unix:{stub},server=on,wait=off"),
    ]);
    let started = Instant::now();
    let mut machine = Daemon::start("the guest alone", &program, &line, log)?;
    let entry = await_entry(&socket)?.duration_since(started);
    let seen = seen(&mut machine, started, entry)?;
    machine.wait_success(END_PATIENCE)?;
    Ok(seen)
}

fn below_the_image(below: &mut Below) -> Result<Seen, Failure> {
    let disk = below.vm.disk.clone();
    let start = Start {
        script: SCRIPT,
        settings: &[],
        disk: &disk,
        guest_cpus: 1,
        words: &[],
        kernel_words: SPEAKS_EARLY,
    };
    let started = Instant::now();
    let mut machine = below.start(start)?;
    let entry =
        machine.wait_until(PATIENCE, |console| console.contains(ENTERS).then(|| started.elapsed()))?;
    let seen = seen(&mut machine, started, entry)?;
    machine.wait_success(END_PATIENCE)?;
    if seen.keys == 0 {
        return Err(Failure::failed("bench: the TPM made no key while the guest's timers were watched"));
    }
    Ok(seen)
}

fn seen(machine: &mut Daemon, started: Instant, entry: Duration) -> Result<Seen, Failure> {
    let first_line =
        machine.wait_until(PATIENCE, |console| console.contains(FIRST_LINE).then(|| started.elapsed()))?;
    machine.wait_until(PATIENCE, |console| Report::read(console).end)?;
    let report = Report::read(&machine.log_text());
    let number = |name: &str| report.value(name).and_then(|value| value.parse::<u64>().ok());
    match (report.end, number("longest-gap-us"), number("keys-made")) {
        (Some(true), Some(gap_us), Some(keys)) => {
            Ok(Seen { entry, first_line, longest_gap: Duration::from_micros(gap_us), keys })
        }
        _ => Err(Failure::failed(format!("bench: the guest did not measure: {:?}", report.steps))),
    }
}

fn show(machines: &[(&str, &[Seen]); 2], json: bool) {
    if !json {
        let [entry, line, gap, keys] = ["entry ms", "first line ms", "longest gap ms", "RSA keys"];
        println!("{:<17} {entry:>10} {line:>14} {gap:>16} {keys:>10}", "kernel");
    }
    for (name, seen) in machines {
        let entry = median(seen.iter().map(|seen| seen.entry));
        let line = median(seen.iter().map(|seen| seen.first_line));
        let gap = median(seen.iter().map(|seen| seen.longest_gap));
        let keys: u64 = seen.iter().map(|seen| seen.keys).sum();
        let [entry, line, gap] = [entry, line, gap].map(|time| time.as_secs_f64() * 1000.0);
        if json {
            println!(
                r#"{{"kernel":"{name}","entry_ms":{entry:.0},"first_line_ms":{line:.0},"longest_gap_ms":{gap:.1},"rsa_keys":{keys}}}"#
            );
        } else {
            println!("{name:<17} {entry:>10.0} {line:>14.0} {gap:>16.1} {keys:>10}");
        }
    }
}

pub(super) fn median(times: impl Iterator<Item = Duration>) -> Duration {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::median;
    use std::time::Duration;

    #[test]
    fn the_median_is_the_one_in_the_middle() {
        let times = [9, 1, 5].map(Duration::from_millis);
        assert_eq!(median(times.into_iter()), Duration::from_millis(5));
    }
}
