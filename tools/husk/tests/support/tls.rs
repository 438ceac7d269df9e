//! Authorities and certificates in a site's folder.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::allow_attributes, reason = "what is unused differs from test to test")]

use crate::site::Site;

/// The names of an authority's files, and of what it issued to 127.0.0.1 and localhost.
pub(crate) struct Shown {
    pub(crate) authority: String,
    authority_key: String,
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Shown {
    /// What a server is started with.
    pub(crate) fn server(&self) -> [&str; 4] {
        ["--tls-certificate", &self.certificate, "--tls-key", &self.key]
    }

    /// What its clients are started with.
    pub(crate) fn client(&self) -> [&str; 2] {
        ["--broker-ca", &self.authority]
    }

    /// Issues another pair, to these names.
    pub(crate) fn issue(&self, site: &Site, names: &[&str], (certificate, key): (&str, &str)) {
        let fixed = ["broker", "tls", "issue", "--authority", &self.authority, "--authority-key"];
        let out = [&self.authority_key, "--certificate-out", certificate, "--key-out", key, "--json"];
        let names: Vec<&str> = names.iter().flat_map(|name| ["--name", name]).collect();
        site.json(&[&fixed[..], &out, &names].concat());
    }
}

/// Makes an authority and has it issue.
pub(crate) fn made(site: &Site, prefix: &str) -> Shown {
    let [authority, authority_key, certificate, key] =
        ["authority", "authority-key", "certificate", "key"].map(|name| format!("{prefix}-{name}"));
    let init = ["broker", "tls", "init", "--authority-out", &authority, "--authority-key-out"];
    site.json(&[&init[..], &[&authority_key, "--json"]].concat());
    let shown = Shown { authority, authority_key, certificate, key };
    shown.issue(site, &["127.0.0.1", "localhost"], (&shown.certificate, &shown.key));
    shown
}
