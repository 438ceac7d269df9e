//! Certificates of endorsement keys from end to end, with parts that others wrote: tpm2-tools read them out of the TPM and use the keys that they are for,
//! OpenSSL verifies them up to the tenant's authority.

use crate::stack::{Serving, Stack};
use crate::statement;
use husk::attest::launch::LaunchConfig;
use husk::attest::report::Policy;
use husk::seams::{REPORT_BYTES, REPORT_DATA_BYTES, Reporter as _};
use husk_psp::{Identity, LocalGuest, Processor, PspReporter, os_entropy};
use std::fs;
use std::process::{Command, Output};

/// The NV indices of the TCG EK Credential Profile, and which kind of key each is for.
const INDICES: [(&str, &str); 3] =
    [("0x01C00002", "rsa2048"), ("0x01C0000A", "p256"), ("0x01C00016", "p384")];

impl Stack {
    /// The tenant's id, and the VM's.
    fn ids(&self) -> (String, String) {
        let config = LaunchConfig::parse(&fs::read(self.path("config")).unwrap()).unwrap();
        (hex::encode(config.tenant), hex::encode(config.vm))
    }

    /// Runs `husk tenant authority …` on the stack's database.
    fn authority(&self, words: &str) -> Output {
        let line = format!("tenant authority {words} --database db");
        self.site.run(&line.split(' ').collect::<Vec<_>>())
    }

    #[track_caller]
    fn authorize(&self, words: &str) {
        let output = self.authority(words);
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs OpenSSL in the stack's folder.
    fn openssl(&self, line: &str) -> Output {
        let mut command = Command::new("/usr/bin/openssl");
        command.args(line.split(' ')).current_dir(self.site.folder.path());
        command.output().unwrap()
    }

    #[track_caller]
    fn openssl_says(&self, line: &str) -> String {
        let output = self.openssl(line);
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "openssl {line}: {said}");
        said
    }
}

/// Reads the certificate at an index into `NAME.pem`.
#[track_caller]
fn read(tpm: &Serving<'_>, stack: &Stack, (index, name): (&str, &str)) -> Vec<u8> {
    tpm.run_line(&format!("nvread {index} -C o -o {name}.der"));
    stack.openssl_says(&format!("x509 -inform der -in {name}.der -out {name}.pem"));
    fs::read(stack.path(&format!("{name}.der"))).unwrap()
}

/// The key in a certificate carries a secret to this TPM, and no other thing but this TPM opens it.
#[track_caller]
fn activates(tpm: &Serving<'_>, stack: &Stack, kind: &str) {
    let algorithm = if kind == "rsa2048" { "rsa" } else { "ecc" };
    let key = stack.openssl_says(&format!("x509 -in {kind}.pem -noout -pubkey"));
    fs::write(stack.path("ek.pem"), key).unwrap();
    tpm.run_line(&format!("createek -c ek.ctx -G {algorithm} -u ek.pub"));
    tpm.run_line("createak -C ek.ctx -c ak.ctx -G ecc -g sha256 -s ecdsa -u ak.pub -n ak.name");
    let name: String =
        fs::read(stack.path("ak.name")).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(stack.path("secret"), b"what only this TPM can tell.....").unwrap();
    tpm.run_line(&format!(
        "makecredential -T none -u ek.pem -G {algorithm} -s secret -n {name} -o credential"
    ));
    tpm.run_line("startauthsession --policy-session -S session.ctx");
    tpm.run_line("policysecret -S session.ctx -c e");
    tpm.run_line("activatecredential -c ak.ctx -C ek.ctx -i credential -o opened -P session:session.ctx");
    tpm.run_line("flushcontext session.ctx");
    assert_eq!(fs::read(stack.path("opened")).unwrap(), fs::read(stack.path("secret")).unwrap(), "{kind}");
}

