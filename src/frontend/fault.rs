crate::faults! {
    /// Ways in which a front-end cannot be set up. Guests cause none of these: they get responses.
    pub enum FrontendFault in Frontend {
        /// **Means** a table does not fit the caller's buffer. **Left** everything but the buffer. **Next** hand in a larger one.
        TableTooLarge = 1, Bug, "an ACPI table does not fit its buffer", "hand in a buffer of acpi::TABLE_BYTES_MAX bytes";
        /// **Means** the register pages cannot lie at that address. **Left** everything. **Next** choose a page-aligned address below 4 GiB.
        LayoutRefused = 2, Bug, "the CRB pages cannot lie there", "choose a page-aligned guest address with the whole window below 4 GiB";
    }
}
