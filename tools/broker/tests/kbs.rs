//! Laws of the broker as a CoCo KBS, asked by a client that knows RCAR by crate `kbs-types` and nothing of Husk. Reports are of the simulated
//! processor, verified down to its root.
#![expect(clippy::unwrap_used, reason = "a test ends where its world fails")]

#[path = "support/world.rs"]
mod world;

use aes_gcm::aead::{AeadInOut as _, KeyInit as _};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use husk::attest::launch::{Kbs, LaunchConfig, Mode, Serve};
use husk::release::transcript::point_digest;
use husk::seams::Reporter as _;
use husk_broker::evidence::Judge;
use husk_broker::ids::{TenantId, VmId, VmName};
use husk_broker::kbs::{Answer, Proof, SESSION_MS, Said};
use husk_broker::log::{LogFormat, subscriber};
use husk_broker::policy::Policy;
use husk_broker::rules::Order;
use husk_broker::service::Service;
use husk_broker::store::{Enrolment, KeptCertificate, KeptKind, Serving, Store, StoreError, Tenant};
use husk_broker::vault::{RootKeys, TenantRoot};
use husk_evidence::Verifier;
use husk_psp::{Identity, LocalGuest, Processor, PspReporter, Revocations, expected_measurement, os_entropy};
use kbs_types::{
    Attestation, Challenge, CompositeEvidence, InitData, Request, Response, RuntimeData, Tee, TeePubKey,
};
use p256::elliptic_curve::sec1::ToSec1Point as _;
use serde_json::{Value, json};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser as _;
use sha2::{Digest as _, Sha256, Sha384};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use world::TestWorld;

const FIRMWARE: &[u8] = b"firmware of a test";
/// POLICY: SMT allowed, and the bit that must be one.
const GUEST_POLICY: u64 = 0x3_0000;
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const ONE: VmName = VmName { tenant: TenantId([1; 16]), vm: VmId([2; 16]) };
const OTHER: VmName = VmName { tenant: TenantId([1; 16]), vm: VmId([3; 16]) };
const PATH: &str = "default/key/disk";

struct Broker {
    world: Arc<TestWorld>,
    keys: Arc<RootKeys>,
    root: TenantRoot,
    service: Service,
    folder: tempfile::TempDir,
}

impl Broker {
    /// Two VMs of a tenant, each with a resource under the same path.
    fn new() -> Self {
        let world = Arc::new(TestWorld::new(0x6B62));
        let keys = Arc::new(RootKeys::generate(&*world).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::create(&folder.path().join("db"), &keys).unwrap();
        let root = TenantRoot::generate(&*world).unwrap();
        let certificate = root.certify(ONE.tenant, &keys).unwrap();
        store.register(ONE.tenant, &Tenant { root: *root.point(), certificate }).unwrap();
        for (vm, content) in [(ONE, b"secret of one"), (OTHER, b"secret of two")] {
            let measurements = vec![expected_measurement(FIRMWARE)];
            let policy = Policy { measurements, ..Policy::default() };
            let host_data = config(&root, &vm).host_data();
            store.enrol(&vm, &Enrolment { host_data, policy }).unwrap();
            let sealed = keys.wrap_resource(&*world, &vm, PATH, content).unwrap();
            store.keep_resource(&vm, PATH, &sealed, false).unwrap();
            let again = store.keep_resource(&vm, PATH, &sealed, false);
            assert!(matches!(again, Err(StoreError::ResourceExists(_))));
        }
        let service = serve(store, &keys, &world);
        Self { world, keys, root, service, folder }
    }

    /// Ends the service, has the operator do something, and serves again; sessions are gone.
    fn meanwhile(self, operate: impl FnOnce(&mut Store)) -> Self {
        let Self { world, keys, root, service, folder } = self;
        drop(service);
        let mut store = Store::open(&folder.path().join("db")).unwrap();
        operate(&mut store);
        let service = serve(store, &keys, &world);
        Self { world, keys, root, service, folder }
    }

    fn client(&self, vm: &VmName) -> Client<'_> {
        self.client_of(FIRMWARE, config(&self.root, vm))
    }

