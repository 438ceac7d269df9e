//! Crate `sev` on ID blocks, for `../identity.rs`: what it makes of keys and words, and whether it finds signatures that hold.
//!
//! `make ID-KEY AUTHOR-KEY DIGEST FAMILY IMAGE SVN POLICY` prints four lines of hexadecimal digits: block, page, both keys' digests.
//! `check BLOCK PAGE` ends with 0 if the page's signatures hold over the block and over the ID key. `sev` reads block, page, keys and
//! signatures and hands the latter to OpenSSL.

use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::ecdsa::EcdsaSig;
use openssl::nid::Nid;
use openssl::sha::sha384;
use sev::certs::snp::ecdsa::Signature;
use sev::firmware::guest::GuestPolicy;
use sev::measurement::idblock::snp_calculate_id;
use sev::measurement::idblock_types::{FamilyId, IdAuth, IdBlock, SevEcdsaPubKey, SevEcdsaSig};
use sev::measurement::snp::SnpLaunchDigest;
use sev::parser::ByteParser;
use std::error::Error;
use std::process::ExitCode;

/// Bytes of an integer of P-384; the processor has room for more.
const INTEGER_BYTES: usize = 48;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["make", words @ ..] => make(words),
        ["check", block, page] => check(block, page),
        _ => Err("make or check".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn make(words: &[&str]) -> Result<(), Box<dyn Error>> {
    let [id_key, author_key, digest, family, image, svn, policy] = words else {
        return Err("seven words are wanted".into());
    };
    let made = snp_calculate_id(
        Some(SnpLaunchDigest::new(array(digest)?)),
        Some(FamilyId::new(array(family)?)),
        Some(FamilyId::new(array(image)?)),
        Some(svn.parse()?),
        Some(GuestPolicy(policy.parse()?)),
        id_key.into(),
        author_key.into(),
    )?;
    println!("{}", hex::encode(made.id_block.to_bytes()?));
    println!("{}", hex::encode(made.id_auth.to_bytes()?));
    println!("{}", hex::encode(made.id_key_digest.to_bytes()?));
    println!("{}", hex::encode(made.auth_key_digest.to_bytes()?));
    Ok(())
}

fn array<const BYTES: usize>(digits: &str) -> Result<[u8; BYTES], Box<dyn Error>> {
    hex::decode(digits)?.try_into().map_err(|_| "another number of digits is wanted".into())
}

fn check(block: &str, page: &str) -> Result<(), Box<dyn Error>> {
    let block = IdBlock::from_bytes(&std::fs::read(block)?)?;
    let page = IdAuth::from_bytes(&std::fs::read(page)?)?;
    let over_block = holds(&block.to_bytes()?, &page.id_block_sig, &page.id_pubkey)?;
    let over_key = holds(&page.id_pubkey.to_bytes()?, &page.id_key_sig, &page.author_pub_key)?;
    if over_block && over_key { Ok(()) } else { Err(format!("block {over_block}, ID key {over_key}").into()) }
}

fn holds(message: &[u8], signature: &SevEcdsaSig, key: &SevEcdsaPubKey) -> Result<bool, Box<dyn Error>> {
    let signature = EcdsaSig::try_from(&Signature::from_bytes(&signature.to_bytes()?)?)?;
    let coordinate = |little: &[u8; 72]| {
        let big: Vec<u8> = little.iter().rev().copied().collect();
        let beyond = big.len() - INTEGER_BYTES;
        if big[..beyond].iter().any(|byte| *byte != 0) { None } else { BigNum::from_slice(&big).ok() }
    };
    let (x, y) = coordinate(&key.data.qx).zip(coordinate(&key.data.qy)).ok_or("a coordinate is too long")?;
    let group = EcGroup::from_curve_name(Nid::SECP384R1)?;
    let key = EcKey::from_public_key_affine_coordinates(&group, &x, &y)?;
    Ok(signature.verify(&sha384(message), &key)?)
}
