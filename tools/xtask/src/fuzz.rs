//! `cargo xtask fuzz`: the targets of `tests/fuzz` under libFuzzer, guided by coverage.
//!
//! The programs are built by stable Rust: the compiler's coverage pass is a code generation option, and no sanitizer is
//! linked (there is hardly any `unsafe` to watch), so that neither nightly Rust nor cargo-fuzz is needed. The layout is
//! cargo-fuzz's own all the same: `cargo fuzz run --fuzz-dir tests/fuzz TARGET` works for who has it.

use crate::failure::Failure;
use crate::steps::Steps;
use crate::{house, process, setup};
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) const HELP: &str = "\
cargo xtask fuzz [--seconds N] [--target T] [--merge]

Builds the targets of tests/fuzz with coverage and runs each for N seconds (60 by
default), or only T, from its seeds, the committed corpus and what earlier runs left
in target/husk/fuzz. An input that breaks a law ends the target; it is kept in
target/husk/fuzz/broken, and the line that runs it again is printed.
With --merge the committed corpus is made anew afterwards: the fewest inputs that
cover what all of them do, at most 200 for each target.";

/// How long a target runs if nothing else is said.
pub(crate) const SECONDS: u64 = 60;

/// The longest input in bytes.
const INPUT_BYTES_MAX: u64 = 4096;

/// The most files of one target's corpus; `tests/fuzz` checks the same.
const FILES_MAX: usize = 200;

const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// What libFuzzer wants in the code, and the checks of a debug build.
const RUSTFLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks";

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish<'a> {
    pub(crate) seconds: u64,
    pub(crate) target: Option<&'a str>,
    pub(crate) merge: bool,
}

/// Where everything lies.
struct Places {
    seeds: PathBuf,
    /// What libFuzzer found so far.
    found: PathBuf,
    broken: PathBuf,
    logs: PathBuf,
    corpus: PathBuf,
}

/// Runs what was asked for; the last line counts.
pub(crate) fn run(wish: &Wish<'_>) -> Result<(), Failure> {
    let mut steps = Steps::default();
    into(&mut steps, wish)?;
    println!("fuzz: {} passed, {} failed", steps.passed, steps.failed);
    if steps.all_passed() { Ok(()) } else { Err(Failure::failed("fuzz: something failed, see above")) }
}

/// Every target as a step.
pub(crate) fn into(steps: &mut Steps, wish: &Wish<'_>) -> Result<(), Failure> {
    setup::to_build()?;
    let targets = targets(wish.target)?;
    let places = Places {
        seeds: house::fresh_workshop("fuzz/seeds")?,
        found: house::workshop("fuzz/found")?,
        broken: house::workshop("fuzz/broken")?,
        logs: house::workshop("fuzz/logs")?,
        corpus: house::root().join("tests/fuzz/corpus"),
    };
    let seeds = ["run", "--quiet", "--package", "husk-fuzz", "--bin", "seeds", "--"];
    process::run(Command::new("cargo").args(seeds).arg(&places.seeds).current_dir(house::root()))?;
    build(&targets)?;
    for target in &targets {
        steps.attempt(&format!("fuzz: {target}"), || fuzz(target, wish.seconds, &places));
        if wish.merge {
            steps.attempt(&format!("fuzz: {target}: corpus"), || merge(target, &places));
        }
    }
    Ok(())
}

/// The targets' names, which are those of their programs.
fn targets(only: Option<&str>) -> Result<Vec<String>, Failure> {
    let programs = house::root().join("tests/fuzz/fuzz_targets");
    let names = files(&programs)?.into_iter().filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()));
    let mut names: Vec<String> = names.filter(|name| only.is_none_or(|only| only == name)).collect();
    names.sort();
    match only {
        Some(only) if names.is_empty() => Err(Failure::usage(format!("fuzz: no target `{only}`"))),
        _ => Ok(names),
    }
}

fn build(targets: &[String]) -> Result<(), Failure> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--quiet", "--package", "husk-fuzz", "--target", TRIPLE]);
    cargo.args(["--target-dir", "target/fuzz"]).env("RUSTFLAGS", RUSTFLAGS).current_dir(house::root());
    cargo.args(targets.iter().flat_map(|target| ["--bin", target]));
    process::run(&mut cargo)
}

