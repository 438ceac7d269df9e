//! The release protocol: bytes as frames and records, and a VM whose relay, or whose broker, is not honest.

use crate::broker_end::Seeded;
use crate::input::{Input, sized};
use crate::relay_world::{Act, World};
use husk::release::frame;
use husk::release::record::{Answerer, Asked, Caller, session_of};
use husk::release::session::SessionMemory;
use husk::release::transcript::{AgreementKey, broker_keys, vm_keys};
use husk::release::wire::{
    AnchorRequest, Bump, Bumped, Busy, Confirm, Denied, FRAME_BYTES_MAX, FrameKind, GrantReply, Hello, Lease,
    Operation, Refusal, ReleaseRequest, Renew, Resume, ServerHello, StateMissing, Status, Wire,
};
use std::cell::RefCell;
use std::io::Cursor;
use std::sync::OnceLock;
use zerocopy::FromZeros;

/// Both ends of a session that has a request outstanding.
struct Ends {
    caller: Caller,
    asked: Asked,
    answerer: RefCell<Answerer>,
}

impl Ends {
    fn new() -> Self {
        let mut entropy = Seeded::new(5);
        let [ephemeral, instance, broker] = [(); 3].map(|()| AgreementKey::generate(&mut entropy).unwrap());
        let (mut hello, mut server) = (Hello::new_zeroed(), ServerHello::new_zeroed());
        (hello.ephemeral, hello.instance) = (*ephemeral.point(), *instance.point());
        server.ephemeral = *broker.point();
        let mut caller = Caller::new(vm_keys(&ephemeral, &instance, &hello, &server).unwrap());
        let answerer = RefCell::new(Answerer::new(broker_keys(&broker, &hello, &server).unwrap()));
        let (_, asked) = caller.seal(Operation::Renew, &mut [0; FRAME_BYTES_MAX], 12).unwrap();
        Self { caller, asked, answerer }
    }
}

thread_local! {
    static ENDS: Ends = Ends::new();
}

/// One frame. It is what its parts say, it fits at most one structure of each kind, and no session takes it.
pub(crate) fn wire(data: &[u8]) {
    let mut bytes = data.to_vec();
    let Ok((kind, body)) = frame::open(&mut bytes) else { return };
    let body = body.to_vec();
    let mut again = vec![0; FRAME_BYTES_MAX];
    again[data.len() - body.len()..data.len()].copy_from_slice(&body);
    assert_eq!(frame::frame(kind, &mut again, body.len()), Ok(data.len()));
    assert!(again[..data.len()] == *data, "a second way to write a frame");
    exactly_its_size::<Hello>(&body);
    exactly_its_size::<ServerHello>(&body);
    exactly_its_size::<GrantReply>(&body);
    exactly_its_size::<Confirm>(&body);
    exactly_its_size::<AnchorRequest>(&body);
    exactly_its_size::<ReleaseRequest>(&body);
    exactly_its_size::<Bumped>(&body);
    for number in 0..=u8::MAX {
        let _known =
            (Operation::from_number(number), Status::from_number(number), FrameKind::from_number(number));
    }
    session_of(&body).ok();
    ENDS.with(|ends| {
        assert!(ends.caller.open(&ends.asked, &mut body.clone()).is_err(), "nobody has sealed this");
        assert!(ends.answerer.borrow_mut().open(&mut body.clone()).is_err(), "nobody has sealed this");
    });
}

fn exactly_its_size<T: Wire>(body: &[u8]) {
    assert_eq!(frame::exactly::<T>(body).is_ok(), body.len() == size_of::<T>());
}

/// The frames of an honest life, requests and replies.
fn life() -> &'static [Vec<u8>] {
    static FRAMES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    FRAMES.get_or_init(|| {
        let mut world = World::new(1);
        world.life(&mut SessionMemory::new()).unwrap();
        world.relay.log.into_iter().flat_map(|(request, reply)| [request, reply]).collect()
    })
}

pub(crate) fn wire_seeds() -> Vec<Vec<u8>> {
    let mut seeds = life().to_vec();
    seeds.push(vec![3, 0, 0, 0, 5, 1, 0]);
    seeds
}

