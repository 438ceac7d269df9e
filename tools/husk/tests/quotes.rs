//! `husk evidence` on what a TPM and its maker's authority say, with the tools that others wrote: tpm2-tools make keys and quotes, swtpm's local
//! authority and OpenSSL issue certificates of endorsement keys.
#![expect(clippy::unwrap_used, reason = "a test ends where its world fails")]

#[path = "support/running.rs"]
mod running;

use running::Running;
use serde_json::Value;
use std::fs;
use std::process::{Command, Output};

/// A TPM without firmware, and the folder of its tools.
struct Site(Running);

impl Site {
    fn new() -> Self {
        Self(Running::start(
            "--server type=unixio,path=data --ctrl type=unixio,path=data.ctrl --flags startup-clear",
        ))
    }

    fn output(&self, program: &str, words: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.args(words).current_dir(self.0.folder.path()).env("TPM2TOOLS_TCTI", "swtpm:path=data");
        command.output().unwrap()
    }

    /// Runs a tool by a line of words, which must succeed.
    #[track_caller]
    fn tool(&self, line: &str) -> Vec<u8> {
        let words: Vec<&str> = line.split(' ').collect();
        let output = self.output(&format!("/usr/bin/{}", words[0]), &words[1..]);
        assert!(output.status.success(), "{line}: {}", running::said(&output));
        output.stdout
    }

    fn husk(&self, line: &str) -> Output {
        self.output(env!("CARGO_BIN_EXE_husk"), &line.split(' ').collect::<Vec<_>>())
    }

    #[track_caller]
    fn json(&self, line: &str) -> Value {
        let output = self.husk(line);
        assert!(output.status.success(), "{line}: {}", running::said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    #[track_caller]
    fn refused(&self, line: &str, why: &str) {
        let output = self.husk(line);
        assert_eq!(output.status.code(), Some(1), "{line}: {}", running::said(&output));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(why) && output.stdout.is_empty(), "{line}: {said}");
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.0.path(name)).unwrap()
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.0.path(name), bytes).unwrap();
    }

    /// Endorsement key `ek.pub`, attestation key `ak.pub`, a quote of PCRs 0 and 23 in `quote`, `signature` and `pcrs`.
    fn quote(&self, ek: &str, ak: &str, hash: &str, scheme: &str) {
        self.tool("tpm2_flushcontext -t");
        self.tool(&format!("tpm2_createek -Q -G {ek} -c ek -u ek.pub"));
        self.tool(&format!(
            "tpm2_createak -Q -C ek -G {ak} -g {hash} -s {scheme} -c ak -u ak.pub -n ak.name"
        ));
        self.tool("tpm2_flushcontext -t");
        let quote = "tpm2_quote -Q -c ak -l sha256:0,23 -q 0badc0de -m quote -s signature -o pcrs";
        let more = if scheme == "rsapss" { " --scheme rsapss" } else { "" };
        self.tool(&format!("{quote} -g {hash}{more}"));
    }
}

const VERIFY: &str = "evidence verify --json --quote quote --signature signature --ak ak.pub";