    fn client_of(&self, firmware: &[u8], config: LaunchConfig) -> Client<'_> {
        let processor = Processor::shared(Identity::published(0).unwrap(), os_entropy());
        let host_data = config.host_data();
        let (mut guest, secrets) =
            LocalGuest::launch(&processor, firmware, &host_data, GUEST_POLICY).unwrap();
        let certificate = guest.certificate().unwrap();
        let reporter = PspReporter::new(guest, secrets, certificate.clone());
        let mut scalar = [0x31; 32];
        scalar[0] = 0;
        let key = p256::SecretKey::from_slice(&scalar).unwrap();
        let mut text = String::new();
        config.write(&mut text).unwrap();
        Client { service: &self.service, reporter, certificate, key, config: text }
    }
}

fn serve(store: Store, keys: &Arc<RootKeys>, world: &Arc<TestWorld>) -> Service {
    let serving = Serving::begin(store, keys.clone(), world.clone(), 10_000).unwrap();
    let chain = Identity::published(0).unwrap().chain_pem().unwrap();
    let verifier = Verifier::new().unwrap().accept_simulated(chain.as_bytes()).unwrap();
    Service::new(serving, keys.clone(), world.clone(), Box::new(Judge::new(verifier)))
}

fn config(root: &TenantRoot, vm: &VmName) -> LaunchConfig {
    LaunchConfig {
        tenant: vm.tenant.0,
        vm: vm.vm.0,
        root: point_digest(root.point()),
        mode: Mode::Strict,
        serve: Serve::Lease,
        kbs: Kbs::None,
        min_key_generation: 0,
        processor: None,
        staleness: None,
        variables: None,
    }
}

/// A client of a KBS, as RCAR describes one.
struct Client<'s> {
    service: &'s Service,
    reporter: PspReporter<LocalGuest>,
    certificate: Vec<u8>,
    key: p256::SecretKey,
    config: String,
}

impl Client<'_> {
    fn says(&self, said: &Said<'_>) -> Answer {
        self.service.kbs(PEER, said)
    }

    fn challenge(&self) -> (String, Challenge) {
        let request = Request {
            version: "0.4.0".to_owned(),
            tee: Tee::Snp,
            extra_params: json!({ "supported-hash-algorithms": ["sha384"] }),
        };
        let answer = self.says(&Said::Auth { body: &serde_json::to_vec(&request).unwrap() });
        assert_eq!(answer.status, 200);
        (answer.session.unwrap(), serde_json::from_value(answer.body).unwrap())
    }

    fn public(&self) -> TeePubKey {
        let point = self.key.public_key().to_sec1_point(false);
        let text = |coordinate: Option<&_>| {
            URL_SAFE_NO_PAD
                .encode::<&[u8]>(coordinate.map(|bytes: &p256::FieldBytes| bytes.as_slice()).unwrap())
        };
        TeePubKey::EC {
            crv: "P-256".into(),
            alg: "ECDH-ES+A256KW".into(),
            x: text(point.x()),
            y: text(point.y()),
        }
    }

    /// An attestation, in which everything is right.
    fn attestation(&mut self, challenge: &Challenge) -> Attestation {
        let tee_pubkey = self.public();
        // Canonical JSON (RFC 8785), as far as such strings go: members in order.
        let bound = json!({ "additional-evidence": "", "nonce": challenge.nonce, "tee-pubkey": tee_pubkey });
        let mut data = [0; 64];
        data[..48].copy_from_slice(&Sha384::digest(bound.to_string()));
        let mut report = [0; 1184];
        self.reporter.report(&data, &mut report).unwrap();
        let report = AttestationReport::from_bytes(&report).unwrap();
        let chain = json!([{ "cert_type": "VCEK", "data": self.certificate }]);
        Attestation {
            init_data: Some(InitData { format: "toml".to_owned(), body: self.config.clone() }),
            runtime_data: RuntimeData { nonce: challenge.nonce.clone(), tee_pubkey },
            tee_evidence: CompositeEvidence {
                primary_evidence: json!({ "attestation_report": report, "cert_chain": chain }),
                additional_evidence: String::new(),
            },
        }
    }

    fn attest(&self, cookie: &str, attestation: &impl serde::Serialize) -> Answer {
        self.says(&Said::Attest { cookie, body: &serde_json::to_vec(attestation).unwrap() })
    }

    /// A session that has attested: cookie and token.
    fn attested(&mut self) -> (String, String) {
        let (cookie, challenge) = self.challenge();
        let attestation = self.attestation(&challenge);
        let answer = self.attest(&cookie, &attestation);
        assert_eq!(answer.status, 200);
        (cookie, answer.body["token"].as_str().unwrap().to_owned())
    }

    fn resource(&self, proof: Proof<'_>, path: &str) -> Result<Vec<u8>, u16> {
        let answer = self.says(&Said::Resource { proof, path });
        if answer.status == 200 { Ok(self.opened(answer.body)) } else { Err(answer.status) }
    }

    /// RFC 7518, section 4.6, by other functions than the broker's.
    fn opened(&self, body: Value) -> Vec<u8> {
        let jwe: Response = serde_json::from_value(body).unwrap();
        let epk = &jwe.protected.other_fields["epk"];
        let coordinate = |name: &str| URL_SAFE_NO_PAD.decode(epk[name].as_str().unwrap()).unwrap();
        let point = [&[4][..], &coordinate("x"), &coordinate("y")].concat();
        let peer = p256::PublicKey::from_sec1_bytes(&point).unwrap();
        let agreed = p256::ecdh::diffie_hellman(self.key.to_nonzero_scalar(), peer.as_affine());
        let name = b"ECDH-ES+A256KW";
        let other = [&[0, 0, 0, 14][..], name, &[0; 8], &[0, 0, 1, 0]].concat();
        let wrapping = Sha256::digest([&[0, 0, 0, 1][..], agreed.raw_secret_bytes(), &other].concat());
        let mut content = [0; 32];
        aes_kw::KwAes256::new(&wrapping).unwrap_key(&jwe.encrypted_key, &mut content).unwrap();
        let aad = jwe.protected.generate_aad().unwrap();
        let (iv, tag): ([u8; 12], [u8; 16]) = (jwe.iv.try_into().unwrap(), jwe.tag.try_into().unwrap());
        let mut plain = jwe.ciphertext;
        let cipher = Aes256Gcm::new(&content.into());
        let opened = cipher.decrypt_inout_detached(
            &Nonce::from(iv),
            &aad,
            plain.as_mut_slice().into(),
            &Tag::from(tag),
        );
        opened.unwrap();
        plain
    }
}

