//! A configuration that this VM's own report vouches for, by the mode that it names.

use super::{LaunchConfig, Mode};

/// A configuration that HOST_DATA vouches for: the only kind that anything starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundConfig(pub(super) LaunchConfig);

impl BoundConfig {
    /// What it says.
    #[must_use]
    pub const fn config(&self) -> &LaunchConfig {
        &self.0
    }

    /// The mode that it names: what the launch's keys come from.
    pub const fn named(self) -> Named {
        match self.0.mode {
            Mode::Strict | Mode::Ephemeral => Named::Anchored(AnchoredConfig(self)),
            Mode::HwSealed => Named::HwSealed(HwSealedConfig(self)),
        }
    }

    /// The configuration, if it names a mode with a broker.
    #[must_use]
    pub const fn anchored(self) -> Option<AnchoredConfig> {
        match self.named() {
            Named::Anchored(config) => Some(config),
            Named::HwSealed(_) => None,
        }
    }
}

/// A bound configuration by its mode. A type for each, so that no mode's keys come to a launch that does not name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Named {
    /// A broker releases the keys and remembers the head or, where nothing is kept, grants the launch.
    Anchored(AnchoredConfig),
    /// The processor alone has the key.
    HwSealed(HwSealedConfig),
}

macro_rules! of_a_mode {
    ($($(#[$doc:meta])* $name:ident,)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name(BoundConfig);
        impl $name {
            /// What it says.
            #[must_use]
            pub const fn config(&self) -> &LaunchConfig {
                self.0.config()
            }
        }
    )+};
}

of_a_mode! {
    /// A bound configuration with a broker: the only kind that a session starts from.
    AnchoredConfig,
    /// A bound configuration that names `hw-sealed`: the only kind that opens or makes a volume without a broker.
    HwSealedConfig,
}