#[test]
fn ek_cert_is_in_the_tpm_and_verifies_and_its_keys_work() {
    let stack = Stack::new();
    let (tenant, vm) = stack.ids();
    let tpm = stack.boot();
    assert!(tpm.log().contains("nobody certifies the endorsement keys"), "{}", tpm.log());
    assert_eq!(tpm.run_line("nvreadpublic"), "", "without an authority there is nothing");
    tpm.shut_down();

    stack.authorize(&format!("init --root-key root --tenant {tenant} --out authority.pem"));
    assert_eq!(
        stack.authority(&format!("init --root-key root --tenant {tenant} --out other.pem")).status.code(),
        Some(4),
        "a tenant has one authority"
    );
    assert!(!stack.path("other.pem").exists());
    // A TPM that exists already is certified at its next launch.
    let tpm = stack.boot();
    assert!(tpm.log().contains("certificates are written"), "{}", tpm.log());
    tpm.run_line("getekcertificate -o tool.rsa -o tool.ecc");
    let issued = INDICES.map(|index| read(&tpm, &stack, index));
    assert_eq!(fs::read(stack.path("tool.rsa")).unwrap(), issued[0]);
    assert_eq!(fs::read(stack.path("tool.ecc")).unwrap(), issued[1]);
    for (index, kind) in INDICES {
        stack.openssl_says(&format!("verify -x509_strict -CAfile authority.pem {kind}.pem"));
        let text = stack.openssl_says(&format!("x509 -in {kind}.pem -noout -text"));
        for word in ["2.23.133.8.1", "CA:FALSE", "2.23.133.2.1=id:49424D00", "2.23.133.2.3=id:20191023"] {
            assert!(text.contains(word), "{kind}: {word}: {text}");
        }
        let public = tpm.run_line(&format!("nvreadpublic {index}"));
        assert!(public.contains("0x62072801"), "{public}");
        assert!(!tpm.run("nvundefine", [index, "-C", "o"]).status.success(), "the owner cannot remove it");
    }
    activates(&tpm, &stack, "rsa2048");
    activates(&tpm, &stack, "p256");
    evidence_says_of_which_launch(&stack, &vm);
    a_statement_is_of_the_vm_whose_key_was_certified(&stack);
    tpm.kill();

    // The next launch finds them, and nothing is issued anew.
    let tpm = stack.boot();
    assert!(tpm.log().contains("certificates are there"), "{}", tpm.log());
    assert_eq!(INDICES.map(|index| read(&tpm, &stack, index)), issued);
    tpm.shut_down();
    another_authority_vouches_for_nothing(&stack);
}

/// A certificate beside a report: of the same configuration, or refused.
fn evidence_says_of_which_launch(stack: &Stack, vm: &str) {
    let identity = Identity::published(0).unwrap();
    fs::write(stack.path("vcek.der"), identity.certificate()).unwrap();
    let config = LaunchConfig::parse(&fs::read(stack.path("config")).unwrap()).unwrap();
    let verify = |host_data: [u8; 32]| {
        let processor = Processor::shared(identity.clone(), os_entropy());
        let policy = Policy::RESERVED_ONE.union(Policy::SMT).bits();
        let (guest, secrets) =
            LocalGuest::launch(&processor, b"firmware of a test", &host_data, policy).unwrap();
        let mut report = [0; REPORT_BYTES];
        PspReporter::new(guest, secrets, Vec::new()).report(&[0; REPORT_DATA_BYTES], &mut report).unwrap();
        fs::write(stack.path("report"), report).unwrap();
        let line = "evidence verify --json --report report --certificate vcek.der --accept-simulated-silicon psp/chain.pem \
            --ek-certificate p384.der --ek-root authority.pem";
        stack.site.run(&line.split_whitespace().collect::<Vec<_>>())
    };
    let own = verify(config.host_data());
    let said: serde_json::Value = serde_json::from_slice(&own.stdout).unwrap();
    assert_eq!(said["ek_certificate"]["launch"]["vm"], vm);
    let proven = said["proven"].to_string();
    assert!(
        proven.contains(&format!("VM {vm} of tenant")) && proven.contains("same configuration"),
        "{proven}"
    );
    let not_proven = said["not_proven"].to_string();
    assert!(not_proven.contains("named under another report"), "{not_proven}");
    let other = verify([2; 32]);
    assert_eq!(other.status.code(), Some(1));
    let why = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(why.contains("another launch configuration") && other.stdout.is_empty(), "{why}");
}

