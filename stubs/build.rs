//! Links the TCG reference implementation (libtpms) and its crypto library statically, also on the host: the engine
//! is part of what is measured, so it is never a file that somebody else may exchange.

use std::env;
use std::path::{Path, PathBuf};

/// Each archive: library name, and the Debian package that holds it.
const ARCHIVES: [(&str, &str); 2] = [("tpms", "libtpms-dev"), ("crypto", "libssl-dev")];

/// Where Debian puts static archives on x86-64; `HUSK_TPMS_DIR` names another folder.
const ARCHIVE_DIR: &str = "/usr/lib/x86_64-linux-gnu";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=HUSK_TPMS_DIR");
    let folder = env::var_os("HUSK_TPMS_DIR").map_or_else(|| PathBuf::from(ARCHIVE_DIR), PathBuf::from);
    // A bare-metal target has no packages of its own: the image that links it says how, and `cargo check` needs none.
    let bare_metal = env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none");
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
