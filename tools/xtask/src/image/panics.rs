//! No panic: in the component's parsers and its volume, linked alone, only functions that are not ours can come to one.
//!
//! `firmware/panic-free` ends every panic in one function. Who calls it, or a function of the core library that may come to it,
//! could panic. What the compiler inlined is its caller's.

use super::calls::{Calls, calls, is_rust, listing};
use super::{Place, Program, build};
use crate::failure::Failure;
use std::collections::BTreeSet;

/// The core library's own code enters it, which was compiled for the target's usual code model.
const PROGRAM: Program = Program {
    name: "husk-panic-free",
    profile: "panic-free",
    package: "husk-panic-free",
    own_flags: Some("-C relocation-model=static"),
};

const EXCEPTIONS: &str = "firmware/panic-free/exceptions.txt";
/// Where panics end, and where the program begins.
const PANIC: &str = "husk_panic_is_reachable";
const START: &str = "_start";
/// How functions of ours and of the core library, of which the ways to panic are part, begin.
const OURS: [&str; 2] = ["husk::", "husk_panic_free::"];
const CORE: [&str; 2] = ["core::", "__rustc::rust_begin_unwind"];
/// A program with fewer functions of ours does not hold what it should.
const OURS_MIN: usize = 40;

/// Fails where a function that is no exception can come to a panic; how many functions of ours the program holds.
pub(super) fn check(place: &Place) -> Result<usize, Failure> {
    let path = place.sources.join(EXCEPTIONS);
    let exceptions = std::fs::read_to_string(&path).map_err(|error| Failure::io("read", &path, &error))?;
    judge(&listing(&build(place, &PROGRAM)?)?, &exceptions, OURS_MIN)
}

fn judge(listing: &str, exceptions: &str, ours_min: usize) -> Result<usize, Failure> {
    let exceptions: Vec<&str> = exceptions
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(" # "))
        .map(|(part, _)| part)
        .collect();
    let calls = calls(listing);
    let ours = calls.keys().filter(|name| begins(name, &OURS)).count();
    let refused = |what: String| Err(Failure::failed(format!("image: {what}")));
    if !calls.contains_key(PANIC) || !calls.contains_key(START) || ours < ours_min {
        return refused(format!(
            "{ours} functions of ours are in what should be free of panics; it lacks some"
        ));
    }
    let panicking = panicking(&calls);
    if let Some(name) = panicking.iter().find(|name| !exceptions.iter().any(|part| name.contains(part))) {
        let name = rustc_demangle::demangle(name);
        return refused(format!("{name:#} may panic: have it return an error, or bound what it indexes"));
    }
    match exceptions.iter().find(|part| !panicking.iter().any(|name| name.contains(**part))) {
        Some(part) => refused(format!("{EXCEPTIONS}: {part} does not panic any more; remove it")),
        None => Ok(ours),
    }
}

/// Whether a function is one of those that begin so; of an implementation counts the type.
fn begins(name: &str, beginnings: &[&str]) -> bool {
    let shown = format!("{:#}", rustc_demangle::demangle(name));
    let path = shown.trim_start_matches(['<', '&']);
    is_rust(name) && beginnings.iter().any(|beginning| path.starts_with(beginning))
}

/// Who can come to a panic without another's help than the core library's.
fn panicking<'l>(calls: &Calls<'l>) -> BTreeSet<&'l str> {
    let mut ways = BTreeSet::from([PANIC]);
    loop {
        let callers = calls.iter().filter(|(_, targets)| targets.iter().any(|target| ways.contains(target)));
        let (core, others): (Vec<&str>, Vec<&str>) = callers
            .map(|(name, _)| *name)
            .filter(|name| !ways.contains(name))
            .partition(|name| begins(name, &CORE));
        if core.is_empty() {
            return others.into_iter().collect();
        }
        ways.extend(core);
    }
}

#[cfg(test)]
mod tests {
    use super::judge;

    const LISTING: &str = "\
0000000000200000 <_start>:
  200000:\tcall   200100 <_ZN4husk6volume4open17h0123456789abcdefE>
0000000000200100 <_ZN4husk6volume4open17h0123456789abcdefE>:
  200100:\tcall   200200 <_ZN3aes5block17h0123456789abcdefE>
  200105:\tret
0000000000200200 <_ZN3aes5block17h0123456789abcdefE>:
  200200:\tjmp    200300 <_ZN4core9panicking18panic_bounds_check17h0123456789abcdefE>
0000000000200300 <_ZN4core9panicking18panic_bounds_check17h0123456789abcdefE>:
  200300:\tcall   200400 <husk_panic_is_reachable>
0000000000200400 <husk_panic_is_reachable>:
  200400:\tjmp    200400 <husk_panic_is_reachable>
";

    #[test]
    fn a_panic_of_a_library_is_an_exception_and_one_of_ours_is_none() {
        assert_eq!(judge(LISTING, "# list\n3aes # constant\n", 1).ok(), Some(1));
        assert!(judge(LISTING, "", 1).is_err(), "not listed");
        let ours = LISTING.replace(
            "200105:\tret",
            "200105:\tjmp    200300 <_ZN4core9panicking18panic_bounds_check17h0123456789abcdefE>",
        );
        assert!(judge(&ours, "3aes # constant\n", 1).is_err());
    }

    #[test]
    fn an_exception_that_is_none_is_told() {
        let calm = LISTING.replace("jmp    200300", "jmp    200204").replace(
            "_ZN4core9panicking18panic_bounds_check17h0123456789abcdefE>\n0",
            "_ZN3aes5block17h0123456789abcdefE+0x4>\n0",
        );
        assert!(judge(&calm, "3aes # constant\n", 1).is_err());
        assert_eq!(judge(&calm, "", 1).ok(), Some(1));
    }

    #[test]
    fn a_program_that_holds_nothing_proves_nothing() {
        assert!(judge("", "", 1).is_err());
        assert!(judge(LISTING, "3aes # constant\n", 2).is_err());
        assert!(judge(&LISTING.replace("husk_panic", "other"), "", 1).is_err());
    }
}
