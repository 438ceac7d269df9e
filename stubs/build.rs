//! Links the TCG reference implementation (libtpms) and its crypto library statically, also on the host: the engine
//! is part of what is measured, so it is never a file that somebody else may exchange. Compiles the C part of the
//! runtime that stands for the C library where there is none.

use std::env;
use std::path::{Path, PathBuf};

/// Each archive: library name, and the Debian package that holds it.
const ARCHIVES: [(&str, &str); 2] = [("tpms", "libtpms-dev"), ("crypto", "libssl-dev")];

/// Where Debian puts static archives on x86-64; `HUSK_TPMS_DIR` names another folder.
const ARCHIVE_DIR: &str = "/usr/lib/x86_64-linux-gnu";

/// The C part of the runtime.
const FORMAT: &str = "c/format.c";

/// How C is compiled for a machine without an operating system: nothing is assumed about libraries, stack protectors or
/// shared objects, and no register is touched that the kernel side of a processor does not save.
const FREESTANDING: [&str; 7] = [
    "-ffreestanding",
    "-fno-stack-protector",
    "-fcf-protection=none",
    "-fno-pic",
    "-mno-red-zone",
    "-mgeneral-regs-only",
    "-U_FORTIFY_SOURCE",
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={FORMAT}");
    println!("cargo:rerun-if-env-changed=HUSK_TPMS_DIR");
    let folder = env::var_os("HUSK_TPMS_DIR").map_or_else(|| PathBuf::from(ARCHIVE_DIR), PathBuf::from);
    // A bare-metal target has no packages of its own: the image that links it says how, and `cargo check` needs none.
    let bare_metal = env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none");
    compile(bare_metal);
    for (library, package) in ARCHIVES {
        match (present(&folder, library), bare_metal) {
            (true, _) => println!("cargo:rustc-link-lib=static:-bundle={library}"),
            (false, true) => {
                println!("cargo:warning=lib{library}.a is missing: install {package} before linking")
            }
            (false, false) => missing(&folder, library, package),
        }
    }
    println!("cargo:rustc-link-search=native={}", folder.display());
}

/// On a host the same code gets other names, for its tests.
fn compile(bare_metal: bool) {
    let mut build = cc::Build::new();
    build.file(FORMAT).warnings_into_errors(true).std("c11").opt_level(2).debug(false).compiler("gcc");
    build.no_default_flags(true).flag("-m64").flag("-Wall").flag("-Wextra");
    for flag in FREESTANDING {
        build.flag(flag);
    }
    if !bare_metal {
        build.define("HUSK_HOSTED", None).flag("-fPIC");
    }
    build.compile("husk_runtime");
}

fn present(folder: &Path, library: &str) -> bool {
    let archive = folder.join(format!("lib{library}.a"));
    println!("cargo:rerun-if-changed={}", archive.display());
    archive.is_file()
}

fn missing(folder: &Path, library: &str, package: &str) {
    println!(
        "cargo:error=lib{library}.a is not in {}: install Debian's package {package}, or name its folder in HUSK_TPMS_DIR",
        folder.display()
    );
}
