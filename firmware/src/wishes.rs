//! What the host chooses by the loader's command line.
//!
//! None of it is measured with the image, so none of it may weaken a promise: each word names another way to the same TPM, or
//! a mode in which nobody is served (decision 9 says why each is the host's to choose).

/// Runs the image's test of itself, and no guest.
pub const SELF_TEST: &str = "husk.self-test";
/// Guests have the call gate.
pub const SVSM_CALLS: &str = "husk.svsm-calls";

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
    /// Whether it has SVSM calls besides the CRB.
    pub gate: Gate,
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
        let mut ways = Ways { gate: Gate::Closed };
        if line.is_empty() {
            return Some(Self::Serve(ways));
        }
        if line == SELF_TEST.as_bytes() {
            return Some(Self::SelfTest);
        }
        for word in line.split(|byte| *byte == b' ') {
            if word == SVSM_CALLS.as_bytes() && ways.gate == Gate::Closed {
                ways.gate = Gate::Open;
            } else {
                return None;
            }
        }
        Some(Self::Serve(ways))
    }
}

#[cfg(test)]
mod tests {
    use super::{Gate, Ways, Wish};

    #[test]
    fn each_word_is_one_choice_and_nothing_else_is_a_word() {
        let serve = |gate| Some(Wish::Serve(Ways { gate }));
        for (line, wish) in [
            ("", serve(Gate::Closed)),
            ("husk.self-test", Some(Wish::SelfTest)),
            ("husk.svsm-calls", serve(Gate::Open)),
            ("husk.svsm-calls husk.svsm-calls", None),
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
