//! ID blocks and launch configurations: what is signed and embedded is what others read.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test ends where its world fails"
)]

mod support;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use husk::attest::launch::{Kbs, LaunchConfig, Mode, Serve};
use husk_image::id_block::{IdAuth, IdBlock, IdBlockError, IdentityKey, PolicyRule, Statement, sign};
use husk_image::igvm_file::{Directive, IgvmFile};
use husk_image::inspect::inspect;
use husk_image::plan::{IgvmLaunch, Plan, Remark, VmsaScope, ZeroPages};
use husk_image::rewrite::{RewriteError, with_id_block, with_page};
use husk_image::vcpu::{CpuSignature, RESET_VECTOR, Vcpus, reset_vmsa};
use husk_image::{config_page, rewrite};
use igvm::IgvmRevision;
use sha2::{Digest as _, Sha384};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{POLICY, area, igvm_file, insert, memory_map, page, vmsa};
use zerocopy::IntoBytes as _;

const STATEMENT: Statement = Statement {
    launch_digest: [0x5A; 48],
    family_id: [1; 16],
    image_id: [2; 16],
    guest_svn: 7,
    policy: POLICY,
};

const VCPUS: Vcpus = Vcpus { count: 1, signature: CpuSignature(0x00A0_0F11), features: 1 };

fn openssl(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("openssl").args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A new key as `openssl` writes it, and its public half.
fn key(folder: &Path, name: &str) -> (IdentityKey, PathBuf) {
    openssl(folder, &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384", "-out", name]);
    let public = format!("{name}.pub");
    openssl(folder, &["pkey", "-in", name, "-pubout", "-out", &public]);
    fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o600)).unwrap();
    (IdentityKey::read(&folder.join(name)).unwrap(), folder.join(public))
}

/// R and S as `openssl` reads them: a DER sequence of two integers.
fn der(r: &[u8; 72], s: &[u8; 72]) -> Vec<u8> {
    let integer = |little: &[u8; 72]| {
        let big: Vec<u8> = little.iter().rev().copied().skip_while(|byte| *byte == 0).collect();
        let sign = big[0] >> 7;
        [vec![2, big.len() as u8 + sign], vec![0; sign.into()], big].concat()
    };
    let body = [integer(r), integer(s)].concat();
    [vec![0x30, body.len() as u8], body].concat()
}

#[test]
fn signatures_verify_with_openssl() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let (id_key, id_public) = key(at, "id");
    let (author_key, author_public) = key(at, "author");
    let (block, auth) = sign(&STATEMENT, PolicyRule::Strong, &id_key, Some(&author_key)).unwrap();
    for (message, signature, public) in [
        (block.as_bytes(), &auth.id_block_signature, &id_public),
        (auth.id_key.as_bytes(), &auth.id_key_signature, &author_public),
    ] {
        fs::write(at.join("message"), message).unwrap();
        fs::write(at.join("signature"), der(&signature.r, &signature.s)).unwrap();
        let public = public.to_str().unwrap();
        let said = openssl(at, &["dgst", "-sha384", "-verify", public, "-signature", "signature", "message"]);
        assert_eq!(said.trim(), "Verified OK");
    }
    // The key itself: openssl's point is ours, little-endian.
    let der_key = Command::new("openssl")
        .args(["pkey", "-pubin", "-outform", "DER", "-in", id_public.to_str().unwrap()])
        .output()
        .unwrap();
    let point = &der_key.stdout[der_key.stdout.len() - 96..];
    let reversed = |bytes: &[u8]| bytes.iter().rev().copied().collect::<Vec<u8>>();
    assert_eq!(auth.id_key.qx[..48], reversed(&point[..48]));
    assert_eq!(auth.id_key.qy[..48], reversed(&point[48..]));
    assert_eq!(auth.id_key.digest(), <[u8; 48]>::from(Sha384::digest(auth.id_key.as_bytes())));
}

