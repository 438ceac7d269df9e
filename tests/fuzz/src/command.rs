//! The header of a TPM command, what it needs, and the answer to one that is none.

use crate::input::Input;
use husk::engine::{COMMAND_BYTES_MAX, Command, Locality, Needs, ResponseCode};
use husk::frontend::reply;

/// A locality in the first byte, a command in the rest.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let locality = Locality::from_number(input.byte() % 5).unwrap();
    let bytes = input.rest();
    match Command::parse(bytes, locality) {
        Ok(command) => {
            assert!(is_consistent(bytes));
            assert_eq!((command.bytes(), command.body()), (bytes, &bytes[10..]));
            assert_eq!((command.locality(), command.has_sessions()), (locality, bytes[1] == 2));
            assert_eq!(command.code().to_be_bytes(), bytes[6..10]);
            a_session_never_needs_less(&command);
        }
        Err(fault) => {
            assert!(!is_consistent(bytes));
            let mut response = [0xEE; COMMAND_BYTES_MAX];
            let length = reply::write(fault.fault(), bytes, &mut response);
            assert_eq!(response[2..6], u32::try_from(length).unwrap().to_be_bytes());
            assert_ne!(ResponseCode::of(&response[..length]), ResponseCode::SUCCESS);
        }
    }
}

/// The rule, written a second time.
fn is_consistent(bytes: &[u8]) -> bool {
    let stated = bytes.get(2..6).map(|size| u32::from_be_bytes(size.try_into().unwrap()));
    let is_tagged = matches!(bytes.first_chunk(), Some([0x80, 1 | 2]));
    is_tagged && (10..=COMMAND_BYTES_MAX).contains(&bytes.len()) && stated == u32::try_from(bytes.len()).ok()
}

fn a_session_never_needs_less(command: &Command<'_>) {
    let rank = |needs| match needs {
        Needs::Nothing => 0,
        Needs::Lease => 1,
        Needs::Nv => 2,
    };
    let [without, with] = [1, 2].map(|tag| {
        let mut bytes = command.bytes().to_vec();
        bytes[1] = tag;
        rank(Command::parse(&bytes, command.locality()).unwrap().needs())
    });
    assert!(without <= with);
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let codes = [0x144, 0x143, 0x17B, 0x182, 0x176, 0x137, 0x134, 0x126, 0x131, 0x2000_0001];
    let command = |code: u32, tag: u8, body: &[u8]| {
        let size = u32::try_from(10 + body.len()).unwrap();
        [&[0, 0x80, tag], &size.to_be_bytes()[..], &code.to_be_bytes(), body].concat()
    };
    codes.iter().flat_map(|code| [command(*code, 1, &[0, 0]), command(*code, 2, &[0x81; 40])]).collect()
}
