//! What evidence proves and what it does not, in plain words.

use husk_evidence::Verified;
use serde_json::{Map, Value};
use std::fmt;

/// What a kind of file would prove, were it verified.
pub(super) fn of_kind(kind: &str) -> &'static str {
    match kind {
        "report" => {
            "A report, verified, says what a processor launched. Not whether that firmware is the right one, nor how old the report is."
        }
        "certificate" => {
            "A signing key's certificate, verified, says whose silicon signs. Not what it signed."
        }
        "manifest" => {
            "A manifest says nothing until a report at VMPL 0 covers it together with a nonce of yours."
        }
        "ek_certificate" => {
            "An endorsement key's certificate, verified, says that its issuer takes the key for a TPM's. Not that the TPM you talk to holds it."
        }
        _ => {
            "A quote, verified, says which PCR values a key signed. Not whose TPM holds that key, nor that the values are the right ones."
        }
    }
}

/// What was proven, and what a reader might wrongly take for proven.
#[derive(Debug, Default)]
pub(super) struct Claims {
    proven: Vec<String>,
    not_proven: Vec<&'static str>,
}

impl Claims {
    pub(super) fn proven(&mut self, sentence: impl Into<String>) {
        self.proven.push(sentence.into());
    }

    pub(super) fn not_proven(&mut self, sentence: &'static str) {
        self.not_proven.push(sentence);
    }

    pub(super) fn report(&mut self, verified: &Verified<'_>, covers_manifest: bool, measured: bool) {
        let simulated = verified.silicon.is_simulated();
        let whose = if simulated { "a SIMULATED processor" } else { "AMD's silicon" };
        self.proven(format!("the report is {whose}'s"));
        if measured {
            self.proven("it is of a launch with the measurement that you named");
        } else {
            self.not_proven("that its measurement is the right one: that is for you to say");
        }
        self.not_proven("that its patch levels are recent enough: that is for you to say");
        if covers_manifest {
            self.proven("the firmware at VMPL 0 vouches for the manifest, for your nonce");
        } else {
            self.not_proven("that the report is recent: it was not compared with a nonce of yours");
        }
    }

    /// As JSON's `proven` and `not_proven`.
    pub(super) fn insert_into(self, object: &mut Map<String, Value>) {
        object.insert("proven".into(), self.proven.into());
        object.insert("not_proven".into(), self.not_proven.into());
    }
}

impl fmt::Display for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for sentence in &self.proven {
            writeln!(f, "Proven: {sentence}.")?;
        }
        for sentence in &self.not_proven {
            writeln!(f, "NOT proven: {sentence}.")?;
        }
        Ok(())
    }
}