/// Field for field, apart from the signatures, whose nonces are random there.
#[test]
fn another_tool_makes_the_same_block() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let tool = root.join("target/husk/sev-snp-measure/bin/snp-create-id-block");
    if !tool.exists() {
        eprintln!("SKIPPED: snp-create-id-block is not installed; run: cargo xtask setup");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (id_key, _) = key(folder.path(), "id");
    let (author_key, _) = key(folder.path(), "author");
    let statement = Statement { family_id: [0; 16], image_id: [0; 16], guest_svn: 0, ..STATEMENT };
    let (block, auth) = sign(&statement, PolicyRule::Strong, &id_key, Some(&author_key)).unwrap();
    let output = Command::new(tool)
        .args([
            "--measurement",
            &STANDARD.encode(STATEMENT.launch_digest),
            "--idkey",
            "id",
            "--authorkey",
            "author",
        ])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    let field = |name: &str| {
        let value = said.split([',', '\n']).find_map(|part| part.strip_prefix(name)).unwrap();
        STANDARD.decode(value).unwrap()
    };
    assert_eq!(field("id-block="), block.as_bytes());
    assert_eq!(field("id_key_hash: "), auth.id_key.digest());
    assert_eq!(field("author_key: "), auth.author_key.digest());
    assert_eq!(without_signatures(&field("id-auth=")), without_signatures(auth.as_bytes()));
}

/// Crate `sev`, in a program of its own (`sev_peer`): the same block, page and digests of keys, apart from the signatures; and it finds ours valid,
/// and none of what was altered. The program is built in the long run; where it was, it is asked in every run.
#[test]
fn crate_sev_makes_the_same_block_and_finds_its_signatures_valid() {
    let Some(peer) = sev_peer() else { return };
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let ((id_key, _), (author_key, _)) = (key(at, "id"), key(at, "author"));
    let (block, auth) = sign(&STATEMENT, PolicyRule::Strong, &id_key, Some(&author_key)).unwrap();
    let ask = |words: &[&str]| Command::new(&peer).args(words).current_dir(at).output().unwrap();
    let [digest, family] = [hex::encode(STATEMENT.launch_digest), hex::encode(STATEMENT.family_id)];
    let (image, policy) = (hex::encode(STATEMENT.image_id), STATEMENT.policy.to_string());
    let made = ask(&["make", "id", "author", &digest, &family, &image, "7", &policy]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let made = String::from_utf8(made.stdout).unwrap();
    let made: Vec<Vec<u8>> = made.lines().map(|line| hex::decode(line).unwrap()).collect();
    assert_eq!(made[0], block.as_bytes());
    assert_eq!(without_signatures(&made[1]), without_signatures(auth.as_bytes()));
    assert_eq!((&made[2][..], &made[3][..]), (&auth.id_key.digest()[..], &auth.author_key.digest()[..]));
    let holds = |block: &[u8], page: &[u8]| {
        fs::write(at.join("block"), block).unwrap();
        fs::write(at.join("page"), page).unwrap();
        ask(&["check", "block", "page"]).status.success()
    };
    assert!(holds(block.as_bytes(), auth.as_bytes()));
    let flipped = |bytes: &[u8], byte: usize| {
        let mut bytes = bytes.to_vec();
        bytes[byte] ^= 1;
        bytes
    };
    for byte in 0..96 {
        assert!(!holds(&flipped(block.as_bytes(), byte), auth.as_bytes()), "byte {byte:#x} of the block");
    }
    // The first bytes of r and s, of x and y: of the block's signature, the ID key, its signature, the author key.
    for byte in [0x40, 0x88, 0x244, 0x28C, 0x680, 0x6C8, 0x884, 0x8CC] {
        assert!(!holds(block.as_bytes(), &flipped(auth.as_bytes(), byte)), "byte {byte:#x} of the page");
    }
}

/// The program, if it is or may be built; says so where not.
fn sev_peer() -> Option<PathBuf> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = home.ancestors().nth(2).unwrap().join("target/husk/sev-peer");
    let program = target.join("debug/husk-sev-peer");
    if std::env::var_os("HUSK_LONG").is_some() {
        let manifest = home.join("tests/sev_peer/Cargo.toml");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--locked", "--manifest-path"]).arg(manifest);
        assert!(cargo.arg("--target-dir").arg(&target).status().unwrap().success());
    } else if !program.exists() {
        eprintln!("SKIPPED: crate sev was not asked; it is built in the long run: cargo xtask test --all");
        return None;
    }
    Some(program)
}

