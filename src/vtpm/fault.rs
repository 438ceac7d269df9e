crate::faults! {
    /// Ways in which the whole fails that no single box could name.
    pub enum VtpmFault in Vtpm {
        /// **Means** a call came to a TPM that is powered off. **Left** everything. **Next** power it on.
        PoweredOff = 1, Guest, "the TPM is powered off", "power it on first";
        /// **Means** this machine does not have that. **Left** everything. **Next** do without.
        Unsupported = 3, Guest, "this machine does not have that", "do without it";
        /// **Means** this launch holds no suspended state to resume: none was saved, or it was used, or voided by what came after. **Left** the durable state; the TPM off. **Next** reset the machine.
        NothingSuspended = 4, Seal, "this launch has no saved state that could be resumed", "reset the machine; a saved state is resumed once, by the launch that saved it, with nothing in between";
        /// **Means** the host asked for the state of a sealed TPM, or wants to give it one. **Left** everything. **Next** move the machine cold.
        StateStays = 5, Host, "a sealed TPM gives its state to nobody and takes none", "migrate cold: shut the machine down here, start it there with the same volume";
        /// **Means** what was handed in as a test TPM's state is none. **Left** everything durable. **Next** hand in what this program saved.
        BlobRefused = 6, Host, "the bytes are no state that this program saved", "hand in the permanent and volatile state of one moment, unchanged";
        /// **Means** the engine gave a response that is longer than its buffer. **Left** the durable state as last committed. **Next** report a defect.
        Overlong = 2, Engine, "the engine's response is longer than its buffer", "report this with the engine's version";
    }
}
