crate::faults! {
    /// Ways in which the TPM's memory fails.
    pub enum NvFault in Nv {
        /// **Means** the engine's state is larger than the image. **Left** the durable state as last committed. **Next** remove NV indices.
        TooLarge = 1, Engine, "the TPM's state is larger than its image", "remove NV indices or persistent keys";
        /// **Means** the envelope around the engine's state is not ours. **Left** everything. **Next** use the firmware that wrote it.
        EnvelopeRefused = 2, Seal, "the state's envelope has another format", "start the firmware version that wrote the volume";
        /// **Means** a response was asked for before its change was durable. **Left** the durable state as last committed. **Next** report a defect.
        NotCommitted = 3, Bug, "a response was asked for before its change was durable", "report this";
        /// **Means** too many authorization attempts are open at once. **Left** the durable state as last committed. **Next** retry after a shutdown.
        TooManyAttempts = 4, Guest, "too many authorization attempts are open", "restart the guest";
    }
}