fn without_signatures(page: &[u8]) -> Vec<u8> {
    let mut page = page.to_vec();
    page[0x40..0x40 + 144].fill(0);
    page[0x680..0x680 + 144].fill(0);
    page
}

/// Without an author key its fields are zeros.
#[test]
fn an_author_key_is_optional() {
    let folder = tempfile::tempdir().unwrap();
    let (id_key, _) = key(folder.path(), "id");
    let (_, auth) = sign(&STATEMENT, PolicyRule::Strong, &id_key, None).unwrap();
    assert_eq!(auth.author_key_algorithm.get(), 0);
    assert!(auth.as_bytes()[0x680..].iter().all(|byte| *byte == 0));
}

/// The same keys and words give the same bytes; every other word gives others.
#[test]
fn an_id_block_is_reproducible() {
    let folder = tempfile::tempdir().unwrap();
    let (id_key, _) = key(folder.path(), "id");
    let signed = |statement: &Statement| {
        let (block, auth) = sign(statement, PolicyRule::Strong, &id_key, None).unwrap();
        [block.as_bytes(), auth.as_bytes()].concat()
    };
    assert_eq!(signed(&STATEMENT), signed(&STATEMENT));
    for other in [
        Statement { launch_digest: [0; 48], ..STATEMENT },
        Statement { family_id: [0; 16], ..STATEMENT },
        Statement { image_id: [0; 16], ..STATEMENT },
        Statement { guest_svn: 8, ..STATEMENT },
        Statement { policy: 0x20000, ..STATEMENT },
    ] {
        assert_ne!(signed(&STATEMENT)[..160], signed(&other)[..160]);
    }
}

