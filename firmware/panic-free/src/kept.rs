//! What must not panic, each with whatever it may be given.

use core::hint::black_box;
use husk::attest::guest_message::{self, GuestRequest, KeyRequest, Messenger, PAGE_BYTES, SecretsPage};
use husk::attest::launch::LaunchConfig;
use husk::attest::report::Report;
use husk::bytes::Reader;
use husk::engine::{Command, Locality, Needs};
use husk::frontend::Tpm;
use husk::frontend::crb::{Access, Shared, Trapped};
use husk::frontend::flash::{self, Flash};
use husk::frontend::svsm::{self, Attested, CallMemory, Registers};
use husk::keys::{CreateKey, Identity, SuspendSecret, VolumeKey};
use husk::nv::{Envelope, NvImage};
use husk::release::record::{Answerer, Asked, Caller};
use husk::release::unsealed::Unsealed;
use husk::release::wire::{GrantReply, Operation, ServerHello};
use husk::release::{Anchored, frame};
use husk::seams::{Cells, Disk, GuestMemory, GuestPage, Platform, REPORT_BYTES, REPORT_DATA_BYTES};
use husk::secret::Secret;
use husk::volume::blocks::{self, BLOCK_BYTES, Entry};
use husk::volume::{
    Flushed, Opened, STATE_BYTES_MAX, Stamp, Volume, Wanted, Workspace, Written, delta, newest_unsealed_head,
};

type State = [u8; STATE_BYTES_MAX];

/// Keeps every function below.
pub(crate) fn keep() {
    let kept: [*const (); 31] = [
        volume_open as *const (),
        volume_begin_epoch as *const (),
        volume_create as *const (),
        volume_commit as *const (),
        volume_flush as *const (),
        volume_settle as *const (),
        volume_switches_area as *const (),
        volume_unsealed_head as *const (),
        suspended_seal as *const (),
        suspended_open as *const (),
        delta_apply as *const (),
        nv_load as *const (),
        envelope as *const (),
        launch_config as *const (),
        report as *const (),
        secrets_page as *const (),
        guest_message as *const (),
        processor_report as *const (),
        processor_key as *const (),
        frames as *const (),
        record_seal as *const (),
        record_open as *const (),
        record_answered as *const (),
        command as *const (),
        crb_read as *const (),
        crb_write as *const (),
        crb_poll as *const (),
        svsm_call as *const (),
        flash_read as *const (),
        flash_write as *const (),
        block_fetch as *const (),
    ];
    black_box(kept);
}

fn volume_open(
    disk: &mut dyn Disk,
    key: &VolumeKey,
    wanted: &Wanted,
    work: &mut Workspace,
    state: &mut State,
) -> bool {
    Volume::open(disk, key, wanted, work, state).is_ok()
}

fn volume_begin_epoch(
    opened: Opened<'_>,
    platform: &mut Platform<'_>,
    key: VolumeKey,
    stamp: Stamp,
    state: &[u8],
) -> bool {
    opened.begin_epoch(platform, key, stamp, state).is_ok()
}

fn volume_create(
    platform: &mut Platform<'_>,
    key: CreateKey,
    stamp: Stamp,
    work: &mut Workspace,
    state: &[u8],
) -> bool {
    Volume::create(platform, key, stamp, work, state).is_ok()
}

fn volume_commit(volume: Volume<'_>, platform: &mut Platform<'_>, old: &[u8], new: &[u8]) -> bool {
    volume.commit(platform, old, new).is_ok()
}

fn volume_flush(written: Written<'_>, platform: &mut Platform<'_>) -> bool {
    written.flush(platform).is_ok()
}

fn volume_settle(flushed: Flushed<'_>, anchored: &Anchored) -> bool {
    flushed.settle(anchored).is_ok()
}

fn volume_switches_area(volume: &mut Volume<'_>, old: &[u8], new: &[u8]) -> bool {
    volume.switches_area(old, new)
}

fn volume_unsealed_head(
    disk: &mut dyn Disk,
    unsealed: &Unsealed,
    identity: &Identity,
    work: &mut Workspace,
    state: &mut State,
) -> bool {
    newest_unsealed_head(disk, unsealed, identity, work, state).is_ok()
}

