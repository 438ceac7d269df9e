//! A PKCS #11 token in software: Debian's SoftHSM, with its files in a site's folder.

use crate::site::Site;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// Where Debian puts its module.
const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const PIN: &str = "a pin of a test";

/// Makes a token; yields the words that name it.
pub(crate) fn make(site: &Site) -> [&'static str; 6] {
    fs::create_dir(site.path("tokens")).unwrap();
    let settings = format!("directories.tokendir = {}\n", site.path("tokens").display());
    fs::write(site.path("softhsm.conf"), settings).unwrap();
    fs::write(site.path("pin"), format!("{PIN}\n")).unwrap();
    fs::set_permissions(site.path("pin"), fs::Permissions::from_mode(0o600)).unwrap();
    softhsm(site, &["--init-token", "--free", "--label", "husk", "--so-pin", "the officer's"]);
    ["--pkcs11-module", MODULE, "--pkcs11-token", "husk", "--pkcs11-pin-file", "pin"]
}

/// Runs SoftHSM's own tool.
pub(crate) fn softhsm(site: &Site, words: &[&str]) {
    let mut tool = Command::new("softhsm2-util");
    tool.args(words).args(["--pin", PIN]).current_dir(site.folder.path());
    let made = tool.env("SOFTHSM2_CONF", site.path("softhsm.conf")).output().unwrap();
    assert!(made.status.success(), "{words:?}: {}", String::from_utf8_lossy(&made.stderr));
}
