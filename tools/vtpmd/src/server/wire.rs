//! swtpm's control messages (swtpm's `tpm_ioctl.h`): a big-endian command number and a body, answered by a body that
//! starts with a result, except for GET_CAPABILITY.

use husk::bytes::{Reader, Short};

/// The longest data of one HASH_DATA in bytes.
pub(super) const HASH_DATA_BYTES_MAX: usize = 4096;
/// The longest message in bytes: command number, length, data.
pub(super) const MESSAGE_BYTES_MAX: usize = 8 + HASH_DATA_BYTES_MAX;
/// The longest piece of GET_INFO's text in bytes.
const INFO_BYTES_MAX: usize = 3 * 1024;
/// Clients send the one byte of a locality alone, or in a structure padded to four.
const LOCALITY_BYTES_MAX: usize = 4;

/// A result, numbered as TPM 1.2 did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Outcome {
    Success = 0,
    BadParameter = 3,
    Fail = 9,
    /// Not offered, or not in this state.
    BadOrdinal = 10,
    BadLocality = 0x3D,
    /// There is no such blob now (TPM_RETRY).
    Absent = 0x800,
}

/// What a client wants of a state blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlobRequest {
    pub(super) flags: u32,
    /// One of the `BLOB_` numbers, or none of them.
    pub(super) kind: u32,
    /// Where to begin, of a blob that is read; how many bytes follow, of one that is written.
    pub(super) number: u32,
}

/// Kinds of state blobs.
pub(super) const BLOB_PERMANENT: u32 = 1;
pub(super) const BLOB_VOLATILE: u32 = 2;
/// Never there: it is TPM 1.2's.
pub(super) const BLOB_SAVESTATE: u32 = 3;
/// In a state blob's flags: it is encrypted under a migration key.
pub(super) const BLOB_ENCRYPTED: u32 = 2;

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request<'a> {
    GetCapability,
    /// Its flag says whether stored volatile state is deleted once it is read; here it always is.
    Init,
    Shutdown,
    GetEstablished,
    SetLocality(u8),
    HashStart,
    HashData(&'a [u8]),
    HashEnd,
    Cancel,
    StoreVolatile,
    ResetEstablished(u8),
    GetStateBlob(BlobRequest),
    /// The blob follows the request.
    SetStateBlob(BlobRequest),
    Stop,
    GetConfig,
    SetDataFd,
    SetBufferSize(u32),
    GetInfo {
        flags: u64,
        offset: u32,
    },
    LockStorage,
}

/// What the bytes received so far are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parsed<'a> {
    /// A request, and how many bytes it took.
    Whole(Request<'a>, usize),
    /// The beginning of one.
    Partial,
    /// No request at all, so where the next one begins is unknown.
    Nonsense,
}

/// Reads the first request in `bytes`.
pub(super) fn parse(bytes: &[u8]) -> Parsed<'_> {
    let mut reader = Reader::new(bytes);
    let Ok(number) = reader.u32_be() else { return Parsed::Partial };
    match body(number, &mut reader) {
        Ok(Some(request)) => Parsed::Whole(request, bytes.len() - reader.rest().len()),
        Ok(None) => Parsed::Nonsense,
        Err(Short) => Parsed::Partial,
    }
}

fn body<'a>(number: u32, reader: &mut Reader<'a>) -> Result<Option<Request<'a>>, Short> {
    Ok(Some(match number {
        0x01 => Request::GetCapability,
        0x02 => {
            reader.take(4)?;
            Request::Init
        }
        0x03 => Request::Shutdown,
        0x04 => Request::GetEstablished,
        0x05 => Request::SetLocality(locality(reader)?),
        0x06 => Request::HashStart,
        0x07 => match usize::try_from(reader.u32_be()?) {
            Ok(length) if length <= HASH_DATA_BYTES_MAX => Request::HashData(reader.take(length)?),
            _ => return Ok(None),
        },
        0x08 => Request::HashEnd,
        0x09 => Request::Cancel,
        0x0A => Request::StoreVolatile,
        0x0B => Request::ResetEstablished(locality(reader)?),
        0x0C => Request::GetStateBlob(blob(reader)?),
        0x0D => Request::SetStateBlob(blob(reader)?),
        0x0E => Request::Stop,
        0x0F => Request::GetConfig,
        0x10 => Request::SetDataFd,
        0x11 => Request::SetBufferSize(reader.u32_be()?),
        0x12 => {
            let flags = u64::from(reader.u32_be()?) << 32 | u64::from(reader.u32_be()?);
            let offset = reader.u32_be()?;
            reader.take(4)?;
            Request::GetInfo { flags, offset }
        }
        0x13 => {
            reader.take(4)?;
            Request::LockStorage
        }
        _ => return Ok(None),
    }))
}

fn blob(reader: &mut Reader<'_>) -> Result<BlobRequest, Short> {
    let mut reading = reader.clone();
    let (flags, kind, number) = (reading.u32_be()?, reading.u32_be()?, reading.u32_be()?);
    *reader = reading;
    Ok(BlobRequest { flags, kind, number })
}

/// A locality and the padding that came along with it.
fn locality(reader: &mut Reader<'_>) -> Result<u8, Short> {
    let padded = reader.take(reader.rest().len().clamp(1, LOCALITY_BYTES_MAX))?;
    padded.first().copied().ok_or(Short)
}

/// What not every machine has, as GET_CAPABILITY shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    Cancel,
    StoreVolatile,
    /// To read and to write them.
    StateBlobs,
    /// The simulator's frames on the data channel.
    CommandHeader,
}

