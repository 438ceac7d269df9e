//! What the two hellos prove and the keys that follow: compiled by both ends.
//!
//! **What.** Digests that are signed, the transcript hash, and the key schedule for either role.
//! **Trust.** The private keys that are handed in. Points and signatures of the other end are allegations.
//! **Laws.** Everything signed starts with a label of its own and has one size. Every point is checked to lie on the
//! curve before it is used. Two agreements go into every key: with the session's ephemeral key, and with the
//! instance key, so that only this launch can speak in its sessions.
//! **Not here.** Which broker is spoken to: `session`. Records: `record`.

use super::ReleaseFault;
use super::record::{DirectionKey, SessionKeys};
use super::wire::{BrokerCertificate, GrantReply, Hello, POINT_BYTES, SIGNATURE_BYTES, ServerHello};
use crate::attest::launch::LaunchConfig;
use crate::seams::Entropy;
use crate::secret::Secret;
use core::mem::offset_of;
use hkdf::{Hkdf, HkdfExtract};
use p384::ecdsa::signature::hazmat::{PrehashSigner, PrehashVerifier};
use p384::ecdsa::{Signature, VerifyingKey};
use p384::elliptic_curve::sec1::ToSec1Point;
use p384::{PublicKey, SecretKey};
use sha2::{Digest as _, Sha384};
use zerocopy::IntoBytes;
use zeroize::Zeroize;

/// A SHA-384 digest.
pub type Digest = [u8; 48];

const CERTIFICATE_LABEL: &[u8] = b"HUSK v1 broker certificate\0";
const SERVER_HELLO_LABEL: &[u8] = b"HUSK v1 server hello\0";
const TRANSCRIPT_LABEL: &[u8] = b"HUSK v1 transcript\0";
const GRANT_LABEL: &[u8] = b"HUSK v1 grant\0";

/// A scalar that is zero or beyond the order comes up once in 2^190 draws; a source that yields two is broken.
const DRAWS_MAX: usize = 4;

/// A P-384 key that agrees on secrets: a session's ephemeral key, or a launch's instance key.
pub struct AgreementKey {
    secret: SecretKey,
    point: [u8; POINT_BYTES],
}

/// A P-384 key that signs: a tenant's root key, or a broker's signing key. The component itself has none.
pub struct SigningKey {
    secret: p384::ecdsa::SigningKey,
    point: [u8; POINT_BYTES],
}

