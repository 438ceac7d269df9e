//! A backup as an instance makes it, without a TPM.

use crate::launch::Launch;
use husk::keys::BackupSecret;
use husk::release::backup::BackupHeader;
use husk::release::tenure::Tenure;
use husk::release::wire::{BackupVerdict, WireHead};
use husk::volume::backup::Part;
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::{U32, U64};

/// What is backed up.
pub(crate) const STATE: &[u8] = &[0xA5; 9000];

/// Makes a backup of [`STATE`], which the broker keeps.
pub(crate) fn back_up(launch: &mut Launch, tenure: &mut Tenure<'static>) {
    let order = launch.on(|platform| tenure.backup_order(platform)).unwrap().unwrap();
    let standing = tenure.standing().clone();
    let mut header = BackupHeader::of(&order);
    (header.tenant, header.vm) = (launch.config.tenant, launch.config.vm);
    (header.token, header.epoch) = (U64::new(standing.token()), U64::new(standing.epoch()));
    (header.head, header.state_bytes) = (WireHead::from(standing.head()), U32::new(9000));
    launch.on(|platform| {
        let secret = BackupSecret::draw(platform.entropy).unwrap();
        secret.seal(&mut header, &order.recovery, platform.entropy).unwrap();
        let mut verdict = tenure.keep_backup_part(platform, 0, header.as_bytes()).unwrap();
        for number in 1..=header.parts() {
            assert_eq!(verdict, BackupVerdict::Kept);
            let part = Part::seal(&secret, &header, number, STATE).unwrap();
            verdict = tenure.keep_backup_part(platform, number, part.bytes()).unwrap();
        }
        assert_eq!(verdict, BackupVerdict::Kept);
    });
}
