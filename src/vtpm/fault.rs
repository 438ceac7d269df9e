crate::faults! {
    /// Ways in which the whole fails that no single box could name.
    pub enum VtpmFault in Vtpm {
        /// **Means** a call came to a TPM that is powered off. **Left** everything. **Next** power it on.
        PoweredOff = 1, Guest, "the TPM is powered off", "power it on first";
        /// **Means** this machine does not have that. **Left** everything. **Next** do without.
        Unsupported = 3, Guest, "this machine does not have that", "do without it";
        /// **Means** the engine gave a response that is longer than its buffer. **Left** the durable state as last committed. **Next** report a defect.
        Overlong = 2, Engine, "the engine's response is longer than its buffer", "report this with the engine's version";
    }
}
