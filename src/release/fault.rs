crate::faults! {
    /// Ways in which earning or keeping the keys fails.
    pub enum ReleaseFault in Release {
        /// **Means** no reply came. **Left** everything. **Next** check relay and broker; the guest may try again.
        Unreachable = 1, Broker, "the broker did not answer", "check that relay and broker run and can reach each other";
        /// **Means** a request was sent and its outcome is unknown. **Left** both states possible. **Next** the same request again.
        Undecided = 2, Broker, "the broker's answer to a commit is still unknown", "check relay and broker; a restart of the guest resolves it";
        /// **Means** the reply is malformed or does not authenticate. **Left** everything. **Next** suspect the relay.
        ReplyRefused = 3, Host, "the broker's reply was altered on its way", "suspect the relay and the host's network";
        /// **Means** the broker's key is not certified by the tenant that the launch configuration names. **Left** everything. **Next** check which broker is asked.
        BrokerUntrusted = 4, Host, "the tenant's root key did not certify this broker", "check which broker the relay reaches, and the launch configuration";
        /// **Means** the broker does not know the session any more. **Left** everything. **Next** a new session.
        SessionLost = 5, Broker, "the broker forgot the session", "nothing: a new session follows";
        /// **Means** another instance of this VM may still be answering. **Left** everything. **Next** stop it or wait for its lease.
        Busy = 6, Broker, "another instance of this VM holds the lease", "stop the other instance or wait until its lease ends";
        /// **Means** the report did not convince the broker. **Left** everything. **Next** check the processor's certificates.
        DeniedEvidence = 7, Broker, "the broker refused the report or its certificates", "check that the host supplies the processor's certificate and that its chain is known";
        /// **Means** the report is of simulated silicon. **Left** everything. **Next** use real silicon or a broker that accepts it.
        DeniedSimulated = 8, Broker, "the broker does not accept simulated silicon", "run on SEV-SNP, or start a test broker with --accept-simulated-silicon";
        /// **Means** the measurement is not allowed. **Left** everything. **Next** the tenant allows it.
        DeniedMeasurement = 9, Broker, "the broker refused this firmware's measurement", "start the enrolled firmware, or let the tenant add this measurement";
        /// **Means** HOST_DATA is not the enrolled configuration's. **Left** everything. **Next** launch with the enrolled one.
        DeniedLaunchConfig = 10, Broker, "the broker refused this launch configuration", "launch with the configuration that was enrolled";
        /// **Means** guest policy, VMPL, platform, TCB or chip are not allowed. **Left** everything. **Next** the tenant's policy says which.
        DeniedPolicy = 11, Broker, "the platform does not meet the tenant's policy", "update the host's firmware, or ask the tenant which chips and policies are allowed";
        /// **Means** the VM is unknown, halted or retired. **Left** everything. **Next** ask the tenant.
        DeniedVm = 12, Broker, "the broker does not serve this VM", "enrol the VM, or ask the tenant why it is halted";
        /// **Means** the broker refused for a reason of order or binding. **Left** everything. **Next** suspect the relay.
        DeniedOther = 13, Broker, "the broker refused the request", "suspect the relay; read the broker's log";
        /// **Means** a newer instance was granted. **Left** the state to that one. **Next** nothing here: stop.
        Fenced = 14, Broker, "a newer instance of this VM was started", "nothing here: this instance is over";
        /// **Means** the head moved without this instance. **Left** the state as the broker remembers it. **Next** stop.
        Conflict = 15, Broker, "the broker remembers another newest state", "restart the guest; if it comes back, ask the tenant";
        /// **Means** the grant's signature or content does not hold. **Left** everything. **Next** suspect the broker.
        GrantRefused = 16, Broker, "the broker's grant does not hold", "check that broker and firmware are of one version";
        /// **Means** the lease ended and could not be renewed. **Left** everything. **Next** reach the broker.
        LeaseOver = 17, Broker, "the right to answer has ended", "check that relay and broker can be reached";
        /// **Means** the launch wants leases and has no trusted clock. **Left** everything. **Next** enable Secure TSC.
        NoClock = 18, Host, "leases need a trusted clock and this launch has none", "launch with Secure TSC, or with another way of serving";
        /// **Means** entropy failed. **Left** everything. **Next** check the processor.
        Entropy = 19, Host, "the entropy source failed", "restart; replace the processor if it comes back";
        /// **Means** no report could be had. **Left** everything. **Next** check the host's SNP support.
        NoReport = 20, Host, "the processor gave no attestation report", "check the host's SEV-SNP support; a restart is needed";
        /// **Means** a call came in a state that the types should bar. **Left** everything. **Next** report a defect.
        Misuse = 21, Bug, "the release session was used out of order", "report this";
        /// **Means** the instance has released its tenure. **Left** the state closed in order. **Next** boot again.
        Released = 22, Bug, "this instance has already been shut down", "start the guest again";
        /// **Means** the configuration wants a key of the processor and there is none. **Left** everything. **Next** other firmware or another configuration.
        NoProcessorKey = 23, Host, "the processor gave no derived key", "check that the platform's TCB and the image's SVN reach what the configuration names, and that the firmware can ask for such a key";
        /// **Means** no TPM exists on this disk and the permit to make one is not the tenant's for this configuration. **Left** everything. **Next** a volume made with the right permit.
        PermitRefused = 24, Seal, "the volume's permit to make a TPM is not the tenant's for this launch configuration", "make a volume with the permit of `husk tenant permit` for this very configuration";
        /// **Means** the disk did not take the spent permit away. **Left** the new TPM, which nobody has heard of. **Next** check the device.
        PermitKept = 25, Host, "the disk failed to take the spent permit away", "check the host's storage and start again";
        /// **Means** the broker showed an order that the tenant's root key does not vouch for. **Left** everything. **Next** suspect the broker.
        OrderUntrusted = 26, Broker, "the broker showed an order that is not the tenant's", "sign the order anew, with keys that the tenant's root key certifies; if it comes back, suspect the broker";
        /// **Means** what the broker gave is not the backup that the order names, or does not open with the key that came with it. **Left** everything. **Next** bring the backup again.
        BackupRefused = 27, Broker, "the backup that the broker gave is not the one that was ordered", "hand the order in again with its backup; if it comes back, suspect the broker";
        /// **Means** no answer came from the KBS. **Left** everything. **Next** reach it.
        KbsUnreachable = 32, Broker, "the KBS did not answer", "check that the KBS runs and that the relay reaches it";
        /// **Means** the configuration requires a KBS and the relay was told of none. **Left** everything. **Next** tell it.
        KbsAbsent = 33, Host, "the launch configuration requires a KBS and the relay knows none", "start `husk run` or `husk relay` with --kbs";
        /// **Means** the KBS refused the report or the resource. **Left** everything. **Next** its log.
        KbsRefused = 34, Broker, "the KBS refused", "read the KBS's log: its attestation policy, its resource policy, its version, or the envelope that was never uploaded";
        /// **Means** the KBS's answer is none, or is encrypted otherwise. **Left** everything. **Next** suspect the relay.
        KbsAnswerRefused = 35, Host, "the KBS's answer does not hold", "suspect the relay; check that a KBS of RCAR 0.4.0 answers there, which encrypts by ECDH-ES+A256KW and A256GCM";
        /// **Means** the resource is no envelope of this version. **Left** everything. **Next** upload one.
        EnvelopeMalformed = 36, Broker, "what the KBS stores for this VM is no envelope of this version", "upload the very file that `husk tenant envelope` wrote";
        /// **Means** the tenant root key of the configuration did not sign the envelope. **Left** everything. **Next** suspect the host.
        EnvelopeUntrusted = 37, Host, "the tenant's root key did not sign the KBS's envelope", "suspect the host; check which KBS the relay reaches and that the envelope was made with the root key of this launch configuration";
        /// **Means** the tenant signed it for another VM. **Left** everything. **Next** the VM's own.
        EnvelopeOfAnother = 38, Broker, "the KBS's envelope is another VM's", "upload this VM's own envelope under this VM's path";
    }
}
