//! The ways in which a guest cannot be started.

husk::faults! {
    /// Ways in which a guest cannot be started.
    pub enum GuestFault in Guest {
        /// **Means** the blob is no payload of this version, or its lengths do not add up. **Left** nothing was started. **Next** make it anew.
        PayloadMalformed = 1, Host, "the payload is malformed", "start the image with `husk run` of the same version";
        /// **Means** the kernel is no bzImage, or its header contradicts its size. **Left** nothing was started. **Next** another file.
        KernelMalformed = 2, Host, "the kernel is not a bzImage", "pass the distribution's vmlinuz";
        /// **Means** the kernel's boot protocol is older than 2.14. **Left** nothing was started. **Next** a newer kernel.
        KernelUnsupported = 3, Host, "the kernel's boot protocol is too old", "use a kernel of 5.0 or later";
        /// **Means** the command line is longer than this kernel takes. **Left** nothing was started. **Next** shorten it.
        CommandLineTooLong = 4, Host, "the command line is longer than the kernel takes", "shorten the command line";
        /// **Means** the map has too many entries, or some that overlap or wrap. **Left** nothing was started. **Next** check the machine.
        MapMalformed = 5, Host, "the memory map is malformed", "use the machine that `husk run` starts";
        /// **Means** kernel, initrd and tables do not fit between what is reserved. **Left** nothing was started. **Next** more memory.
        NoRoom = 6, Host, "the guest's memory is too small for its kernel and initrd", "start with more --memory";
        /// **Means** a table is missing, too long, or sums to another value than zero. **Left** nothing was started. **Next** check the machine.
        TablesMalformed = 7, Host, "the machine's ACPI tables are malformed", "use the machine that `husk run` starts";
        /// **Means** the tables outgrew the room for them. **Left** nothing was started. **Next** fewer tables.
        TablesTooLarge = 8, Host, "the machine has more ACPI tables than fit", "use the machine that `husk run` starts";
        /// **Means** the service processor is not in the MADT. **Left** nothing was started. **Next** check the machine.
        ProcessorUnlisted = 9, Host, "the ACPI tables do not list the processor that serves", "use the machine that `husk run` starts";
        /// **Means** the TPM refused a measurement. **Left** nothing was started. **Next** see the code before this one.
        NotMeasured = 10, Engine, "the TPM did not take a measurement", "restart; report it if it comes back";
        /// **Means** a PCR bank is active whose hash is unknown here. **Left** nothing was started. **Next** another bank allocation.
        BankUnknown = 11, Engine, "a PCR bank is active that this firmware cannot extend", "allocate SHA-1, SHA-256, SHA-384 or SHA-512 only";
        /// **Means** the event log's area is full. **Left** nothing was started. **Next** report it.
        LogFull = 12, Bug, "the event log does not fit its area", "report this";
        /// **Means** an address outside the guest's memory was used. **Left** nothing was started. **Next** report it.
        OutOfRange = 13, Bug, "an address outside the guest's memory was used", "report this";
        /// **Means** the TPM refused the PCR banks of its first start. **Left** nothing was started; the TPM has all banks. **Next** see the code before this one.
        BanksRefused = 14, Engine, "the TPM did not take its first allocation of PCR banks", "restart; report it if it comes back";
        /// **Means** a UEFI firmware was asked for with a CRB in the guest's memory, where it does not look for one. **Left** nothing was started. **Next** one or the other.
        FirmwareUnserved = 15, Host, "a UEFI firmware finds the TPM at its usual address only", "leave --crb private away, or --firmware";
        /// **Means** the TPM found an algorithm of its own broken. **Left** the guest had begun; its TPM answered it nothing. **Next** restart.
        TestsFailed = 16, Engine, "the TPM failed its tests of itself", "restart; report it if it comes back";
        /// **Means** there is no flash for a firmware's variables, and the launch configuration names some or this VM's are kept. **Left** nothing was started. **Next** bring firmware and variables; once they are kept their content does not matter.
        VariablesMissing = 17, Host, "the firmware's variables are named or kept, and the launch has no flash for them", "give --firmware and --firmware-vars as on the first launch";
        /// **Means** the variables that the host brought are not those that the launch configuration names, and none are kept yet. **Left** nothing was started, nothing is kept. **Next** bring the tenant's.
        VariablesRefused = 18, Host, "the firmware's variables are not those that the launch configuration names", "give --firmware-vars with the file that the VM was enrolled with";
    }
}
