crate::faults! {
    /// Ways in which keys are refused.
    pub enum KeyFault in Keys {
        /// **Means** a creation key was asked for under a grant to open. **Left** everything. **Next** open the TPM that exists.
        NotGranted = 1, Bug, "a TPM was to be created without a grant to create one", "report this";
    }
}
