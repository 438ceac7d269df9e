//! `cargo xtask image`: the bootable image, built, checked and stripped.

mod budget;
mod calls;
mod elf;
mod panics;
mod recursion;
mod symbols;
pub(crate) mod twice;

use crate::failure::Failure;
use crate::{house, process, setup};
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) const HELP: &str = "\
cargo xtask image [--twice]

Builds the bootable image for a machine without an operating system, strips it into
target/husk/image/husk-image, lists its symbols beside it, and checks it: nothing is writable and executable, all
of it lies in the layer's region, the C symbols that the engine needs are those of
stubs/symbols.txt, no function of Rust calls itself, and it keeps to firmware/budget.toml.
The component's parsers and volume are linked alone (firmware/panic-free), where no panic
may be reachable.
With --twice the sources are built again from nothing in another folder, which must give
the same bytes.

Boots under QEMU's emulation (and any machine with AMD SVM):

  qemu-system-x86_64 -M q35,smm=off -cpu EPYC,+svm,+npt,+rdrand -m 1G -smp 2 \\
    -nodefaults -display none -serial stdio -device isa-debug-exit,iobase=0xf4,iosize=4 \\
    -kernel target/husk/image/husk-image -append husk.self-test";

const TARGET: &str = "x86_64-unknown-none";
const BUDGET: &str = "firmware/budget.toml";

/// Builds and checks, and says what it found.
pub(crate) fn run(twice: bool) -> Result<(), Failure> {
    setup::to_build()?;
    println!("image: {}", make()?);
    if twice {
        println!("image: {}", twice::compare()?);
    }
    Ok(())
}

/// The file that [`make`] makes.
pub(crate) fn path() -> Result<PathBuf, Failure> {
    Ok(house::workshop("image")?.join("husk-image"))
}

/// Builds and checks the image; what it costs.
pub(crate) fn make() -> Result<String, Failure> {
    let place = Place { sources: house::root().to_owned(), target: None };
    let built = build(&place, &IMAGE)?;
    let image = path()?;
    strip(&built, &image)?;
    list_symbols(&built, &image.with_extension("symbols"))?;
    let root = house::root();
    symbols::check(root)?;
    let functions = recursion::check(&built)?;
    let kept = panics::check(&place)?;
    let bytes = std::fs::read(&image).map_err(|error| Failure::io("read", &image, &error))?;
    let shape = elf::Shape::parse(&bytes).map_err(refused)?;
    shape.check().map_err(refused)?;
    let budget = budget::Budget::read(&root.join(BUDGET))?;
    let costs = [("image", bytes.len() as u64), ("resident", shape.resident_bytes())];
    for (name, cost) in costs {
        budget.check(name, cost)?;
    }
    let figures = costs.map(|(name, cost)| format!("{name} {} KiB", cost.div_ceil(1024)));
    let figures = figures.join(", ");
    let shown = shown(&image, root);
    Ok(format!(
        "{shown}: {figures}, no recursion in {functions} functions of Rust, no panic in {kept} of ours"
    ))
}

fn refused(why: String) -> Failure {
    Failure::failed(format!("image: {why}"))
}

fn shown(path: &Path, root: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

fn strip(built: &Path, image: &Path) -> Result<(), Failure> {
    process::run(Command::new("objcopy").arg("--strip-all").arg(built).arg(image))
}

/// Writes what lies where in the layer, for tests that look at its memory from outside.
fn list_symbols(built: &Path, list: &Path) -> Result<(), Failure> {
    let mut nm = Command::new("nm");
    let symbols = process::output(nm.args(["--numeric-sort", "--print-size", "--demangle"]).arg(built))?;
    std::fs::write(list, symbols).map_err(|error| Failure::io("write", list, &error))
}

/// Where an image is built.
struct Place {
    sources: PathBuf,
    /// Where cargo puts what it makes, if not where it does.
    target: Option<PathBuf>,
}

/// One of the workspace's programs for bare metal.
struct Program {
    name: &'static str,
    profile: &'static str,
    package: &'static str,
    /// What the compiler is told in place of `.cargo/config.toml`.
    own_flags: Option<&'static str>,
}

const IMAGE: Program =
    Program { name: "husk-image", profile: "release", package: "husk-firmware", own_flags: None };

/// Builds a program, and says where it is.
fn build(place: &Place, program: &Program) -> Result<PathBuf, Failure> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--quiet", "--profile", program.profile, "--package", program.package]);
    cargo.args(["--bin", program.name, "--target", TARGET]);
    cargo.args(["--message-format", "json-render-diagnostics"]).current_dir(&place.sources);
    match program.own_flags {
        Some(flags) => cargo.env("RUSTFLAGS", flags),
        None => cargo.args(["--config", &remapped_paths(&place.sources)?]),
    };
    if let Some(target) = &place.target {
        cargo.arg("--target-dir").arg(target);
    }
    let messages = process::output(&mut cargo)?;
    let mut made =
        messages.lines().filter_map(|line| line.split("\"executable\":\"").nth(1)?.split('"').next());
    made.next_back().map(PathBuf::from).ok_or_else(|| refused("cargo made no program".into()))
}

/// Tells the compiler to name sources the same wherever they lie: panic messages carry their paths, and the same commit
/// gives the same image. A line of cargo's configuration, which adds to the flags of `.cargo/config.toml`.
fn remapped_paths(sources: &Path) -> Result<String, Failure> {
    let sysroot = process::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let home = home.ok_or_else(|| refused("neither CARGO_HOME nor HOME is set".into()))?;
    let places = [(sources, "/husk"), (home.as_path(), "/cargo"), (Path::new(sysroot.trim()), "/rust")];
    let flags = places.map(|(place, name)| format!("'--remap-path-prefix={}={name}'", place.display()));
    Ok(format!("target.{TARGET}.rustflags=[{}]", flags.join(",")))
}
