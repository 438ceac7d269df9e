//! A backup's file on its way through strangers' hands, and what a broker shows a VM as its tenant's order.

use crate::bench::{Bench, VM};
use crate::broker_end::Seeded;
use husk::keys::BackupSecret;
use husk::release::backup::{BackupHeader, BackupOrder, backup_digest};
use husk::release::transcript::AgreementKey;
use husk::release::wire::BACKUP_PART_BYTES_MAX;
use husk::volume::backup::{BACKUP_BYTES_MAX, Part, open_part};
use std::sync::OnceLock;
use zerocopy::IntoBytes;

fn state() -> Vec<u8> {
    (0..3000_u16).map(|at| at.to_le_bytes()[0]).collect()
}

fn recovery() -> AgreementKey {
    AgreementKey::generate(&mut Seeded::new(0xBAC)).unwrap()
}

/// The one file that there is.
fn honest() -> &'static [u8] {
    static FILE: OnceLock<Vec<u8>> = OnceLock::new();
    FILE.get_or_init(|| {
        let (mut entropy, state) = (Seeded::new(7), state());
        let order = BackupOrder { id: [9; 16], recovery: *recovery().point() };
        let mut header = BackupHeader::of(&order);
        (header.tenant, header.vm) = (VM.tenant.0, VM.vm.0);
        header.state_bytes.set(u32::try_from(state.len()).unwrap());
        let secret = BackupSecret::draw(&mut entropy).unwrap();
        secret.seal(&mut header, &order.recovery, &mut entropy).unwrap();
        let mut file = header.as_bytes().to_vec();
        for number in 1..=header.parts() {
            file.extend_from_slice(Part::seal(&secret, &header, number, &state).unwrap().bytes());
        }
        file
    })
}

fn opened(file: &[u8]) -> Option<Vec<u8>> {
    let (header, parts) = BackupHeader::read(file)?;
    assert!(header.as_bytes() == &file[..BackupHeader::BYTES], "a second way to write a header");
    if header.total_bytes() != file.len() as u64 || file.len() > BACKUP_BYTES_MAX {
        return None;
    }
    let secret = BackupSecret::open(&header, &recovery())?;
    let mut state = Vec::new();
    for (number, part) in (1..).zip(parts.chunks(BACKUP_PART_BYTES_MAX)) {
        state.extend_from_slice(open_part(&secret, &header, number, &mut part.to_vec()).ok()?);
    }
    Some(state)
}

/// The file itself, and the same bytes as frames to a broker, which knows of no backup.
pub(crate) fn run(data: &[u8]) {
    if let Some(opened) = opened(data) {
        assert!(data == honest() && opened == state(), "another file opens");
        assert!(backup_digest(data) == backup_digest(honest()), "one name");
    }
    thread_local! {
        static BENCH: Bench = Bench::new();
    }
    BENCH.with(|bench| {
        let answer = bench.service.handle(data);
        assert!(!answer.is_empty() && bench.service.is_well());
    });
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let file = honest();
    vec![file.to_vec(), file[..BackupHeader::BYTES].to_vec(), file[..file.len() - 16].to_vec()]
}