#[test]
fn a_client_of_kbs_types_gets_the_resource_of_its_own_vm() {
    let broker = Broker::new();
    for (vm, content) in [(&ONE, b"secret of one"), (&OTHER, b"secret of two")] {
        let mut client = broker.client(vm);
        let (cookie, token) = client.attested();
        assert_eq!(client.resource(Proof::Cookie(&cookie), PATH).unwrap(), content);
        assert_eq!(client.resource(Proof::Token(&token), PATH).unwrap(), content);
        // Clients read when a token ends.
        let claims = token.split('.').nth(1).unwrap();
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
        assert!(claims["exp"].as_u64() > claims["nbf"].as_u64());
        for (proof, path) in [
            (Proof::Cookie("another"), PATH),
            (Proof::Token(&cookie), PATH),
            (Proof::Cookie(&token), PATH),
            (Proof::Cookie(&cookie), "default/key/other"),
            (Proof::Cookie(&cookie), "default/key"),
            (Proof::Cookie(&cookie), "../../db"),
        ] {
            assert_eq!(client.resource(proof, path), Err(401), "{proof:?} {path}");
        }
        broker.world.pass(SESSION_MS);
        assert_eq!(client.resource(Proof::Cookie(&cookie), PATH), Err(401), "a session ends");
    }
}

#[test]
fn another_version_or_processor_is_refused() {
    let broker = Broker::new();
    let client = broker.client(&ONE);
    for body in [
        "",
        "{}",
        r#"{"version":"0.4.1","tee":"snp","extra-params":""}"#,
        r#"{"version":"0.4","tee":"snp","extra-params":""}"#,
        r#"{"version":"0.3.0","tee":"snp","extra-params":""}"#,
        r#"{"version":"0.4.0","tee":"tdx","extra-params":""}"#,
        r#"{"version":"0.4.0","tee":"sample","extra-params":""}"#,
    ] {
        assert_eq!(client.says(&Said::Auth { body: body.as_bytes() }).status, 401, "{body}");
    }
}

/// One thing in an attestation that is not right.
type Bend = fn(&mut Value);