#[test]
fn a_quote_by_tpm2_tools_is_verified_and_what_it_does_not_prove_is_said() {
    let site = Site::new();
    site.tool(&format!("tpm2_pcrextend 23:sha256={}", "22".repeat(32)));
    for (ek, ak, hash, scheme) in [
        ("rsa", "rsa", "sha256", "rsassa"),
        ("rsa", "rsa", "sha384", "rsapss"),
        ("ecc", "ecc", "sha256", "ecdsa"),
        ("ecc384", "ecc384", "sha384", "ecdsa"),
    ] {
        site.quote(ek, ak, hash, scheme);
        let seen = site.json(&format!("{VERIFY} --pcrs pcrs --quote-nonce 0badc0de --ek-public ek.pub"));
        let quote = &seen["quote"];
        assert_eq!((&quote["fresh"], &quote["nonce"]), (&true.into(), &"0badc0de".into()), "{ak} {scheme}");
        assert_eq!(
            quote["key"]["name"],
            hex::encode(site.read("ak.name")),
            "the Name that the tool worked out"
        );
        let once = "ee4b0e933b56cdf12a42b1e3f3b9ed1aa70cf9f3cf37325693255c8bfbcb8ba8";
        assert_eq!(quote["values"]["sha256"]["23"], once);
        assert!(quote["says_child_of"].is_string(), "made under the endorsement key: {quote}");
        assert!(seen["not_proven"].to_string().contains("TPM2_ActivateCredential"));
        site.refused(&format!("{VERIFY} --quote-nonce 0badc0df"), "does not answer this nonce");
    }
    let shown = site.json("evidence show --json quote");
    assert_eq!((&shown[0]["kind"], &shown[0]["quote"]["pcrs"]["sha256"][1]), (&"quote".into(), &23.into()));
    let text = running::said(&site.husk("evidence show quote"));
    assert!(
        text.contains("Nothing of this is verified") && text.contains("whose TPM holds that key"),
        "{text}"
    );
    // Without nonce and values less is proven, and that is said.
    let less = site.json(VERIFY);
    assert_eq!((&less["quote"]["fresh"], &less["quote"]["values"]), (&false.into(), &Value::Null));
    assert!(less["not_proven"].to_string().contains("recent"));
    let text = running::said(&site.husk(&VERIFY.replace("--json ", "")));
    assert!(
        text.contains("Proven: the attestation key signed") && text.contains("NOT proven: that"),
        "{text}"
    );
    // An altered quote, another's signature, a key that may sign anything.
    let mut altered = site.read("quote");
    *altered.last_mut().unwrap() ^= 1;
    site.write("altered", &altered);
    site.refused(&VERIFY.replace("--quote quote", "--quote altered"), "does not verify");
    site.refused(&VERIFY.replace("--ak ak.pub", "--ak ek.pub"), "is not one");
    site.tool("tpm2_createprimary -Q -C o -G ecc -c primary");
    site.tool("tpm2_flushcontext -t");
    site.tool("tpm2_create -Q -C primary -G ecc256:ecdsa -u plain.pub -r plain.priv");
    site.refused(&VERIFY.replace("--ak ak.pub", "--ak plain.pub"), "may sign what no TPM made");
    assert_eq!(
        site.husk("evidence verify --quote quote").status.code(),
        Some(2),
        "a quote alone proves nothing"
    );
}

/// `tpm2_createek` of both kinds, certified by swtpm's authority as a maker would.
#[test]
fn a_certificate_by_swtpms_authority_is_verified_for_this_tpms_key_and_no_other() {
    let site = Site::new();
    let at = site.0.folder.path().display().to_string();
    site.write(
        "ca.conf",
        format!("statedir = {at}\nsigningkey = {at}/sign.pem\nissuercert = {at}/issuer.pem\ncertserial = {at}/serial\n"),
    );
    site.write("ca.options", "--platform-manufacturer A --platform-version 1 --platform-model B\n");
    let verify = "evidence verify --json --ek-certificate ek.cert --ek-root swtpm-localca-rootca-cert.pem --ek-intermediate issuer.pem";
    for kind in ["rsa", "ecc384"] {
        site.tool("tpm2_flushcontext -t");
        site.tool(&format!("tpm2_createek -Q -G {kind} -c ek -u {kind}.pub"));
        let public = site.read(&format!("{kind}.pub"));
        // The key's numbers end the public area.
        let ek = if kind == "rsa" {
            hex::encode(&public[public.len() - 256..])
        } else {
            let tail = &public[public.len() - 98..];
            format!("x={},y={},id=secp384r1", hex::encode(&tail[..48]), hex::encode(&tail[50..]))
        };
        site.tool(&format!(
            "swtpm_localca --type ek --ek {ek} --dir . --tpm2 --tpm-spec-family 2.0 --tpm-spec-level 0 --tpm-spec-revision 164 \
             --tpm-manufacturer id:49424D00 --tpm-model Husk --tpm-version id:20191023 --configfile ca.conf --optsfile ca.options"
        ));
        let seen = site.json(&format!("{verify} --ek-public {kind}.pub"));
        assert_eq!(
            (&seen["ek_certificate"]["manufacturer_name"], &seen["ek_certificate"]["model"]),
            (&"IBM".into(), &"Husk".into())
        );
        let shown = site.json("evidence show --json ek.cert");
        assert_eq!(
            (&shown[0]["kind"], &shown[0]["ek_certificate"]),
            (&"ek_certificate".into(), &seen["ek_certificate"])
        );
        let said = site.json(verify)["not_proven"].to_string();
        assert!(said.contains("neither a manifest nor its public area"), "{said}");
    }
    site.refused(&format!("{verify} --ek-public rsa.pub"), "for another endorsement key");
    site.refused(&verify.replace(" --ek-intermediate issuer.pem", ""), "none of the named roots");
    site.refused(
        &verify.replace("--ek-certificate ek.cert", "--ek-certificate issuer.pem"),
        "tcg-kp-EKCertificate",
    );
}

