//! A platform whose channel leads through a relay that the test bends.

use super::broker_end::{BrokerEnd, Seeded};
use super::nothing::Nothing;
use husk::attest::launch::LaunchConfig;
use husk::release::open::Verdict;
use husk::release::session::{Attested, Client, SessionMemory};
use husk::release::tenure::Tenure;
use husk::release::{Anchor, Granted, Head, ReleaseFault};
use husk::seams::{
    Channel, ChannelError, Clock, Platform, REPORT_BYTES, REPORT_DATA_BYTES, Reporter, ReporterError,
};
use std::cell::Cell;
use std::rc::Rc;

/// What the relay does with one exchange.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// The request never arrives.
    DropRequest,
    /// The reply never arrives.
    DropReply,
    /// This arrives instead; the broker has answered all the same.
    Replace(Vec<u8>),
    /// This arrives instead; the request never does.
    Forge(Vec<u8>),
    /// One byte of the reply, if it is that long, is changed.
    Flip { at: usize, with: u8 },
    /// The reply ends early.
    Truncate(usize),
    /// One byte of the request, if it is that long, is changed.
    FlipRequest { at: usize, with: u8 },
    /// The broker restarts before the request arrives.
    Restart,
    /// The reply takes so long.
    Late(u64),
    /// The reply says that it is longer than the buffer.
    TooLong,
}

pub(crate) struct Relay {
    pub(crate) broker: BrokerEnd,
    /// Acts on the exchange with that number, counted from 0.
    pub(crate) acts: Vec<(usize, Act)>,
    /// Acts on every exchange from that number on.
    pub(crate) from: Option<(usize, Act)>,
    /// Every exchange: the request as sent, the reply as the broker sent it.
    pub(crate) log: Vec<(Vec<u8>, Vec<u8>)>,
    clock_ms: Rc<Cell<u64>>,
}

impl Relay {
    fn act(&mut self, number: usize) -> Option<Act> {
        if let Some(at) = self.acts.iter().position(|(at, _)| *at == number) {
            return Some(self.acts.swap_remove(at).1);
        }
        self.from.as_ref().filter(|(from, _)| number >= *from).map(|(_, act)| act.clone())
    }
}

impl Channel for Relay {
    fn exchange(&mut self, request: &[u8], reply: &mut [u8]) -> Result<usize, ChannelError> {
        let act = self.act(self.log.len());
        let mut delivered = request.to_vec();
        match &act {
            Some(Act::DropRequest) => {
                self.log.push((request.to_vec(), Vec::new()));
                return Err(ChannelError::Unreachable);
            }
            Some(Act::Forge(bytes)) => {
                self.log.push((request.to_vec(), bytes.clone()));
                reply[..bytes.len()].copy_from_slice(bytes);
                return Ok(bytes.len());
            }
            Some(Act::FlipRequest { at, with }) => flip(&mut delivered, *at, *with),
            Some(Act::Restart) => self.broker.forget_sessions(),
            _ => {}
        }
        let mut answer = self.broker.answer(&delivered);
        self.log.push((request.to_vec(), answer.clone()));
        match act {
            Some(Act::DropReply) => return Err(ChannelError::Unreachable),
            Some(Act::TooLong) => return Err(ChannelError::ReplyTooLong),
            Some(Act::Replace(other)) => answer = other,
            Some(Act::Flip { at, with }) => flip(&mut answer, at, with),
            Some(Act::Truncate(length)) => answer.truncate(length),
            Some(Act::Late(ms)) => self.clock_ms.set(self.clock_ms.get() + ms),
            _ => {}
        }
        reply[..answer.len()].copy_from_slice(&answer);
        Ok(answer.len())
    }
}

fn flip(bytes: &mut [u8], at: usize, with: u8) {
    bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= with);
}

pub(crate) struct ManualClock(Rc<Cell<u64>>);

impl Clock for ManualClock {
    fn now_ms(&self) -> u64 {
        self.0.get()
    }
}

/// Reports that carry the data where the processor puts it, and a certificate of some size.
pub(crate) struct TestReporter {
    pub(crate) works: bool,
}

impl Reporter for TestReporter {
    fn report(
        &mut self,
        data: &[u8; REPORT_DATA_BYTES],
        report: &mut [u8; REPORT_BYTES],
    ) -> Result<(), ReporterError> {
        report.fill(0x77);
        report[0x50..0x90].copy_from_slice(data);
        if self.works { Ok(()) } else { Err(ReporterError::Failed) }
    }

    fn certificate(&mut self, into: &mut [u8]) -> usize {
        into[..1400].fill(0x30);
        1400
    }
}

