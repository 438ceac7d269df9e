//! What is in an IGVM file, in plain words.
//!
//! **What.** [`inspect`]: one [`Line`] for each run of like pages, what of it is measured, and what the host may still choose.
//! **Trust.** None.
//! **Laws.** Every directive shows, also those that QEMU refuses.
//! **Not here.** The digest: [`crate::plan`].

use crate::config_page;
use crate::digest::PAGE_BYTES;
use crate::igvm_file::{Directive, IdBlockHeader, IgvmFile, PageKind};
use igvm::snp_defs::SevVmsa;
use igvm_defs::{IgvmPlatformType, IgvmVariableHeaderType};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use zerocopy::FromBytes as _;

/// What of a line goes into the launch digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measured {
    /// Where it lies and what is in it.
    Content,
    /// Where it lies, and that it is such a page.
    Address,
    /// Nothing.
    Nothing,
}

impl Measured {
    /// The word for people and scripts.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Content => "content",
            Self::Address => "address",
            Self::Nothing => "nothing",
        }
    }
}

/// Pages of one kind that follow one another, or one other directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Guest-physical address, if it has one.
    pub gpa: Option<u64>,
    /// How many pages.
    pub pages: u64,
    /// What goes into the digest.
    pub measured: Measured,
    /// What it is.
    pub what: String,
}

/// A file, described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Format version.
    pub version: u32,
    /// What it was made for.
    pub platforms: Vec<String>,
    /// The guest policy for SEV-SNP.
    pub policy: Option<u64>,
    /// In the file's order.
    pub lines: Vec<Line>,
    /// What the host may still choose.
    pub host: Vec<String>,
}

/// Describes what of `file` is meant for SEV-SNP.
#[must_use]
pub fn inspect(file: &IgvmFile<'_>) -> Inspection {
    let snp = file.mask_of(IgvmPlatformType::SEV_SNP).unwrap_or(0);
    let mut describer = Describer::default();
    for directive in &file.directives {
        describer.take(directive, snp);
    }
    let policies = file.policies.iter().filter(|policy| policy.mask & snp != 0);
    let policy = policies.map(|policy| policy.policy).next_back();
    let refused = file.other_initializations.iter().map(|kind| Line {
        gpa: None,
        pages: 0,
        measured: Measured::Nothing,
        what: format!("initialization of type {kind:#x}, which QEMU refuses"),
    });
    let lines: Vec<Line> = refused.chain(describer.lines).collect();
    Inspection {
        version: file.version,
        platforms: file.platforms.iter().map(|platform| platform_name(platform.kind)).collect(),
        policy,
        host: host_choices(&lines, policy, describer.has_id_block),
        lines,
    }
}

#[derive(Default)]
struct Describer {
    lines: Vec<Line>,
    /// What the host puts into each area, and the area's size.
    areas: BTreeMap<u32, (u64, Vec<&'static str>)>,
    has_id_block: bool,
}

impl Describer {
    fn take(&mut self, directive: &Directive<'_>, snp: u32) {
        match directive {
            Directive::Page { gpa, mask, kind, unmeasured, data } if mask & snp != 0 => {
                let config = data.and_then(config_page::read).is_some();
                let (what, measured) = page_words(*kind, *unmeasured, data.is_some(), config);
                self.fold(*gpa, what, measured);
            }
            Directive::ParameterInsert { gpa, mask, index } if mask & snp != 0 => self.area(*gpa, *index),
            Directive::ParameterArea { index, bytes } => {
                self.areas.insert(*index, (*bytes, Vec::new()));
            }
            Directive::Parameter(parameter) => {
                let word = parameter_name(parameter.kind);
                if let Some((_, words)) = self.areas.get_mut(&parameter.area) {
                    words.push(word);
                }
            }
            Directive::VpContext { mask, index, vmsa: Some(vmsa), .. } if mask & snp != 0 => {
                let state =
                    SevVmsa::ref_from_bytes(vmsa.as_slice()).map_or_else(|_| String::new(), state_words);
                self.push(None, 1, Measured::Content, format!("initial state of processor {index}: {state}"));
            }
            Directive::RequiredMemory { gpa, mask, bytes } if mask & snp != 0 => {
                let pages = u64::from(*bytes) / PAGE_BYTES as u64;
                self.push(Some(*gpa), pages, Measured::Nothing, "memory that must be there".to_owned());
            }
            Directive::IdBlock(block) if block.compatibility_mask & snp != 0 => {
                self.has_id_block = true;
                self.push(None, 0, Measured::Nothing, id_block_words(block));
            }
            Directive::ErrorRange { gpa, mask, bytes } if mask & snp != 0 => {
                let what = "memory shared with the host for error messages, which QEMU refuses".to_owned();
                self.push(Some(*gpa), u64::from(*bytes) / PAGE_BYTES as u64, Measured::Nothing, what);
            }
            Directive::Other(kind) => {
                let what = format!("directive of type {:#x}, which QEMU refuses", kind.0);
                self.push(None, 0, Measured::Nothing, what);
            }
            // Meant for another platform.
            _ => {}
        }
    }