/// A certificate beside the broker's signed word: of the same VM, or refused.
fn a_statement_is_of_the_vm_whose_key_was_certified(stack: &Stack) {
    let verify = |other: &Stack| {
        statement::status(other, "word");
        let [word, config] = ["word", "config"].map(|name| other.path(name).display().to_string());
        let line = format!(
            "evidence verify --json --ek-certificate p384.der --ek-root authority.pem --statement {word} --config {config} \
             --statement-nonce {}",
            statement::NONCE
        );
        stack.site.run(&line.split_whitespace().collect::<Vec<_>>())
    };
    let own = verify(stack);
    let said: serde_json::Value = serde_json::from_slice(&own.stdout).unwrap();
    assert!(said["proven"].to_string().contains("certified for this VM"), "{said}");
    let strange = verify(&Stack::new());
    assert_eq!(strange.status.code(), Some(1));
    let why = String::from_utf8_lossy(&strange.stderr).into_owned();
    assert!(why.contains("certificate is of another VM") && strange.stdout.is_empty(), "{why}");
}

fn another_authority_vouches_for_nothing(stack: &Stack) {
    let words =
        ["tenant", "init", "--database", "db", "--root-key", "root", "--root-out", "tenant2", "--json"];
    let other = stack.site.json(&words);
    let other = other["tenant"].as_str().unwrap();
    stack.authorize(&format!("init --root-key root --tenant {other} --out authority2.pem"));
    for (_, kind) in INDICES {
        assert!(
            !stack.openssl(&format!("verify -CAfile authority2.pem {kind}.pem")).status.success(),
            "{kind}"
        );
    }
}

/// Issues a certificate for the key in `KIND.ek.pem` with OpenSSL, as an authority that the tenant runs elsewhere.
fn issue_elsewhere(stack: &Stack, kind: &str) {
    // OpenSSL drops what stands before the first dot of a name.
    let extensions = "subjectAltName=critical,dirName:tpm\nextendedKeyUsage=2.23.133.8.1\n\
        keyUsage=critical,keyAgreement\nbasicConstraints=critical,CA:FALSE\n\
        [tpm]\n1.2.23.133.2.1=id:49424D00\n1.2.23.133.2.2=Husk\n1.2.23.133.2.3=id:20191023\n";
    fs::write(stack.path("extensions"), extensions).unwrap();
    stack.openssl_says("req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout unused.key -subj / -out request.pem");
    stack.openssl_says(&format!(
        "x509 -req -in request.pem -force_pubkey {kind}.ek.pem -CA elsewhere.pem -CAkey elsewhere.key -days 30 -extfile extensions -out {kind}.issued.pem"
    ));
}

#[test]
fn ek_cert_of_an_authority_elsewhere_is_brought_and_written() {
    let stack = Stack::new();
    let (tenant, vm) = stack.ids();
    stack.openssl_says("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -keyout elsewhere.key -subj /CN=elsewhere -days 60 -out elsewhere.pem");
    stack.authorize(&format!("external --tenant {tenant} --certificate elsewhere.pem --keys p384"));
    let tpm = stack.boot();
    assert!(tpm.log().contains("not issued yet"), "{}", tpm.log());
    tpm.shut_down();
    stack.authorize(&format!("keys --tenant {tenant} --out-folder ."));
    fs::rename(stack.path(&format!("{vm}-p384.pem")), stack.path("p384.ek.pem")).unwrap();
    issue_elsewhere(&stack, "p384");
    let bring = format!("certify --tenant {tenant} --vm {vm} --certificate");
    assert!(
        !stack.authority(&format!("{bring} elsewhere.pem")).status.success(),
        "not one of an endorsement key"
    );
    stack.authorize(&format!("{bring} p384.issued.pem"));
    let tpm = stack.boot();
    assert!(tpm.log().contains("certificates are written"), "{}", tpm.log());
    read(&tpm, &stack, INDICES[2]);
    stack.openssl_says("verify -CAfile elsewhere.pem p384.pem");
    assert!(!tpm.run_line("nvreadpublic").contains("0x1c00002"), "it certifies this kind only");
    tpm.shut_down();
}