pub(crate) struct World {
    pub(crate) relay: Relay,
    pub(crate) reporter: TestReporter,
    pub(crate) clock_ms: Rc<Cell<u64>>,
    pub(crate) clock: Option<ManualClock>,
    entropy: Seeded,
    disk: Nothing,
    console: Nothing,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self::around(BrokerEnd::new(seed), seed)
    }

    /// The next launch of the VM, at the same broker.
    pub(crate) fn relaunch(self, seed: u64) -> Self {
        let mut broker = self.relay.broker;
        broker.forget_sessions();
        Self::around(broker, seed)
    }

    fn around(broker: BrokerEnd, seed: u64) -> Self {
        let clock_ms = Rc::new(Cell::new(1_000_000));
        let relay =
            Relay { broker, acts: Vec::new(), from: None, log: Vec::new(), clock_ms: Rc::clone(&clock_ms) };
        Self {
            relay,
            reporter: TestReporter { works: true },
            clock: Some(ManualClock(Rc::clone(&clock_ms))),
            clock_ms,
            entropy: Seeded::new(seed ^ 0x5EED),
            disk: Nothing,
            console: Nothing,
        }
    }

    pub(crate) fn platform(&mut self) -> Platform<'_> {
        Platform {
            disk: &mut self.disk,
            channel: &mut self.relay,
            reporter: &mut self.reporter,
            entropy: &mut self.entropy,
            clock: self.clock.as_ref().map(|clock| clock as &dyn Clock),
            console: &mut self.console,
        }
    }

    pub(crate) fn pass_ms(&self, ms: u64) {
        self.clock_ms.set(self.clock_ms.get() + ms);
    }

    pub(crate) fn config(&self) -> LaunchConfig {
        self.relay.broker.config()
    }

    pub(crate) fn client<'m>(&mut self, memory: &'m mut SessionMemory) -> Result<Client<'m>, ReleaseFault> {
        let config = self.config();
        let bound = config.bind(&config.host_data()).unwrap().anchored().unwrap();
        Client::new(&mut self.platform(), bound, memory)
    }

    /// Exchanges 0 and 1.
    pub(crate) fn attested(&mut self, client: &mut Client<'_>) -> Result<Attested, ReleaseFault> {
        client.hello(&mut self.platform())?.attest(&mut self.platform(), client)
    }

    /// Exchanges 0 to 2: a grant, taken apart, and the tenure that starts from it.
    pub(crate) fn granted<'m>(
        &mut self,
        memory: &'m mut SessionMemory,
    ) -> Result<(Keys, Tenure<'m>), ReleaseFault> {
        let mut client = self.client(memory)?;
        let attested = self.attested(&mut client)?;
        match attested.grant(&mut self.platform(), &mut client)? {
            Verdict::Granted(Granted::Create(grant)) => {
                let next = grant.next.secret().with(|bytes| *bytes);
                let keys = Keys { current: None, next, epoch: grant.next.epoch() - 1, head: Head::NONE };
                Ok((keys, Tenure::new(client, grant.pending)))
            }
            Verdict::Granted(Granted::Open(grant)) => {
                let current = Some(grant.current.secret().with(|bytes| *bytes));
                let next = grant.next.secret().with(|bytes| *bytes);
                assert_eq!(grant.current.epoch() + 1, grant.next.epoch());
                let keys = Keys { current, next, epoch: grant.current.epoch(), head: grant.head };
                Ok((keys, Tenure::new(client, grant.pending)))
            }
            Verdict::Granted(Granted::Restore(_) | Granted::Ephemeral(_)) => Err(ReleaseFault::Misuse),
            Verdict::Busy { .. } => Err(ReleaseFault::Busy),
        }
    }

    /// Exchanges 0 to 3: serving, with the first head confirmed.
    pub(crate) fn serving<'m>(&mut self, memory: &'m mut SessionMemory) -> Result<Tenure<'m>, ReleaseFault> {
        let (keys, mut tenure) = self.granted(memory)?;
        let _anchored = tenure.confirm(&mut self.platform(), &after(&keys.head))?;
        Ok(tenure)
    }

    /// Exchanges 0 to 7, one of each kind: what a whole life on the wire looks like.
    pub(crate) fn life(&mut self, memory: &mut SessionMemory) -> Result<Head, ReleaseFault> {
        let mut tenure = self.serving(memory)?;
        let (old, new) = (*tenure.standing().head(), after(tenure.standing().head()));
        let anchored = tenure.anchor(&mut self.platform(), &old, &new)?;
        assert_eq!(*anchored.head(), new);
        tenure.renew(&mut self.platform())?;
        tenure.bump(&mut self.platform())?;
        tenure.permit(&mut self.platform()).map(|_| ())?;
        tenure.release(&mut self.platform())?;
        Ok(*tenure.standing().head())
    }
}

/// What a grant yields.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Keys {
    pub(crate) current: Option<[u8; 32]>,
    pub(crate) next: [u8; 32],
    pub(crate) epoch: u64,
    pub(crate) head: Head,
}

/// A head that follows.
pub(crate) fn after(head: &Head) -> Head {
    let sequence = head.sequence + 1;
    Head { sequence, digest: [sequence.to_le_bytes()[0] | 0x80; 48] }
}
