//! Every way to fail, sorted by blame.
//!
//! **What.** A [`Fault`] is a [`Family`] (whose fault it is) and a stable 32-bit [code](Fault::code) that the
//! manual lists. Each box declares one leaf enum with [`faults!`](crate::faults).
//! **Trust.** Nothing.
//! **Laws.** Codes are unique, never reused, and carry family and box in their upper bytes; a test and `tidy` check it.
//! **Not here.** What a fault looks like to a guest: `frontend/reply.rs`.

use core::fmt;

/// Whose fault it is, and so what follows (see the manual's page on faults).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Family {
    /// The guest sent something the specifications forbid: answer with a code and carry on.
    Guest = 1,
    /// The host (disk, channel, hypervisor) failed or lied: bounded retries at boot, latch while serving.
    Host = 2,
    /// The broker refused or could not be reached: stop before unsealing.
    Broker = 3,
    /// Stored state is not what was acknowledged: stop; never repair, never re-create.
    Seal = 4,
    /// The TPM engine failed: failure mode.
    Engine = 5,
    /// A defect of this code: scrub and stop.
    Bug = 6,
}

impl Family {
    /// The word that tools print before a fault's sentence.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::Host => "host",
            Self::Broker => "broker",
            Self::Seal => "seal",
            Self::Engine => "engine",
            Self::Bug => "bug",
        }
    }
}

/// The boxes of the line, as they appear in bits 23:16 of a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Place {
    /// `frontend`
    Frontend = 1,
    /// `engine`
    Engine = 2,
    /// `nv`
    Nv = 3,
    /// `volume`
    Volume = 4,
    /// `keys`
    Keys = 5,
    /// `release`
    Release = 6,
    /// `attest`
    Attest = 7,
    /// `vtpm`
    Vtpm = 8,
    /// `firmware/src/guest`
    Guest = 16,
    /// `firmware/src/virtio`
    Devices = 17,
}

/// A fault: who is to blame, the stable code, what happened and what to do next.
#[derive(Clone, Copy)]
pub struct Fault {
    family: Family,
    code: u32,
    means: &'static str,
    next: &'static str,
}

impl Fault {
    /// Builds a fault; only [`faults!`](crate::faults) calls this.
    #[doc(hidden)]
    #[must_use]
    pub const fn new(
        family: Family,
        place: Place,
        number: u16,
        means: &'static str,
        next: &'static str,
    ) -> Self {
        let code = ((family as u32) << 24) | ((place as u32) << 16) | number as u32;
        Self { family, code, means, next }
    }

    /// Whose fault it is.
    #[must_use]
    pub const fn family(&self) -> Family {
        self.family
    }

    /// The stable code: family in bits 31:24, box in bits 23:16, number in bits 15:0.
    #[must_use]
    pub const fn code(&self) -> u32 {
        self.code
    }

    /// What happened: static text, safe for a console that the host reads.
    #[must_use]
    pub const fn means(&self) -> &'static str {
        self.means
    }

    /// What the person to blame, or the operator, can do.
    #[must_use]
    pub const fn next(&self) -> &'static str {
        self.next
    }
}

impl PartialEq for Fault {
    fn eq(&self, other: &Self) -> bool {
        self.code == other.code
    }
}

impl Eq for Fault {}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:08x} {}: {}; {}", self.code, self.family.word(), self.means, self.next)
    }
}

impl core::error::Error for Fault {}

/// Declares a box's leaf enum: each variant names the step that failed, its number, its family, what it
/// means and what to do next. The variant's documentation has three lines: **Means · Left · Next**.
#[macro_export]
macro_rules! faults {
    ($(#[$outer:meta])* $vis:vis enum $name:ident in $place:ident {
        $($(#[$doc:meta])* $variant:ident = $number:literal, $family:ident, $means:literal, $next:literal;)+
    }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        $vis enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            /// Every variant, in order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The fault with its family, code and text.
            #[must_use]
            pub const fn fault(self) -> $crate::fault::Fault {
                match self {
                    $(Self::$variant => $crate::fault::Fault::new(
                        $crate::fault::Family::$family, $crate::fault::Place::$place, $number, $means, $next),)+
                }
            }
        }

        impl From<$name> for $crate::fault::Fault {
            fn from(leaf: $name) -> Self { leaf.fault() }
        }
    };
}
