//! Where AMD's key service has what a verifier needs.
//!
//! **What.** Addresses of certificates and revocation lists (AMD 57230, "VCEK certificate and KDS interface").
//! **Trust.** None is needed: what comes from there is verified.
//! **Not here.** Fetching: whoever has a network does.

use husk::attest::report::{Generation, Tcb};

const SERVICE: &str = "https://kdsintf.amd.com";

/// The certificate of a chip's key at these patch levels. `hwid` has 64 bytes, or 8 for Turin; a longer one is cut.
#[must_use]
pub fn vcek_url(generation: Generation, hwid: &[u8], tcb: Tcb) -> String {
    let chip = hex::encode(hwid.get(..generation.chip_id_bytes()).unwrap_or(hwid));
    let Tcb { fmc, bootloader, tee, snp, microcode } = tcb;
    let mut url = format!("{SERVICE}/vcek/v1/{}/{chip}?", generation.name());
    if let Some(fmc) = fmc {
        url += &format!("fmcSPL={fmc}&");
    }
    url + &format!("blSPL={bootloader}&teeSPL={tee}&snpSPL={snp}&ucodeSPL={microcode}")
}

/// Intermediate and root, as PEM: `vcek` of ASK and ARK, `vlek` of ASVK and ARK.
#[must_use]
pub fn chain_urls(generation: Generation) -> [String; 2] {
    ["vcek", "vlek"].map(|kind| format!("{SERVICE}/{kind}/v1/{}/cert_chain", generation.name()))
}

/// What the root has revoked, as DER.
#[must_use]
pub fn revocations_url(generation: Generation) -> String {
    format!("{SERVICE}/vcek/v1/{}/crl", generation.name())
}

#[cfg(test)]
mod tests {
    use super::{revocations_url, vcek_url};
    use husk::attest::report::{Generation, Tcb};

    #[test]
    fn an_address_names_the_chip_and_its_patch_levels() {
        let tcb = Tcb { fmc: None, bootloader: 3, tee: 0, snp: 8, microcode: 115 };
        let milan = vcek_url(Generation::Milan, &[0xA5; 64], tcb);
        let levels = "blSPL=3&teeSPL=0&snpSPL=8&ucodeSPL=115";
        assert_eq!(milan, format!("https://kdsintf.amd.com/vcek/v1/Milan/{}?{levels}", "a5".repeat(64)));
        let turin = vcek_url(Generation::Turin, &[1; 64], Tcb { fmc: Some(1), ..tcb });
        assert!(turin.ends_with(&format!("/Turin/{}?fmcSPL=1&{levels}", "01".repeat(8))), "{turin}");
        assert_eq!(revocations_url(Generation::Genoa), "https://kdsintf.amd.com/vcek/v1/Genoa/crl");
    }
}
