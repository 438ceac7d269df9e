crate::faults! {
    /// Ways in which an engine fails.
    pub enum EngineFault in Engine {
        /// **Means** the command bytes are not a TPM command (header, size or tag). **Left** everything. **Next** the guest sends a well-formed command.
        Malformed = 1, Guest, "the bytes are not a TPM command", "send a command whose header states its own length";
        /// **Means** this locality may not do that. **Left** everything. **Next** use a locality that may.
        LocalityRefused = 2, Guest, "this locality may not do that", "use the locality that the PTP names";
        /// **Means** the stored state is not this engine's or does not load. **Left** the engine off, the volume untouched. **Next** start the engine that wrote it.
        StateRefused = 3, Engine, "the engine does not accept the stored state", "start the engine version that the volume's fingerprint names";
        /// **Means** the engine could not be initialised. **Left** the engine off. **Next** report a defect.
        InitFailed = 4, Engine, "the engine could not be initialised", "report this with the engine's version";
        /// **Means** the engine is in failure mode. **Left** the durable state as last committed. **Next** restart the machine.
        Failed = 5, Engine, "the engine is in failure mode", "restart the guest; report it if it comes back";
        /// **Means** the state does not fit its buffer. **Left** the durable state as last committed. **Next** delete NV indices.
        StateTooLarge = 6, Engine, "the engine's state does not fit the image", "remove NV indices or persistent keys";
        /// **Means** the platform's entropy failed inside a command. **Left** the durable state as last committed. **Next** check the processor.
        EntropyFailed = 7, Engine, "the entropy source failed inside the engine", "restart; replace the processor if it comes back";
        /// **Means** an attempt could not be charged. **Left** the attempt open. **Next** restart.
        ChargeFailed = 8, Engine, "an open authorization attempt could not be charged", "restart the guest; report it if it comes back";
        /// **Means** the linked engine is a version whose laws were not shown. **Left** everything. **Next** link libtpms 0.9.
        VersionRefused = 9, Engine, "the linked engine version is not one that keeps every promise", "link libtpms 0.9";
        /// **Means** the endorsement keys were not worked out for the present seed: the guest changed it (TPM2_ChangeEPS). **Left** everything. **Next** reset the machine.
        EndorsementUnknown = 10, Guest, "the TPM's endorsement seed was changed since its last reset", "reset the guest: its endorsement keys are new ones";
        /// **Means** the TPM in the backup has an NV index that the platform cannot undefine (TPMA_NV_POLICY_DELETE), so that no other TPM can be made of it. **Left** the disk untouched, the order open. **Next** undefine it in the original, and clone a later backup.
        CloneRefused = 11, Engine, "the TPM to be cloned has an NV index that only its own policy undefines", "undefine that index in the original and order a clone of a later backup";
    }
}