const BENDS: [(&str, Bend); 9] = [
    ("another nonce", |body| {
        body["runtime-data"]["nonce"] = "paWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaU=".into()
    }),
    ("another key", |body| body["runtime-data"]["tee-pubkey"]["x"] = URL_SAFE_NO_PAD.encode([7; 32]).into()),
    ("an RSA key", |body| {
        body["runtime-data"]["tee-pubkey"] =
            json!({ "kty": "RSA", "alg": "RSA-OAEP-256", "n": "AQ", "e": "AQ" })
    }),
    ("another algorithm", |body| body["runtime-data"]["tee-pubkey"]["alg"] = "RSA1_5".into()),
    ("another configuration", |body| body["init-data"]["body"] = "algorithm".into()),
    ("more evidence", |body| body["tee-evidence"]["additional_evidence"] = "{}".into()),
    ("no certificate", |body| body["tee-evidence"]["primary_evidence"]["cert_chain"] = Value::Null),
    ("another VMPL", |body| {
        body["tee-evidence"]["primary_evidence"]["attestation_report"]["vmpl"] = 1.into()
    }),
    ("another measurement", |body| {
        body["tee-evidence"]["primary_evidence"]["attestation_report"]["measurement"][0] = 1.into()
    }),
];

#[test]
fn an_attestation_with_one_thing_wrong_proves_nothing() {
    let broker = Broker::new();
    let mut client = broker.client(&ONE);
    for (what, bend) in BENDS {
        let (cookie, challenge) = client.challenge();
        let mut body = serde_json::to_value(client.attestation(&challenge)).unwrap();
        bend(&mut body);
        assert_eq!(client.attest(&cookie, &body).status, 401, "{what}");
        assert_eq!(client.resource(Proof::Cookie(&cookie), PATH), Err(401), "{what}");
        // The nonce is used up: what is right comes too late.
        let right = client.attestation(&challenge);
        assert_eq!(client.attest(&cookie, &right).status, 401, "{what}");
    }
    let (cookie, _) = client.challenge();
    let (_, another) = client.challenge();
    let attestation = client.attestation(&another);
    assert_eq!(client.attest(&cookie, &attestation).status, 401, "another session's nonce");
    assert_eq!(client.says(&Said::Attest { cookie: &cookie, body: b"[" }).status, 401);
}

#[test]
fn init_data_need_not_be_sent() {
    let broker = Broker::new();
    let mut client = broker.client(&ONE);
    let (cookie, challenge) = client.challenge();
    let attestation = Attestation { init_data: None, ..client.attestation(&challenge) };
    assert_eq!(client.attest(&cookie, &attestation).status, 200);
    assert_eq!(client.resource(Proof::Cookie(&cookie), PATH).unwrap(), b"secret of one");
}

#[test]
fn the_policy_of_a_grant_is_that_of_a_resource() {
    let broker = Broker::new();
    let refused = |mut client: Client<'_>| {
        let (cookie, challenge) = client.challenge();
        let attestation = client.attestation(&challenge);
        client.attest(&cookie, &attestation).status == 401
    };
    assert!(refused(broker.client_of(b"another firmware", config(&broker.root, &ONE))));
    let unknown = VmName { vm: VmId([9; 16]), ..ONE };
    assert!(refused(broker.client(&unknown)));
    let broker = broker.meanwhile(|store| {
        store.operate(&ONE, Order::Halt).unwrap();
    });
    assert!(refused(broker.client(&ONE)));
    let broker = broker.meanwhile(|store| {
        store.operate(&ONE, Order::Resume).unwrap();
        store.remove_resource(&ONE, PATH).unwrap();
        assert!(matches!(store.remove_resource(&ONE, PATH), Err(StoreError::UnknownResource(_))));
        assert_eq!(store.resources(&OTHER).unwrap(), [PATH]);
    });
    let mut client = broker.client(&ONE);
    let (cookie, _) = client.attested();
    assert_eq!(client.resource(Proof::Cookie(&cookie), PATH), Err(401), "it was removed");
}

