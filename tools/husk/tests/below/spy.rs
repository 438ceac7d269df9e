//! A QEMU whose channel passes through a test's hands, and whose launch leaves a copy of the secrets page.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Replaces the channel's socket by one of the test's, and keeps what the launcher put into the secrets page.
const SCRIPT: &str = r#"#!/bin/sh
for word in "$@"; do
  shift
  case "$word" in
    socket,id=channel,path=*) echo "${word#*path=}" > FOLDER/spy.path; word="socket,id=channel,path=FOLDER/spy.socket" ;;
    loader,file=*/secrets,addr=*) file="${word#loader,file=}"; cp "${file%%,addr=*}" FOLDER/spy.secrets ;;
  esac
  set -- "$@" "$word"
done
exec qemu-system-x86_64 "$@"
"#;

/// What was heard so far.
type Heard = Arc<Mutex<Vec<u8>>>;

/// Listens at the channel of one machine.
pub(crate) struct Spy {
    folder: PathBuf,
    to_host: Heard,
    to_layer: Heard,
}

impl Spy {
    /// Makes the program, and waits for the machine that it starts.
    pub(crate) fn new(folder: &Path) -> Self {
        let spy = Self { folder: folder.to_owned(), to_host: Heard::default(), to_layer: Heard::default() };
        let script = SCRIPT.replace("FOLDER", &folder.display().to_string());
        std::fs::write(spy.qemu(), script).expect("a file");
        std::fs::set_permissions(spy.qemu(), PermissionsExt::from_mode(0o755)).expect("a file of ours");
        let listener = UnixListener::bind(folder.join("spy.socket")).expect("a socket");
        let (path, to_host, to_layer) =
            (folder.join("spy.path"), Arc::clone(&spy.to_host), Arc::clone(&spy.to_layer));
        std::thread::spawn(move || {
            let (machine, _) = listener.accept().expect("the machine connects");
            let host = std::fs::read_to_string(path).expect("the script wrote it");
            let host = UnixStream::connect(host.trim()).expect("the launcher listens");
            let (from_machine, from_host) = (machine.try_clone(), host.try_clone());
            std::thread::spawn(move || carry(from_machine.expect("a socket"), host, &to_host));
            carry(from_host.expect("a socket"), machine, &to_layer);
        });
        spy
    }

    /// The program to start in place of QEMU.
    pub(crate) fn qemu(&self) -> PathBuf {
        self.folder.join("spy.qemu")
    }

    /// What the launch put into the secrets page.
    pub(crate) fn secrets_page(&self) -> Vec<u8> {
        std::fs::read(self.folder.join("spy.secrets")).expect("the script copied it")
    }

    /// What the layer sent, and what it was sent.
    pub(crate) fn heard(&self) -> [Vec<u8>; 2] {
        [&self.to_host, &self.to_layer].map(|heard| heard.lock().expect("no thread died").clone())
    }
}

fn carry(mut from: UnixStream, mut to: UnixStream, heard: &Heard) {
    let mut bytes = [0; 4096];
    // Either end closes when the machine ends.
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        heard.lock().expect("no thread died").extend(&bytes[..count]);
        if to.write_all(&bytes[..count]).is_err() {
            return;
        }
    }
}
