crate::faults! {
    /// Ways in which proving who this is fails.
    pub enum AttestFault in Attest {
        /// **Means** the launch configuration breaks its grammar. **Left** everything. **Next** write it with the tools.
        ConfigMalformed = 1, Host, "the launch configuration is malformed", "write it with `husk vm enroll` and pass it unchanged";
        /// **Means** HOST_DATA is not the configuration's digest. **Left** everything. **Next** launch with HOST_DATA = SHA-256 of the file.
        ConfigUnbound = 2, Host, "HOST_DATA is not the digest of the launch configuration", "launch with host-data set to the SHA-256 of the very file";
        /// **Means** the configuration asks for what this build cannot do. **Left** everything. **Next** change the configuration.
        ConfigUnsupported = 3, Host, "the launch configuration asks for a mode that this firmware does not have", "use mode strict or ephemeral with a way of serving, or hw-sealed with serve none, a key of the processor and no key of a KBS";
        /// **Means** the report is not one this code understands. **Left** everything. **Next** update.
        ReportMalformed = 4, Host, "the processor's report is malformed", "update the firmware; check the host's SEV-SNP support";
        /// **Means** no report could be had. **Left** everything. **Next** check the host.
        NoReport = 5, Host, "the processor gave no attestation report", "check the host's SEV-SNP support; a restart is needed";
        /// **Means** a message of the processor does not authenticate; its key is wiped. **Left** everything. **Next** restart.
        MessageRefused = 6, Host, "a message from the processor did not authenticate", "suspect the host; a restart is needed";
        /// **Means** the processor answered with an error status. **Left** everything. **Next** check the request.
        ProcessorRefused = 7, Host, "the processor refused a request", "check the host's SEV-SNP firmware version";
        /// **Means** the message key was wiped before. **Left** everything. **Next** restart.
        KeyWiped = 8, Host, "the processor's message key was wiped after an earlier failure", "restart the guest";
        /// **Means** the secrets page holds no message key. **Left** everything. **Next** launch with a secrets page.
        SecretsAbsent = 9, Host, "the secrets page holds no message key", "launch as an SEV-SNP guest with a secrets page; let nothing else take VMPCK0";
    }
}
