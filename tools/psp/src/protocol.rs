//! What a hypervisor asks of a processor, as values and on the socket.
//!
//! **What.** [`Request`] and [`Reply`], and their frames: a length (u32, little-endian, of what follows), one byte of
//! kind, a body of fixed fields and at most one variable part that runs to the frame's end.
//! **Trust.** None: the hypervisor may send anything.
//! **Laws.** A frame is bounded; what decodes encodes back to the same bytes; nothing panics.
//! **Not here.** What the requests do: `processor.rs`.

use crate::launch::{PAGE_BYTES, PageType};
use husk::bytes::{Reader, Short};
use std::io::{Error, ErrorKind, Read, Write};

/// The most pages that one [`Request::LaunchUpdate`] carries.
pub(crate) const PAGES_MAX: usize = 256;
/// The longest frame after its length: a full update.
const FRAME_BYTES_MAX: usize = 1 + 8 + 1 + 8 + PAGES_MAX * PAGE_BYTES;

/// A page of a message or of a guest.
pub type Page = [u8; PAGE_BYTES];

/// What a hypervisor asks.
#[derive(Clone, PartialEq, Eq)]
#[expect(missing_debug_implementations, reason = "whole pages, some with keys, are never printed")]
pub enum Request {
    /// SNP_LAUNCH_START: a new guest under this policy.
    LaunchStart {
        /// POLICY.
        policy: u64,
    },
    /// SNP_LAUNCH_UPDATE: adds pages, one after the other from `gpa`.
    LaunchUpdate {
        /// The guest.
        guest: u64,
        /// What the pages are.
        page_type: PageType,
        /// Where the first one lies.
        gpa: u64,
        /// Their content, a multiple of 4 KiB.
        bytes: Vec<u8>,
    },
    /// SNP_LAUNCH_FINISH: fixes HOST_DATA; the guest may run.
    LaunchFinish {
        /// The guest.
        guest: u64,
        /// HOST_DATA.
        host_data: [u8; 32],
    },
    /// SNP_GUEST_REQUEST: carries a message page.
    GuestRequest {
        /// The guest.
        guest: u64,
        /// The page.
        page: Box<Page>,
    },
    /// The certificate of the key that signs reports.
    Certificate,
    /// SNP_DECOMMISSION: the guest is gone.
    End {
        /// The guest.
        guest: u64,
    },
}

/// What the processor answers.
#[derive(Clone, PartialEq, Eq)]
#[expect(missing_debug_implementations, reason = "whole pages, some with keys, are never printed")]
pub enum Reply {
    /// To [`Request::LaunchStart`]: the guest.
    Guest(u64),
    /// Done, nothing to tell.
    Done,
    /// To [`Request::LaunchFinish`]: the secrets page. Silicon writes it into the guest's encrypted memory; here whoever
    /// launches sees it.
    Secrets(Box<Page>),
    /// To [`Request::GuestRequest`]: the response page.
    Response(Box<Page>),
    /// To [`Request::Certificate`]: DER.
    Certificate(Vec<u8>),
    /// Nothing was done.
    Refused(Refusal),
}

/// Why the processor did nothing. The numbers are this protocol's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub enum Refusal {
    /// The frame is malformed.
    #[error("the simulated processor does not understand the request. Use the same version on both ends")]
    Malformed = 1,
    /// The policy has unknown bits, or asks for what is not simulated.
    #[error(
        "the guest policy is not one that can be launched. Bit 17 must be one, migration is not simulated"
    )]
    Policy = 2,
    /// No such guest, or it is another connection's.
    #[error("there is no such guest here. Launch it on this connection")]
    UnknownGuest = 3,
    /// The guest is not in the state for this request.
    #[error("the request does not fit the guest's state. Launch once, then run")]
    Order = 4,
    /// Pages that are no pages.
    #[error("a launch update is not whole pages, or too many of them. Fix the launcher")]
    Pages = 5,
    /// Too many guests.
    #[error("the simulated processor is full. End other guests")]
    Full = 6,
    /// A guest message that is not the next one, or does not authenticate.
    #[error(
        "the guest's message is not the next one or does not authenticate. Somebody changed or repeated it"
    )]
    Message = 7,
    /// No entropy, or a defect.
    #[error("the simulated processor failed. See its log and start it again")]
    Failed = 8,
}

impl Refusal {
    const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Malformed,
            2 => Self::Policy,
            3 => Self::UnknownGuest,
            4 => Self::Order,
            5 => Self::Pages,
            6 => Self::Full,
            7 => Self::Message,
            8 => Self::Failed,
            _ => return None,
        })
    }
}

fn page(reader: &mut Reader<'_>) -> Result<Box<Page>, Short> {
    Ok(Box::new(reader.array()?))
}

/// The decoded value, if the reader is at its end.
fn whole<T>(reader: &Reader<'_>, value: T) -> Result<T, Short> {
    if reader.is_empty() { Ok(value) } else { Err(Short) }
}