macro_rules! key_pair {
    ($name:ident) => {
        impl $name {
            /// Draws a key by rejection.
            ///
            /// # Errors
            /// [`ReleaseFault::Entropy`].
            pub fn generate(entropy: &mut dyn Entropy) -> Result<Self, ReleaseFault> {
                draw(entropy).map(|secret| Self::of(secret))
            }

            /// Takes a big-endian scalar, which is wiped.
            ///
            /// # Errors
            /// [`ReleaseFault::Entropy`] if it is zero or not below the curve's order.
            pub fn from_scalar(scalar: &mut [u8; 48]) -> Result<Self, ReleaseFault> {
                let secret = SecretKey::from_slice(scalar);
                scalar.zeroize();
                secret.map(|secret| Self::of(secret)).map_err(|_| ReleaseFault::Entropy)
            }

            fn of(secret: SecretKey) -> Self {
                let point = point_of(&secret.public_key());
                Self { secret: secret.into(), point }
            }

            /// The public half, an uncompressed SEC 1 point.
            #[must_use]
            pub const fn point(&self) -> &[u8; POINT_BYTES] {
                &self.point
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    };
}

key_pair!(AgreementKey);
key_pair!(SigningKey);

impl AgreementKey {
    /// The private half, a big-endian scalar.
    pub(super) fn with_scalar<R>(&self, using: impl FnOnce(&[u8]) -> R) -> R {
        let mut scalar = self.secret.to_bytes();
        let used = using(&scalar);
        scalar.zeroize();
        used
    }

    /// Adds the secret shared with the holder of `peer` to a key extraction.
    fn agree(&self, peer: &PublicKey, into: &mut HkdfExtract<Sha384>) {
        into.input_ikm(self.secret.diffie_hellman(peer).raw_secret_bytes());
    }
}

impl SigningKey {
    /// Signs a labelled digest (ECDSA, RFC 6979 nonces): r then s, big-endian.
    ///
    /// # Errors
    /// [`ReleaseFault::Misuse`] if the signature does not come about, which mathematics allows once in 2^384 times.
    pub fn sign(&self, digest: &Digest) -> Result<[u8; SIGNATURE_BYTES], ReleaseFault> {
        let signature: Signature = self.secret.sign_prehash(digest).map_err(|_| ReleaseFault::Misuse)?;
        Ok(signature.to_bytes().into())
    }
}

fn draw(entropy: &mut dyn Entropy) -> Result<SecretKey, ReleaseFault> {
    for _ in 0..DRAWS_MAX {
        let scalar =
            Secret::<48>::try_fill(|bytes| entropy.fill(bytes)).map_err(|_| ReleaseFault::Entropy)?;
        if let Ok(secret) = scalar.with(|bytes| SecretKey::from_slice(bytes)) {
            return Ok(secret);
        }
    }
    Err(ReleaseFault::Entropy)
}

fn point_of(key: &PublicKey) -> [u8; POINT_BYTES] {
    let mut point = [0; POINT_BYTES];
    point.copy_from_slice(key.to_sec1_point(false).as_bytes());
    point
}

/// Checks that `point` is an uncompressed point on the curve and not the identity.
fn public_key(point: &[u8; POINT_BYTES]) -> Option<PublicKey> {
    PublicKey::from_sec1_bytes(point).ok()
}

/// Whether `signature` over `digest` is by the holder of `point`.
#[must_use]
pub fn verifies(point: &[u8; POINT_BYTES], digest: &Digest, signature: &[u8; SIGNATURE_BYTES]) -> bool {
    let Some(key) = public_key(point) else { return false };
    let Ok(signature) = Signature::from_slice(signature) else { return false };
    VerifyingKey::from(key).verify_prehash(digest, &signature).is_ok()
}

/// SHA-384 of a SEC 1 point, as the launch configuration names the tenant root key.
#[must_use]
pub fn point_digest(point: &[u8; POINT_BYTES]) -> Digest {
    Sha384::digest(point).into()
}

/// What the tenant root key signs in a broker's certificate: all of it but the signature.
#[must_use]
pub fn certificate_digest(certificate: &BrokerCertificate) -> Digest {
    let signed = &certificate.as_bytes()[..offset_of!(BrokerCertificate, signature)];
    Sha384::new().chain_update(CERTIFICATE_LABEL).chain_update(signed).finalize().into()
}

/// Whether the tenant of `config` certified the broker, by the root key that `config` names.
#[must_use]
pub fn is_certified(
    certificate: &BrokerCertificate,
    tenant_root: &[u8; POINT_BYTES],
    config: &LaunchConfig,
) -> bool {
    point_digest(tenant_root) == config.root
        && verifies(tenant_root, &certificate_digest(certificate), &certificate.signature)
        && certificate.tenant == config.tenant
        && certificate.usage.get() == 0
        && certificate.key_generation.get() >= config.min_key_generation
}

/// What the broker's key signs in a server hello: the digest of the hello that it answers, and all of itself but
/// the signature.
#[must_use]
pub fn server_hello_digest(hello: &Hello, server: &ServerHello) -> Digest {
    let signed = &server.as_bytes()[..offset_of!(ServerHello, signature)];
    let hello = Sha384::digest(hello.as_bytes());
    Sha384::new().chain_update(SERVER_HELLO_LABEL).chain_update(hello).chain_update(signed).finalize().into()
}

/// What the broker's key signs in a grant: this session, this report (by its SHA-384) and all of the grant but the
/// signature.
#[must_use]
pub fn grant_digest(transcript: &Digest, report_digest: &Digest, grant: &GrantReply) -> Digest {
    let signed = &grant.as_bytes()[..offset_of!(GrantReply, signature)];
    let labelled = Sha384::new().chain_update(GRANT_LABEL).chain_update(transcript);
    labelled.chain_update(report_digest).chain_update(signed).finalize().into()
}

/// Names a session for ever: the digest of both hellos.
#[must_use]
pub fn transcript(hello: &Hello, server: &ServerHello) -> Digest {
    let labelled = Sha384::new().chain_update(TRANSCRIPT_LABEL).chain_update(hello.as_bytes());
    labelled.chain_update(server.as_bytes()).finalize().into()
}

/// The session's keys, as the VM derives them.
///
/// # Errors
/// [`ReleaseFault::ReplyRefused`] if the broker's ephemeral point is not on the curve.
pub fn vm_keys(
    ephemeral: &AgreementKey,
    instance: &AgreementKey,
    hello: &Hello,
    server: &ServerHello,
) -> Result<SessionKeys, ReleaseFault> {
    let peer = public_key(&server.ephemeral).ok_or(ReleaseFault::ReplyRefused)?;
    let transcript = transcript(hello, server);
    let mut extract = HkdfExtract::<Sha384>::new(Some(&transcript));
    ephemeral.agree(&peer, &mut extract);
    instance.agree(&peer, &mut extract);
    schedule(extract, server, transcript)
}

/// The session's keys, as the broker derives them.
///
/// # Errors
/// [`ReleaseFault::ReplyRefused`] if one of the VM's points is not on the curve.
pub fn broker_keys(
    ephemeral: &AgreementKey,
    hello: &Hello,
    server: &ServerHello,
) -> Result<SessionKeys, ReleaseFault> {
    let transcript = transcript(hello, server);
    let mut extract = HkdfExtract::<Sha384>::new(Some(&transcript));
    for point in [&hello.ephemeral, &hello.instance] {
        let peer = public_key(point).ok_or(ReleaseFault::ReplyRefused)?;
        ephemeral.agree(&peer, &mut extract);
    }
    schedule(extract, server, transcript)
}

fn schedule(
    extract: HkdfExtract<Sha384>,
    server: &ServerHello,
    transcript: Digest,
) -> Result<SessionKeys, ReleaseFault> {
    let (mut pseudo_random_key, hkdf) = extract.finalize();
    pseudo_random_key.as_mut_slice().zeroize();
    let request = direction(&hkdf, b"HUSK v1 request key\0", b"HUSK v1 request iv\0")?;
    let reply = direction(&hkdf, b"HUSK v1 reply key\0", b"HUSK v1 reply iv\0")?;
    Ok(SessionKeys { session: server.session, transcript, request, reply })
}

fn direction(hkdf: &Hkdf<Sha384>, key: &[u8], iv: &[u8]) -> Result<DirectionKey, ReleaseFault> {
    let misuse = |_| ReleaseFault::Misuse;
    Ok(DirectionKey {
        key: Secret::try_fill(|bytes| hkdf.expand(key, bytes)).map_err(misuse)?,
        iv: Secret::try_fill(|bytes| hkdf.expand(iv, bytes)).map_err(misuse)?,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::record::SessionKeys;
    use super::super::wire::{BrokerCertificate, GrantReply, Hello, ServerHello};
    use super::{AgreementKey, SigningKey, broker_keys, certificate_digest, grant_digest};
    use super::{ReleaseFault, server_hello_digest, verifies, vm_keys};
    use crate::seams::{Entropy, EntropyError};
    use sha2::{Digest as _, Sha384};
    use zerocopy::{FromBytes, FromZeros, IntoBytes};

    /// SHA-384 of a counter: seeded, for tests only.
    pub(in super::super) struct Seeded(pub(in super::super) u64);

    impl Entropy for Seeded {
        fn fill(&mut self, into: &mut [u8]) -> Result<(), EntropyError> {
            for chunk in into.chunks_mut(48) {
                self.0 += 1;
                chunk.copy_from_slice(&Sha384::digest(self.0.to_le_bytes())[..chunk.len()]);
            }
            Ok(())
        }
    }

    struct Constant(u8);

    impl Entropy for Constant {
        fn fill(&mut self, into: &mut [u8]) -> Result<(), EntropyError> {
            into.fill(self.0);
            Ok(())
        }
    }

    struct Ends {
        ephemeral: AgreementKey,
        instance: AgreementKey,
        broker: AgreementKey,
        hello: Hello,
        server: ServerHello,
    }

    fn ends() -> Ends {
        let mut entropy = Seeded(0);
        let [ephemeral, instance, broker] = [(); 3].map(|()| AgreementKey::generate(&mut entropy).unwrap());
        let mut hello = Hello::new_zeroed();
        (hello.ephemeral, hello.instance) = (*ephemeral.point(), *instance.point());
        let mut server = ServerHello::new_zeroed();
        (server.ephemeral, server.session) = (*broker.point(), [5; 16]);
        Ends { ephemeral, instance, broker, hello, server }
    }

    /// The keys of both ends of one session.
    pub(in super::super) fn both_ends() -> (SessionKeys, SessionKeys) {
        let Ends { ephemeral, instance, broker, hello, server } = ends();
        let vm = vm_keys(&ephemeral, &instance, &hello, &server).unwrap();
        (vm, broker_keys(&broker, &hello, &server).unwrap())
    }

    fn bytes(keys: &SessionKeys) -> [u8; 88] {
        let mut out = [0; 88];
        keys.request.key.with(|key| out[..32].copy_from_slice(key));
        keys.request.iv.with(|iv| out[32..44].copy_from_slice(iv));
        keys.reply.key.with(|key| out[44..76].copy_from_slice(key));
        keys.reply.iv.with(|iv| out[76..].copy_from_slice(iv));
        out
    }

    #[test]
    fn both_ends_derive_the_same_keys_and_every_key_differs() {
        let (vm, broker) = both_ends();
        assert_eq!(bytes(&vm), bytes(&broker));
        assert_eq!(vm.transcript(), broker.transcript());
        let all = bytes(&vm);
        assert_ne!(all[..32], all[44..76]);
        assert_ne!(all[32..44], all[76..]);
    }

    #[test]
    fn each_of_the_three_private_keys_goes_into_the_session() {
        let Ends { ephemeral, instance, broker, hello, server } = ends();
        let right = bytes(&vm_keys(&ephemeral, &instance, &hello, &server).unwrap());
        assert_ne!(right, bytes(&vm_keys(&instance, &instance, &hello, &server).unwrap()));
        assert_ne!(right, bytes(&vm_keys(&ephemeral, &ephemeral, &hello, &server).unwrap()));
        assert_ne!(right, bytes(&broker_keys(&instance, &hello, &server).unwrap()));
        assert_eq!(right, bytes(&broker_keys(&broker, &hello, &server).unwrap()));
    }

    #[test]
    fn a_point_off_the_curve_is_refused() {
        let Ends { ephemeral, instance, broker, hello, mut server } = ends();
        for at in [0, 1, 48, 96] {
            server.ephemeral[at] ^= 1;
            let keys = vm_keys(&ephemeral, &instance, &hello, &server);
            assert_eq!(keys.map(|_| ()), Err(ReleaseFault::ReplyRefused));
            server.ephemeral[at] ^= 1;
            for point in 0..2 {
                let mut hello = hello;
                [&mut hello.ephemeral, &mut hello.instance][point][at] ^= 1;
                let keys = broker_keys(&broker, &hello, &server);
                assert_eq!(keys.map(|_| ()), Err(ReleaseFault::ReplyRefused));
            }
        }
        server.ephemeral = [0; 97];
        assert!(vm_keys(&ephemeral, &instance, &hello, &server).is_err());
    }

    #[test]
    fn broken_entropy_is_refused_after_a_bounded_number_of_draws() {
        for value in [0, 0xff] {
            assert_eq!(AgreementKey::generate(&mut Constant(value)).map(|_| ()), Err(ReleaseFault::Entropy));
        }
        let mut scalar = [7; 48];
        assert!(SigningKey::from_scalar(&mut scalar).is_ok());
        assert_eq!(scalar, [0; 48], "the source is wiped");
    }

    #[test]
    fn signatures_hold_for_their_key_and_digest_only() {
        let mut entropy = Seeded(9);
        let [key, other] = [(); 2].map(|()| SigningKey::generate(&mut entropy).unwrap());
        let signature = key.sign(&[3; 48]).unwrap();
        assert!(verifies(key.point(), &[3; 48], &signature));
        assert!(!verifies(key.point(), &[4; 48], &signature));
        assert!(!verifies(other.point(), &[3; 48], &signature));
        assert!(!verifies(&[0; 97], &[3; 48], &signature));
        assert!(!verifies(key.point(), &[3; 48], &[0; 96]));
        for at in 0..96 {
            let mut changed = signature;
            changed[at] ^= 1;
            assert!(!verifies(key.point(), &[3; 48], &changed), "byte {at}");
        }
    }

    /// Every byte of what is signed changes the digest; the signature's own bytes do not.
    #[test]
    fn every_signed_byte_is_under_its_digest() {
        fn covers<T: FromZeros + FromBytes + IntoBytes + zerocopy::Immutable>(
            digest: impl Fn(&T) -> [u8; 48],
        ) {
            let mut value = T::new_zeroed();
            let zero = digest(&value);
            for at in 0..size_of::<T>() {
                value.as_mut_bytes()[at] = 1;
                assert_eq!(digest(&value) == zero, at >= size_of::<T>() - 96, "byte {at}");
                value.as_mut_bytes()[at] = 0;
            }
        }
        covers(certificate_digest);
        covers(|server| server_hello_digest(&Hello::new_zeroed(), server));
        covers(|grant: &GrantReply| grant_digest(&[1; 48], &[2; 48], grant));
        let server = ServerHello::new_zeroed();
        let mut hello = Hello::new_zeroed();
        let zero = server_hello_digest(&hello, &server);
        for at in 0..Hello::BYTES {
            hello.as_mut_bytes()[at] = 1;
            assert_ne!(server_hello_digest(&hello, &server), zero);
            hello.as_mut_bytes()[at] = 0;
        }
        let grant = GrantReply::new_zeroed();
        assert_ne!(grant_digest(&[1; 48], &[2; 48], &grant), grant_digest(&[2; 48], &[2; 48], &grant));
        assert_ne!(grant_digest(&[1; 48], &[2; 48], &grant), grant_digest(&[1; 48], &[1; 48], &grant));
        assert_ne!(certificate_digest(&BrokerCertificate::new_zeroed()), zero);
    }
}
