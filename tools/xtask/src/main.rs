//! `cargo xtask`: everything a developer of Husk runs.
//!
//! **What.** `setup` brings the machine's packages, `check` is everything that needs no run, `test` runs the laws and
//! the peers, `demo` shows the product, `bench` measures it. Each calls the earlier ones for what it needs.
//! **Trust.** The machine it runs on: this is a developer's tool, nothing of it ships.
//! **Laws.** No dependency but `std`, a hash (the soak's model extends PCRs) and a demangler, so that it builds in seconds; its tests read
//! its JSON with a parser of others. It ends every process it started.
//! **Not here.** What the product does: `tools/husk`.

mod attester;
mod below;
mod bench;
mod check;
mod demo;
mod failure;
mod fuzz;
mod guest;
mod house;
mod image;
mod oldest;
mod peers;
mod process;
mod product;
mod setup;
mod soak;
mod steps;
mod test;
mod tidy;

use crate::failure::Failure;
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "\
cargo xtask COMMAND

  setup   install what the machine lacks, fetch the guest's kernel
  check   formatting, lints (host and bare metal), documentation, tidy
  test    check, then every test; with --all also the long ones
  image   the bootable image, built, checked and stripped
  attester  the program that guests are attested by, static
  demo    the product end to end: power cuts survived, attacks refused
  bench   the same commands on husk and on swtpm, side by side
  fuzz    libFuzzer against everything that meets bytes from outside
  soak    a TPM under every command, killed and started again, against a model

cargo xtask COMMAND --help says more. Exit codes: 0 done, 1 something failed,
2 the command line is wrong, 3 the machine lacks something that only its
administrator can install.";

/// One subcommand: its name, its help, the flags it knows and what runs.
struct Subcommand {
    name: &'static str,
    help: &'static str,
    /// One that ends with `=` is followed by a value, in the next word.
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
        flags: &["--all", "--peers", "--group="],
        run: |flags| {
            let all = flags.has("--all");
            match (flags.has("--peers"), flags.value("--group")) {
                (false, None) => test::run(all),
                (true, group) => test::run_peers(all, group),
                (false, Some(_)) => Err(Failure::usage("xtask: --group is one of --peers".into())),
            }
        },
    },
    Subcommand {
        name: "demo",
        help: demo::HELP,
        flags: &["--keep", "--host", "--encrypted-disk"],
        run: |flags| {
            let story = match (flags.has("--host"), flags.has("--encrypted-disk")) {
                (false, false) => demo::Story::Image,
                (true, false) => demo::Story::Host,
                (false, true) => demo::Story::EncryptedDisk,
                (true, true) => return Err(Failure::usage("xtask: a demo tells one story".into())),
            };
            demo::run(flags.has("--keep"), story)
        },
    },
    Subcommand {
        name: "image",
        help: image::HELP,
        flags: &["--twice"],
        run: |flags| image::run(flags.has("--twice")),
    },
    Subcommand { name: "attester", help: attester::HELP, flags: &[], run: |_| attester::run() },
    Subcommand {
        name: "bench",
        help: bench::HELP,
        flags: &["broker", "image", "disk", "--json"],
        run: |flags| {
            let json = flags.has("--json");
            match ["broker", "image", "disk"].map(|of| flags.has(of)) {
                [false, false, false] => bench::run(json),
                [true, false, false] => bench::broker::run(json),
                [false, true, false] => bench::image::run(json),
                [false, false, true] => bench::disk::run(json),
                _ => Err(Failure::usage("xtask: bench is of one thing: broker, image or disk".into())),
            }
        },
    },
    Subcommand {
        name: "fuzz",
        help: fuzz::HELP,
        flags: &["--seconds=", "--target=", "--merge"],
        run: |flags| {
            fuzz::run(&fuzz::Wish {
                seconds: flags.number("--seconds")?.unwrap_or(fuzz::SECONDS),
                target: flags.value("--target"),
                merge: flags.has("--merge"),
            })
        },
    },
    Subcommand {
        name: "soak",
        help: soak::HELP,
        flags: &["--minutes=", "--seed=", "--worlds"],
        run: |flags| {
            let minutes = flags.number("--minutes")?.unwrap_or(soak::MINUTES);
            let wish =
                soak::Wish { duration: Duration::from_secs(60 * minutes), seed: flags.number("--seed")? };
            if flags.has("--worlds") { soak::worlds::run(&wish) } else { soak::run(&wish) }
        },
    },
];

/// The flags that were given, each known to the subcommand, with its value where it has one.
struct Flags(Vec<(String, Option<String>)>);

impl Flags {
    fn read(words: &[String], subcommand: &Subcommand) -> Result<Self, Failure> {
        let refused = |what: String| {
            Failure::usage(format!("xtask {}: {what}\n\n{}", subcommand.name, subcommand.help))
        };
        let mut flags = Vec::new();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let with_value = format!("{word}=");
            if subcommand.flags.contains(&word.as_str()) {
                flags.push((word.clone(), None));
            } else if subcommand.flags.contains(&with_value.as_str()) {
                let value = words.next().ok_or_else(|| refused(format!("{word} needs a value")))?;
                flags.push((word.clone(), Some(value.clone())));
            } else {
                return Err(refused(format!("no flag `{word}`")));
            }
        }
        Ok(Self(flags))
    }

    fn has(&self, flag: &str) -> bool {
        self.0.iter().any(|(given, _)| given == flag)
    }

    /// The last value that was given.
    fn value(&self, flag: &str) -> Option<&str> {
        self.0.iter().rev().find(|(given, _)| given == flag).and_then(|(_, value)| value.as_deref())
    }

    fn number(&self, flag: &str) -> Result<Option<u64>, Failure> {
        let number = |text: &str| {
            text.parse().map_err(|_| Failure::usage(format!("xtask: {flag} wants a number, not `{text}`")))
        };
        self.value(flag).map(number).transpose()
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
    (subcommand.run)(&Flags::read(flags, subcommand)?)
}

#[cfg(test)]
mod tests {
    use super::{SUBCOMMANDS, dispatch};

    fn given(words: &[&str]) -> Vec<String> {
        words.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_wrong_command_line_is_refused_before_anything_runs() {
        let wrong = [
            &[][..],
            &["tset"],
            &["test", "--al"],
            &["test", "--group", "uefi"],
            &["test", "--peers", "--group", "no-such-group"],
            &["setup", "now"],
            &["fuzz", "--seconds"],
            &["fuzz", "--seconds", "x"],
        ];
        for words in wrong {
            let failure = dispatch(&given(words)).expect_err("runs nothing");
            assert_eq!(failure.exit_code(), std::process::ExitCode::from(2), "{words:?}");
        }
    }

    #[test]
    fn every_command_explains_itself() {
        for name in SUBCOMMANDS.iter().map(|subcommand| subcommand.name) {
            assert!(dispatch(&given(&[name, "--help"])).is_ok());
        }
    }
}
