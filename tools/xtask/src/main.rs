//! `cargo xtask`: everything a developer of Husk runs.
//!
//! **What.** `setup` brings the machine's packages, `check` is everything that needs no run, `test` runs the laws and
//! the peers, `demo` shows the product, `bench` measures it. Each calls the earlier ones for what it needs.
//! **Trust.** The machine it runs on: this is a developer's tool, nothing of it ships.
//! **Laws.** No dependency but `std`, so that it builds before anything was fetched. It ends every process it started.
//! **Not here.** What the product does: `tools/husk`.

mod bench;
mod check;
mod demo;
mod failure;
mod guest;
mod house;
mod peers;
mod process;
mod product;
mod setup;
mod steps;
mod test;
mod tidy;

use crate::failure::Failure;
use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask COMMAND

  setup   install what the machine lacks, fetch the guest's kernel
  check   formatting, lints (host and bare metal), documentation, tidy
  test    check, then every test; with --all also the long ones
  demo    the product end to end: power cuts survived, attacks refused
  bench   the same commands on husk and on swtpm, side by side

cargo xtask COMMAND --help says more. Exit codes: 0 done, 1 something failed,
2 the command line is wrong, 3 the machine lacks something that only its
administrator can install.";

/// One subcommand: its name, its help, the flags it knows and what runs.
struct Subcommand {
    name: &'static str,
    help: &'static str,
    flags: &'static [&'static str],
    run: fn(&Flags) -> Result<(), Failure>,
}

const SUBCOMMANDS: &[Subcommand] = &[
    Subcommand { name: "setup", help: setup::HELP, flags: &[], run: |_| setup::run() },
    Subcommand {
        name: "check",
        help: check::HELP,
        flags: &["--tidy"],
        run: |flags| check::run(flags.has("--tidy")),
    },
    Subcommand {
        name: "test",
        help: test::HELP,
        flags: &["--all", "--peers"],
        run: |flags| test::run(flags.has("--all"), flags.has("--peers")),
    },
    Subcommand {
        name: "demo",
        help: demo::HELP,
        flags: &["--keep"],
        run: |flags| demo::run(flags.has("--keep")),
    },
    Subcommand {
        name: "bench",
        help: bench::HELP,
        flags: &["--json"],
        run: |flags| bench::run(flags.has("--json")),
    },
];

/// The flags that were given, each known to the subcommand.
struct Flags(Vec<String>);

impl Flags {
    fn has(&self, flag: &str) -> bool {
        self.0.iter().any(|given| given == flag)
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit_code()
        }
    }
}

fn dispatch(arguments: &[String]) -> Result<(), Failure> {
    let Some((name, flags)) = arguments.split_first() else {
        return Err(Failure::usage(USAGE.into()));
    };
    if matches!(name.as_str(), "help" | "--help" | "-h") {
        println!("{USAGE}");
        return Ok(());
    }
    let Some(subcommand) = SUBCOMMANDS.iter().find(|known| known.name == name) else {
        return Err(Failure::usage(format!("xtask: no command `{name}`\n\n{USAGE}")));
    };
    if flags.iter().any(|flag| matches!(flag.as_str(), "--help" | "-h")) {
        println!("{}", subcommand.help);
        return Ok(());
    }
    if let Some(unknown) = flags.iter().find(|flag| !subcommand.flags.contains(&flag.as_str())) {
        return Err(Failure::usage(format!("xtask {name}: no flag `{unknown}`\n\n{}", subcommand.help)));
    }
    (subcommand.run)(&Flags(flags.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::dispatch;

    fn given(words: &[&str]) -> Vec<String> {
        words.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_wrong_command_line_is_refused_before_anything_runs() {
        for words in [&[][..], &["tset"], &["test", "--al"], &["setup", "now"]] {
            let failure = dispatch(&given(words)).expect_err("runs nothing");
            assert_eq!(failure.exit_code(), std::process::ExitCode::from(2), "{words:?}");
        }
    }

    #[test]
    fn every_command_explains_itself() {
        for name in ["setup", "check", "test", "demo", "bench"] {
            assert!(dispatch(&given(&[name, "--help"])).is_ok());
        }
    }
}