#[test]
fn keys_that_others_may_read_and_other_keys_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let (_, public) = key(at, "id");
    fs::set_permissions(at.join("id"), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(IdentityKey::read(&at.join("id")), Err(IdBlockError::File(_))));
    fs::set_permissions(&public, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(matches!(IdentityKey::read(&public), Err(IdBlockError::Key(_))));
    openssl(at, &["ecparam", "-genkey", "-name", "prime256v1", "-out", "p256"]);
    openssl(at, &["ecparam", "-genkey", "-name", "secp384r1", "-out", "sec1"]);
    for name in ["p256", "sec1"] {
        fs::set_permissions(at.join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    assert!(matches!(IdentityKey::read(&at.join("p256")), Err(IdBlockError::Key(_))));
    IdentityKey::read(&at.join("sec1")).unwrap();
}

#[test]
fn a_policy_that_gives_the_guest_away_is_signed_only_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let (id_key, _) = key(folder.path(), "id");
    let signed = |policy, rule| sign(&Statement { policy, ..STATEMENT }, rule, &id_key, None).map(|_| ());
    for policy in [0xB_0000, 0x7_0000] {
        assert!(matches!(signed(policy, PolicyRule::Strong), Err(IdBlockError::WeakPolicy(_))));
        assert!(signed(policy, PolicyRule::EvenWeak).is_ok());
    }
    for policy in [0, 0x1_0000, 0x403_0000_u64 << 8] {
        assert!(matches!(signed(policy, PolicyRule::EvenWeak), Err(IdBlockError::Policy(_))));
    }
}

fn file() -> Vec<u8> {
    let own = reset_vmsa(RESET_VECTOR, &VCPUS);
    igvm_file(
        IgvmRevision::V1,
        vec![area(0, 2), memory_map(0), insert(0x8000, 0), page(0x1000, 1), vmsa(0, &own)],
    )
}

fn planned(bytes: &[u8]) -> ([u8; 48], Vec<Remark>) {
    let file = IgvmFile::parse(bytes).unwrap();
    let how = IgvmLaunch { vcpus: VCPUS, zeros: ZeroPages::AsContent, vmsas: VmsaScope::All };
    let plan = Plan::of(&file, &how).unwrap();
    let digest = plan.digest().value();
    (digest, plan.remarks_on(&digest))
}

/// An ID block in a file leaves its digest alone, and one for another digest is told.
#[test]
fn an_id_block_in_a_file_is_the_one_that_was_signed() {
    let folder = tempfile::tempdir().unwrap();
    let (id_key, _) = key(folder.path(), "id");
    let (digest, _) = planned(&file());
    let embedded = |launch_digest| {
        let statement = Statement { launch_digest, ..STATEMENT };
        let (block, auth): (IdBlock, IdAuth) = sign(&statement, PolicyRule::Strong, &id_key, None).unwrap();
        (with_id_block(&file(), &block, &auth).unwrap(), block, auth)
    };
    let (bytes, block, auth) = embedded(digest);
    assert_eq!(planned(&bytes), (digest, vec![]));
    let parsed = IgvmFile::parse(&bytes).unwrap();
    let found = parsed.directives.iter().find_map(|directive| match directive {
        Directive::IdBlock(found) => Some(found),
        _ => None,
    });
    let found = found.unwrap();
    assert_eq!((found.ld, found.guest_svn), (digest, 7));
    assert_eq!(found.id_key_signature.r_comp, auth.id_block_signature.r);
    assert_eq!(found.id_public_key.qy, auth.id_key.qy);
    assert!(matches!(with_id_block(&bytes, &block, &auth), Err(RewriteError::HasIdBlock)));
    let (bytes, ..) = embedded([0; 48]);
    assert_eq!(planned(&bytes), (digest, vec![Remark::IdBlock]));
}

const CONFIG: LaunchConfig = LaunchConfig {
    tenant: [0x1A; 16],
    vm: [0x2B; 16],
    root: [0x3C; 48],
    mode: Mode::Strict,
    serve: Serve::Lease,
    kbs: Kbs::None,
    min_key_generation: 1,
    processor: None,
    staleness: None,
    variables: None,
};

#[test]
fn a_configuration_in_a_file_is_measured_and_read_back() {
    let page = config_page::page(&CONFIG).unwrap();
    assert_eq!(config_page::read(&page), Some(CONFIG));
    let mut longer = page.clone();
    longer[4095] = 1;
    assert_eq!(config_page::read(&longer), None);
    let bytes = with_page(&file(), 0x7000, &page).unwrap();
    assert_ne!(planned(&bytes).0, planned(&file()).0);
    let parsed = IgvmFile::parse(&bytes).unwrap();
    let inspection = inspect(&parsed);
    let line = inspection.lines.iter().find(|line| line.gpa == Some(0x7000)).unwrap();
    assert_eq!((line.what.as_str(), line.measured.word()), ("Husk's launch configuration", "content"));
    let other = config_page::page(&LaunchConfig { vm: [0; 16], ..CONFIG }).unwrap();
    assert_ne!(planned(&with_page(&file(), 0x7000, &other).unwrap()).0, planned(&bytes).0);
    for taken in [0x1000, 0x8000, 0x9000] {
        assert!(matches!(with_page(&file(), taken, &page), Err(RewriteError::Taken(_))), "{taken:#x}");
    }
    assert!(matches!(with_page(&file(), 0x7001, &page), Err(RewriteError::Unaligned(_))));
    assert!(matches!(rewrite::with_page(b"", 0x7000, &page), Err(RewriteError::File(_))));
}

/// The same input gives the same bytes and digest, in whatever folder: nothing of the machine gets in.
#[test]
fn files_are_reproducible() {
    let build = || {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config");
        husk_files::write_config(&config, &CONFIG).unwrap();
        let read = husk_files::read_config(&config).unwrap();
        let bytes = with_page(&file(), 0x7000, &config_page::page(&read).unwrap()).unwrap();
        (fs::read(config).unwrap(), planned(&bytes).0, bytes)
    };
    assert_eq!(build(), build());
}
