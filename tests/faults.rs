//! Laws of the fault codes, the component's and the image's: unique, stable, and listed in the handbook.

use husk::fault::Fault;
use std::collections::BTreeMap;

/// Every fault that the component and the image can give.
fn all() -> Vec<(String, Fault)> {
    let mut faults = Vec::new();
    macro_rules! gather {
        ($($leaf:ty),+ $(,)?) => {$(
            for leaf in <$leaf>::ALL {
                faults.push((format!("{leaf:?}"), leaf.fault()));
            }
        )+};
    }
    gather!(
        husk::engine::EngineFault,
        husk::nv::NvFault,
        husk::volume::VolumeFault,
        husk::frontend::FrontendFault,
        husk::release::ReleaseFault,
        husk::attest::AttestFault,
        husk::vtpm::VtpmFault,
        husk_firmware::guest::GuestFault,
        husk_firmware::virtio::DeviceFault,
    );
    faults.sort_by_key(|(_, fault)| fault.code());
    faults
}

/// The handbook's page of faults.
fn page() -> String {
    let mut page = String::from(
        "# Faults\n\nEvery way to fail: whose fault it is is in bits 31:24 of the code, the box in bits 23:16, the number in bits 15:0. \
         `guest`: an answer with a code, and on it goes. `host`: bounded retries at boot, a latch while serving. `broker`: a stop before \
         unsealing. `seal`: a stop; nothing is repaired or re-created. `engine`: failure mode. `bug`: a stop.\n\n\
         | code | whose | name | what happened | what to do |\n| --- | --- | --- | --- | --- |\n",
    );
    for (name, fault) in all() {
        page.push_str(&format!(
            "| `0x{:08x}` | {} | {name} | {} | {} |\n",
            fault.code(),
            fault.family().word(),
            fault.means(),
            fault.next()
        ));
    }
    page
}

#[test]
fn fault_codes_are_unique() {
    let mut seen = BTreeMap::new();
    for (name, fault) in all() {
        if let Some(other) = seen.insert(fault.code(), name.clone()) {
            panic!("{name} and {other} share code 0x{:08x}", fault.code());
        }
    }
}

#[test]
fn every_fault_is_in_the_handbook() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/manual/faults.md");
    if std::env::var_os("HUSK_BLESS").is_some() {
        std::fs::write(path, page()).expect("the page is written");
    }
    let written = std::fs::read_to_string(path).expect("the page is there");
    assert!(
        written == page(),
        "src/manual/faults.md is out of date: run HUSK_BLESS=1 cargo test --test faults"
    );
}
