//! What the host chooses by the loader's command line.
//!
//! None of it is measured with the image, so none of it may weaken a promise: each word names another way to the same TPM, or
//! a mode in which nobody is served (decisions 9 and 10 say why each is the host's to choose).

/// Runs the image's test of itself, and no guest.
pub const SELF_TEST: &str = "husk.self-test";
/// Guests have the call gate.
pub const SVSM_CALLS: &str = "husk.svsm-calls";
/// The CRB lies in the guest's memory.
pub const PRIVATE_CRB: &str = "husk.crb=private";

/// What the image is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Test itself, show the codes, stop.
    SelfTest,
    /// Boot the component, start the guest, serve.
    Serve(Ways),
}

/// The ways by which a guest reaches its TPM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ways {
    /// Where its registers are.
    pub crb: CrbPlace,
    /// Whether it has SVSM calls as well.
    pub gate: Gate,
}

/// Where the CRB is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrbPlace {
    /// At the PTP's address, where every access to a register exits.
    Trapped,
    /// In the guest's own memory, where the processor that serves looks at it.
    Private,
}

/// Whether VMMCALL leads anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// The instruction is not there.
    Closed,
    /// It is an SVSM's call.
    Open,
}

impl Wish {
    /// Reads the command line: words between single spaces, each at most once. `None` for anything else: a host that asks for what
    /// this image does not have is told so, not served in some other way.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        let mut ways = Ways { crb: CrbPlace::Trapped, gate: Gate::Closed };
        if line.is_empty() {
            return Some(Self::Serve(ways));
        }
        if line == SELF_TEST.as_bytes() {
            return Some(Self::SelfTest);
        }
        for word in line.split(|byte| *byte == b' ') {
            if word == SVSM_CALLS.as_bytes() && ways.gate == Gate::Closed {
                ways.gate = Gate::Open;
            } else if word == PRIVATE_CRB.as_bytes() && ways.crb == CrbPlace::Trapped {
                ways.crb = CrbPlace::Private;
            } else {
                return None;
            }
        }
        Some(Self::Serve(ways))
    }
}

#[cfg(test)]
mod tests {
    use super::{CrbPlace, Gate, Ways, Wish};

    #[test]
    fn each_word_is_one_choice_and_nothing_else_is_a_word() {
        let serve = |crb, gate| Some(Wish::Serve(Ways { crb, gate }));
        for (line, wish) in [
            ("", serve(CrbPlace::Trapped, Gate::Closed)),
            ("husk.self-test", Some(Wish::SelfTest)),
            ("husk.svsm-calls", serve(CrbPlace::Trapped, Gate::Open)),
            ("husk.crb=private", serve(CrbPlace::Private, Gate::Closed)),
            ("husk.crb=private husk.svsm-calls", serve(CrbPlace::Private, Gate::Open)),
            ("husk.svsm-calls husk.crb=private", serve(CrbPlace::Private, Gate::Open)),
            ("husk.svsm-calls husk.svsm-calls", None),
            ("husk.crb=trapped", None),
            ("husk.self-test husk.svsm-calls", None),
            (" ", None),
            ("husk.svsm-calls ", None),
            ("HUSK.SVSM-CALLS", None),
            ("console=ttyS0", None),
        ] {
            assert_eq!(Wish::parse(line.as_bytes()), wish, "{line:?}");
        }
    }
}
