//! The operator's page in a browser that others wrote.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where its world fails")]

#[path = "support/operations.rs"]
mod operations;
#[path = "support/service.rs"]
mod service;
#[path = "support/world.rs"]
mod world;

use husk_broker::ids::{TenantId, VmId, VmName};
use husk_broker::policy::{Refusal, Rule};
use husk_broker::store::Store;
use operations::{Site, TOKEN};
use std::path::Path;
use std::process::Command;

/// Chromium without a screen, with a profile that ends with the test; what it prints.
fn chromium(profile: &Path, arguments: &[&str]) -> String {
    let output = Command::new("chromium")
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
        ])
        .args(["--disable-background-networking", "--disable-extensions", "--window-size=1600,900"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .args(arguments)
        .env("HOME", profile)
        .output()
        .expect("chromium is there: `cargo xtask setup` installs it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Nothing that a tenant, a VM or a host can have written down runs in the operator's browser: a VM's id is hexadecimal and can be no
/// `<script>`, but a refusal says what was seen. The picture is left in `target/husk`.
#[test]
fn the_ui_renders_in_chromium_and_runs_nothing_of_what_it_shows() {
    let tenant = TenantId([0xA1; 16]);
    let site = Site::with(&[tenant]);
    let mut store = Store::open(site.path()).unwrap();
    for number in 1..=3 {
        let vm = VmName { tenant, vm: VmId([number; 16]) };
        site.enrol(&mut store, &vm);
        let script = "<script>document.body.innerHTML = 'taken' + 'over'</script>";
        let image = "<img src=x onerror=\"document.body.innerHTML = 'taken' + 'over'\">";
        store.refused(&vm, &Refusal::new(Rule::Measurement, script, image)).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let url = format!("http://operator:{TOKEN}@{}/ui", site.address);
    let pictures = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/husk"));
    std::fs::create_dir_all(pictures).unwrap();
    let picture = pictures.join("ui.png");
    let screenshot = format!("--screenshot={}", picture.display());
    let page = chromium(folder.path(), &[&screenshot, "--dump-dom", &url]);
    assert!(page.contains("<h1>Husk broker</h1>") && page.contains("virgin"), "{page}");
    assert!(page.contains(&VmId([3; 16]).to_string()), "{page}");
    assert!(!page.contains("takenover"), "a script ran: {page}");
    assert!(page.contains("&lt;script&gt;"), "it is shown as text: {page}");
    let png = std::fs::read(&picture).unwrap();
    assert!(png.starts_with(b"\x89PNG") && png.len() > 4096, "{} bytes", png.len());
}
