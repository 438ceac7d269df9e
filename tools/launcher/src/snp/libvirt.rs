//! The machine as a libvirt domain: through `qemu:commandline` where the domain schema has no words.

use super::machine::{Machine, machine_properties};
use std::path::Path;

/// A domain of this name that starts `machine` with the emulator at `qemu`.
#[must_use]
pub fn domain(name: &str, qemu: &Path, machine: &Machine) -> String {
    let mut words = vec!["-machine".to_owned(), machine_properties()];
    words.extend(machine.own_words());
    words.extend(machine.extra.iter().cloned());
    let arguments: String =
        words.iter().map(|word| format!("    <qemu:arg value='{}'/>\n", text(word))).collect();
    format!(
        "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{}</name>
  <memory unit='MiB'>{}</memory>
  <memoryBacking>
    <source type='memfd'/>
    <access mode='shared'/>
  </memoryBacking>
  <vcpu>{}</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
  </os>
  <features>
    <acpi/>
  </features>
  <on_reboot>destroy</on_reboot>
  <devices>
    <emulator>{}</emulator>
    <serial type='pty'/>
    <memballoon model='none'/>
  </devices>
  <qemu:commandline>
{arguments}  </qemu:commandline>
</domain>
",
        text(name),
        machine.memory_mib,
        machine.vcpus,
        text(&qemu.display().to_string()),
    )
}

/// Text as XML has it in an element or an attribute.
fn text(plain: &str) -> String {
    let escaped = |character: char| match character {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '\'' => "&apos;".to_owned(),
        '"' => "&quot;".to_owned(),
        other => other.to_string(),
    };
    plain.chars().map(escaped).collect()
}
