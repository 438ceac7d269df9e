//! The kernel's `/dev/tpm0` and `/dev/tpmrm0` over QEMU's tpm-crb and tpm-tis, in front of Husk by swtpm's protocol.

use super::sealed::{Sealed, Vm};
use crate::failure::Failure;
use crate::guest::{Device, Guest, Launch, OnReset, Wiring, image};
use crate::product::text;
use crate::setup;
use crate::steps::Step;
use std::time::Duration;

/// Two boots under software emulation on a loaded machine, with some hundred TPM commands each.
const BOOTS_PATIENCE: Duration = Duration::from_secs(600);
/// QEMU's end is the TPM's: it says so over the control channel.
const END_PATIENCE: Duration = Duration::from_secs(30);

/// Boots on both devices, and what was seen. The first boot on a VM resets the machine, and the guest boots again.
pub(super) fn boots(sealed: &Sealed, all: bool) -> Vec<(String, Result<Vec<Step>, Failure>)> {
    let mut seen = Vec::new();
    let mut on = |vm: &str, devices: &[Device]| {
        let vm = sealed.vm(vm);
        for device in devices {
            let name = format!("kernel guest on {}", device.driver());
            let boot = vm.as_ref().map_err(|failure| Failure::failed(failure.to_string()));
            seen.push((name, boot.and_then(|vm| one(sealed, vm, *device))));
        }
    };
    on("crb-first", &[Device::Crb, Device::Tis]);
    if all {
        on("tis-first", &[Device::Tis, Device::Crb]);
    }
    seen
}

fn one(sealed: &Sealed, vm: &Vm, device: Device) -> Result<Vec<Step>, Failure> {
    let kernel = setup::fetched_kernel()?;
    let initramfs = image()?;
    let start = device.driver();
    let control_socket = sealed.path(&format!("{}-{start}.control", vm.name));
    let words = ["--ctrl".to_owned(), format!("type=unixio,path={}", text(&control_socket))];
    let mut component = sealed.socket(vm, start, &words)?;
    let log = &sealed.path(&format!("{}-{start}.console", vm.name));
    let wiring = Wiring::Emulator { device, control_socket };
    let (on_reset, script, settings) = (OnReset::Boots, "device", Vec::new());
    let launch =
        Launch { kernel: &kernel.image, initramfs: &initramfs, wiring, on_reset, script, settings, log };
    let report = Guest::start(&launch)?.finish(BOOTS_PATIENCE)?;
    component.wait_end(END_PATIENCE)?;
    Ok(report.judged())
}