/// What the profile lets an issuer do and swtpm does not: no subject at all, ECDSA.
#[test]
fn a_certificate_by_openssl_is_verified_if_it_has_what_the_profile_demands() {
    let site = Site::new();
    site.tool("tpm2_createek -Q -G ecc -c ek -u ek.pub");
    site.tool("tpm2_readpublic -Q -c ek -f pem -o ek.pem");
    site.tool("openssl ecparam -name secp384r1 -genkey -noout -out ca.key");
    let root = "openssl req -x509 -new -key ca.key -subj /CN=maker -days 30 -out ca.pem -addext";
    site.tool(&format!("{root} keyUsage=critical,keyCertSign"));
    site.tool("openssl req -new -key ca.key -subj /CN=unused -out request");
    let good = "extendedKeyUsage=2.23.133.8.1\nbasicConstraints=critical,CA:FALSE\nkeyUsage=critical,keyAgreement\n\
        subjectAltName=critical,dirName:tpm\n[tpm]\n1.2.23.133.2.1=id:414D4400\n2.2.23.133.2.2=a model\n3.2.23.133.2.3=id:13\n";
    let verdict = |extensions: &str| {
        site.write("extensions", format!("[ek]\n{extensions}"));
        site.tool(
            "openssl x509 -req -in request -force_pubkey ek.pem -subj / -CA ca.pem -CAkey ca.key -CAcreateserial -days 9 -sha384 \
             -extfile extensions -extensions ek -outform DER -out ek.cert",
        );
        site.husk("evidence verify --json --ek-certificate ek.cert --ek-root ca.pem --ek-public ek.pub")
    };
    let seen = verdict(good);
    assert!(seen.status.success(), "{}", running::said(&seen));
    let seen: Value = serde_json::from_slice(&seen.stdout).unwrap();
    let said = &seen["ek_certificate"];
    assert_eq!(
        (&said["manufacturer_name"], &said["model"], &said["subject"]),
        (&"AMD".into(), &"a model".into(), &"".into())
    );
    for (there, instead) in [
        ("extendedKeyUsage=2.23.133.8.1\n", ""),
        ("2.23.133.8.1", "serverAuth"),
        ("CA:FALSE", "CA:TRUE"),
        ("basicConstraints=critical,CA:FALSE\n", ""),
        ("keyAgreement", "digitalSignature"),
        ("keyUsage=critical,keyAgreement\n", ""),
        ("subjectAltName=critical,dirName:tpm", "subjectAltName=dirName:tpm"),
        ("subjectAltName=critical,dirName:tpm", "subjectAltName=critical,DNS:tpm"),
        ("1.2.23.133.2.1=id:414D4400\n", ""),
        ("id:414D4400", "id:414D44"),
        ("id:13", "13"),
        ("2.2.23.133.2.2=a model\n", ""),
    ] {
        assert!(good.contains(there), "{there}");
        let refused = verdict(&good.replace(there, instead));
        assert_eq!(refused.status.code(), Some(1), "{there} -> {instead}: {}", running::said(&refused));
    }
}

/// The keys of the golden files: a report at VMPL 0 covers the manifest, the certificate is for a key in it.
#[test]
fn evidence_of_one_tpm_goes_together() {
    let data = format!("{}/../../tests/data", env!("CARGO_MANIFEST_DIR"));
    let verify = format!(
        "evidence verify --json --quote {data}/tpm/rsassa.quote --signature {data}/tpm/rsassa.signature --ak {data}/tpm/rsassa.pem \
         --ek-certificate {data}/tpm/ek-p256.der --ek-root {data}/tpm/root.pem --ek-intermediate {data}/tpm/issuer.pem"
    );
    let output = Command::new(env!("CARGO_BIN_EXE_husk")).args(verify.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{}", running::said(&output));
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut seen = seen.as_object().cloned().unwrap();
    // What people read is not part of the form.
    assert!(seen.remove("proven").is_some() && seen.remove("not_proven").is_some());
    let json = serde_json::to_string_pretty(&seen).unwrap() + "\n";
    let file = format!("{data}/tpm/verified.json");
    if std::env::var_os("HUSK_BLESS").is_some() {
        fs::write(&file, &json).unwrap();
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), json, "{file}");
}