fn program(target: &str) -> PathBuf {
    house::root().join("target/fuzz").join(TRIPLE).join("debug").join(target)
}

/// One target; what libFuzzer says at its end is what was seen.
fn fuzz(target: &str, seconds: u64, places: &Places) -> Result<String, Failure> {
    let [seeds, found, corpus] = [&places.seeds, &places.found, &places.corpus].map(|at| at.join(target));
    for folder in [&found, &corpus] {
        std::fs::create_dir_all(folder).map_err(|error| Failure::io("make", folder, &error))?;
    }
    let log = places.logs.join(target);
    let output = std::fs::File::create(&log).map_err(|error| Failure::io("write", &log, &error))?;
    let mut command = Command::new(program(target));
    command.arg(format!("-max_total_time={seconds}")).arg(format!("-max_len={INPUT_BYTES_MAX}"));
    command.args(["-timeout=60", "-rss_limit_mb=2048", "-print_final_stats=1"]);
    command.arg(format!("-artifact_prefix={}/{target}-", places.broken.display()));
    command.args([&found, &corpus, &seeds]).stdout(std::process::Stdio::null()).stderr(output);
    let status = command.status().map_err(|error| Failure::io("run", &program(target), &error))?;
    let said = std::fs::read_to_string(&log).map_err(|error| Failure::io("read", &log, &error))?;
    if status.success() {
        return Ok(summary(&said));
    }
    let kept = said.lines().find_map(|line| line.split("Test unit written to ").nth(1)).unwrap_or("nowhere");
    Err(Failure::failed(format!(
        "a law is broken; again: cargo run -p husk-fuzz --bin {target} {kept}\n    the log is {}",
        log.display()
    )))
}

/// How many inputs were run, and what they covered.
fn summary(log: &str) -> String {
    let last = |what: &str| {
        let words: Vec<&str> = log.lines().rfind(|line| line.contains(what))?.split_whitespace().collect();
        let at = words.iter().position(|word| *word == what)?;
        words.get(at + 1).map(|word| (*word).to_owned())
    };
    let number = |what| last(what).unwrap_or_else(|| "?".into());
    format!("{} inputs, {} edges", number("stat::number_of_executed_units:"), number("cov:"))
}

/// Makes the committed corpus anew.
fn merge(target: &str, places: &Places) -> Result<String, Failure> {
    let smallest = house::fresh_workshop(&format!("fuzz/merged/{target}"))?;
    let all = [&places.corpus, &places.found, &places.seeds].map(|at| at.join(target));
    let mut command = Command::new(program(target));
    command.arg("-set_cover_merge=1").arg(format!("-max_len={INPUT_BYTES_MAX}")).arg(&smallest).args(&all);
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    process::run(&mut command)?;
    let corpus = places.corpus.join(target);
    std::fs::remove_dir_all(&corpus).map_err(|error| Failure::io("empty", &corpus, &error))?;
    std::fs::create_dir_all(&corpus).map_err(|error| Failure::io("make", &corpus, &error))?;
    let mut merged = files(&smallest)?;
    merged.sort_by_key(|path| std::fs::metadata(path).map_or(u64::MAX, |about| about.len()));
    merged.truncate(FILES_MAX);
    for path in &merged {
        let name = path.file_name().unwrap_or_default();
        std::fs::copy(path, corpus.join(name)).map_err(|error| Failure::io("copy", path, &error))?;
    }
    Ok(format!("{} files", merged.len()))
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = std::fs::read_dir(folder).map_err(|error| Failure::io("read", folder, &error))?;
    Ok(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect())
}

#[cfg(test)]
mod tests {
    use super::{summary, targets};

    #[test]
    fn what_libfuzzer_says_at_its_end_is_read() {
        let log = "#2\tINITED cov: 5 ft: 6\n#9\tDONE   cov: 17 ft: 30 corp: 4/9b\nstat::number_of_executed_units: 9\n";
        assert_eq!(summary(log), "9 inputs, 17 edges");
        assert_eq!(summary(""), "? inputs, ? edges");
    }

    #[test]
    fn a_target_that_is_none_is_refused() {
        assert!(targets(Some("nonsense")).is_err());
        assert_eq!(targets(Some("command")).expect("there").len(), 1);
    }
}
