//! A broker with the operator's own listener on a free port of loopback.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::allow_attributes, reason = "what is unused differs from test to test")]

use crate::service::Broker;
use husk_broker::ids::{TenantId, VmName};
use husk_broker::metrics::Metrics;
use husk_broker::operations::{self, Operations, PageToken};
use husk_broker::policy::Policy;
use husk_broker::store::{Enrolment, Store};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

pub(crate) const TOKEN: &str = "a-token-of-a-test-0123456789abcdef";

pub(crate) struct Site {
    pub(crate) broker: Broker,
    pub(crate) operations: Arc<Operations>,
    pub(crate) address: SocketAddr,
    // Before the folder: it holds the database.
    pub(crate) runtime: Runtime,
    path: PathBuf,
    _folder: TempDir,
}

impl Site {
    pub(crate) fn with(tenants: &[TenantId]) -> Self {
        Self::made(tenants, Some(PageToken::new(TOKEN).unwrap()))
    }

    pub(crate) fn without_token(tenants: &[TenantId]) -> Self {
        Self::made(tenants, None)
    }

    fn made(tenants: &[TenantId], token: Option<PageToken>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let metrics = Arc::new(Metrics::new().unwrap());
        let broker = Broker::counted(&path, tenants, &metrics);
        let operations = Operations::new(Arc::clone(&broker.service), metrics, token);
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(operations::serve(listener, Arc::clone(&operations), std::future::pending()));
        Self { broker, operations, address, runtime, path, _folder: folder }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn enrol(&self, store: &mut Store, vm: &VmName) {
        let policy = Policy { measurements: vec![[7; 48]], ..Policy::default() };
        store.enrol(vm, &Enrolment { host_data: vm.vm.0.repeat(2).try_into().unwrap(), policy }).unwrap();
    }

    /// The whole answer to a GET with more heads.
    pub(crate) fn said(&self, path: &str, heads: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\n{heads}connection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Status and body.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let answer = self.said(path, "");
        let (heads, body) = answer.split_once("\r\n\r\n").unwrap();
        (heads[9..12].parse().unwrap(), body.to_owned())
    }
}