/// A host without a certificate: the kept one is as good, and what its root revoked is worth nothing from then on.
#[test]
fn a_kept_certificate_serves_a_host_that_has_none_until_it_is_revoked() {
    let broker = Broker::new();
    let status = |broker: &Broker| {
        let mut client = broker.client(&ONE);
        let (cookie, challenge) = client.challenge();
        let mut attestation = client.attestation(&challenge);
        attestation.tee_evidence.primary_evidence["cert_chain"] = Value::Null;
        client.attest(&cookie, &attestation).status
    };
    assert_eq!(status(&broker), 401, "nobody has one");
    // Another process keeps it while this one serves.
    let mut store = Store::open(&broker.folder.path().join("db")).unwrap();
    let identity = Identity::published(0).unwrap();
    let chip = KeptCertificate {
        kind: KeptKind::Vcek,
        name: "a chip".to_owned(),
        chip: *identity.hwid(),
        tcb: [10, 0, 0, 0, 0, 0, 25, 84],
        der: identity.certificate().to_vec(),
    };
    let other = KeptCertificate { chip: [9; 64], der: b"another".to_vec(), ..chip.clone() };
    assert!(store.keep_certificate(&other).unwrap());
    assert_eq!(status(&broker), 401, "another chip's");
    assert!(store.keep_certificate(&chip).unwrap() && !store.keep_certificate(&chip).unwrap());
    assert_eq!(status(&broker), 200);
    let list = |number, dates, of_intermediate: &[u32]| {
        let of_intermediate = of_intermediate.to_vec();
        Identity::published_revocations(&Revocations { number, dates, own: vec![], of_intermediate }).unwrap()
    };
    let (past, now) = ((1_600_000_000, 1_700_000_000), (1_700_000_000, 2_400_000_000));
    let mut keep = |der: &[u8]| store.keep_list("ARK-Husk-Simulated-Published", der, |_| true).unwrap();
    keep(&list(1, past, &[]));
    assert_eq!(status(&broker), 401, "it ended, and the policy wants one that has not");
    keep(&list(2, now, &[]));
    assert_eq!(status(&broker), 200);
    keep(&list(3, now, &[0]));
    assert_eq!(status(&broker), 401, "revoked");
    let log = store.audit(ONE.tenant, 0).unwrap();
    let told: Vec<&str> = log.iter().map(|(entry, _)| entry.detail.as_str()).collect();
    assert!(told.iter().any(|detail| detail.contains("seen one that ended 1700000000 s")), "{told:?}");
    let named =
        "revocation: wanted a chain that holds; seen the certificate 'SEV-VCEK' was revoked by 'ARK-Husk";
    assert!(told.iter().any(|detail| detail.starts_with(named)), "{told:?}");
}

#[test]
fn resources_open_after_the_root_key_was_rotated() {
    let broker = Broker::new();
    let Broker { world, keys, root, service, folder } = broker;
    drop(service);
    let mut store = Store::open(&folder.path().join("db")).unwrap();
    let rotated = Arc::new(keys.rotated(&*world).unwrap());
    assert_eq!(store.rotate(&*world, &keys, &rotated).unwrap(), 2);
    drop(store);
    let store = Store::open(&folder.path().join("db")).unwrap();
    let service = serve(store, &rotated, &world);
    let broker = Broker { world, keys: rotated, root, service, folder };
    let mut client = broker.client(&OTHER);
    let (cookie, _) = client.attested();
    assert_eq!(client.resource(Proof::Cookie(&cookie), PATH).unwrap(), b"secret of two");
}

/// A client gets its resource, and the log says so, and nothing of what lets a client have it. The log is the whole process', which other tests
/// write to as well: who asks for it on one thread only may miss what another thread was the first to say.
#[test]
fn the_log_of_a_kbs_has_no_secret_in_it() {
    let kept = Kept::default();
    let out = kept.clone();
    tracing::subscriber::set_global_default(subscriber(LogFormat::Json, move || out.clone())).unwrap();
    let broker = Broker::new();
    let mut client = broker.client(&ONE);
    let (cookie, token) = client.attested();
    let content = client.resource(Proof::Token(&token), PATH).unwrap();
    assert_eq!(client.resource(Proof::Cookie(&cookie), "default/key/none"), Err(401));
    let log = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains(&format!("gave {PATH}")), "{log}");
    for secret in [cookie, token, String::from_utf8(content).unwrap()] {
        let spellings = [secret.clone(), hex::encode(&secret), URL_SAFE_NO_PAD.encode(&secret)];
        assert!(spellings.iter().all(|spelling| !log.contains(spelling)), "{secret}: {log}");
    }
}

/// What a log wrote.
#[derive(Clone, Default)]
struct Kept(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
