//! Primary keys, children, sealed data, sessions, lockout.

use crate::field;
use crate::stack::Serving;
use std::fs;

fn write(tpm: &Serving<'_>, name: &str, content: &[u8]) {
    fs::write(tpm.path(name), content).unwrap();
}

fn read(tpm: &Serving<'_>, name: &str) -> Vec<u8> {
    fs::read(tpm.path(name)).unwrap()
}

/// Creates `name` under the primary key and loads it.
fn make(tpm: &Serving<'_>, name: &str, how: &str) {
    tpm.run_line(&format!("create -C primary.ctx {how} -u {name}.pub -r {name}.priv"));
    tpm.run_line(&format!("load -C primary.ctx -u {name}.pub -r {name}.priv -c {name}.ctx"));
}

pub(crate) fn hierarchies_and_their_passwords(tpm: &Serving<'_>) {
    tpm.run_line("changeauth -c o secret");
    tpm.refused("createprimary -C o -G ecc -c primary.ctx");
    tpm.run_line("createprimary -C o -P secret -G rsa -c rsa.ctx");
    tpm.run_line("changeauth -c o -p secret");
    tpm.run_line("createprimary -C o -G ecc -c primary.ctx");
    tpm.run_line("evictcontrol -C o -c primary.ctx 0x81000001");
    assert!(tpm.run_line("getcap handles-persistent").contains("0x81000001"));
    tpm.run_line("evictcontrol -C o -c 0x81000001");
    // The same template under the same seed is the same key.
    tpm.run_line("readpublic -c primary.ctx -o first");
    tpm.run_line("createprimary -C o -G ecc -c primary.ctx");
    tpm.run_line("readpublic -c primary.ctx -o second");
    assert_eq!(read(tpm, "first"), read(tpm, "second"));
}

pub(crate) fn signs_and_verifies(tpm: &Serving<'_>) {
    write(tpm, "message", b"a message");
    write(tpm, "other", b"another message");
    for (name, how) in [("ecdsa", "-G ecc:ecdsa"), ("rsassa", "-G rsa2048:rsassa")] {
        make(tpm, name, how);
        tpm.run_line(&format!("sign -c {name}.ctx -g sha256 -o signature message"));
        tpm.run_line(&format!("verifysignature -c {name}.ctx -g sha256 -m message -s signature"));
        tpm.refused(&format!("verifysignature -c {name}.ctx -g sha256 -m other -s signature"));
    }
    make(tpm, "hmac", "-G hmac");
    let hmac = |message: &str| tpm.run_line(&format!("hmac -c hmac.ctx --hex {message}"));
    assert_eq!(hmac("message"), hmac("message"));
    assert_ne!(hmac("message"), hmac("other"));
}

pub(crate) fn encrypts_and_decrypts(tpm: &Serving<'_>) {
    make(tpm, "rsa", "-G rsa2048");
    tpm.run_line("rsaencrypt -c rsa.ctx -o encrypted message");
    assert_ne!(read(tpm, "encrypted"), b"a message");
    tpm.run_line("rsadecrypt -c rsa.ctx -o decrypted encrypted");
    assert_eq!(read(tpm, "decrypted"), b"a message");
    make(tpm, "ecdh", "-G ecc:ecdh");
    tpm.run_line("ecdhkeygen -c ecdh.ctx -u point -o shared");
    tpm.run_line("ecdhzgen -c ecdh.ctx -u point -o same");
    assert_eq!(read(tpm, "shared"), read(tpm, "same"));
}

/// Runs policy commands in a session, and ends it after `then`.
fn in_session(tpm: &Serving<'_>, kind: &str, policy: &[&str], then: impl FnOnce()) {
    tpm.run_line(&format!("startauthsession {kind} -S session.ctx"));
    for line in policy {
        tpm.run_line(&format!("{line} -S session.ctx"));
    }
    then();
    tpm.run_line("flushcontext session.ctx");
}

