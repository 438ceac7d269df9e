//! A clone's first launch.

use crate::bench::{Bench, OTHER_VM, VM, head};
use crate::brought::Brought;
use crate::{created, granted};
use husk::release::ReleaseFault;
use husk::release::open::Granted;
use husk::release::statement::Outcome;
use husk::release::ticket::TicketOrder;

#[test]
fn a_clone_does_not_begin_with_an_older_guest_svn_than_its_original_had() {
    let bench = Bench::new();
    let mut original = bench.launch(&OTHER_VM, 1);
    original.processor.layout.guest_svn = 5.into();
    let (original, _) = created(original, &head(1, 1));
    assert_eq!(Brought::new(&bench, TicketOrder::Clone).bring(&bench), Outcome::Open);
    for (number, guest_svn, may) in [(2, 4, false), (3, 5, true)] {
        let mut clone = bench.launch(&VM, number);
        clone.processor.layout.guest_svn = guest_svn.into();
        if may {
            assert!(matches!(granted(&mut clone).1, Granted::Restore(_)));
        } else {
            assert_eq!(clone.boot().err(), Some(ReleaseFault::DeniedPolicy));
        }
    }
    drop(original);
}
