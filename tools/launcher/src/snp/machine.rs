//! QEMU's command line for an IGVM file under SEV-SNP, with the volume and the channel as an SVSM finds them.

use super::host::SVSM_SLOTS;
use crate::machine::escaped;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::path::{Path, PathBuf, absolute};

/// An ID block and its authentication page, as the IGVM file has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The 96 bytes of the ID block (AMD 56860, table ID_BLOCK).
    pub block: Vec<u8>,
    /// The 4096 bytes beside it (table ID_AUTH).
    pub auth: Vec<u8>,
    /// Whether an author key vouches for the ID key.
    pub author: bool,
}

/// A machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The IGVM file.
    pub igvm: PathBuf,
    /// The guest policy, the file's own.
    pub policy: u64,
    /// The ID block, the file's own.
    pub identity: Option<Identity>,
    /// HOST_DATA.
    pub host_data: [u8; 32],
    /// Position of the C-bit.
    pub c_bit: u8,
    /// How many bits fewer physical addresses have.
    pub reduced_bits: u8,
    /// QEMU's name of the processors' model.
    pub model: String,
    /// How many.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// The volume's file, if the TPM has one.
    pub volume: Option<PathBuf>,
    /// The unit that the volume's medium writes without touching neighbours, in bytes.
    pub block_bytes: u32,
    /// The socket at which `husk relay` listens.
    pub channel: PathBuf,
    /// The socket at which QEMU takes control messages.
    pub control: PathBuf,
    /// More words for QEMU: the guest's own devices.
    pub extra: Vec<String>,
}

impl Machine {
    /// The same machine, for who starts QEMU in another folder.
    ///
    /// # Errors
    /// What the system says where there is no current folder.
    pub fn with_absolute_paths(self) -> std::io::Result<Self> {
        let volume = self.volume.map(absolute).transpose()?;
        let (igvm, channel) = (absolute(self.igvm)?, absolute(self.channel)?);
        Ok(Self { igvm, volume, channel, ..self })
    }

    /// The words of the command line, without the program.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let size = self.memory_mib;
        let mut words = line("-no-user-config -nodefaults -display none -serial stdio -no-reboot");
        words.extend(line(&format!("-smp {} -m {size}M", self.vcpus)));
        words.push("-machine".into());
        words.push(format!("q35,accel=kvm,memory-backend=memory,{}", machine_properties()));
        // Shared pages are here; private ones in a guest_memfd, which QEMU makes by itself for SEV-SNP.
        words.extend(line(&format!(
            "-object memory-backend-memfd,id=memory,size={size}M,share=on,prealloc=off,reserve=off"
        )));
        words.extend(self.own_words());
        words.extend(["-qmp".into(), format!("unix:{},server=on,wait=off", escaped(&self.control))]);
        words.extend(self.extra.iter().cloned());
        words
    }

    /// What libvirt has no words for.
    pub(super) fn own_words(&self) -> Vec<String> {
        let mut words = vec!["-cpu".to_owned(), self.model.clone()];
        words.extend(["-object".into(), self.guest_object()]);
        words.extend(["-object".into(), format!("igvm-cfg,id=igvm,file={}", escaped(&self.igvm))]);
        // Slots without interrupts: an SVSM polls. Only the current form of virtio is spoken there.
        words.extend(line("-global virtio-mmio.force-legacy=off"));
        words.extend(self.device_words());
        words
    }

    fn guest_object(&self) -> String {
        let host_data = STANDARD.encode(self.host_data);
        let mut object = format!(
            "sev-snp-guest,id=snp,policy={:#x},cbitpos={},reduced-phys-bits={},host-data={host_data}",
            self.policy, self.c_bit, self.reduced_bits
        );
        if let Some(identity) = &self.identity {
            let [block, auth] = [&identity.block, &identity.auth].map(|bytes| STANDARD.encode(bytes));
            object.push_str(&format!(",id-block={block},id-auth={auth}"));
            if identity.author {
                object.push_str(",author-key-enabled=on");
            }
        }
        object
    }

    fn volume_words(&self, volume: &Path) -> [String; 4] {
        let (volume, block) = (escaped(volume), self.block_bytes);
        [
            "-drive".to_owned(),
            // What is flushed is on the medium; what is not may be anywhere.
            format!("if=none,id=husk-volume,format=raw,cache=writeback,file={volume}"),
            "-device".into(),
            format!(
                "virtio-blk-device,drive=husk-volume,num-queues=1,write-cache=on,logical_block_size=512,\
                 physical_block_size={block}"
            ),
        ]
    }

    fn device_words(&self) -> Vec<String> {
        let mut words: Vec<String> =
            self.volume.iter().flat_map(|volume| self.volume_words(volume)).collect();
        let channel = escaped(&self.channel);
        words.extend(["-chardev".to_owned(), format!("socket,id=husk-channel,path={channel}")]);
        words.extend(line("-device virtio-serial-device,id=husk-port,max_ports=1"));
        words.extend(line("-device virtconsole,bus=husk-port.0,chardev=husk-channel"));
        words
    }
}

/// What the machine has besides its memory.
pub(super) fn machine_properties() -> String {
    format!("confidential-guest-support=snp,igvm-cfg=igvm,{SVSM_SLOTS}=on")
}

fn line(words: &str) -> Vec<String> {
    words.split(' ').map(str::to_owned).collect()
}
