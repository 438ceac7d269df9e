//! `cargo xtask bench disk`: what Husk's TPM costs the start of a guest whose disk opens by itself, beside QEMU's CRB in front of swtpm.
//!
//! **What.** The guest of `peers::encrypted` in the same OVMF, on the same model of a disk; its second and later boots, in turn; from the guest's entry to its
//! encrypted volume mounted, and where the time goes between; and how long Husk's TPM was at work in it, by the layer's own stopwatch.
//! **Trust.** The console's words, which are looked for every 50 ms.
//! **Laws.** Both boot in turn, in one run. A duration decides no verdict.
//! **Not here.** What comes before the guest's entry: `image`.

use super::image::{ENTERS, median};
use super::qmp;
use crate::below::{Below, MEMORY_MIB, PATIENCE};
use crate::failure::Failure;
use crate::peers::encrypted::{self, Site, below, plain};
use crate::peers::swtpm::Swtpm;
use crate::process::{self, Daemon};
use crate::product::text;
use crate::{house, setup};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// How often each boots, behind its first boot, which makes the volume.
const ROUNDS: usize = 3;
/// Where a boot has come to, by the console's words; the last one is the end of what is compared.
const PHASES: [(&str, &str); 5] = [
    ("firmware", "BdsDxe: starting"),
    ("kernel image", "Linux version "),
    ("kernel", "Run /init as init process"),
    ("initrd", "Reached target initrd-switch-root.target"),
    ("volume", "Mounted var.mount"),
];
/// What stands before the time, in milliseconds.
const STOPWATCH: &str = "husk: the guest's TPM commands took ms";
const END_PATIENCE: Duration = Duration::from_secs(180);
/// Where `husk run` puts the guest's disk.
const SLOT: u32 = 0x12;
/// When each phase was over, from the guest's entry.
type Times = [Duration; PHASES.len()];

/// Boots both in turn and shows medians.
pub(crate) fn run(json: bool) -> Result<(), Failure> {
    setup::to_boot()?;
    let folder = house::fresh_workshop("bench-disk")?;
    eprintln!("bench: building the guest");
    let at_layer = house::fresh_workshop("bench-disk-below")?;
    let (site, _) = encrypted::built(&folder, false)?;
    let disks = ["swtpm.raw", "husk.raw"].map(|name| folder.join(name));
    for disk in &disks {
        process::output(Command::new("cp").arg("--sparse=always").arg(&site.built).arg(disk))?;
    }
    let mut layer = below::enrolled(&site, &at_layer)?;
    let (mut seen, mut at_work): ([Vec<Times>; 2], Vec<Duration>) = Default::default();
    for round in 0..=ROUNDS {
        eprintln!("bench: boot {round} of {ROUNDS}, behind the first");
        let swtpm = on_swtpm(&site, &folder, &disks[0])?;
        let (husk, tpm) = below_the_image(&mut layer, &site, &disks[1])?;
        let times = [swtpm, husk];
        // The first one makes the volume.
        if round > 0 {
            seen.iter_mut().zip(times).for_each(|(seen, times)| seen.push(times));
            at_work.push(tpm);
        }
    }
    show(&seen, median(at_work.into_iter()), json);
    drop(layer);
    let removed = |folder: &Path| {
        std::fs::remove_dir_all(folder).map_err(|error| Failure::io("remove", folder, &error))
    };
    removed(&at_layer).and_then(|()| removed(&folder))
}

/// One boot in QEMU in front of swtpm, from the instant at which its processor is let go.
fn on_swtpm(site: &Site, folder: &Path, disk: &Path) -> Result<Times, Failure> {
    let at = folder.join("swtpm");
    std::fs::create_dir_all(&at).map_err(|error| Failure::io("make", &at, &error))?;
    let variables = at.join("variables.fd");
    if !variables.exists() {
        process::output(Command::new("cp").arg(&site.variables).arg(&variables))?;
    }
    let swtpm = Swtpm::on_socket(&at)?;
    let (monitor, console) = (at.join("monitor"), at.join("console"));
    for file in [&monitor, &console].into_iter().filter(|file| file.exists()) {
        std::fs::remove_file(file).map_err(|error| Failure::io("remove", file, &error))?;
    }
    let program = setup::program("qemu-system-x86_64")?;
    let line = line([&variables, disk, &swtpm.control_socket(), &monitor]);
    let mut machine = Daemon::start("the guest", &program, &line, &console)?;
    let entered = qmp::let_go(&monitor)?;
    let times = followed(&mut machine, entered)?;
    machine.wait_success(END_PATIENCE)?;
    Ok(times)
}

