//! Laws of the simulated processor behind its socket, and of its folder.

use husk::attest::report::Policy;
use husk::seams::{REPORT_BYTES, Reporter};
use husk_evidence::Verifier;
use husk_psp::client::Guest;
use husk_psp::{Identity, Processor, PspError, PspReporter, Refusal, SharedProcessor, os_entropy, server};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

const POLICY: u64 = Policy::RESERVED_ONE.union(Policy::SMT).bits();

/// A processor at a socket in a folder of its own; its thread ends with the test's process.
struct World {
    processor: SharedProcessor,
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

#[expect(clippy::unwrap_used, reason = "a helper of tests")]
fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("psp.sock");
    let processor = Processor::shared(Identity::published(0).unwrap(), os_entropy());
    let listener = server::listen(&socket).unwrap();
    let served = SharedProcessor::clone(&processor);
    std::thread::spawn(move || server::serve(&listener, &served));
    World { processor, socket, _folder: folder }
}

#[expect(clippy::unwrap_used, reason = "a helper of tests")]
fn reporter(socket: &Path) -> PspReporter<Guest> {
    let (mut guest, secrets) = Guest::launch(socket, &[0xF4; 3 << 20], &[5; 32], POLICY).unwrap();
    let certificate = guest.certificate().unwrap();
    PspReporter::new(guest, secrets, certificate)
}

#[test]
fn several_guests_report_through_the_socket_and_end_with_their_connection() {
    let world = world();
    let chain = Identity::published(0).unwrap().chain_pem().unwrap();
    let verifier = Verifier::new().unwrap().accept_simulated(chain.as_bytes()).unwrap();
    let mut reporters: Vec<_> = (0..3).map(|_| reporter(&world.socket)).collect();
    for round in 0..3u8 {
        for reporter in &mut reporters {
            let (mut report, mut certificate) = ([0; REPORT_BYTES], [0; 4096]);
            reporter.report(&[round; 64], &mut report).unwrap();
            let length = reporter.certificate(&mut certificate);
            let verified = verifier.verify(&report, &certificate[..length]).unwrap();
            assert_eq!(verified.report.report_data(), &[round; 64]);
            assert_eq!(verified.report.host_data(), &[5; 32]);
        }
    }
    assert_eq!(world.processor.lock().unwrap().guests(), 3);
    drop(reporters);
    // The server's threads see the closed sockets in their own time.
    while world.processor.lock().unwrap().guests() != 0 {
        std::thread::yield_now();
    }
}

#[test]
fn a_connection_cannot_speak_for_another_connection_s_guest() {
    let world = world();
    let _owner = reporter(&world.socket);
    let mut stranger = UnixStream::connect(&world.socket).unwrap();
    // END of guest 1, which is the owner's.
    stranger.write_all(&[9, 0, 0, 0, 6, 1, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    let mut reply = [0; 6];
    stranger.read_exact(&mut reply).unwrap();
    assert_eq!(reply, [2, 0, 0, 0, 0xFF, Refusal::UnknownGuest as u8]);
    assert_eq!(world.processor.lock().unwrap().guests(), 1);
}

#[test]
fn garbage_is_refused_and_an_endless_frame_ends_the_connection() {
    let world = world();
    let mut stream = UnixStream::connect(&world.socket).unwrap();
    for frame in [&[0, 0, 0, 0][..], &[1, 0, 0, 0, 99], &[2, 0, 0, 0, 5, 5]] {
        stream.write_all(frame).unwrap();
        let mut reply = [0; 6];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(reply, [2, 0, 0, 0, 0xFF, Refusal::Malformed as u8]);
    }
    stream.write_all(&[0xFF; 4]).unwrap();
    assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0, "closed");
    drop(reporter(&world.socket));
}

#[test]
fn a_refused_launch_says_why() {
    let world = world();
    let refused = Guest::launch(&world.socket, &[1], &[0; 32], 0).err();
    assert!(matches!(refused, Some(PspError::Refused(Refusal::Policy))));
    let nobody = Guest::launch(&world.socket.with_extension("none"), &[1], &[0; 32], POLICY).err();
    assert!(matches!(nobody, Some(PspError::Socket { .. })));
}

#[test]
fn the_socket_is_its_owner_s_and_replaces_only_a_dead_one() {
    let world = world();
    let mode = std::fs::metadata(&world.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(server::listen(&world.socket).is_err(), "somebody answers there");
    let dead = world.socket.with_extension("dead");
    drop(server::listen(&dead).unwrap());
    assert!(server::listen(&dead).is_ok(), "nobody answers there");
    let file = world.socket.with_extension("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(server::listen(&file).is_err() && file.exists(), "a file is not a socket");
}

#[test]
fn a_folder_keeps_its_processor_and_is_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("psp");
    let identity = Identity::published(7).unwrap();
    identity.save(&dir).unwrap();
    for key in ["ask.key", "vcek.key"] {
        let mode = std::fs::metadata(dir.join(key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    let loaded = Identity::load(&dir).unwrap();
    assert_eq!((loaded.certificate(), loaded.hwid()), (identity.certificate(), identity.hwid()));
    assert!(Identity::published(8).unwrap().save(&dir).is_err(), "a second processor in the same folder");
    let sibling = loaded.sibling(&mut os_entropy()).unwrap();
    assert_ne!(sibling.hwid(), loaded.hwid());
    let chain = std::fs::read(dir.join("chain.pem")).unwrap();
    let verifier = Verifier::new().unwrap().accept_simulated(&chain).unwrap();
    assert!(verifier.endorse(sibling.certificate()).is_ok(), "another chip under the same root");
    std::fs::write(dir.join("vcek.key"), [0; 48]).unwrap();
    assert!(Identity::load(&dir).is_err(), "zero is no key");
}