pub(crate) fn seals_to_pcrs_and_a_password(tpm: &Serving<'_>) {
    write(tpm, "secret", b"the disk's key");
    tpm.run_line("pcrreset 23");
    let policy = ["policypcr -l sha256:23", "policyauthvalue -L policy"];
    in_session(tpm, "", &policy, || ());
    make(tpm, "sealed", "-i secret -L policy -p password");
    let kind = "--policy-session";
    in_session(tpm, kind, &policy, || {
        assert_eq!(tpm.run_line("unseal -c sealed.ctx -p session:session.ctx+password"), "the disk's key");
    });
    in_session(tpm, kind, &policy, || {
        tpm.refused("unseal -c sealed.ctx -p session:session.ctx+guess");
    });
    in_session(tpm, kind, &policy[1..], || {
        tpm.refused("unseal -c sealed.ctx -p session:session.ctx+password");
    });
    tpm.run_line(&format!("pcrextend 23:sha256={}", "11".repeat(32)));
    in_session(tpm, kind, &policy, || {
        tpm.refused("unseal -c sealed.ctx -p session:session.ctx+password");
    });
    tpm.run_line("dictionarylockout --clear-lockout");
}

/// A session salted with the primary key, encrypting parameters both ways.
pub(crate) fn talks_in_encrypted_sessions(tpm: &Serving<'_>) {
    tpm.run_line("startauthsession --hmac-session --tpmkey-context primary.ctx -S hmac-session.ctx");
    tpm.run_line("sessionconfig hmac-session.ctx --enable-encrypt --enable-decrypt");
    assert_eq!(tpm.run_line("getrandom --hex 16 -S hmac-session.ctx").trim().len(), 32);
    tpm.run_line("nvdefine 0x1500010 -C o -s 14 -a ownerread|ownerwrite -P session:hmac-session.ctx");
    tpm.run_line("nvwrite 0x1500010 -C o -i secret -P session:hmac-session.ctx");
    tpm.run_line("nvread 0x1500010 -C o -s 14 -o nv.read -P session:hmac-session.ctx");
    assert_eq!(read(tpm, "nv.read"), b"the disk's key");
    tpm.run_line("flushcontext hmac-session.ctx");
}

/// A key goes from one parent to another, and a key that others made comes in.
pub(crate) fn duplicates_and_imports(tpm: &Serving<'_>) {
    let duplication = ["policycommandcode TPM2_CC_Duplicate -L duplication"];
    in_session(tpm, "", &duplication, || ());
    make(tpm, "goes", "-G ecc:ecdsa -L duplication -a sensitivedataorigin|userwithauth|sign");
    tpm.run_line("createprimary -C o -G rsa -c other-parent.ctx");
    in_session(tpm, "--policy-session", &duplication, || {
        tpm.run_line(
            "duplicate -C other-parent.ctx -c goes.ctx -G null -p session:session.ctx -r goes.dup -s goes.seed",
        );
    });
    tpm.run_line(
        "import -C other-parent.ctx -G ecc -u goes.pub -i goes.dup -s goes.seed -r came.priv -L duplication",
    );
    tpm.run_line("load -C other-parent.ctx -u goes.pub -r came.priv -c came.ctx");
    tpm.run_line("sign -c came.ctx -g sha256 -o signature message");
    tpm.run_line("verifysignature -c goes.ctx -g sha256 -m message -s signature");
    write(tpm, "aes", &[7; 16]);
    tpm.run_line("import -C primary.ctx -G aes -i aes -u aes.pub -r aes.priv");
    tpm.run_line("load -C primary.ctx -u aes.pub -r aes.priv -c aes.ctx");
    tpm.run_line("encryptdecrypt -c aes.ctx -o encrypted message");
    tpm.run_line("encryptdecrypt -d -c aes.ctx -o decrypted encrypted");
    assert_eq!(read(tpm, "decrypted"), b"a message");
}

pub(crate) fn locks_out_who_guesses(tpm: &Serving<'_>) {
    tpm.run_line("dictionarylockout --setup-parameters --max-tries=3 --recovery-time=1000 --lockout-recovery-time=1000");
    make(tpm, "guarded", "-G ecc:ecdsa -p password");
    let variable = || tpm.run_line("getcap properties-variable");
    assert_eq!(field(&variable(), "TPM2_PT_MAX_AUTH_FAIL"), "0x3");
    assert_eq!(field(&variable(), "TPM2_PT_LOCKOUT_COUNTER"), "0x0");
    for guesses in 1..=3 {
        tpm.refused("sign -c guarded.ctx -p guess -g sha256 -o signature message");
        assert_eq!(field(&variable(), "TPM2_PT_LOCKOUT_COUNTER"), format!("0x{guesses}"));
    }
    tpm.refused("sign -c guarded.ctx -p password -g sha256 -o signature message");
    tpm.run_line("dictionarylockout --clear-lockout");
    tpm.run_line("sign -c guarded.ctx -p password -g sha256 -o signature message");
}