    fn push(&mut self, gpa: Option<u64>, pages: u64, measured: Measured, what: String) {
        self.lines.push(Line { gpa, pages, measured, what });
    }

    /// One page, added to the last line if it follows and is the same.
    fn fold(&mut self, gpa: u64, what: &str, measured: Measured) {
        if let Some(last) = self.lines.last_mut() {
            let next = last.gpa.and_then(|start| start.checked_add(last.pages * PAGE_BYTES as u64));
            if next == Some(gpa) && last.what == what && last.measured == measured {
                last.pages += 1;
                return;
            }
        }
        self.push(Some(gpa), 1, measured, what.to_owned());
    }

    fn area(&mut self, gpa: u64, index: u32) {
        let (bytes, words) = self.areas.remove(&index).unwrap_or_default();
        let content = if words.is_empty() { "nothing".to_owned() } else { words.join(", ") };
        let what = format!("parameter area {index}, which the host fills ({content})");
        self.push(Some(gpa), bytes / PAGE_BYTES as u64, Measured::Address, what);
    }
}

const fn page_words(kind: PageKind, unmeasured: bool, data: bool, config: bool) -> (&'static str, Measured) {
    match (kind, unmeasured, data) {
        (PageKind::Secrets, ..) => {
            ("secrets page, which the processor fills with its keys", Measured::Address)
        }
        (PageKind::Cpuid, ..) => {
            ("CPUID page, which the host fills and the processor checks", Measured::Address)
        }
        (PageKind::CpuidExtended, ..) => (
            "CPUID page of extended features, which the host fills and the processor checks",
            Measured::Address,
        ),
        (PageKind::Normal, true, _) => ("content that the host may replace", Measured::Address),
        (PageKind::Normal, false, true) if config => ("Husk's launch configuration", Measured::Content),
        (PageKind::Normal, false, true) => ("code or data", Measured::Content),
        (PageKind::Normal, false, false) => ("zeros", Measured::Content),
    }
}

fn state_words(vmsa: &SevVmsa) -> String {
    let entry = vmsa.cs.base.wrapping_add(vmsa.rip);
    let mode = match (vmsa.cr0 & 1 != 0, vmsa.efer & 0x400 != 0) {
        (false, _) => "real mode",
        (true, false) => "32-bit protected mode",
        (true, true) => "64-bit mode",
    };
    format!(
        "starts at {entry:#x} in {mode}, VMPL {}, SEV features {:#x}",
        vmsa.vmpl,
        vmsa.sev_features.into_bits()
    )
}

fn id_block_words(block: &IdBlockHeader) -> String {
    let author = if block.author_key_enabled == 0 { "no author key" } else { "an author key" };
    format!(
        "ID block for digest {}: guest SVN {}, family {}, image {}, {author}; the processor refuses any other launch under it",
        hex::encode(block.ld),
        block.guest_svn,
        hex::encode(block.family_id),
        hex::encode(block.image_id)
    )
}

const fn parameter_name(kind: IgvmVariableHeaderType) -> &'static str {
    use IgvmVariableHeaderType as Kind;
    match kind {
        Kind::IGVM_VHT_VP_COUNT_PARAMETER => "number of processors",
        Kind::IGVM_VHT_ENVIRONMENT_INFO_PARAMETER => "environment",
        Kind::IGVM_VHT_SRAT => "ACPI SRAT",
        Kind::IGVM_VHT_MADT => "ACPI MADT",
        Kind::IGVM_VHT_SLIT => "ACPI SLIT",
        Kind::IGVM_VHT_PPTT => "ACPI PPTT",
        Kind::IGVM_VHT_MMIO_RANGES => "MMIO ranges",
        Kind::IGVM_VHT_MEMORY_MAP => "memory map",
        Kind::IGVM_VHT_COMMAND_LINE => "command line",
        Kind::IGVM_VHT_DEVICE_TREE => "device tree",
        _ => "something unknown",
    }
}

