//! `husk evidence ask` and `husk-attest`: a running guest's TPM behind a broker, whoever stands between, and whoever passes itself off for it.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends where its world fails")]

#[path = "support/site.rs"]
mod site;
#[path = "support/stack.rs"]
mod stack;

use husk_attester::attest::serve;
use husk_attester::tpm::{Place, Tpm};
use husk_attester::wire::{Challenge, Evidence, Identity, Kind, Selection, WireError, receive, send};
use husk_psp::expected_measurement;
use serde_json::Value;
use stack::{Serving, Stack, Start, Started, blank};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread::spawn;

/// Some public keys, as sshd keeps them; nobody has their private halves.
const HOST_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f root@vm\n";
const STRANGE_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIP/+/fz7+vn49/b19PPy8fDv7u3s6+rp6Ofm5eTj4uHg root@elsewhere\n";

/// The guest's program, which a build of the workspace puts beside the command.
fn program() -> String {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_husk")).with_file_name("husk-attest");
    assert!(
        program.exists(),
        "husk-attest is not built; run: cargo test --workspace --test runtime_attestation"
    );
    program.display().to_string()
}

/// A stack whose tenant has an authority, and the keys of its guest.
fn certified() -> Stack {
    let stack = Stack::new();
    let tenant = stack.tenant.clone();
    authorize(&stack, &tenant, "authority.pem");
    fs::write(stack.path("host.pub"), HOST_KEY).unwrap();
    fs::write(stack.path("strange.pub"), STRANGE_KEY).unwrap();
    stack
}

