//! What is timed.

use super::client::Client;
use super::commands::{
    ALG_NULL, Bytes, NV_AUTH_AND_OWNER, NV_COUNTER, NV_NO_DA, OWNER, SE_HMAC, SE_POLICY, SE_TRIAL, SHA256,
    authorized, create_primary, create_sealed, ecc_signing_template, ecc_storage_template, flush, load,
    nv_define, nv_increment, nv_read, nv_undefine, nv_write, pcr_extend, pcr_read, policy_digest, policy_pcr,
    quote, random, rsa_storage_template, start_session, unseal_by_policy,
};
use crate::failure::Failure;
use std::time::{Duration, Instant};

/// One kind of command, or a short sequence that clients send as one.
pub(super) struct Operation {
    pub(super) name: &'static str,
    /// How often it is timed on each TPM.
    pub(super) rounds: u32,
    /// How many of them one TPM does before it is the next one's turn; a divisor.
    pub(super) burst: u32,
    /// Whether each round changes the TPM's durable memory.
    pub(super) durable: bool,
    /// Makes what it works on; returns the handles, for [`clear_up`].
    pub(super) prepare: fn(&mut Client) -> Result<Vec<u32>, Failure>,
    /// Does it once, with those handles and the number of the round.
    pub(super) sample: Sample,
}

type Sample = fn(&mut Client, &[u32], u32) -> Result<Duration, Failure>;

/// How often, and how much of it in one turn.
type Rounds = (u32, u32);
/// What takes microseconds.
const MANY: Rounds = (1000, 20);
/// What waits for a disk or signs.
const SOME: Rounds = (200, 10);
/// A search for primes, whose length is chance.
const FEW: Rounds = (25, 1);

/// An ordinary index, and a counter (TPM 2.0 part 2, TPM_HT_NV_INDEX; owner's range of the TCG registry).
const DATA_INDEX: u32 = 0x0180_0B01;
const COUNTER_INDEX: u32 = 0x0180_0B02;
const DATA_BYTES: u16 = 64;

/// A PCR that a debugger may reset, and one that stays as it is.
const PCR: u32 = 16;
const POLICY_PCR: u32 = 7;

/// TPM_CC_Create.
const CC_CREATE: u32 = 0x153;
/// TPM_ALG_RSA, TPM_ALG_RSASSA.
const RSA: u16 = 0x0001;
const RSASSA: u16 = 0x0014;
/// TPMA_OBJECT: fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, sign.
const ATTESTATION: u32 = 0x0005_0472;
/// TPMA_OBJECT: fixedTPM, fixedParent, noDA; only the policy opens it.
const SEALED_BY_POLICY: u32 = 0x0000_0412;

pub(super) const OPERATIONS: &[Operation] = &[
    plain("GetRandom 32 B", MANY, nothing, |client, _, _| once(client, &random(32))),
    plain("PCR_Extend", MANY, nothing, |client, _, round| once(client, &pcr_extend(PCR, &filled(round)))),
    plain("PCR_Read", MANY, nothing, |client, _, _| once(client, &pcr_read(PCR))),
    plain("NV_Read 64 B", MANY, written_index, |client, _, _| {
        once(client, &nv_read(DATA_INDEX, b"", DATA_BYTES))
    }),
    durable("NV_Write 64 B", SOME, written_index, |client, _, round| write(client, round)),
    durable("NV_Increment", SOME, counter, increment),
    plain("StartAuthSession, FlushContext", MANY, nothing, |client, _, _| {
        let started = Instant::now();
        let session = client.call(&start_session(SE_HMAC))?.handle();
        client.call(&flush(session))?;
        Ok(started.elapsed())
    }),
    plain("policy unseal (4 commands)", SOME, sealed, unseal),
    plain("Quote P-256", SOME, |client| attestation_key(client, &ecc_signing_template(true)), quoted),
    plain("Quote RSA-2048", SOME, |client| attestation_key(client, &rsa_attestation_template()), quoted),
    plain("CreatePrimary P-256", SOME, nothing, |client, _, _| primary(client, &ecc_storage_template())),
    plain("CreatePrimary RSA-2048", FEW, nothing, |client, _, round| {
        primary(client, &rsa_storage_template(&filled(round)))
    }),
    plain("Create RSA-2048", FEW, storage_key, |client, handles, _| {
        let parameters = Bytes::new().raw(&[0, 4, 0, 0, 0, 0]).sized(&rsa_attestation_template()).u16(0);
        once(client, &authorized(CC_CREATE, &handles[..1], &[b""], &parameters.u32(0).0))
    }),
];

/// What shows what a commit costs by itself: the files of all three lie in memory, where a flush is nothing.
pub(super) const OPERATIONS_FROM_RAM: &[Operation] = &[
    durable("NV_Write 64 B, files in RAM", MANY, written_index, |client, _, round| write(client, round)),
    durable("NV_Increment, files in RAM", MANY, counter, increment),
];