impl Offer {
    const fn bits(self) -> u64 {
        match self {
            Self::Cancel => 1 << 5,
            Self::StoreVolatile => 1 << 6,
            Self::StateBlobs => 0b11 << 8,
            Self::CommandHeader => 1 << 15,
        }
    }
}

/// What a machine can do: what each can, and what this one offers.
pub(super) fn capabilities(offers: impl IntoIterator<Item = Offer>) -> Vec<u8> {
    let init_shutdown_established_locality_hashing = 0b1_1111;
    let reset_established = 1 << 7;
    let stop_config_datafd_buffersize_info = 0b1_1111 << 10;
    let lock_storage = 1 << 16;
    let all = init_shutdown_established_locality_hashing
        | reset_established
        | stop_config_datafd_buffersize_info
        | lock_storage;
    let bits: u64 = offers.into_iter().fold(all, |bits, offer| bits | offer.bits());
    bits.to_be_bytes().to_vec()
}

/// A blob from an offset on, behind its flags, which are none, and twice its length: of what will be transferred, and of
/// what is here. QEMU wants them to be the same.
pub(super) fn blob_reply(outcome: Outcome, blob: &[u8]) -> Vec<u8> {
    let size = u32::try_from(blob.len()).unwrap_or(u32::MAX);
    let mut bytes = words(outcome, &[0, size, size]);
    bytes.extend(blob);
    bytes
}

/// Words after a result.
pub(super) fn words(outcome: Outcome, words: &[u32]) -> Vec<u8> {
    [&[outcome as u32], words].concat().into_iter().flat_map(u32::to_be_bytes).collect()
}

/// GET_TPMESTABLISHED: a bit in a structure padded to eight bytes.
pub(super) fn established(outcome: Outcome, bit: bool) -> Vec<u8> {
    let mut bytes = words(outcome, &[]);
    bytes.extend([u8::from(bit), 0, 0, 0]);
    bytes
}

/// A piece of GET_INFO's text from `offset` on.
pub(super) fn info(text: &str, offset: u32) -> Vec<u8> {
    let whole = text.as_bytes();
    let rest = usize::try_from(offset).ok().and_then(|offset| whole.get(offset..));
    let Some(rest) = rest else { return words(Outcome::BadParameter, &[0, 0]) };
    let piece = &rest[..rest.len().min(INFO_BYTES_MAX)];
    let size = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let mut bytes = words(Outcome::Success, &[size(whole), size(piece)]);
    bytes.extend(piece);
    bytes
}

#[cfg(test)]
mod tests {
    use super::{
        MESSAGE_BYTES_MAX, Offer, Outcome, Parsed, Request, capabilities, established, info, parse, words,
    };

    fn message(number: u32, body: &[u8]) -> Vec<u8> {
        [&number.to_be_bytes(), body].concat()
    }

    #[test]
    fn a_locality_may_come_alone_or_padded() {
        for body in [&[3][..], &[3, 0xEE], &[3, 1, 2, 3]] {
            let bytes = message(5, body);
            assert_eq!(parse(&bytes), Parsed::Whole(Request::SetLocality(3), bytes.len()));
        }
        assert_eq!(parse(&message(5, &[])), Parsed::Partial);
        assert_eq!(
            parse(&message(0x0B, &[4, 0, 0, 0, 0, 0])),
            Parsed::Whole(Request::ResetEstablished(4), 8)
        );
    }

    #[test]
    fn every_prefix_of_a_message_is_partial_and_every_length_is_bounded() {
        let whole = message(7, &[&4096u32.to_be_bytes()[..], &[1; 4096]].concat());
        assert_eq!(whole.len(), MESSAGE_BYTES_MAX);
        assert!((0..whole.len()).all(|length| parse(&whole[..length]) == Parsed::Partial));
        assert_eq!(parse(&whole), Parsed::Whole(Request::HashData(&[1; 4096]), whole.len()));
        assert_eq!(parse(&message(7, &4097u32.to_be_bytes())), Parsed::Nonsense);
        assert_eq!(parse(&message(7, &[0xFF; 4])), Parsed::Nonsense);
    }

    #[test]
    fn no_bytes_surprise_the_parser() {
        for number in 0..0x20 {
            for length in 0..24 {
                for fill in [0, 1, 0xFF] {
                    let bytes = message(number, &vec![fill; length]);
                    match parse(&bytes) {
                        Parsed::Whole(_, taken) => assert!((4..=bytes.len()).contains(&taken)),
                        Parsed::Partial => assert!(length < 16 || number == 7),
                        Parsed::Nonsense => assert!(number == 0 || number == 7 || number > 0x13),
                    }
                }
            }
        }
    }

    #[test]
    fn replies_have_the_shape_that_clients_read() {
        assert_eq!(capabilities([]), 0x1_7C9Fu64.to_be_bytes());
        assert_eq!(capabilities([Offer::Cancel, Offer::StoreVolatile])[6..], [0x7C, 0xFF]);
        assert_eq!(capabilities([Offer::StateBlobs]), 0x1_7F9Fu64.to_be_bytes());
        assert_eq!(capabilities([Offer::CommandHeader]), 0x1_FC9Fu64.to_be_bytes());
        assert_eq!(0x1_7C9F & 0x348F, 0x348F, "what QEMU asks for at least");
        assert_eq!(0x1_7F9F & 0x378F, 0x378F, "and to migrate");
        assert_eq!(words(Outcome::BadOrdinal, &[1]), [0, 0, 0, 10, 0, 0, 0, 1]);
        assert_eq!(established(Outcome::Success, true), [0, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(info("text", 1), [0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 3, b'e', b'x', b't']);
        assert_eq!(info("text", 5)[..4], [0, 0, 0, 3]);
    }
}