/// QEMU's words: what `husk run` gives a guest, without the layer.
fn line([variables, disk, control, monitor]: [&Path; 4]) -> Vec<String> {
    let flash = |unit, path: &str, more| format!("if=pflash,format=raw,unit={unit},file={path}{more}");
    let fixed = "-no-user-config -M q35,smm=off -accel tcg -cpu EPYC -smp 1 -nodefaults -display none -serial stdio -no-reboot -m";
    let mut line: Vec<String> = fixed.split(' ').map(str::to_owned).collect();
    line.push(MEMORY_MIB.into());
    line.extend(["-drive".into(), flash(0, setup::OVMF, ",readonly=on")]);
    line.extend(["-drive".into(), flash(1, &text(variables), "")]);
    line.extend(["-drive".into(), format!("if=none,id=disk,format=raw,cache=writeback,file={}", text(disk))]);
    line.extend(["-device".into(), format!("virtio-blk-pci,bus=pcie.0,addr={SLOT:#x},drive=disk")]);
    line.extend(["-chardev".into(), format!("socket,id=control,path={}", text(control))]);
    line.extend(
        ["-tpmdev", "emulator,id=tpm,chardev=control", "-device", "tpm-crb,tpmdev=tpm"].map(str::to_owned),
    );
    line.extend(["-S".into(), "-qmp".into(), format!("unix:{},server=on,wait=off", text(monitor))]);
    line
}

/// One boot below the image, from the instant at which the layer enters the guest; and how long the TPM was at work until the guest was off.
fn below_the_image(layer: &mut Below, site: &Site, disk: &Path) -> Result<(Times, Duration), Failure> {
    let volume = layer.vm.disk.clone();
    let mut machine = below::start(layer, site, setup::OVMF, [&volume, disk])?;
    machine.wait_until(PATIENCE, |console| console.contains(ENTERS).then_some(()))?;
    let times = followed(&mut machine, Instant::now())?;
    machine.wait_success(END_PATIENCE)?;
    let at_work =
        worked(&machine.log_text()).ok_or_else(|| Failure::failed("the layer's stopwatch is not shown"))?;
    Ok((times, at_work))
}

/// What the layer's stopwatch showed at the end.
fn worked(console: &str) -> Option<Duration> {
    let line = console.lines().rev().find_map(|line| line.split_once(STOPWATCH))?;
    let digits = line.1.trim().strip_prefix("0x")?;
    u64::from_str_radix(digits, 16).ok().map(Duration::from_millis)
}

fn followed(machine: &mut Daemon, entered: Instant) -> Result<Times, Failure> {
    let mut times = Times::default();
    for (time, (_, words)) in times.iter_mut().zip(PHASES) {
        let mut seen = |console: &str| plain(console).contains(words).then(|| entered.elapsed());
        *time = machine.wait_until(PATIENCE, &mut seen)?;
    }
    Ok(times)
}

/// How long a phase took, in the median boot of each.
fn phase(seen: &[Vec<Times>; 2], at: usize) -> [f64; 2] {
    seen.each_ref().map(|boots| {
        let took = boots
            .iter()
            .map(|times| times[at] - at.checked_sub(1).map_or(Duration::ZERO, |last| times[last]));
        median(took).as_secs_f64() * 1000.0
    })
}

/// `at_work` is how long the TPM's commands took. What the guest's accesses to its registers cost, each an exit to the layer, is not in it.
fn show(seen: &[Vec<Times>; 2], at_work: Duration, json: bool) {
    let whole = seen.each_ref().map(|boots| median(boots.iter().map(|times| times[PHASES.len() - 1])));
    let whole = ("entry to mounted", whole.map(|time| time.as_secs_f64() * 1000.0));
    let phases = PHASES.iter().enumerate().map(|(at, (name, _))| (*name, phase(seen, at)));
    if !json {
        println!("{:<18} {:>10} {:>10} {:>7}", "until its end", "swtpm ms", "husk ms", "ratio");
    }
    for (name, [swtpm, husk]) in phases.chain([whole]) {
        let ratio = husk / swtpm;
        if json {
            println!(r#"{{"phase":"{name}","husk_ms":{husk:.0},"swtpm_ms":{swtpm:.0},"ratio":{ratio:.3}}}"#);
        } else {
            println!("{name:<18} {swtpm:>10.0} {husk:>10.0} {ratio:>7.3}");
        }
    }
    let tpm = at_work.as_secs_f64() * 1000.0;
    if json {
        println!(r#"{{"phase":"the TPM's commands","husk_ms":{tpm:.0}}}"#);
    } else {
        println!("of it the TPM's commands: {tpm:.0} ms, without the exits for its registers");
    }
}

#[cfg(test)]
mod tests {
    use super::{PHASES, Times, phase, worked};
    use std::time::Duration;

    #[test]
    fn the_stopwatch_is_read_as_the_layer_shows_it() {
        let console = "husk: the guest's TPM commands 0x00000021\r\nhusk: the guest's TPM commands took ms 0x000001f4\r\nhusk: the slowest";
        assert_eq!(worked(console), Some(Duration::from_millis(500)));
        assert_eq!(worked("husk: the guest's TPM commands took ms soon"), None);
    }

    #[test]
    fn a_phase_is_what_lies_between_two_marks() {
        let boot =
            |step: u64| -> Times { std::array::from_fn(|at| Duration::from_millis(step * (at as u64 + 1))) };
        let seen = [vec![boot(10), boot(30), boot(20)], vec![boot(40), boot(40), boot(41)]];
        for at in 0..PHASES.len() {
            assert_eq!(phase(&seen, at), [20.0, 40.0]);
        }
    }
}
