crate::faults! {
    /// Ways in which the volume fails.
    pub enum VolumeFault in Volume {
        /// **Means** the disk is too small for a volume. **Left** everything. **Next** a larger disk.
        TooSmall = 1, Host, "the disk has less than 16 KiB", "attach a disk of 1 MiB";
        /// **Means** the block is not a power of two up to 4096 bytes. **Left** everything. **Next** another device.
        BlockSize = 2, Host, "the disk's physical block is not a power of two up to 4096 bytes", "attach a disk with blocks of 512 or 4096 bytes";
        /// **Means** a read failed. **Left** everything. **Next** check the device.
        Read = 3, Host, "the disk failed a read", "check the host's storage and start again";
        /// **Means** a write failed. **Left** the head on disk; what was being written is unknown. **Next** check the device.
        Write = 4, Host, "the disk failed a write", "check the host's storage and start again: everything acknowledged is kept";
        /// **Means** a flush failed. **Left** the head on disk; what was being written is unknown. **Next** check the device.
        Flush = 5, Host, "the disk failed a flush", "check the host's storage and start again: everything acknowledged is kept";
        /// **Means** no salt could be had. **Left** everything. **Next** check the processor.
        Entropy = 6, Host, "the entropy source failed", "restart; replace the processor if it comes back";
        /// **Means** the state does not fit an area of this disk. **Left** the head on disk. **Next** a larger disk, made anew or restored.
        StateTooLarge = 7, Host, "the TPM's state does not fit this disk", "use a disk of 1 MiB from the beginning";
        /// **Means** creation was granted, but the disk holds a volume of somebody else, or of another mode or format. **Left** everything. **Next** attach the right disk.
        Occupied = 8, Host, "the disk holds another volume, so no TPM is created on it", "attach this VM's disk, or wipe the disk if its content is not needed";
        /// **Means** the disk ends before the blocks of a guest's flash do. **Left** everything. **Next** a larger disk.
        NoBlocks = 9, Host, "the disk has no room for the guest's flash behind the volume", "lengthen the volume's file to what `husk volume create` makes (`truncate --size 2080K`): nothing in it moves";
        /// **Means** there are only zeros. **Left** everything. **Next** attach the right disk.
        Blank = 16, Seal, "the disk is blank where a volume was expected", "attach the VM's own disk; a blank disk never makes a new TPM";
        /// **Means** there is no checkpoint. **Left** everything. **Next** attach the right disk.
        NotAVolume = 17, Seal, "the disk holds no volume", "attach the VM's own disk, or its newest backup through the tenant";
        /// **Means** the checkpoint's format is unknown here. **Left** everything. **Next** other firmware.
        OtherFormat = 18, Seal, "the volume has another format", "start the firmware version that wrote the volume";
        /// **Means** the volume is of the test mode. **Left** everything. **Next** the right disk.
        Unsealed = 19, Seal, "the volume was made in the unsealed test mode", "attach the VM's own disk; test volumes are never trusted";
        /// **Means** the volume is sealed by a broker's keys, the launch is in the test mode or hw-sealed. **Left** everything. **Next** the right mode.
        Sealed = 20, Seal, "the volume is sealed by a broker's keys, and this launch has none", "start with the launch configuration that the VM was enrolled with; a sealed volume never becomes another";
        /// **Means** the tenant differs. **Left** everything. **Next** the right disk.
        OtherTenant = 21, Seal, "the volume belongs to another tenant", "attach the VM's own disk";
        /// **Means** the VM differs. **Left** everything. **Next** the right disk.
        OtherVm = 22, Seal, "the volume belongs to another VM", "attach the VM's own disk";
        /// **Means** the generation differs: a restore lies between. **Left** everything. **Next** the restored disk.
        OtherGeneration = 23, Seal, "the volume is of another generation, before or after a restore", "attach the disk that the restore made";
        /// **Means** the volume was made on a disk of another size. **Left** everything. **Next** give the disk its size back.
        OtherSize = 24, Seal, "the volume was made on a disk of another size", "give the disk the size that it had";
        /// **Means** only states newer than the anchor's are there. **Left** everything. **Next** the broker's database was set back, or a disk is ahead of its anchor.
        NewerThanAnchor = 25, Seal, "the volume is newer than what the broker remembers", "ask the tenant whether the broker's database was restored";
        /// **Means** the chain ends before the anchored head. **Left** everything. **Next** attach the newest disk.
        RolledBack = 26, Seal, "the disk holds an older state than the one acknowledged", "attach the newest image of the VM's disk; an older copy is never accepted";
        /// **Means** the head's place in the chain is taken by another authentic state. **Left** everything. **Next** attach the disk of the instance that was acknowledged.
        Forked = 27, Seal, "the disk holds another history than the one acknowledged", "attach the image that the newest instance wrote";
        /// **Means** bytes at or before the head are not authentic. **Left** everything. **Next** the newest undamaged image.
        Damaged = 28, Seal, "the volume is damaged at or before its newest state", "attach an undamaged copy of the newest image";
        /// **Means** what was handed in as a suspended state is not of this TPM at this head, launch and token. **Left** everything durable; the TPM off. **Next** reset the machine.
        SuspendOther = 29, Seal, "the saved state is of another head, launch or TPM than this", "reset the machine; a saved state is resumed by the launch that saved it, with nothing in between";
        /// **Means** a suspended state was altered, cut, or sealed under another secret. **Left** everything durable; the TPM off. **Next** reset the machine.
        SuspendDamaged = 30, Seal, "the saved state is not authentic", "reset the machine; suspect the host";
        /// **Means** the volume is hw-sealed and the launch configuration does not name that mode. **Left** everything. **Next** the right configuration or disk.
        HwSealed = 31, Seal, "the volume is hw-sealed, which this launch configuration does not name", "attach the VM's own disk; a volume without protection against rollback is never taken for one with it";
        /// **Means** the volume's key takes a key of the processor or of a KBS and the configuration does not name it, or the other way round. **Left** everything. **Next** the right configuration.
        OtherInputs = 32, Seal, "the volume's key takes other inputs than the launch configuration names", "launch with the configuration under which the volume was made";
        /// **Means** a block of the guest's flash is not the one that the newest state names. **Left** everything. **Next** the newest undamaged image.
        BlockDamaged = 33, Seal, "a block of the guest's flash is not the one that the newest state names", "attach an undamaged copy of the newest image";
        /// **Means** a proof of another head was handed in. **Left** both states possible. **Next** report a defect.
        WrongProof = 48, Bug, "an anchor's proof names another head", "report this";
        /// **Means** keys of another identity or epoch were handed in. **Left** everything. **Next** report a defect.
        WrongKey = 49, Bug, "a key of another identity or epoch was handed to the volume", "report this";
        /// **Means** a length that code checked does not fit. **Left** the head on disk. **Next** report a defect.
        Bounds = 50, Bug, "a length of the volume's own making does not fit", "report this";
    }
}
