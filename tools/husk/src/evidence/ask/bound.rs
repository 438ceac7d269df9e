//! The key that the guest binds to its evidence: a host key of SSH, or whatever else its clients meet it by.

use super::super::claims::Claims;
use super::super::read;
use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use clap::Args;
use husk_files::write_new;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::path::PathBuf;

/// The options about the bound key.
#[derive(Args, Debug)]
pub(super) struct BoundArgs {
    /// The key that must be bound, byte for byte: what the connection showed that you are about to use.
    #[arg(long, value_name = "FILE")]
    bound_is: Option<PathBuf>,
    /// Write what is bound here, such as a TLS certificate for `curl --cacert`. Never overwritten.
    #[arg(long, value_name = "FILE")]
    bound_out: Option<PathBuf>,
    /// Write the bound SSH key here as a known host. Never overwritten. Then: ssh -o UserKnownHostsFile=FILE -o GlobalKnownHostsFile=none -o
    /// StrictHostKeyChecking=yes
    #[arg(long, value_name = "FILE", requires = "host")]
    known_hosts_out: Option<PathBuf>,
    /// The name that the known host gets: what ssh is told to connect to, or its HostKeyAlias.
    #[arg(long, value_name = "NAME", requires = "known_hosts_out", value_parser = host)]
    host: Option<String>,
}

/// What a guest bound.
#[derive(Debug)]
pub(super) struct Bound<'b> {
    bytes: &'b [u8],
    ssh: Option<SshKey<'b>>,
}

/// A public key as `sshd` has it in a file.
#[derive(Debug)]
struct SshKey<'b> {
    algorithm: &'b str,
    key: &'b str,
    blob: Vec<u8>,
}

impl BoundArgs {
    /// Compares what is bound with what must be, and says what that proves.
    pub(super) fn judge<'b>(&self, bytes: &'b [u8], claims: &mut Claims) -> anyhow::Result<Bound<'b>> {
        let bound = Bound { bytes, ssh: ssh_key(bytes) };
        if let Some(file) = &self.bound_is {
            if read(file)? != bytes {
                bail!(
                    "the guest holds another key than {}: who showed you that one is not this guest, or stands between you",
                    file.display()
                );
            }
            claims.proven("the key that you named is bound to this evidence");
        } else {
            claims.proven("who commands this TPM bound the key that is shown to this evidence");
        }
        if self.known_hosts_out.is_some() && bound.ssh.is_none() {
            bail!(
                "what the guest binds is no public key of SSH, so it cannot be a known host; have it bind one (`husk-attest --bind`)"
            );
        }
        claims.not_proven(
            "that the other end of a connection is this guest, until that connection shows the bound key and its private half",
        );
        claims.not_proven("that only the guest's administrator chose the bound key: whoever in it may use its TPM may bind one");
        Ok(bound)
    }

    /// Writes what is to be written, once all else holds.
    pub(super) fn write(&self, bound: &Bound<'_>) -> anyhow::Result<()> {
        if let Some(file) = &self.bound_out {
            write_new(file, bound.bytes, 0o644)?;
        }
        let Some((file, host)) = self.known_hosts_out.as_ref().zip(self.host.as_ref()) else { return Ok(()) };
        let SshKey { algorithm, key, .. } = bound.ssh.as_ref().context("it is no public key of SSH")?;
        Ok(write_new(file, format!("{host} {algorithm} {key}\n").as_bytes(), 0o644)?)
    }
}

impl Bound<'_> {
    /// As JSON.
    pub(super) fn shown(&self) -> Value {
        let ssh = self.ssh.as_ref().map(|key| {
            let fingerprint = format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(&key.blob)));
            json!({ "algorithm": key.algorithm, "fingerprint": fingerprint })
        });
        json!({ "bytes": self.bytes.len(), "sha256": hex::encode(Sha256::digest(self.bytes)), "ssh": ssh })
    }
}

/// A line of algorithm, key and perhaps a remark; the key itself names the algorithm again (RFC 4253, section 6.6).
fn ssh_key(bytes: &[u8]) -> Option<SshKey<'_>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let line = text.strip_suffix('\n').unwrap_or(text);
    let mut words = line.split(' ');
    let (algorithm, key) = (words.next()?, words.next()?);
    let blob = STANDARD.decode(key).ok()?;
    let (length, rest) = blob.split_first_chunk()?;
    let named = rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    let plain = algorithm.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.@".contains(&byte));
    let one = !line.contains(['\n', '\r']) && !algorithm.is_empty() && plain && named == algorithm.as_bytes();
    one.then_some(SshKey { algorithm, key, blob })
}

/// A name that means itself in a file of known hosts.
fn host(name: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    if name.is_empty() || !name.bytes().all(plain) {
        return Err(format!("`{name}` is not the name of one host"));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{host, ssh_key};

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";

    #[test]
    fn an_ssh_key_is_one_line_that_agrees_with_itself() {
        for good in [KEY.to_owned(), format!("{KEY} root@vm\n")] {
            assert_eq!(ssh_key(good.as_bytes()).unwrap().algorithm, "ssh-ed25519");
        }
        for bad in [
            format!("{KEY}\n{KEY}"),
            format!("{KEY} x\ny"),
            format!("* {KEY}"),
            KEY.replace("ssh-ed25519", "ssh-rsa"),
            KEY.replace("AAAAC3", "AAAAD3"),
            "-----BEGIN CERTIFICATE-----".to_owned(),
            String::new(),
        ] {
            assert!(ssh_key(bad.as_bytes()).is_none(), "{bad}");
        }
        for bad in ["", "*", "a,b", "a b", "!a", "@cert-authority", "|1|a"] {
            assert!(host(bad).is_err(), "{bad}");
        }
        assert!(host("vm.example").is_ok() && host("[192.0.2.1]:2222").is_ok());
    }
}