fn suspended_seal(volume: &Volume<'_>, secret: &SuspendSecret, into: &mut [u8], bytes: usize) -> bool {
    volume.seal_suspended(secret, into, bytes).is_ok()
}

fn suspended_open(volume: &Volume<'_>, secret: SuspendSecret, object: &mut [u8]) -> bool {
    volume.open_suspended(secret, object).is_ok()
}

fn delta_apply(bytes: &[u8], old: &[u8], into: &mut [u8]) -> bool {
    delta::apply(bytes, old, into).is_ok()
}

fn nv_load(image: &mut NvImage<'_>, state: &[u8]) -> bool {
    image.store_engine_state(state).is_ok()
}

fn envelope(state: &[u8]) -> bool {
    Envelope::parse(state).is_ok()
}

fn launch_config(bytes: &[u8]) -> bool {
    LaunchConfig::parse(bytes).is_ok()
}

fn report(raw: &[u8; REPORT_BYTES]) -> bool {
    Report::parse(raw).is_ok_and(|report| report.signature() == [0; 96])
}

fn secrets_page(page: &mut [u8; PAGE_BYTES]) -> bool {
    SecretsPage::take(page).is_ok()
}

fn guest_message(key: &Secret<32>, page: &mut [u8; PAGE_BYTES]) -> bool {
    let claimed = guest_message::Envelope::claimed(page);
    claimed.is_ok_and(|envelope| guest_message::open(key, &envelope, page).is_ok())
}

fn processor_report(
    messenger: &mut Messenger,
    host: &mut dyn GuestRequest,
    data: &[u8; REPORT_DATA_BYTES],
    report: &mut [u8; REPORT_BYTES],
) -> bool {
    messenger.report(host, data, 0, report).is_ok()
}

fn processor_key(messenger: &mut Messenger, host: &mut dyn GuestRequest, asked: &KeyRequest) -> bool {
    messenger.derive_key(host, asked).is_ok()
}

fn frames(bytes: &mut [u8]) -> bool {
    let Ok((_, body)) = frame::open(bytes) else { return false };
    frame::exactly::<ServerHello>(body).is_ok() || frame::exactly::<GrantReply>(body).is_ok()
}

fn record_seal(caller: &mut Caller, operation: Operation, buffer: &mut [u8], bytes: usize) -> bool {
    caller.seal(operation, buffer, bytes).is_ok()
}

fn record_open(caller: &Caller, asked: &Asked, body: &mut [u8]) -> bool {
    caller.open(asked, body).is_ok()
}

fn record_answered(answerer: &mut Answerer, body: &mut [u8]) -> bool {
    answerer.open(body).is_ok()
}

fn command(bytes: &[u8], reader: &mut Reader<'_>) -> bool {
    let command = Command::parse(bytes, Locality::Zero);
    let read = reader.u16_be().is_ok() || reader.array::<8>().is_ok();
    read || command.is_ok_and(|command| command.has_sessions() || command.needs() == Needs::Nothing)
}

fn crb_read(trapped: &Trapped<'_>, access: Access) -> u64 {
    trapped.mmio_read(access)
}

fn crb_write(trapped: &mut Trapped<'_>, access: Access, value: u64, tpm: &mut dyn Tpm) {
    let effect = trapped.mmio_write(access, value);
    trapped.serve(effect, tpm);
}

fn crb_poll(shared: &mut Shared<'_>, page: &mut dyn GuestPage, tpm: &mut dyn Tpm) -> bool {
    shared.poll(page, tpm)
}

fn svsm_call(
    request: Registers,
    guest: &mut dyn GuestMemory,
    tpm: &mut dyn Attested,
    memory: &mut CallMemory,
) -> Registers {
    svsm::call(request, guest, tpm, memory)
}

fn flash_read(flash: &Flash, cells: &dyn Cells, offset: usize) -> [u8; 8] {
    flash.read(cells, offset)
}

fn flash_write(flash: &mut Flash, cells: &mut dyn Cells, offset: usize, bytes: &[u8; 8]) -> bool {
    let owed = flash.owes(&flash::Access::Write(*bytes));
    flash.write(cells, offset, bytes);
    owed
}

fn block_fetch(disk: &mut dyn Disk, number: usize, entry: &Entry, into: &mut [u8; BLOCK_BYTES]) -> bool {
    blocks::fetch(disk, number, entry, into).is_ok()
}