impl Request {
    /// The kind and body of a frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::LaunchStart { policy } => {
                out.push(1);
                out.extend(policy.to_le_bytes());
            }
            Self::LaunchUpdate { guest, page_type, gpa, bytes } => {
                out.push(2);
                out.extend(guest.to_le_bytes());
                out.push(*page_type as u8);
                out.extend(gpa.to_le_bytes());
                out.extend(bytes);
            }
            Self::LaunchFinish { guest, host_data } => {
                out.push(3);
                out.extend(guest.to_le_bytes());
                out.extend(host_data);
            }
            Self::GuestRequest { guest, page } => {
                out.push(4);
                out.extend(guest.to_le_bytes());
                out.extend(page.as_slice());
            }
            Self::Certificate => out.push(5),
            Self::End { guest } => {
                out.push(6);
                out.extend(guest.to_le_bytes());
            }
        }
        out
    }

    /// Reads the kind and body of a frame.
    ///
    /// # Errors
    /// [`Short`] unless the bytes are exactly one request.
    pub fn decode(frame: &[u8]) -> Result<Self, Short> {
        let mut reader = Reader::new(frame);
        let [kind] = reader.array()?;
        let request = match kind {
            1 => Self::LaunchStart { policy: reader.u64_le()? },
            2 => {
                let guest = reader.u64_le()?;
                let [page_type] = reader.array()?;
                let page_type = PageType::from_number(page_type).ok_or(Short)?;
                let gpa = reader.u64_le()?;
                let bytes = reader.take(reader.rest().len())?.to_vec();
                Self::LaunchUpdate { guest, page_type, gpa, bytes }
            }
            3 => Self::LaunchFinish { guest: reader.u64_le()?, host_data: reader.array()? },
            4 => Self::GuestRequest { guest: reader.u64_le()?, page: page(&mut reader)? },
            5 => Self::Certificate,
            6 => Self::End { guest: reader.u64_le()? },
            _ => return Err(Short),
        };
        whole(&reader, request)
    }
}

impl Reply {
    /// The kind and body of a frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Guest(guest) => {
                out.push(0x81);
                out.extend(guest.to_le_bytes());
            }
            Self::Done => out.push(0x82),
            Self::Secrets(page) => {
                out.push(0x83);
                out.extend(page.as_slice());
            }
            Self::Response(page) => {
                out.push(0x84);
                out.extend(page.as_slice());
            }
            Self::Certificate(der) => {
                out.push(0x85);
                out.extend(der);
            }
            Self::Refused(refusal) => out.extend([0xFF, *refusal as u8]),
        }
        out
    }

    /// Reads the kind and body of a frame.
    ///
    /// # Errors
    /// [`Short`] unless the bytes are exactly one reply.
    pub fn decode(frame: &[u8]) -> Result<Self, Short> {
        let mut reader = Reader::new(frame);
        let [kind] = reader.array()?;
        let reply = match kind {
            0x81 => Self::Guest(reader.u64_le()?),
            0x82 => Self::Done,
            0x83 => Self::Secrets(page(&mut reader)?),
            0x84 => Self::Response(page(&mut reader)?),
            0x85 => Self::Certificate(reader.take(reader.rest().len())?.to_vec()),
            0xFF => {
                let [number] = reader.array()?;
                Self::Refused(Refusal::from_number(number).ok_or(Short)?)
            }
            _ => return Err(Short),
        };
        whole(&reader, reply)
    }
}

/// Writes one frame, in one write.
///
/// # Errors
/// The stream's.
pub(crate) fn send(stream: &mut impl Write, body: &[u8]) -> std::io::Result<()> {
    let length = u32::try_from(body.len()).map_err(|_| Error::from(ErrorKind::InvalidInput))?;
    stream.write_all(&[&length.to_le_bytes(), body].concat())
}

/// Reads one frame; `None` where the other end closed the stream between two frames.
///
/// # Errors
/// The stream's, or `InvalidData` for a frame that is too long.
pub(crate) fn receive(stream: &mut impl Read) -> std::io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length =
        usize::try_from(u32::from_le_bytes(length)).map_err(|_| Error::from(ErrorKind::InvalidData))?;
    if length > FRAME_BYTES_MAX {
        return Err(ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(Some(body))
}

#[cfg(test)]
mod tests {
    use super::{Page, PageType, Refusal, Reply, Request};

    fn requests() -> Vec<Request> {
        let page: Box<Page> = Box::new([7; 4096]);
        vec![
            Request::LaunchStart { policy: 0x3_0000 },
            Request::LaunchUpdate { guest: 3, page_type: PageType::Vmsa, gpa: 0x1000, bytes: vec![1; 4096] },
            Request::LaunchFinish { guest: 3, host_data: [9; 32] },
            Request::GuestRequest { guest: 3, page },
            Request::Certificate,
            Request::End { guest: 3 },
        ]
    }

    #[test]
    fn what_encodes_decodes_and_no_cut_or_longer_frame_of_fixed_size_does() {
        for request in requests() {
            let frame = request.encode();
            assert!(Request::decode(&frame) == Ok(request.clone()));
            let variable = matches!(request, Request::LaunchUpdate { .. });
            for cut in 0..frame.len() {
                assert!(
                    variable || Request::decode(&frame[..cut]).is_err(),
                    "kind {}, cut at {cut}",
                    frame[0]
                );
            }
            assert!(variable || Request::decode(&[&frame[..], &[0]].concat()).is_err());
        }
    }

    #[test]
    fn replies_decode_to_themselves() {
        let page: Box<Page> = Box::new([7; 4096]);
        let mut replies = vec![
            Reply::Guest(5),
            Reply::Done,
            Reply::Secrets(page.clone()),
            Reply::Response(page),
            Reply::Certificate(vec![1, 2]),
        ];
        replies.extend((1..=8).filter_map(Refusal::from_number).map(Reply::Refused));
        assert_eq!(replies.len(), 13);
        for reply in replies {
            assert!(Reply::decode(&reply.encode()) == Ok(reply.clone()));
        }
        assert!(Reply::decode(&[0xFF, 9]).is_err() && Reply::decode(&[]).is_err());
    }
}
