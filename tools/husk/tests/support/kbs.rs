//! A small KBS that speaks RCAR 0.4.0 over HTTP and checks what Trustee checks: version, session, nonce, the report's signature down to the
//! simulated root, VMPL, REPORT_DATA by the canonical JSON of what the client sent, HOST_DATA by its init-data. One resource a path.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use husk_broker::kbs::jwe::{TeeKey, sealed_to};
use husk_broker::world::Machine;
use husk_evidence::Verifier;
use kbs_types::{Attestation, Request, Tee};
use serde::Deserialize;
use serde_json::{Value, json};
use sev::firmware::guest::AttestationReport;
use sev::firmware::host::CertTableEntry;
use sev::parser::ByteParser as _;
use sha2::{Digest as _, Sha256, Sha384};
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

/// What is told of it while it runs.
#[derive(Default)]
pub(crate) struct State {
    /// By path.
    pub(crate) resources: BTreeMap<String, Vec<u8>>,
    /// It takes connections and says nothing.
    pub(crate) silent: bool,
    /// How many attestations held.
    pub(crate) attested: usize,
    nonce: Option<String>,
    session: u64,
    key: Option<TeeKey>,
}

/// A KBS at work until the test ends.
pub(crate) struct Kbs {
    pub(crate) url: String,
    state: Arc<Mutex<State>>,
}

/// What the evidence of an SNP guest is, in Trustee's words.
#[derive(Deserialize)]
struct SnpEvidence {
    attestation_report: AttestationReport,
    cert_chain: Option<Vec<CertTableEntry>>,
}

struct Asked {
    method: String,
    path: String,
    cookie: String,
    body: Vec<u8>,
}

impl Kbs {
    /// Serves; reports hold under the simulated root whose certificates are `chain`.
    pub(crate) fn serve(chain: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // A client that goes away is no concern of a server.
                drop(answer(stream.unwrap(), &shared, &chain));
            }
        });
        Self { url, state }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

fn answer(mut stream: TcpStream, state: &Mutex<State>, chain: &[u8]) -> io::Result<()> {
    let asked = asked(&stream)?;
    let mut state = state.lock().unwrap();
    if state.silent {
        return Ok(());
    }
    let (status, cookie, body) = match (asked.method.as_str(), asked.path.as_str()) {
        ("POST", "/kbs/v0/auth") => state.auth(&asked.body),
        ("POST", "/kbs/v0/attest") => state.attest(&asked, chain),
        ("GET", path) => state.resource(&asked, path),
        _ => (404, None, json!({})),
    };
    let body = body.to_string();
    let cookie = cookie.map(|id| format!("set-cookie: kbs-session-id={id}; Path=/\r\n")).unwrap_or_default();
    let head =
        format!("HTTP/1.1 {status} -\r\n{cookie}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

fn asked(stream: &TcpStream) -> io::Result<Asked> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, path) =
        (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let (mut cookie, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "cookie" => value.trim().clone_into(&mut cookie),
            "content-length" => length = value.trim().parse().unwrap(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Asked { method, path, cookie, body })
}

type Answer = (u16, Option<u64>, Value);

impl State {
    fn auth(&mut self, body: &[u8]) -> Answer {
        let request: Request = serde_json::from_slice(body).unwrap();
        if request.version != "0.4.0" || request.tee != Tee::Snp {
            return (401, None, json!({}));
        }
        self.session += 1;
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce).unwrap();
        let nonce = STANDARD.encode(nonce);
        self.nonce = Some(nonce.clone());
        (200, Some(self.session), json!({ "nonce": nonce, "extra-params": "" }))
    }

    fn is_of_session(&self, asked: &Asked) -> bool {
        asked.cookie == format!("kbs-session-id={}", self.session)
    }

    fn attest(&mut self, asked: &Asked, chain: &[u8]) -> Answer {
        let nonce = self.nonce.take().filter(|_| self.is_of_session(asked));
        match nonce.and_then(|nonce| attested(&nonce, &asked.body, chain)) {
            None => (401, None, json!({ "type": "refused" })),
            Some(key) => {
                self.key = Some(key);
                self.attested += 1;
                // A real token is longer than a frame may be.
                (200, None, json!({ "token": "e30.".repeat(5000) }))
            }
        }
    }

    fn resource(&self, asked: &Asked, path: &str) -> Answer {
        let stored = path.strip_prefix("/kbs/v0/resource/").and_then(|path| self.resources.get(path));
        match (stored, &self.key) {
            (Some(stored), Some(key)) if self.is_of_session(asked) => {
                (200, None, sealed_to(key, stored, &Machine::start()).unwrap())
            }
            _ => (401, None, json!({})),
        }
    }
}

/// What Trustee's attestation service and its verifier for SNP check; the TEE key.
fn attested(nonce: &str, body: &[u8], chain: &[u8]) -> Option<TeeKey> {
    let attestation: Attestation = serde_json::from_slice(body).unwrap();
    let value: Value = serde_json::from_slice(body).unwrap();
    let evidence: SnpEvidence = serde_json::from_value(attestation.tee_evidence.primary_evidence).unwrap();
    let report = evidence.attestation_report;
    let certificate = evidence.cert_chain.unwrap().remove(0).data;
    let bytes: [u8; 1184] = report.to_bytes().unwrap().as_ref().try_into().unwrap();
    let verifier = Verifier::new().unwrap().accept_simulated(chain).unwrap();
    verifier.verify(&bytes, &certificate).ok()?;
    // A map of strings without a character that needs an escape, with its keys in order, is canonical (RFC 8785).
    let bound = json!({
        "tee-pubkey": value["runtime-data"]["tee-pubkey"],
        "nonce": nonce,
        "additional-evidence": attestation.tee_evidence.additional_evidence,
    });
    let init_data = attestation.init_data.unwrap();
    let holds = attestation.runtime_data.nonce == nonce
        && report.vmpl == 0
        && report.report_data[..48] == Sha384::digest(bound.to_string())[..]
        && report.report_data[48..] == [0; 16]
        && report.host_data[..] == Sha256::digest(init_data.body)[..]
        && init_data.format == "toml";
    holds.then(|| serde_json::from_value(value["runtime-data"]["tee-pubkey"].clone()).unwrap())
}
