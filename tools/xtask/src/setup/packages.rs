//! Debian packages.

use crate::failure::Failure;
use crate::process;
use std::collections::BTreeSet;
use std::process::Command;

/// Debian's UEFI firmware without system management mode, of the package `ovmf`.
pub(crate) const OVMF: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
/// Its variables before anybody has any.
pub(crate) const OVMF_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// What is needed, and why. Each entry lists the names that Debian releases give it; one of them is enough.
const NEEDED: &[&[&str]] = &[
    &["gcc"],                                             // links, and compiles SQLite
    &["g++"],                                             // compiles libFuzzer
    &["libc6-dev"],                                       // the same
    &["binutils"],                                        // strips the image, lists symbols of archives
    &["libtpms-dev"],                                     // the reference engine
    &["libssl-dev"],                                      // its cryptography
    &["tpm2-tools"],                                      // a client that others wrote
    &["libtss2-tcti-swtpm0", "libtss2-tcti-swtpm0t64"],   // its way to a socket
    &["libtss2-tcti-mssim0", "libtss2-tcti-mssim0t64"],   // its way to the TCG simulator's sockets
    &["libtss2-tcti-device0", "libtss2-tcti-device0t64"], // its way to the kernel's TPM
    &["tss2"],                                            // another client, IBM's
    &["swtpm"],                                           // the peer that scripts and harness are tried on
    &["swtpm-tools"],                                     // swtpm_ioctl, a client of the control socket
    &["qemu-system-x86"],                                 // the kernel guest
    &["busybox-static"],                                  // its userland
    &["acpica-tools"],                                    // reads the ACPI tables that the component makes
    &["libtss2-dev"],                                     // what tpm2-pytss is built against
    &["python3-venv"],                                    // where it is built
    &["python3-dev"],                                     // the same
    &["pkg-config", "pkgconf"],                           // the same
    &["openssl"],                                         // checks what the TPM signs and encrypts
    &["xxd"],                                             // shows bytes in scripts
    &["libvirt-clients"],                                 // judges domain definitions
    &["libxml2-utils"],                                   // for it
    &["strace"],                                          // counts flushes
    &["ovmf"], // a firmware with SEV metadata, whose launch is measured, and which guests begin in
    &["mmdebstrap"], // installs the Debian that a guest is made of
    &["debian-archive-keyring"], // whose signatures it trusts
    &["cryptsetup-bin"], // makes volumes as a host would
    &["fdisk"], // sfdisk, which adds, names and removes partitions of a guest's disk
    &["mtools"], // adds a file to its first one
    &["e2fsprogs"], // makes file systems in files
    &["openssh-client"], // asks a guest for evidence, as a client would
    &["socat"], // leads it through a serial line
    &["sbsigntool"], // signs kernels for a guest's Secure Boot
    &["python3"], // runs sev-snp-measure, a peer
    &["python3-cryptography"], // which it needs for ID blocks
    &["procps"], // kill, which tests send signals with
    &["rt-tests"], // cyclictest: how late a guest's timers are
    &["softhsm2"], // a PKCS #11 token in software
    &["chromium"], // looks at the broker's page
    &["postgresql"], // the broker's other database; tests run servers of their own
];

/// Installs what is missing.
pub(super) fn installed() -> Result<(), Failure> {
    let missing = missing(&query()?);
    if missing.is_empty() {
        return Ok(());
    }
    let Some(prefix) = privilege() else {
        return Err(Failure::lacking(format!(
            "setup: packages are missing; run: sudo apt-get install -y {}",
            missing.join(" ")
        )));
    };
    println!("setup: installing {}", missing.join(" "));
    apt(&prefix, &["update"])?;
    let available: Vec<&str> = missing.iter().map(|name| offered(name)).collect();
    let words: Vec<&str> =
        ["install", "-y", "--no-install-recommends"].into_iter().chain(available).collect();
    apt(&prefix, &words)
}

/// One line for each package that dpkg knows: its name and status.
fn query() -> Result<String, Failure> {
    let output = Command::new("dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Status}\\n"])
        .args(NEEDED.iter().flat_map(|names| names.iter()))
        .output()
        .map_err(|error| {
            Failure::lacking(format!("setup: this is not a Debian machine (dpkg-query: {error})"))
        })?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The first name of every need that no installed package meets.
fn missing(listing: &str) -> Vec<&'static str> {
    let installed: BTreeSet<&str> =
        listing.lines().filter_map(|line| line.strip_suffix(" installed")).collect();
    let unmet = NEEDED.iter().filter(|names| !names.iter().any(|name| installed.contains(name)));
    unmet.filter_map(|names| names.first().copied()).collect()
}

/// The name under which this release offers a package.
fn offered(first: &'static str) -> &'static str {
    let names = NEEDED.iter().find(|names| names.first() == Some(&first)).copied().unwrap_or_default();
    let known = |name: &&&str| process::output(Command::new("apt-cache").args(["show", name])).is_ok();
    if names.len() > 1 { names.iter().find(known).copied().unwrap_or(first) } else { first }
}

/// The words to put before a command that only root may run; none if this user can't become root without asking.
pub(crate) fn privilege() -> Option<Vec<&'static str>> {
    let user = process::output(Command::new("id").arg("-u")).ok()?;
    if user.trim() == "0" {
        return Some(Vec::new());
    }
    process::output(Command::new("sudo").args(["-n", "true"])).ok().map(|_| vec!["sudo", "-n"])
}

fn apt(prefix: &[&'static str], words: &[&str]) -> Result<(), Failure> {
    let line: Vec<&str> = prefix
        .iter()
        .copied()
        .chain(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"])
        .chain(words.iter().copied())
        .collect();
    let (program, arguments) =
        line.split_first().ok_or_else(|| Failure::failed("xtask: an empty command"))?;
    process::run(Command::new(program).args(arguments))
}

#[cfg(test)]
mod tests {
    use super::{NEEDED, missing};

    #[test]
    fn a_package_that_was_removed_is_missing() {
        let all: String =
            NEEDED.iter().map(|names| format!("{} installed\n", names[names.len() - 1])).collect();
        assert!(missing(&all).is_empty());
        let one_removed = all.replace("swtpm installed", "swtpm config-files");
        assert_eq!(missing(&one_removed), ["swtpm"]);
        assert_eq!(missing("").len(), NEEDED.len());
    }
}
