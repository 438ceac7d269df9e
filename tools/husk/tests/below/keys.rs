//! The secrets of one launch, by the ways of those who may know them: what the processor put into the secrets page, what the broker's
//! database holds under its root key, and what the volume holds under that (`src/volume/format.md`, `src/keys/derive.rs`).

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use hkdf::Hkdf;
use husk_broker::ids::{TenantId, VmId, VmName};
use husk_broker::rules::SecretName;
use husk_broker::vault::{RootKeys, Wrapped};
use rusqlite::Connection;
use sha2::{Digest, Sha384};
use std::path::Path;

/// A name and its bytes.
pub(crate) type Known = (String, Vec<u8>);

/// VMPCK0 to VMPCK3 in the secrets page (AMD 56860, table "secrets page format").
const VMPCK0_AT: usize = 0x20;
const VMPCK_BYTES: usize = 32;
/// Checkpoints: magic, header in clear (format, section 3), and where the second area of a volume of 1 MiB begins.
const MAGIC: &[u8] = b"HUSKCKPT";
const HEADER_BYTES: usize = 200;
const AREAS: [usize; 2] = [0, 512 * 1024];
/// PERSISTENT_DATA_MAGIC of the engine's state, behind a version of two bytes and before another.
const PERSISTENT: [u8; 4] = 0x1221_3443_u32.to_be_bytes();
/// In the order in which the state has them, behind three policies and three authorizations.
const SEEDS: [&str; 6] = ["EPSeed", "SPSeed", "PPSeed", "phProof", "shProof", "ehProof"];

/// The message keys of a secrets page.
pub(crate) fn of_the_processor(page: &[u8]) -> Vec<Known> {
    let keys = page[VMPCK0_AT..].chunks(VMPCK_BYTES).take(4);
    keys.enumerate().map(|(number, key)| (format!("VMPCK{number}"), key.to_vec())).collect()
}

/// The epoch secrets that a broker keeps in this folder, the volume's keys, and the TPM's seeds and proofs on the disk there.
pub(crate) fn of_the_tpm(folder: &Path) -> Vec<Known> {
    let disk = std::fs::read(folder.join("disk")).expect("the volume");
    let mut known = Vec::new();
    for (epoch, secret) in epoch_secrets(folder) {
        known.push((format!("secret of epoch {epoch}"), secret.clone()));
        for header in AREAS.map(|at| &disk[at..]).iter().filter(|area| area.starts_with(MAGIC)) {
            let (volume_key, state) = open(header, &secret);
            let Some(state) = state else { continue };
            known.push((format!("volume key of epoch {epoch}"), volume_key));
            known.extend(seeds(&state));
        }
    }
    known
}

fn epoch_secrets(folder: &Path) -> Vec<(u64, Vec<u8>)> {
    let keys = RootKeys::read(&folder.join("broker.key")).expect("the broker's root key");
    let database = Connection::open(folder.join("broker.db")).expect("the broker's database");
    let mut statement =
        database.prepare("SELECT tenant, vm, token, epoch, salt, sealed FROM secrets").expect("a table");
    let mut rows = statement.query([]).expect("rows");
    let mut secrets = Vec::new();
    while let Some(row) = rows.next().expect("a row") {
        let vm =
            VmName { tenant: TenantId(row.get(0).expect("an id")), vm: VmId(row.get(1).expect("an id")) };
        let [token, epoch] =
            [2, 3].map(|column| row.get::<_, i64>(column).expect("a number").cast_unsigned());
        let wrapped = Wrapped { salt: row.get(4).expect("a salt"), sealed: row.get(5).expect("a wrap") };
        let secret = keys.unwrap(&vm, SecretName { token, epoch }, &wrapped).expect("it is under this key");
        secrets.push((epoch, secret.with(|secret| secret.to_vec())));
    }
    secrets
}

/// The volume's key under an epoch secret, and the state in a checkpoint if that is its key.
fn open(object: &[u8], secret: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    let header = &object[..HEADER_BYTES];
    let field = |at: usize, bytes: usize| &header[at..at + bytes];
    let bytes = u32::from_le_bytes(*field(20, 4).first_chunk().expect("four bytes"));
    let sealed = &object[HEADER_BYTES..usize::try_from(bytes).expect("a size")];
    let (mode, generation, names, epoch) = (field(10, 1), field(24, 4), field(64, 32), field(96, 8));
    let salt = Sha384::new()
        .chain_update(b"HUSK v1 volume salt")
        .chain_update(mode)
        .chain_update(names)
        .chain_update(generation)
        .chain_update(epoch)
        .finalize();
    let volume_key = derived(&salt, secret, &[b"HUSK v1 volume"]);
    let place: [&[u8]; 4] = [b"HUSK v1 checkpoint", field(104, 8), field(112, 8), field(152, 48)];
    let key = derived(field(120, 32), &volume_key, &place);
    let cipher = Aes256Gcm::new_from_slice(&key).expect("32 bytes");
    let opened = cipher.decrypt(&Nonce::default(), Payload { msg: sealed, aad: header });
    (volume_key, opened.ok())
}

fn derived(salt: &[u8], input: &[u8], info: &[&[u8]]) -> Vec<u8> {
    let mut key = vec![0; 32];
    Hkdf::<Sha384>::new(Some(salt), input).expand_multi_info(info, &mut key).expect("a short key");
    key
}

fn seeds(state: &[u8]) -> Vec<Known> {
    let magic = state.windows(4).position(|four| four == PERSISTENT).expect("the engine's state");
    // The lowest version that reads it, disableClear, the hash algorithms of three policies.
    let mut rest = &state[magic + 4 + 2 + 1 + 3 * 2..];
    let mut sized = || {
        let (size, after) = rest.split_at(2);
        let (bytes, after) = after.split_at(u16::from_be_bytes([size[0], size[1]]).into());
        rest = after;
        bytes.to_vec()
    };
    for _ in 0..6 {
        sized();
    }
    SEEDS.map(|name| (name.to_owned(), sized())).into()
}