/// A launch and the life after it: what the relay does at which exchange, and what a broker that holds the session's
/// keys answers to which operation.
pub(crate) fn client(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World::new(1);
    if input.byte() & 1 == 1 {
        world.life(&mut SessionMemory::new()).unwrap();
        world = world.relaunch(2);
    }
    for _ in 0..4 {
        if !input.is_over() {
            bend(&mut world, &mut input);
        }
    }
    let broker_is_honest = world.relay.broker.bend.reply.is_none();
    if let Ok(head) = world.life(&mut SessionMemory::new())
        && broker_is_honest
    {
        assert!(
            world.relay.broker.row.head == head && world.relay.broker.row.released,
            "broker and VM disagree"
        );
    }
}

fn bend(world: &mut World, input: &mut Input<'_>) {
    let (what, exchange) = (input.byte(), input.below(12));
    let act = match what % 11 {
        0 => Act::Flip { at: usize::from(input.short()), with: input.byte() },
        1 => Act::Truncate(usize::from(input.short())),
        2 => Act::Replace(frame_of(input)),
        3 => Act::Forge(frame_of(input)),
        4 => Act::DropReply,
        5 => Act::DropRequest,
        6 => Act::FlipRequest { at: usize::from(input.short()), with: input.byte() },
        7 => Act::Restart,
        8 => Act::Late(u64::from(input.word())),
        9 => Act::TooLong,
        _ => {
            let operation = Operation::ALL[input.below(Operation::ALL.len())];
            let status = Status::ALL[input.below(Status::ALL.len())];
            world.relay.broker.bend.reply = Some((operation, status, input.sized().to_vec()));
            return;
        }
    };
    world.relay.acts.push((exchange, act));
}

/// Any bytes, or a frame of the honest life: perhaps another than belongs here.
fn frame_of(input: &mut Input<'_>) -> Vec<u8> {
    match usize::from(input.byte()) {
        number if number < 16 => life()[number % life().len()].clone(),
        _ => input.sized().to_vec(),
    }
}

pub(crate) fn client_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![0], vec![1]];
    for exchange in 0..8u8 {
        seeds.push(vec![0, 0, exchange, 30, 0, 1]);
        seeds.push(vec![1, 1, exchange, 9, 0]);
        seeds.push(vec![0, 2, exchange, exchange ^ 3]);
        seeds.push(vec![1, 4 + exchange % 6, exchange, 0, 0, 0, 0]);
    }
    let bodies: [(u8, u8, usize); 7] = [
        (2, 0, GrantReply::BYTES),
        (2, 1, Busy::BYTES),
        (0, 2, Denied::BYTES),
        (3, 0, Lease::BYTES),
        (4, 4, 0),
        (5, 3, 0),
        (6, 0, Bumped::BYTES),
    ];
    for (operation, status, length) in bodies {
        seeds.push([&[0, 10, 0, operation, status][..], &sized(&vec![0xFF; length])].concat());
    }
    let unused = [Refusal::BYTES, Bump::BYTES, Renew::BYTES, Resume::BYTES, StateMissing::BYTES];
    for length in unused {
        seeds.push([&[1, 10, 0, 4, 0][..], &sized(&vec![1; length])].concat());
    }
    seeds
}

/// A byte stream on which a relay expects frames.
pub(crate) fn relay(data: &[u8]) {
    let mut stream = Cursor::new(data);
    let mut read = 0;
    while let Ok(Some(frame)) = husk_relay::frames::read(&mut stream) {
        assert!(frame.len() <= FRAME_BYTES_MAX && husk_relay::frames::is_frame(&frame));
        assert!(data[read..read + frame.len()] == *frame);
        read += frame.len();
    }
    if husk_relay::frames::is_frame(data) {
        assert_eq!(husk_relay::frames::read(&mut Cursor::new(data)).unwrap().unwrap(), data);
    }
}

pub(crate) fn relay_seeds() -> Vec<Vec<u8>> {
    vec![life().concat()[..4000].to_vec(), life()[0].clone(), vec![0; 4], vec![0xFF; 9]]
}
