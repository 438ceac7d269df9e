//! The laws of the operator's own listener: what it says, of whom it does not, and how a broker ends.

#![expect(clippy::unwrap_used, reason = "a test ends where its world fails")]

#[path = "support/operations.rs"]
mod operations;
#[path = "support/service.rs"]
mod service;
#[path = "support/world.rs"]
mod world;

use husk::release::frame;
use husk::release::statement::StatusRequest;
use husk::release::wire::{FRAME_BYTES_MAX, FrameKind};
use husk_broker::admin::Request;
use husk_broker::admin::signed::signed;
use husk_broker::http::{self, Limits, Speech};
use husk_broker::ids::{TenantId, VmId, VmName};
use husk_broker::policy::{Refusal, Rule};
use husk_broker::store::Store;
use operations::{Site, TOKEN};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use tokio::sync::oneshot;

const A: TenantId = TenantId([0xA1; 16]);
const VM: VmName = VmName { tenant: A, vm: VmId([0xB2; 16]) };

fn series(site: &Site) -> Vec<String> {
    let (status, text) = site.get("/metrics");
    assert_eq!(status, 200);
    let samples = text.lines().filter(|line| line.starts_with("husk_broker_"));
    samples.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
}

#[test]
fn operations_say_how_the_broker_fares() {
    let site = Site::with(&[A]);
    assert_eq!(site.get("/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(site.get("/readyz"), (200, "ready\n".to_owned()));
    let (status, text) = site.get("/metrics");
    assert_eq!(status, 200);
    assert!(text.contains("# TYPE husk_broker_database_up gauge\nhusk_broker_database_up 1\n"), "{text}");
    assert!(site.said("/metrics", "").contains("content-type: text/plain; version=0.0.4"));
    for path in ["/", "/ui/", "/husk/v1/frame", "/husk/v1/tenant", "/kbs/v0/auth"] {
        assert_eq!(site.get(path).0, 404, "{path}");
    }
    site.operations.drain();
    assert_eq!(site.get("/readyz"), (503, "not ready: this broker is ending\n".to_owned()));
    assert_eq!(site.get("/healthz").0, 200, "it lives to the end");
}

#[test]
fn operations_are_not_ready_without_the_database() {
    let site = Site::with(&[A]);
    let database = rusqlite::Connection::open(site.path()).unwrap();
    database.execute_batch("ALTER TABLE broker RENAME TO elsewhere").unwrap();
    let (status, why) = site.get("/readyz");
    assert!(status == 503 && why.starts_with("not ready: the database failed"), "{status} {why}");
    let (_, text) = site.get("/metrics");
    assert!(text.contains("husk_broker_database_up 0"), "{text}");
    assert!(!text.contains("husk_broker_vms{"), "what is not known is not shown: {text}");
    assert_eq!(site.get("/healthz").0, 200);
    database.execute_batch("ALTER TABLE elsewhere RENAME TO broker").unwrap();
    assert_eq!(site.get("/readyz").0, 200, "it goes on by itself");
}

/// Whatever strangers and tenants send: the labels are this program's words, and their number does not grow with it.
#[test]
fn metrics_name_nobody_and_do_not_grow_with_what_is_sent() {
    let site = Site::with(&[A]);
    let store = &mut Store::open(site.path()).unwrap();
    site.enrol(store, &VM);
    let hand_in = |bytes: &[u8]| assert!(!site.broker.service.handle(bytes).is_empty());
    let flood = |round: u8| {
        for number in 0..20 {
            let asked = StatusRequest { tenant: A.0, vm: [number; 16], nonce: [round; 32] };
            let mut bytes = vec![0; FRAME_BYTES_MAX];
            let length = frame::frame_of(FrameKind::StatusRequest, &mut bytes, &asked).unwrap();
            hand_in(&bytes[..length]);
            let asked = StatusRequest { tenant: A.0, vm: VM.vm.0, nonce: [round; 32] };
            frame::frame_of(FrameKind::StatusRequest, &mut bytes, &asked).unwrap();
            hand_in(&bytes[..length]);
            bytes[4] = number;
            hand_in(&bytes[..length]);
        }
        let operator = site.broker.operator(A, &[]);
        let time_ms = site.broker.service.admin_greeting().unwrap()["time_ms"].as_u64().unwrap();
        let json = serde_json::to_vec(&Request::Tenant {}).unwrap();
        let sent = signed(&*site.broker.world, &operator, (site.broker.keys.broker(), time_ms), &json);
        site.broker.service.admin(&sent.unwrap()).unwrap();
    };
    flood(1);
    let before = series(&site);
    assert!(
        before
            .iter()
            .any(|name| name == "husk_broker_frames_total{kind=\"status_request\",outcome=\"answered\"}"),
        "{before:?}"
    );
    flood(2);
    assert_eq!(series(&site), before);
    let text = site.get("/metrics").1;
    for name in [A.to_string(), VM.vm.to_string()] {
        assert!(!text.contains(&name), "{text}");
    }
    assert!(text.contains("husk_broker_vms{life=\"virgin\"} 1"), "{text}");
    assert!(
        text.contains("husk_broker_tenant_requests_total{outcome=\"done\",request=\"tenant\"} 2"),
        "{text}"
    );
}

#[test]
fn the_ui_asks_for_its_token_and_shows_what_is_damaged_or_hostile_as_text() {
    let site = Site::with(&[A]);
    let store = &mut Store::open(site.path()).unwrap();
    site.enrol(store, &VM);
    let hostile =
        Refusal::new(Rule::Measurement, "<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>");
    store.refused(&VM, &hostile).unwrap();
    for header in ["", "authorization: Bearer wrong\r\n"] {
        let answer = site.said("/ui", header);
        assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("www-authenticate: Basic"), "{answer}");
        assert!(!answer.contains(&A.to_string()), "{answer}");
    }
    let shown = |path: &str| site.said(path, &format!("authorization: Bearer {TOKEN}\r\n"));
    let answer = shown("/ui");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("content-security-policy: default-src 'none'; style-src 'self'"), "{answer}");
    for text in [&A.to_string(), &VM.vm.to_string(), "virgin", "&lt;script&gt;alert(1)", "enrolled"] {
        assert!(answer.contains(text), "{text}: {answer}");
    }
    for tag in ["<script", "<img"] {
        assert!(!answer.contains(tag), "{answer}");
    }
    let behind = shown(&format!("/ui?after={}/{}", A, VM.vm));
    assert!(behind.starts_with("HTTP/1.1 200") && !behind.contains("virgin"), "{behind}");
    for bad in ["/ui?after=", "/ui?after=x/y", "/ui?before=1", &format!("/ui?after={A}")] {
        assert!(shown(bad).starts_with("HTTP/1.1 400"), "{bad}");
    }
    let database = rusqlite::Connection::open(site.path()).unwrap();
    database.execute_batch("UPDATE vms SET epoch = 7").unwrap();
    assert!(shown("/ui").contains("its row is damaged"), "one damaged row hides no other");
}

