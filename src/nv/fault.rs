crate::faults! {
    /// Ways in which the TPM's memory fails. Number 4 was used once and is not given again.
    pub enum NvFault in Nv {
        /// **Means** the engine's state is larger than the image. **Left** the durable state as last committed. **Next** remove NV indices.
        TooLarge = 1, Engine, "the TPM's state is larger than its image", "remove NV indices or persistent keys";
        /// **Means** the envelope around the engine's state is not ours. **Left** everything. **Next** use the firmware that wrote it.
        EnvelopeRefused = 2, Seal, "the state's envelope has another format", "start the firmware version that wrote the volume";
        /// **Means** a response was asked for before its change was durable. **Left** the durable state as last committed. **Next** report a defect.
        NotCommitted = 3, Bug, "a response was asked for before its change was durable", "report this";
        /// **Means** an earlier commit failed for good. **Left** the durable state as last committed, or one commit later. **Next** start again.
        Latched = 5, Host, "an earlier commit failed, so nothing is answered any more", "see the fault before this one; restart the guest";
        /// **Means** the image changed while a commit was undecided. **Left** the durable state as last committed, or one commit later. **Next** report a defect.
        RanAhead = 6, Bug, "the TPM's state changed while a commit was undecided", "report this";
        /// **Means** another engine, version or format level wrote the state. **Left** everything. **Next** use the firmware that wrote it.
        OtherEngine = 7, Seal, "another TPM engine wrote the volume's state", "start the firmware version that wrote the volume";
        /// **Means** one commit too many was to be left without an anchor. **Left** the state as last anchored, or at most as many commits later as may be lost. **Next** report a defect.
        NoSlack = 8, Bug, "one commit too many was to be left without an anchor", "report this";
        /// **Means** the guest's flash has another size than the one that is kept, or none that can be kept. **Left** everything. **Next** the firmware that it was made with.
        FlashSize = 9, Host, "the firmware's variables have another size than those that are kept", "start the firmware that the variables were made with";
        /// **Means** this TPM ends with its launch: it has no volume that anything could be saved beside. **Left** everything. **Next** do without, or enrol the VM with a TPM that is kept.
        NothingKept = 10, Host, "this TPM keeps nothing, so there is nothing to suspend or to copy", "shut the guest down in place of suspending it, or enrol its VM with a TPM that is kept";
    }
}
