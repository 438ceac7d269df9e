crate::faults! {
    /// Ways in which the whole fails that no single box could name.
    pub enum VtpmFault in Vtpm {
        /// **Means** the volume was written by another engine or format level. **Left** the volume untouched. **Next** start the firmware that wrote it.
        EngineMismatch = 1, Seal, "the volume was written under another engine", "start the firmware version that the volume's header names";
        /// **Means** a call came to a TPM that is powered off. **Left** everything. **Next** power it on.
        PoweredOff = 2, Guest, "the TPM is powered off", "power it on first";
        /// **Means** the TPM stopped serving after an earlier fault. **Left** the durable state as last committed. **Next** see the earlier fault.
        Latched = 3, Bug, "the TPM stopped serving after an earlier fault", "see the fault that was reported first; restart the guest";
    }
}