fn authorize(stack: &Stack, tenant: &str, out: &str) {
    let words = ["tenant", "authority", "init", "--database", "db", "--root-key", "root", "--tenant", tenant];
    let output = stack.site.run(&[&words[..], &["--out", out]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Asks, with the tenant's authority as the root.
fn ask(stack: &Stack, more: &str, command: &[&str]) -> Output {
    let fixed = ["evidence", "ask", "--json", "--ek-root", "authority.pem"];
    let more: Vec<&str> = more.split_whitespace().collect();
    stack.site.run(&[&fixed[..], &more, &["--"], command].concat())
}

#[track_caller]
fn believed(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn refused(output: &Output, why: &str) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(why) && output.stdout.is_empty(), "wanted `{why}`: {said}");
}

/// Who stands between client and guest: sees every word, and says another in its place.
type Twist = Box<dyn FnMut(Kind, Vec<u8>) -> Vec<u8> + Send>;

/// The far end of a command: what it is told, and what it says.
struct Far {
    from: File,
    to: File,
}

impl Read for Far {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.from.read(into)
    }
}

impl Write for Far {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.to.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

/// A command that leads to `play`.
fn leading_to(stack: &Stack, play: impl FnOnce(Far) + Send + 'static) -> [String; 3] {
    let folder = tempfile::tempdir_in(stack.site.folder.path()).unwrap().keep();
    let [told, says] = ["told", "says"].map(|name| folder.join(name));
    assert!(Command::new("mkfifo").args([&told, &says]).status().unwrap().success());
    let shell = format!("cat <{} & exec cat >{}", says.display(), told.display());
    spawn(move || {
        let from = File::open(&told).unwrap();
        play(Far { from, to: File::options().write(true).open(&says).unwrap() });
    });
    ["sh".to_owned(), "-c".to_owned(), shell]
}

/// A command that leads to a guest with the TPM at that seat, through `twist`.
fn through(stack: &Stack, seat: &str, mut twist: Twist) -> [String; 3] {
    let tpm = Place::Unix(stack.path(seat));
    leading_to(stack, move |mut client| {
        let (mut own, theirs) = UnixStream::pair().unwrap();
        let guest = spawn(move || {
            let mut tpm = Tpm::open(&tpm).unwrap();
            let (mut from, mut to) = (theirs.try_clone().unwrap(), theirs);
            // A twisted conversation ends as it ends.
            serve((&mut from, &mut to), &mut tpm, HOST_KEY.as_bytes()).ok();
        });
        let words =
            [(Kind::Hello, true), (Kind::Identity, false), (Kind::Challenge, true), (Kind::Evidence, false)];
        words.into_iter().all(|(kind, from_client)| {
            let (client, own): (&mut dyn Stream, &mut dyn Stream) = (&mut client, &mut own);
            carry(if from_client { (client, own) } else { (own, client) }, kind, &mut twist)
        });
        // The guest leaves its TPM before the client is let go.
        drop(own);
        guest.join().unwrap();
    })
}

/// A stream, in both directions.
trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

/// Carries one word, or the guest's that it failed; whether more may come.
fn carry((from, to): (&mut dyn Stream, &mut dyn Stream), kind: Kind, twist: &mut Twist) -> bool {
    let (mut from, mut to) = (from, to);
    match receive(&mut from, kind) {
        Ok(body) => send(&mut to, kind, &twist(kind, body)).is_ok(),
        Err(WireError::Failed(failure)) => {
            send(&mut to, Kind::Failure, &failure.to_bytes()).unwrap();
            false
        }
        Err(_) => false,
    }
}

/// Asks through `twist`.
fn ask_through(
    stack: &Stack,
    more: &str,
    twist: impl FnMut(Kind, Vec<u8>) -> Vec<u8> + Send + 'static,
) -> Output {
    let command = through(stack, "tpm", Box::new(twist));
    ask(stack, more, &command.each_ref().map(String::as_str))
}

fn words(stack: &Stack) -> String {
    format!("--config config --broker {}", stack.broker_url())
}

#[test]
fn a_running_guest_is_the_vm_that_was_expected_and_its_host_key_is_known_from_then_on() {
    let stack = certified();
    let tpm = stack.boot();
    let program = program();
    let guest = [program.as_str(), "--tpm", "unix:tpm", "--bind", "host.pub"];
    let digest = "22".repeat(32);
    tpm.run_line(&format!("pcrextend 11:sha256={digest}"));
    let seen = believed(&ask(&stack, &words(&stack), &guest));
    let value = seen["quote"]["values"]["sha256"]["11"].as_str().unwrap().to_owned();
    assert_eq!(seen["quote"]["fresh"], true);
    assert_eq!(seen["ek_certificate"]["launch"]["vm"], seen["statement"]["vm"]);
    assert_eq!(seen["quote"]["resets"], seen["statement"]["reset_count"]);
    let proven = seen["proven"].to_string();
    for word in [
        "is the VM that you named",
        "opened a secret",
        "for your nonce",
        "resetCount of the newest",
        "no older",
    ] {
        assert!(proven.contains(word), "{word}: {proven}");
    }
    let not = seen["not_proven"].to_string();
    assert!(not.contains("values are the right ones") && not.contains("private half"), "{not}");

    fs::write(stack.path("expected"), format!("# two kernels\nsha256:11={digest} sha256:11={value}\n"))
        .unwrap();
    let more = format!("{} --expected expected --known-hosts-out known --host vm.example", words(&stack));
    let seen = believed(&ask(&stack, &more, &guest));
    assert!(seen["proven"].to_string().contains("PCR 11 had a value that you expect"));
    assert_eq!(seen["bound"]["ssh"]["algorithm"], "ssh-ed25519");
    let known = fs::read_to_string(stack.path("known")).unwrap();
    assert_eq!(known, format!("vm.example {}\n", HOST_KEY.trim_end().rsplit_once(' ').unwrap().0));
    assert_eq!(ask(&stack, &more, &guest).status.code(), Some(4), "what is known is not overwritten");

    believed(&ask(&stack, "--bound-is host.pub --bound-out copy", &guest));
    assert_eq!(fs::read(stack.path("copy")).unwrap(), HOST_KEY.as_bytes());
    let less = believed(&ask(&stack, "--pcrs sha384:0,23", &guest));
    assert_eq!(less["quote"]["pcrs"], serde_json::json!({ "sha384": [0, 23] }));
    let not = less["not_proven"].to_string();
    assert!(not.contains("which VM it is") && not.contains("newest instance"), "{not}");

    // Another kernel than those that are expected.
    tpm.run_line(&format!("pcrextend 11:sha256={digest}"));
    let other = ask(&stack, "--expected expected", &guest);
    let said = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(other.status.code() == Some(1) && said.contains("\n  PCR 11 of sha256, "), "{said}");
    let shown: Value = serde_json::from_slice(&other.stdout).unwrap();
    assert!(
        shown["refused"].is_string() && shown["proven"].is_null(),
        "what was seen is shown, and proves nothing"
    );
    // The keys do not stay in a TPM without a resource manager.
    assert!(!tpm.run_line("getcap handles-transient").contains("0x80"));
    tpm.shut_down();
    let dead = ask(&stack, "", &guest);
    refused(&dead, "its TPM was not reached");
}

/// The second VM of one tenant: its TPM is genuine, and is not the one.
fn second_vm(stack: &Stack) -> Serving<'_> {
    stack.site.enrol_as(&stack.tenant, &expected_measurement(b"firmware of a test"), "config2", &[]);
    blank(&stack.path("volume2"));
    let start = Start { seat: "tpm2", volume: "volume2", config: "config2", ..Start::default() };
    match stack.start(start) {
        Started::Serves(serving) => serving,
        Started::Refused(code, said) => panic!("{code}: {said}"),
    }
}

#[test]
fn another_vms_tpm_or_key_does_not_pass_for_this_ones() {
    let stack = certified();
    let own = stack.boot();
    let other = second_vm(&stack);
    other.run_line("startup -c");
    let as_it_is = |seat: &str, more: &str| {
        let command = through(&stack, seat, Box::new(|_, body| body));
        ask(&stack, more, &command.each_ref().map(String::as_str))
    };
    believed(&as_it_is("tpm", &words(&stack)));
    believed(&as_it_is("tpm2", &words(&stack).replace("--config config", "--config config2")));
    refused(&as_it_is("tpm2", &words(&stack)), "not the one that you named");
    refused(&as_it_is("tpm2", "--vm 00000000000000000000000000000000"), "not the one that you named");

    // Its own endorsement key, and an attestation key that is in the other TPM.
    let place = Place::Unix(stack.path("tpm2"));
    let mixed = ask_through(&stack, "", move |kind, body| match kind {
        Kind::Identity => {
            let mut tpm = Tpm::open(&place).unwrap();
            let (key, _) = tpm.certified_key().unwrap();
            let keys = tpm.keys(key).unwrap();
            tpm.forget(&keys).unwrap();
            Identity { ak: keys.attestation.public, ..Identity::parse(&body).unwrap() }.to_bytes()
        }
        _ => body,
    });
    refused(&mixed, "did not open the challenge");
    let place = Place::Unix(stack.path("tpm2"));
    let quoted_there = answered_by(&stack, place);
    refused(&quoted_there, "did not quote this conversation");

    // A root that is not theirs.
    let tenants = ["tenant", "init", "--database", "db", "--root-key", "root", "--root-out", "t2", "--json"];
    let stranger = stack.site.json(&tenants)["tenant"].as_str().unwrap().to_owned();
    authorize(&stack, &stranger, "authority2.pem");
    let command = through(&stack, "tpm", Box::new(|_, body| body));
    let line = ["evidence", "ask", "--json", "--ek-root", "authority2.pem", "--", "sh", "-c", &command[2]];
    refused(&stack.site.run(&line), "none of the named roots");
    own.shut_down();
    other.shut_down();
}

/// The identity of the stack's own TPM but for the attestation key, which is of the TPM at `place`, as is the quote: over all that a stranger knows.
fn answered_by(stack: &Stack, place: Place) -> Output {
    let tpm = Place::Unix(stack.path("tpm"));
    let command = leading_to(stack, move |mut client| {
        let (mut tpm, mut other) = (Tpm::open(&tpm).unwrap(), Tpm::open(&place).unwrap());
        receive(&mut client, Kind::Hello).unwrap();
        let (key, certificate) = tpm.certified_key().unwrap();
        let own = tpm.keys(key).unwrap();
        let ek = own.endorsement.public.clone();
        tpm.forget(&own).unwrap();
        let theirs = other.keys(key).unwrap();
        let ak = theirs.attestation.public.clone();
        let said = Identity { ek, certificate, ak, bound: HOST_KEY.as_bytes().to_vec() }.to_bytes();
        send(&mut client, Kind::Identity, &said).unwrap();
        let challenge = Challenge::parse(&receive(&mut client, Kind::Challenge).unwrap()).unwrap();
        assert!(
            other.activate(&theirs, &challenge.blob, &challenge.secret).is_err(),
            "the challenge is for the other TPM"
        );
        let data = husk_attester::wire::binding(&challenge.nonce, &[0; 32], &said);
        let values = other.values(challenge.selection).unwrap();
        let (quote, signature) = other.quote(&theirs, &data, challenge.selection).unwrap();
        send(&mut client, Kind::Evidence, &Evidence { quote, signature, values }.to_bytes()).unwrap();
        other.forget(&theirs).unwrap();
    });
    ask(stack, "", &command.each_ref().map(String::as_str))
}

#[test]
fn who_stands_between_changes_nothing_replays_nothing_and_shows_no_key_of_its_own() {
    let stack = certified();
    let tpm = stack.boot();
    // What a relay hears in one conversation it says again in the next.
    let (to, heard) = std::sync::mpsc::channel();
    let honest = ask_through(&stack, "", move |kind, body| {
        if kind == Kind::Evidence {
            to.send(body.clone()).unwrap();
        }
        body
    });
    believed(&honest);
    let old = heard.recv().unwrap();
    let replayed =
        ask_through(&stack, "", move |kind, body| if kind == Kind::Evidence { old.clone() } else { body });
    refused(&replayed, "did not quote this conversation");

    let swapped = ask_through(&stack, "--bound-is strange.pub", |kind, body| match kind {
        Kind::Identity => {
            let bound = STRANGE_KEY.as_bytes().to_vec();
            Identity { bound, ..Identity::parse(&body).unwrap() }.to_bytes()
        }
        _ => body,
    });
    refused(&swapped, "its bound key among it, was changed on the way");
    // Forwarding everything: what the relay itself showed to the client is not what the guest holds.
    let relayed = ask_through(&stack, "--bound-is strange.pub", |_, body| body);
    refused(&relayed, "holds another key than strange.pub");

    let altered = ask_through(&stack, "", |kind, body| match kind {
        Kind::Evidence => {
            let mut evidence = Evidence::parse(&body).unwrap();
            evidence.values[40] ^= 1;
            evidence.to_bytes()
        }
        _ => body,
    });
    refused(&altered, "not the ones that were quoted");
    let forged = ask_through(&stack, "", |kind, body| match kind {
        Kind::Evidence => {
            let mut evidence = Evidence::parse(&body).unwrap();
            let last = evidence.quote.len() - 1;
            evidence.quote[last] ^= 1;
            evidence.to_bytes()
        }
        _ => body,
    });
    refused(&forged, "signature does not verify");
    let others = ask_through(&stack, "--pcrs sha256:7", |kind, body| match kind {
        Kind::Challenge => {
            let selection = Selection { bank: 0x000B, pcrs: 1 << 16 };
            Challenge { selection, ..Challenge::parse(&body).unwrap() }.to_bytes()
        }
        _ => body,
    });
    refused(&others, "quoted other PCRs than were asked for");
    let uncertified = ask_through(&stack, "", |kind, body| match kind {
        Kind::Identity => Identity { certificate: Vec::new(), ..Identity::parse(&body).unwrap() }.to_bytes(),
        _ => body,
    });
    refused(&uncertified, "has no certificate");
    tpm.shut_down();
}

#[test]
fn what_does_not_speak_or_does_not_end_is_left() {
    let site = site::Site::new();
    let key = format!("{}/../../tests/data/tpm/root.pem", env!("CARGO_MANIFEST_DIR"));
    let ask = |command: &[&str]| {
        let fixed = ["evidence", "ask", "--ek-root", &key, "--timeout-seconds", "1", "--"];
        site.run(&[&fixed[..], command].concat())
    };
    refused(&ask(&["sleep", "600"]), "does not answer any more");
    refused(&ask(&["true"]), "does not answer any more");
    refused(&ask(&["yes", "Welcome"]), "does not speak this protocol");
    refused(&ask(&["/nonexistent"]), "cannot run /nonexistent");
    let none = site.run(&["evidence", "ask", "--", "true"]);
    assert_eq!(none.status.code(), Some(2), "somebody has to be believed");
}
