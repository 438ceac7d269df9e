//! The guest's side at a TPM that others wrote: swtpm, with each kind of endorsement key.
#![expect(clippy::unwrap_used, reason = "a test ends where its world fails")]

#[path = "support/swtpm.rs"]
mod swtpm;

use husk::engine::EndorsementKey;
use husk_attester::tpm::{Tpm, TpmError};
use husk_attester::wire::{Kind, Selection, receive, send};
use husk_broker::authority::credential;
use husk_broker::world::Machine;
use husk_evidence::{AttestationKey, EndorsementPublic, Quote, QuoteSignature};
use std::process::{Command, Stdio};
use swtpm::Swtpm;

#[test]
fn every_kind_of_endorsement_key_opens_what_is_for_it_and_the_attestation_key_quotes() {
    let swtpm = Swtpm::start();
    let mut tpm = Tpm::open(&swtpm.place()).unwrap();
    assert_eq!(tpm.certified_key().unwrap(), (EndorsementKey::P256, Vec::new()), "nobody certified it");
    let mut names = Vec::new();
    for kind in EndorsementKey::ALL {
        let keys = tpm.keys(kind).unwrap();
        let ek = EndorsementPublic::parse(kind, &keys.endorsement.public).unwrap();
        let ak = AttestationKey::parse(&keys.attestation.public).unwrap();
        let name = ak.name().unwrap().to_vec();
        let made = credential::make(&Machine::start(), &ek, &name, &[7; 32]).unwrap();
        assert_eq!(*tpm.activate(&keys, &made.blob, &made.secret).unwrap(), [7; 32], "{kind:?}");
        let elsewhere =
            credential::make(&Machine::start(), &ek, &[&[0, 0x0B], &[1; 32][..]].concat(), &[7; 32]).unwrap();
        let refused = tpm.activate(&keys, &elsewhere.blob, &elsewhere.secret);
        assert!(matches!(refused, Err(TpmError::Refused(_))), "{kind:?}: of another object");
        let selection = Selection { bank: 0x000B, pcrs: 0x00FF_FFFF };
        let values = tpm.values(selection).unwrap();
        let (quote, signature) = tpm.quote(&keys, &[9; 32], selection).unwrap();
        let quote =
            Quote::parse(&quote).unwrap().verify(&QuoteSignature::parse(&signature).unwrap(), &ak).unwrap();
        quote.answers(&[9; 32]).unwrap();
        assert_eq!(quote.pcrs(&values).unwrap().len(), 24, "{kind:?}");
        names.push(name);
        tpm.forget(&keys).unwrap();
    }
    assert!(names.iter().all(|name| *name == names[0]), "the attestation key is one");
}

#[test]
fn the_program_says_who_it_is_and_why_it_fails() {
    let swtpm = Swtpm::start();
    std::fs::write(swtpm.folder().join("key"), "a key").unwrap();
    let run = |tpm: &str, bind: &str, hello: &[u8]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_husk-attest"));
        command.args(["--tpm", tpm, "--bind", bind]).current_dir(swtpm.folder());
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        // It may have ended before it reads.
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), hello).ok();
        child.wait_with_output().unwrap()
    };
    let mut hello = Vec::new();
    send(&mut hello, Kind::Hello, &[]).unwrap();
    // Whoever asks goes away after the identity.
    let said = run("unix:tpm", "key", &hello);
    assert!(receive(&mut &said.stdout[..], Kind::Identity).unwrap().ends_with(b"a key"));
    assert_eq!(said.status.code(), Some(1));
    for (tpm, bind, hello, why) in [
        ("unix:nothing", "key", &hello[..], "unix:nothing"),
        ("unix:tpm", "nothing", &hello, "--bind"),
        ("unix:tpm", "key", b"GET / HTTP/1.1\r\n", "does not speak this protocol"),
    ] {
        let refused = run(tpm, bind, hello);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(1) && said.contains(why), "{why}: {said}");
    }
}
