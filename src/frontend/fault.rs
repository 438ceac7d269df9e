crate::faults! {
    /// Ways in which a front-end cannot be set up. Guests cause hardly any of these: they get responses.
    pub enum FrontendFault in Frontend {
        /// **Means** a table does not fit the caller's buffer. **Left** everything but the buffer. **Next** hand in a larger one.
        TableTooLarge = 1, Bug, "an ACPI table does not fit its buffer", "hand in a buffer of acpi::TABLE_BYTES_MAX bytes";
        /// **Means** the register pages cannot lie at that address. **Left** everything. **Next** choose a page-aligned address below 4 GiB.
        LayoutRefused = 2, Bug, "the CRB pages cannot lie there", "choose a page-aligned guest address with the whole window below 4 GiB";
        /// **Means** a services manifest does not fit its buffer. **Left** everything. **Next** report a defect.
        ManifestTooLarge = 3, Bug, "a services manifest does not fit its buffer", "report this with the engine's version";
        /// **Means** this machine does not offer attestation. **Left** everything. **Next** do without.
        NotOffered = 4, Guest, "this machine does not offer attestation of its TPM", "use a firmware that offers it";
        /// **Means** what an SVSM hands over about its CRB is not of the normative layout. **Left** everything. **Next** offer no TPM; compare the versions of firmware and SVSM.
        HandoverMalformed = 5, Bug, "the hand-over of a CRB is malformed", "use a firmware and an SVSM that agree on the layout";
    }
}
