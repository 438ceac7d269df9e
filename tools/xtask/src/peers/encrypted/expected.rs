//! What a tenant works out of a guest's PCRs (`husk guest pcrs`), beside what that guest reads of its TPM.

use super::{Site, value};
use crate::failure::Failure;
use crate::process;
use crate::setup;
use std::process::Command;

/// Every PCR that follows from the guest's manifest, its variables and its firmware has that value.
pub(super) fn pcrs(site: &Site, said: &str) -> Result<String, Failure> {
    let told = told(site, &[])?;
    let expected = told.lines().filter_map(|line| line.strip_prefix("sha256:")?.split_once('='));
    let mut numbers = Vec::new();
    for (number, rest) in expected {
        let wanted = rest.split(' ').next().unwrap_or_default();
        let seen = value(said, &format!("pcr-{number} ")).unwrap_or_default().to_lowercase();
        if seen != format!("0x{wanted}") {
            return Err(Failure::failed(format!("PCR {number} is {seen}, and {wanted} was expected")));
        }
        numbers.push(number);
    }
    if numbers.contains(&"7") && numbers.contains(&"8") {
        Ok(format!("PCR {}", numbers.join(", ")))
    } else {
        Err(Failure::failed(format!("too little follows: {told}")))
    }
}

/// What `husk guest pcrs` tells of this guest.
pub(super) fn told(site: &Site, phase: &[&str]) -> Result<String, Failure> {
    let manifest = site.built.with_file_name("manifest.json");
    let mut command = Command::new(&site.husk);
    command.args(["guest", "pcrs"]).args(phase).arg("--guest").arg(manifest);
    command.arg("--firmware-vars").arg(&site.variables).args(["--firmware", setup::OVMF]);
    process::output(&mut command)
}
