//! What outlives a process: its orderly end, and its sudden one.

use crate::stack::{Serving, Stack};
use crate::{clock, counter, nv};
use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

const COUNTER: &str = "0x1500002";

/// A persistent key, an index, a counter and a sealed object.
fn leave(tpm: &Serving<'_>) {
    fs::write(tpm.path("content"), b"what the guest wrote on its first boot").unwrap();
    fs::write(tpm.path("secret"), b"the disk's key").unwrap();
    for line in [
        "nvdefine 0x1500001 -C o -s 38 -a ownerread|ownerwrite",
        "nvwrite 0x1500001 -C o -i content",
        "nvdefine 0x1500002 -C o -s 8 -a ownerread|ownerwrite|nt=counter",
        "nvincrement 0x1500002 -C o",
        "createprimary -C o -G ecc -c primary.ctx",
        "evictcontrol -C o -c primary.ctx 0x81000001",
        "readpublic -c 0x81000001 -n name",
        "createpolicy --policy-pcr -l sha256:23 -L policy",
        "create -C 0x81000001 -L policy -i secret -u sealed.pub -r sealed.priv",
    ] {
        tpm.run_line(line);
    }
}

fn find(tpm: &Serving<'_>) {
    assert_eq!(nv(tpm, "0x1500001"), b"what the guest wrote on its first boot");
    tpm.run_line("readpublic -c 0x81000001 -n found");
    assert_eq!(fs::read(tpm.path("found")).unwrap(), fs::read(tpm.path("name")).unwrap());
    tpm.run_line("load -C 0x81000001 -u sealed.pub -r sealed.priv -c sealed.ctx");
    assert_eq!(tpm.run_line("unseal -c sealed.ctx -p pcr:sha256:23"), "the disk's key");
}

pub(crate) fn over_an_orderly_end(stack: &Stack) {
    let tpm = stack.boot();
    leave(&tpm);
    find(&tpm);
    let first = clock(&tpm);
    let count = counter(&tpm, COUNTER);
    tpm.run_line("shutdown -c");
    tpm.shut_down();
    let tpm = stack.boot();
    find(&tpm);
    assert_eq!(counter(&tpm, COUNTER), count);
    let second = clock(&tpm);
    assert!(second.safe && second.clock_ms >= first.clock_ms, "{first:?} {second:?}");
    assert!(second.reset_count > first.reset_count, "{first:?} {second:?}");
    // A measured PCR is a matter of one boot.
    tpm.run_line(&format!("pcrextend 23:sha256={}", "33".repeat(32)));
    tpm.run_line("load -C 0x81000001 -u sealed.pub -r sealed.priv -c sealed.ctx");
    tpm.refused("unseal -c sealed.ctx -p pcr:sha256:23");
    tpm.shut_down();
    let tpm = stack.boot();
    find(&tpm);
    tpm.shut_down();
}

/// Kills the component while a client counts: each time a little later in the command.
pub(crate) fn over_kills_while_counting(stack: &Stack) {
    let mut tpm = stack.boot();
    leave(&tpm);
    // A launch that used a guarded key and ended without a shutdown counts as a failed try (TPM 2.0 part 1, dictionary
    // attack protection), and three would be enough.
    tpm.run_line("dictionarylockout --setup-parameters --max-tries=32 --recovery-time=1000 --lockout-recovery-time=1000");
    let mut reset_counts = BTreeSet::from([clock(&tpm).reset_count]);
    let mut shown = clock(&tpm).clock_ms;
    for delay_ms in [0, 4, 8, 16] {
        for _ in 0..3 {
            tpm.run_line("nvincrement 0x1500002 -C o");
        }
        let acknowledged = counter(&tpm, COUNTER);
        let mut command: Command = tpm.command("nvincrement");
        command.args([COUNTER, "-C", "o"]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut client = command.spawn().unwrap();
        sleep(Duration::from_millis(delay_ms));
        tpm.kill();
        let heard = client.wait().unwrap().success();
        tpm = stack.boot();
        let found = counter(&tpm, COUNTER);
        let least = acknowledged + u64::from(heard);
        assert!((least..=acknowledged + 1).contains(&found), "{found}, acknowledged {acknowledged}, {heard}");
        find(&tpm);
        let now = clock(&tpm);
        assert!(reset_counts.insert(now.reset_count), "{now:?} comes again: {reset_counts:?}");
        assert!(now.clock_ms >= shown, "{now:?} after {shown}");
        shown = now.clock_ms;
    }
    tpm.run_line("dictionarylockout --clear-lockout");
    tpm.shut_down();
}

/// A wrong PIN counts once, a right one not at all, whatever ends the launch after the answer.
pub(crate) fn a_pin_index_counts_over_kills(stack: &Stack) {
    let mut tpm = stack.boot();
    tpm.run_line("nvdefine 0x1500005 -C o -s 8 -p pin -a nt=pinfail|authread|ownerread|ownerwrite|no_da");
    fs::write(tpm.path("limit"), [0, 0, 0, 0, 0, 0, 0, 3]).unwrap();
    tpm.run_line("nvwrite 0x1500005 -C o -i limit");
    let count = |tpm: &Serving<'_>| nv(tpm, "0x1500005")[3];
    for wrong in 1..=2 {
        tpm.refused("nvread 0x1500005 -C 0x1500005 -P guess");
        tpm.kill();
        tpm = stack.boot();
        assert_eq!(count(&tpm), wrong);
    }
    tpm.run_line("nvread 0x1500005 -C 0x1500005 -P pin -o nv.read");
    assert_eq!(count(&tpm), 0);
    tpm.shut_down();
    tpm = stack.boot();
    assert_eq!(count(&tpm), 0);
    tpm.shut_down();
}
