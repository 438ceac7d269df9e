//! No recursion: no function of ours reaches itself by direct calls, so that the depth of a stack has a bound.
//!
//! The linked image is taken apart: who calls or jumps to whom by name. Calls through pointers are not seen (the seams' trait objects, which
//! lead out of the component and not back); C's own functions may recurse and are measured instead, by the stack's high-water mark.

use super::calls::{Calls, calls, is_rust, listing};
use crate::failure::Failure;
use std::path::Path;

/// An image without so many functions of Rust was stripped, or is another program.
const FUNCTIONS_MIN: usize = 500;

/// Part of a name, where recursion has a bound of its own: skipping what nobody asked for in an answer of a KBS goes no deeper than
/// `OPENINGS_MAX` of `src/release/kbs/answer.rs`, which is looked at before.
const BOUNDED: [&str; 1] = ["serde_json_core..de"];

/// Fails where a function of Rust is on a cycle of calls; how many there are.
pub(super) fn check(image: &Path) -> Result<usize, Failure> {
    let listing = listing(image)?;
    let calls = calls(&listing);
    let ours = calls.keys().filter(|name| is_rust(name)).count();
    if ours < FUNCTIONS_MIN {
        return Err(Failure::failed(format!("image: only {ours} functions of Rust are named in it")));
    }
    match cycle(&calls) {
        None => Ok(ours),
        Some(name) => Err(Failure::failed(format!("image: {name} calls itself, directly or through others"))),
    }
}

/// A function of Rust that is on a cycle, if there is one: what is left when, again and again, whoever calls nobody that is left is taken
/// away, and then whoever nobody calls.
fn cycle<'l>(calls: &Calls<'l>) -> Option<&'l str> {
    let mut left: Calls<'l> = calls.clone();
    left.retain(|name, _| !BOUNDED.iter().any(|part| name.contains(part)));
    loop {
        let known: Vec<&str> = left.keys().copied().collect();
        for targets in left.values_mut() {
            targets.retain(|target| known.binary_search(target).is_ok());
        }
        let mut called: Vec<&str> = left.values().flatten().copied().collect();
        called.sort_unstable();
        let before = left.len();
        left.retain(|name, targets| !targets.is_empty() && called.binary_search(name).is_ok());
        if left.len() == before {
            break;
        }
    }
    // What is left lies on cycles or between two of them.
    left.keys().copied().find(|name| is_rust(name) && reaches(&left, name))
}

/// Whether `name` is reached from those that it calls.
fn reaches(calls: &Calls<'_>, name: &str) -> bool {
    let (mut waiting, mut seen) = (calls[name].clone(), Vec::new());
    while let Some(next) = waiting.pop() {
        if next == name {
            return true;
        }
        if !seen.contains(&next) {
            seen.push(next);
            waiting.extend(calls.get(next).into_iter().flatten());
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::super::calls::calls;
    use super::cycle;

    const PLAIN: &str = "\
0000000010000000 <_ZN1aE>:
    10000000:\tcall   10000010 <_ZN1bE>
    10000005:\tjne    10000000 <_ZN1aE>
    10000007:\tjmp    10000003 <_ZN1aE+0x3>
    10000009:\tcall   *%rax
0000000010000010 <_ZN1bE>:
    10000010:\tjmp    10000020 <memcpy>
0000000010000020 <memcpy>:
    10000020:\tcall   10000020 <memcpy>
    10000025:\tret
";

    #[test]
    fn a_loop_is_no_recursion_and_neither_is_what_c_does() {
        assert_eq!(cycle(&calls(PLAIN)), None);
    }

    #[test]
    fn a_function_that_reaches_itself_is_found_however_long_the_way() {
        let direct = PLAIN.replace("call   *%rax", "call   10000000 <_ZN1aE>");
        assert_eq!(cycle(&calls(&direct)), Some("_ZN1aE"));
        let around = PLAIN.replace("20 <memcpy>\n    10000025", "00 <_ZN1aE>\n    10000025");
        assert!(cycle(&calls(&around)).is_some());
        let tail = PLAIN.replace("jmp    10000020 <memcpy>", "jmp    10000000 <_ZN1aE>");
        assert!(cycle(&calls(&tail)).is_some());
    }
}