#[test]
fn without_a_token_there_is_no_ui() {
    let site = Site::without_token(&[A]);
    let answer = site.said("/ui", &format!("authorization: Bearer {TOKEN}\r\n"));
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert_eq!(site.get("/readyz").0, 200);
}

/// SIGTERM in the middle of a request: no new ones are taken, this one is answered, and then the broker has ended.
#[test]
fn a_request_that_is_at_work_is_answered_before_the_broker_ends() {
    let site = Site::with(&[]);
    let listener = site.runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let (end, ended) = oneshot::channel::<()>();
    let operations = Arc::clone(&site.operations);
    let end_ordered = async move {
        ended.await.unwrap();
        operations.drain();
    };
    let manner = (Speech::Plain, Limits::default());
    let serving =
        site.runtime.spawn(http::serve_within(listener, site.broker.service.clone(), end_ordered, manner));
    let idle = TcpStream::connect(address).unwrap();
    let mut open = TcpStream::connect(address).unwrap();
    let head = "POST /husk/v1/frame HTTP/1.1\r\nhost: x\r\ncontent-type: application/octet-stream\r\n\
        content-length: 8\r\nexpect: 100-continue\r\n\r\n";
    open.write_all(head.as_bytes()).unwrap();
    // The server says so when it has read the head and asks for the body.
    let mut go_on = [0; 25];
    open.read_exact(&mut go_on).unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    end.send(()).unwrap();
    while site.get("/readyz").0 == 200 {}
    open.write_all(b"no frame").unwrap();
    let mut answer = Vec::new();
    open.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    site.runtime.block_on(serving).unwrap().unwrap();
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
    drop(idle);
}
