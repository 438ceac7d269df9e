//! The ways in which the firmware's own devices fail.

husk::faults! {
    /// Ways in which the firmware's own devices fail.
    pub enum DeviceFault in Devices {
        /// **Means** the slot is empty, or holds another kind of device. **Left** nothing was started. **Next** check the machine.
        Absent = 1, Host, "the machine lacks the volume's disk or the channel", "start the image with `husk run`, and with --volume";
        /// **Means** the device does not offer what is needed. **Left** nothing was started. **Next** another device.
        Unfit = 2, Host, "a device lacks a feature that the firmware needs", "start the image with `husk run`: the disk must offer flush";
        /// **Means** the device's registers lie outside of the machine's 32-bit device space. **Left** nothing was started. **Next** check the machine.
        Misplaced = 3, Host, "a device's registers lie where they cannot be reached", "start the image with `husk run`";
        /// **Means** the disk states a shape that no disk has. **Left** nothing was started. **Next** another disk.
        Geometry = 4, Host, "the disk's block size is not a power of two from 512 to 4096", "attach a disk with blocks of 512 or 4096 bytes";
        /// **Means** no memory was left for a device's queues. **Left** nothing was started. **Next** report it.
        NoMemory = 5, Bug, "there is no memory for a device's queues", "report this";
        /// **Means** the launch filled no secrets page, or one without a key. **Left** nothing was started. **Next** launch by `husk run`, which places it.
        NoSecrets = 6, Host, "the launch filled no secrets page", "start the image with `husk run`, which places it";
        /// **Means** this VM's own report cannot be had. **Left** nothing was started. **Next** check the processor's socket.
        NoReport = 7, Host, "the processor gave no report about this launch", "check that `husk psp serve` runs where `husk run --psp` says";
        /// **Means** the processor does not say how this launch's counter runs. **Left** nothing was started. **Next** check the processor's socket.
        NoTscInfo = 8, Host, "the processor does not say how the counter runs", "check that `husk psp serve` runs where `husk run --psp` says";
    }
}