fn platform_name(kind: IgvmPlatformType) -> String {
    match kind {
        IgvmPlatformType::NATIVE => "no isolation".to_owned(),
        IgvmPlatformType::VSM_ISOLATION => "Hyper-V VBS".to_owned(),
        IgvmPlatformType::SEV_SNP => "AMD SEV-SNP".to_owned(),
        IgvmPlatformType::TDX => "Intel TDX".to_owned(),
        IgvmPlatformType::SEV => "AMD SEV".to_owned(),
        IgvmPlatformType::SEV_ES => "AMD SEV-ES".to_owned(),
        other => format!("platform {:#x}", other.0),
    }
}

/// POLICY in words (AMD 56860, table "Guest policy").
#[must_use]
pub fn policy_words(policy: u64) -> String {
    let bit = |bit: u32| policy >> bit & 1 != 0;
    let words = [
        (true, if bit(19) { "DEBUGGING ALLOWED: the host can read the guest" } else { "no debugging" }),
        (true, if bit(18) { "MIGRATION AGENT ALLOWED" } else { "no migration agent" }),
        (true, if bit(16) { "hyper-threading allowed" } else { "no hyper-threading" }),
        (bit(20), "one socket only"),
        (bit(21), "CXL allowed"),
        (bit(22), "AES-256-XTS required"),
        (bit(23), "no RAPL"),
        (bit(24), "ciphertext hiding required"),
        (bit(25), "no page swapping"),
        (!bit(17), "BIT 17 CLEAR: no processor takes this"),
    ];
    words.iter().filter(|(shown, _)| *shown).map(|(_, word)| *word).collect::<Vec<_>>().join(", ")
}

fn host_choices(lines: &[Line], policy: Option<u64>, has_id_block: bool) -> Vec<String> {
    let mut choices = Vec::new();
    let filled = lines.iter().filter(|line| line.measured == Measured::Address && line.pages > 0);
    let addresses: Vec<String> = filled
        .filter(|line| !line.what.starts_with("secrets"))
        .filter_map(|line| line.gpa.map(|gpa| format!("{gpa:#x}")))
        .collect();
    if !addresses.is_empty() {
        choices.push(format!("what is in the pages at {}: the guest must check it", addresses.join(", ")));
    }
    choices
        .push("HOST_DATA, once, at launch: reports show it, and relying parties must compare it".to_owned());
    if !has_id_block {
        choices.push("an ID block, or none: reports show the digests of its keys".to_owned());
    }
    if policy.is_none() || !has_id_block {
        choices.push(
            "the guest policy, in the file or beside it: reports show it, the digest does not".to_owned(),
        );
    }
    choices.push("how many processors and which model: each processor's state is measured, so that this changes the digest".to_owned());
    choices.push("memory size, devices, disks, networks, the time that it tells, and whether the guest runs at all: none of this is measured".to_owned());
    choices
}

impl Inspection {
    /// For scripts.
    #[must_use]
    pub fn json(&self) -> Value {
        let lines: Vec<Value> = self
            .lines
            .iter()
            .map(|line| {
                json!({
                    "gpa": line.gpa.map(|gpa| format!("{gpa:#x}")),
                    "pages": line.pages,
                    "measured": line.measured.word(),
                    "what": line.what,
                })
            })
            .collect();
        json!({
            "version": self.version,
            "platforms": self.platforms,
            "policy": self.policy.map(|policy| format!("{policy:#x}")),
            "lines": lines,
            "host_may_choose": self.host,
        })
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("IGVM version {}, for {}\n", self.version, self.platforms.join(", "));
        match self.policy {
            Some(policy) => text += &format!("guest policy {policy:#x}: {}\n", policy_words(policy)),
            None => text += "no guest policy\n",
        }
        text += "\nADDRESS             PAGES  MEASURED  WHAT\n";
        for line in &self.lines {
            let gpa = line.gpa.map_or_else(|| "-".to_owned(), |gpa| format!("{gpa:#x}"));
            text += &format!("{gpa:18}  {:>5}  {:8}  {}\n", line.pages, line.measured.word(), line.what);
        }
        text += "\nThe host may still choose\n";
        for choice in &self.host {
            text += &format!("- {choice}\n");
        }
        text
    }
}