/// Removes what was prepared.
pub(super) fn clear_up(client: &mut Client, handles: &[u32]) -> Result<(), Failure> {
    for handle in handles {
        let is_index = handle >> 24 == DATA_INDEX >> 24;
        client.call(&if is_index { nv_undefine(*handle) } else { flush(*handle) })?;
    }
    Ok(())
}

const fn plain(
    name: &'static str,
    (rounds, burst): Rounds,
    prepare: fn(&mut Client) -> Result<Vec<u32>, Failure>,
    sample: Sample,
) -> Operation {
    Operation { name, rounds, burst, durable: false, prepare, sample }
}

const fn durable(
    name: &'static str,
    (rounds, burst): Rounds,
    prepare: fn(&mut Client) -> Result<Vec<u32>, Failure>,
    sample: Sample,
) -> Operation {
    Operation { name, rounds, burst, durable: true, prepare, sample }
}

fn once(client: &mut Client, command: &[u8]) -> Result<Duration, Failure> {
    client.timed(command).map(|(took, _)| took)
}

/// Bytes that no other round has.
fn filled(round: u32) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&round.to_be_bytes());
    bytes
}

#[expect(clippy::unnecessary_wraps, reason = "as every preparation")]
fn nothing(_: &mut Client) -> Result<Vec<u32>, Failure> {
    Ok(Vec::new())
}

fn written_index(client: &mut Client) -> Result<Vec<u32>, Failure> {
    client.call(&nv_define(DATA_INDEX, NV_AUTH_AND_OWNER | NV_NO_DA, DATA_BYTES, b""))?;
    write(client, u32::MAX)?;
    Ok(vec![DATA_INDEX])
}

fn write(client: &mut Client, round: u32) -> Result<Duration, Failure> {
    let half = filled(round);
    once(client, &nv_write(DATA_INDEX, b"", &[half, half].concat()))
}

fn counter(client: &mut Client) -> Result<Vec<u32>, Failure> {
    client.call(&nv_define(COUNTER_INDEX, NV_AUTH_AND_OWNER | NV_NO_DA | NV_COUNTER, 8, b""))?;
    client.call(&nv_increment(COUNTER_INDEX, b""))?;
    Ok(vec![COUNTER_INDEX])
}

fn increment(client: &mut Client, _: &[u32], _: u32) -> Result<Duration, Failure> {
    once(client, &nv_increment(COUNTER_INDEX, b""))
}

fn storage_key(client: &mut Client) -> Result<Vec<u32>, Failure> {
    attestation_key(client, &ecc_storage_template())
}

fn attestation_key(client: &mut Client, template: &[u8]) -> Result<Vec<u32>, Failure> {
    Ok(vec![client.call(&create_primary(OWNER, template))?.handle()])
}

fn quoted(client: &mut Client, handles: &[u32], round: u32) -> Result<Duration, Failure> {
    once(client, &quote(handles[0], &filled(round), PCR))
}

/// Timed without the flush that makes room for the next.
fn primary(client: &mut Client, template: &[u8]) -> Result<Duration, Failure> {
    let (took, reply) = client.timed(&create_primary(OWNER, template))?;
    client.call(&flush(reply.handle()))?;
    Ok(took)
}

/// A secret that opens while one PCR is as it was; the parent's handle comes second.
fn sealed(client: &mut Client) -> Result<Vec<u32>, Failure> {
    let trial = client.call(&start_session(SE_TRIAL))?.handle();
    client.call(&policy_pcr(trial, POLICY_PCR))?;
    let digest = client.call(&policy_digest(trial))?;
    client.call(&flush(trial))?;
    let parent = client.call(&create_primary(OWNER, &ecc_storage_template()))?.handle();
    let sealing = create_sealed(parent, SEALED_BY_POLICY, b"", digest.sized_at(0), &[7; 32]);
    let created = client.call(&sealing)?;
    let object = client.call(&load(parent, &created))?.handle();
    Ok(vec![object, parent])
}

/// As a boot does: a session, its policy, the secret. The session ends with its use; reading the digest stands for the
/// check that clients make.
fn unseal(client: &mut Client, handles: &[u32], _: u32) -> Result<Duration, Failure> {
    let started = Instant::now();
    let session = client.call(&start_session(SE_POLICY))?.handle();
    client.call(&policy_pcr(session, POLICY_PCR))?;
    client.call(&policy_digest(session))?;
    client.call(&unseal_by_policy(handles[0], session))?;
    Ok(started.elapsed())
}

/// TPMT_PUBLIC of a restricted RSA-2048 signing key.
fn rsa_attestation_template() -> Vec<u8> {
    let key = Bytes::new().u16(RSA).u16(SHA256).u32(ATTESTATION).u16(0).u16(ALG_NULL);
    key.u16(RSASSA).u16(SHA256).u16(2048).u32(0).u16(0).0
}
