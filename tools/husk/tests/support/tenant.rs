//! What a tenant does for backups on the command line: its keys, its orders, and a backup handed in.

#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::allow_attributes, reason = "what is unused differs from test to test")]

use crate::site::Site;
use husk::attest::launch::LaunchConfig;
use serde_json::Value;
use std::fs;

/// A command that fails; its exit code and what it said.
pub(crate) fn failed(site: &Site, words: &[&str]) -> (i32, String) {
    let output = site.run(words);
    assert!(!output.status.success(), "{words:?}");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// The tenant's keys: a recovery key, of which it tells what was said, and an operator for these orders.
pub(crate) fn keys(site: &Site, tenant: &str, orders: &[&str]) -> Value {
    let root = ["--root", "tenant", "--tenant", tenant, "--json"];
    let recovery = ["tenant", "recovery", "--recovery-out", "recovery", "--certificate-out", "recovery.cert"];
    let made = site.json(&[&recovery[..], &root].concat());
    let orders: Vec<&str> = orders.iter().flat_map(|order| ["--order", order]).collect();
    site.json(&[&["tenant", "operator", "--operator-out", "operator"], &orders[..], &root].concat());
    made
}

/// A VM, by its launch configuration, and the broker that is asked about it.
#[derive(Clone, Copy)]
pub(crate) struct Vm<'s> {
    pub(crate) site: &'s Site,
    pub(crate) broker: &'s str,
    pub(crate) config: &'s str,
}

impl Vm<'_> {
    /// The words of a command about it.
    pub(crate) fn words<'w>(&'w self, words: &[&'w str]) -> Vec<&'w str> {
        [words, &["--broker", self.broker, "--config", self.config, "--json"]].concat()
    }

    /// Asks the broker, which answers with JSON.
    pub(crate) fn ask(&self, words: &[&str]) -> Value {
        self.site.json(&self.words(words))
    }

    pub(crate) fn status(&self) -> Value {
        self.ask(&["vm", "status"])
    }

    fn id(&self) -> String {
        let config = fs::read(self.site.path(self.config)).unwrap();
        LaunchConfig::parse(&config).unwrap().vm.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The words that sign an order about it, as it stands or as the restore key says.
    pub(crate) fn ticket(&self, order: &str, seen: &Value, rest: &[&str]) -> Vec<String> {
        let (token, generation, id) = (seen["token"].to_string(), seen["generation"].to_string(), self.id());
        let words = ["vm", "ticket", "--operator", "operator", "--vm", &id, "--order", order];
        let seen = ["--token", &token, "--generation", &generation, "--json"];
        [&words[..], &seen, rest].concat().into_iter().map(str::to_owned).collect()
    }

    fn sign(&self, order: &str, seen: &Value, rest: &[&str]) {
        let words = self.ticket(order, seen, rest);
        self.site.json(&words.iter().map(String::as_str).collect::<Vec<_>>());
    }

    /// Signs an order to make a backup into a ticket of that name.
    pub(crate) fn sign_backup(&self, ticket: &str) {
        self.sign("backup", &self.status(), &["--recovery", "recovery.cert", "--out", ticket]);
    }

    /// Signs such an order and hands it in; what the broker said. The next launch makes the backup.
    pub(crate) fn order_backup(&self, ticket: &str) -> Value {
        self.sign_backup(ticket);
        self.ask(&["vm", "order", "--ticket", ticket])
    }

    /// Fetches what the ticket of that name ordered into `backup`.
    pub(crate) fn fetch(&self, ticket: &str) -> Value {
        self.ask(&["vm", "backup", "--ticket", ticket, "--out", "backup"])
    }

    /// Opens `backup` for this VM and signs the order (`restore` or `clone`) for it, into a ticket of that name; what the opening said, and the
    /// words that hand the ticket in.
    pub(crate) fn order_from_backup<'w>(&'w self, order: &'w str) -> (Value, Vec<&'w str>) {
        let key = self.ask(&["vm", "restore-key", "--out", &format!("{order}.key")]);
        let open = ["tenant", "open-backup", "--recovery", "recovery", "--backup", "backup", "--json"];
        let (key_file, opened) = (format!("{order}.key"), format!("{order}.opened"));
        let files = ["--config", self.config, "--restore-key", &key_file, "--out", &opened];
        let clone: &[&str] = if order == "clone" { &["--clone"] } else { &[] };
        let said = self.site.json(&[&open[..], &files, clone].concat());
        assert_eq!((&said["token"], &said["generation"]), (&key["token"], &key["generation"]));
        self.sign(order, &key, &["--opened", &opened, "--out", order]);
        (said, self.words(&["vm", order, "--ticket", order, "--backup", "backup"]))
    }
}
