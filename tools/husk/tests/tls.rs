//! TLS of the broker, from the command line.

#![expect(clippy::unwrap_used, reason = "a test ends where its world fails")]

#[path = "support/site.rs"]
mod site;
#[path = "support/tls.rs"]
mod tls;

use site::Site;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn fails(site: &Site, arguments: &[&str]) -> (i32, String) {
    let output = site.run(arguments);
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Asks the broker at `url` about the site's VM: nothing where it answered, the error where it did not.
fn ask(site: &Site, url: &str, more: &[&str]) -> Result<(), String> {
    let fixed = ["vm", "status", "--config", "config", "--json", "--broker", url];
    match fails(site, &[&fixed[..], more].concat()) {
        (0, _) => Ok(()),
        (_, line) => Err(line),
    }
}

/// openssl's exit code when it greets the broker, and what it says.
fn openssl(site: &Site, address: &str, more: &[&str]) -> (bool, String) {
    let fixed = ["s_client", "-connect", address, "-verify_return_error", "-CAfile"];
    let mut command = Command::new("openssl");
    command.args(fixed).arg(site.path("a-authority")).args(more).stdin(Stdio::null());
    let output = command.output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn a_broker_speaks_tls_1_3_alone_and_clients_believe_the_named_authority_alone() {
    let (site, tenant) = Site::with_tenant();
    site.enrol(&tenant, &[7; 48]);
    let (shown, other) = (tls::made(&site, "a"), tls::made(&site, "b"));
    shown.issue(&site, &["broker.example"], ("named", "named-key"));
    let (_broker, address) = site.serve("127.0.0.1:0", &shown.server());
    let (https, http) = (format!("https://{address}"), format!("http://{address}"));
    ask(&site, &https, &shown.client()).unwrap();
    let refused = [
        (ask(&site, &https, &other.client()), "--broker-ca the certificate"),
        (ask(&site, &https, &[]), "--broker-ca the certificate"),
        (ask(&site, &http, &shown.client()), "https://"),
        (ask(&site, &http, &[]), "did not answer"),
        (ask(&site, &https, &["--broker-ca", "a-key"]), "no certificate of an authority"),
        (ask(&site, &https, &["--broker-ca", "nowhere"]), "nowhere"),
    ];
    for (answer, words) in refused {
        assert!(answer.as_ref().is_err_and(|line| line.contains(words)), "{words}: {answer:?}");
    }
    let (agreed, said) = openssl(&site, &address, &["-tls1_3", "-verify_ip", "127.0.0.1"]);
    assert!(agreed && said.contains("TLSv1.3"), "{said}");
    assert!(!openssl(&site, &address, &["-tls1_2"]).0, "TLS 1.2 is not spoken");
}

/// What no client would take is refused when it is read.
#[test]
fn a_broker_does_not_start_on_tls_files_that_do_not_fit() {
    let (site, _) = Site::with_tenant();
    let (_, _) = (tls::made(&site, "a"), tls::made(&site, "b"));
    fs::copy(site.path("a-key"), site.path("open-key")).unwrap();
    fs::set_permissions(site.path("open-key"), fs::Permissions::from_mode(0o644)).unwrap();
    let cases: [(&[&str], i32, &str); 8] = [
        (&["--tls-certificate", "a-certificate", "--tls-key", "b-key"], 1, "made together"),
        (&["--tls-certificate", "a-key", "--tls-key", "a-key"], 1, "no certificate"),
        (&["--tls-certificate", "a-certificate", "--tls-key", "root"], 1, "no private key"),
        (&["--tls-certificate", "a-certificate", "--tls-key", "open-key"], 1, "chmod 600"),
        (&["--tls-certificate", "a-certificate", "--tls-key", "nowhere"], 3, "does not exist"),
        (&["--tls-certificate", "a-certificate"], 2, "--tls-key"),
        (&["--tls-certificate", "a-certificate", "--tls-key", "a-key", "--plain-http"], 2, "--plain-http"),
        (&[], 2, "--plain-http"),
    ];
    for (more, wanted, words) in cases {
        let serve = ["broker", "serve", "--database", "db", "--root-key", "root", "--listen", "127.0.0.1:0"];
        let (code, line) = fails(&site, &[&serve[..], more].concat());
        assert!(code == wanted && line.contains(words), "{more:?}: {code} {line}");
    }
}

/// Whom a new certificate reaches: who connects after SIGHUP. A file that does not fit changes nothing.
#[test]
fn a_broker_reads_its_tls_files_anew_on_sighup() {
    let (site, tenant) = Site::with_tenant();
    site.enrol(&tenant, &[7; 48]);
    let (old, new) = (tls::made(&site, "a"), tls::made(&site, "b"));
    fs::copy(site.path("a-certificate"), site.path("shown")).unwrap();
    fs::copy(site.path("a-key"), site.path("shown-key")).unwrap();
    let shown = ["--tls-certificate", "shown", "--tls-key", "shown-key"];
    let (broker, address) = site.serve("127.0.0.1:0", &shown);
    let https = format!("https://{address}");
    ask(&site, &https, &old.client()).unwrap();
    let hang_up = || Command::new("kill").args(["-HUP", &broker.0.id().to_string()]).status().unwrap();
    fs::copy(site.path("b-certificate"), site.path("shown")).unwrap();
    assert!(hang_up().success());
    fs::copy(site.path("b-key"), site.path("shown-key")).unwrap();
    // Where the first signal was seen after the second file came, it has done already what the second does.
    assert!(hang_up().success());
    let patience = Instant::now() + Duration::from_secs(120);
    while let Err(line) = ask(&site, &https, &new.client()) {
        assert!(Instant::now() < patience, "{line}");
    }
    assert!(ask(&site, &https, &old.client()).is_err());
    fs::write(site.path("shown"), "nothing").unwrap();
    assert!(hang_up().success());
    ask(&site, &https, &new.client()).unwrap();
}
