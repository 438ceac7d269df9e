//! Endorsement keys, attestation keys, quotes, credentials.

use crate::stack::Serving;
use std::fs;

/// An attestation key under the endorsement key of `kind`, and a quote that a verifier accepts: with its nonce only.
pub(crate) fn quotes_under(tpm: &Serving<'_>, kind: &str) {
    let scheme = if kind == "rsa" { "rsassa" } else { "ecdsa" };
    tpm.run_line(&format!("createek -G {kind} -c ek.ctx -u ek.pub"));
    tpm.run_line(&format!(
        "createak -C ek.ctx -G {kind} -g sha256 -s {scheme} -c ak.ctx -u ak.pem -f pem -n ak.name"
    ));
    tpm.run_line(&format!("pcrextend 23:sha256={}", "22".repeat(32)));
    tpm.run_line("quote -c ak.ctx -l sha256:0,23 -q 0badc0de -m quote -s signature -o pcrs -g sha256");
    tpm.run_line("checkquote -u ak.pem -m quote -s signature -f pcrs -g sha256 -q 0badc0de");
    tpm.refused("checkquote -u ak.pem -m quote -s signature -f pcrs -g sha256 -q 0badc0df");
    let mut altered = fs::read(tpm.path("quote")).unwrap();
    let last = altered.len() - 1;
    altered[last] ^= 1;
    fs::write(tpm.path("altered"), altered).unwrap();
    tpm.refused("checkquote -u ak.pem -m altered -s signature -f pcrs -g sha256 -q 0badc0de");
}

/// What is encrypted for endorsement key and attestation key together comes out only where both are.
pub(crate) fn proves_that_key_and_ek_share_a_tpm(tpm: &Serving<'_>) {
    let name: String =
        fs::read(tpm.path("ak.name")).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(tpm.path("credential"), b"only for this very TPM").unwrap();
    tpm.run_line(&format!("makecredential -u ek.pub -s credential -n {name} -o blob"));
    let activate = || {
        tpm.run_line("startauthsession --policy-session -S session.ctx");
        tpm.run_line("policysecret -S session.ctx -c e");
        let words = "-c ak.ctx -C ek.ctx -i blob -o activated -P session:session.ctx";
        let output = tpm.run("activatecredential", words.split_whitespace());
        tpm.run_line("flushcontext session.ctx");
        output.status.success()
    };
    assert!(activate());
    assert_eq!(fs::read(tpm.path("activated")).unwrap(), b"only for this very TPM");
    let mut blob = fs::read(tpm.path("blob")).unwrap();
    let last = blob.len() - 1;
    blob[last] ^= 1;
    fs::write(tpm.path("blob"), blob).unwrap();
    assert!(!activate(), "an altered credential");
}
