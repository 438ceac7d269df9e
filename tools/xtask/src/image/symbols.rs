//! The C symbols that the engine needs and does not have: `stubs/symbols.txt`, held against the archives.
//!
//! The linker's search is played through: from what `stubs` calls, over every archive member that defines something wanted, to what
//! nobody defines. That must be the golden list, whose classes must be those of the sources and of the table in the README.

use crate::failure::Failure;
use crate::process;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

const ARCHIVE_DIR: &str = "/usr/lib/x86_64-linux-gnu";
const ARCHIVES: [&str; 2] = ["libtpms.a", "libcrypto.a"];
const LIST: &str = "stubs/symbols.txt";
/// The linker's own.
const NOBODYS: &str = "_GLOBAL_OFFSET_TABLE_";
/// What libcrypto takes if it is there: weak, so the search does not find it.
const OPTIONAL: &str = "getentropy";
const CLASSES: [&str; 3] = ["real", "forwarded", "trapped"];
/// Behind the class of a symbol that not every libcrypto of Debian 12 needs.
const SOMETIMES: &str = "sometimes";

/// One object file of an archive.
#[derive(Clone, Debug, Default)]
struct Member {
    defines: BTreeSet<String>,
    needs: BTreeSet<String>,
}

/// Fails where list, archives, sources and README disagree.
pub(super) fn check(root: &Path) -> Result<(), Failure> {
    let read = |path: &str| {
        let path = root.join(path);
        std::fs::read_to_string(&path).map_err(|error| Failure::io("read", &path, &error))
    };
    let listed = listed(&read(LIST)?).map_err(disagree)?;
    let declared = names_after(&read("stubs/src/extern_c.rs")?, "fn ");
    let mut ours = names_after(&read("stubs/src/entropy.rs")?, "extern \"C\" fn ");
    ours.extend(names_after(&read("stubs/src/guard.rs")?, "extern \"C\" fn "));
    ours.extend(names_after(&read("stubs/src/guard.rs")?, ".globl "));
    let mut needed = unresolved(&members()?, &declared, &ours);
    needed.insert(OPTIONAL.to_owned());
    let golden = listed.iter().filter(|(name, symbol)| !symbol.is_sometimes || needed.contains(*name));
    let golden: BTreeSet<String> = golden.map(|(name, _)| name.clone()).collect();
    compare("the archives need", &needed, LIST, &golden).map_err(disagree)?;
    let traps = read("stubs/src/runtime/traps.rs")?;
    let traps: BTreeSet<String> = traps
        .split("trapped! {")
        .nth(1)
        .unwrap_or_default()
        .split(['}'])
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let trapped =
        listed.iter().filter(|(_, symbol)| symbol.class == "trapped").map(|(name, _)| name.clone()).collect();
    compare("traps.rs has", &traps, "the list traps", &trapped).map_err(disagree)?;
    explained(&listed, &read("stubs/README.md")?).map_err(disagree)
}

fn disagree(what: String) -> Failure {
    Failure::failed(format!("image: C symbols: {what}"))
}

/// A line of the list.
#[derive(Clone, Debug)]
struct Symbol {
    class: String,
    is_sometimes: bool,
}

/// The golden list: a name and its class a line, in order.
fn listed(text: &str) -> Result<BTreeMap<String, Symbol>, String> {
    let mut symbols = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let (name, class, is_sometimes) = match *words {
            [name, class] => (name, class, false),
            [name, class, SOMETIMES] => (name, class, true),
            _ => ("", "", false),
        };
        if !CLASSES.contains(&class) {
            return Err(format!("{LIST}: `{line}` is no name and class"));
        }
        symbols.insert(name.to_owned(), Symbol { class: class.to_owned(), is_sometimes });
    }
    Ok(symbols)
}

fn compare(one: &str, ones: &BTreeSet<String>, other: &str, others: &BTreeSet<String>) -> Result<(), String> {
    let missing: Vec<&str> = ones.difference(others).map(String::as_str).collect();
    let surplus: Vec<&str> = others.difference(ones).map(String::as_str).collect();
    if missing.is_empty() && surplus.is_empty() {
        return Ok(());
    }
    Err(format!("{one} [{}] which is not in {other}, and lacks [{}]", missing.join(" "), surplus.join(" ")))
}

/// Every name stands in the README, behind the heading of its class.
fn explained(listed: &BTreeMap<String, Symbol>, readme: &str) -> Result<(), String> {
    for class in CLASSES {
        let heading = format!("## {}{}", class[..1].to_uppercase(), &class[1..]);
        let section =
            readme.split(&heading).nth(1).unwrap_or_default().split("\n## ").next().unwrap_or_default();
        let words: BTreeSet<&str> = section.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
        let silent: Vec<&str> = listed
            .iter()
            .filter(|(name, symbol)| symbol.class == class && !words.contains(name.as_str()))
            .map(|(name, _)| name.as_str())
            .collect();
        if !silent.is_empty() {
            return Err(format!("stubs/README.md does not argue under `{heading}` for {}", silent.join(" ")));
        }
    }
    Ok(())
}

/// The words that follow `mark` in a source.
fn names_after(text: &str, mark: &str) -> BTreeSet<String> {
    let rest = text.split(mark).skip(1);
    rest.map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()).collect()
}

fn members() -> Result<Vec<Member>, Failure> {
    let folder = std::env::var_os("HUSK_TPMS_DIR").unwrap_or_else(|| ARCHIVE_DIR.into());
    let mut members = BTreeMap::new();
    for archive in ARCHIVES {
        let listing =
            process::transcript(Command::new("nm").arg("-A").arg(Path::new(&folder).join(archive)))?;
        parse(&listing, &mut members);
    }
    Ok(members.into_values().collect())
}

/// Reads lines of `archive:member:value kind name`, or without the value.
fn parse(listing: &str, members: &mut BTreeMap<String, Member>) {
    for line in listing.lines() {
        let Some((place, symbol)) = line.rsplit_once(':') else { continue };
        let mut words = symbol.split_whitespace().rev();
        let (Some(name), Some(kind)) = (words.next(), words.next()) else { continue };
        let member = members.entry(place.to_owned()).or_default();
        match kind {
            "U" => member.needs.insert(name.to_owned()),
            kind if kind.chars().all(char::is_uppercase) => member.defines.insert(name.to_owned()),
            _ => false,
        };
    }
}

/// What is needed and defined by nobody, if a linker starts from `wanted` and has `ours`.
fn unresolved(members: &[Member], wanted: &BTreeSet<String>, ours: &BTreeSet<String>) -> BTreeSet<String> {
    let mut homes: BTreeMap<&str, &Member> = BTreeMap::new();
    for member in members {
        for name in &member.defines {
            homes.entry(name).or_insert(member);
        }
    }
    let mut waiting: Vec<&str> = wanted.iter().map(String::as_str).collect();
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut open = BTreeSet::new();
    while let Some(name) = waiting.pop() {
        if name == NOBODYS || ours.contains(name) || !seen.insert(name) {
            continue;
        }
        match homes.get(name) {
            Some(member) => waiting.extend(member.needs.iter().map(String::as_str)),
            None => {
                open.insert(name.to_owned());
            }
        }
    }
    open
}

#[cfg(test)]
mod tests {
    use super::{compare, explained, listed, names_after, parse, unresolved};
    use std::collections::{BTreeMap, BTreeSet};

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_search_ends_at_what_nobody_defines() {
        let listing = "a.a:one.o:0000000000000000 T start\na.a:one.o:                 U next\na.a:one.o:                 U malloc\n\
            a.a:two.o:0000000000000000 T next\na.a:two.o:0000000000000000 t local\na.a:two.o:                 U own\n\
            a.a:two.o:                 w weak\na.a:lost.o:0000000000000000 T lost\na.a:lost.o:                 U socket\n";
        let mut members = BTreeMap::new();
        parse(listing, &mut members);
        let members: Vec<_> = members.into_values().collect();
        assert_eq!(unresolved(&members, &names(&["start"]), &names(&["own"])), names(&["malloc"]));
        assert_eq!(unresolved(&members, &names(&["lost"]), &names(&[])), names(&["socket"]));
    }

    #[test]
    fn a_symbol_without_class_or_argument_is_refused() {
        assert!(listed("malloc real\nsocket stubbed\n").is_err());
        assert!(listed("malloc real often\n").is_err() && listed("malloc\n").is_err());
        let list = listed("malloc real\nclock forwarded\nsocket trapped\n").expect("a list");
        let readme = "# x\n## Real\n`malloc`\n## Forwarded\n`clock`\n## Trapped\n`socket`\n";
        assert_eq!(explained(&list, readme), Ok(()));
        assert!(explained(&list, &readme.replace("`socket`", "`sockets`")).is_err());
        assert!(explained(&list, "## Real\n`malloc` `clock` `socket`").is_err());
    }

    #[test]
    fn both_directions_of_a_difference_are_shown() {
        let difference = compare("a", &names(&["x", "y"]), "b", &names(&["y", "z"])).expect_err("differ");
        assert!(difference.contains("[x]") && difference.contains("[z]"), "{difference}");
        assert_eq!(names_after("fn a(); pub fn b_c()", "fn "), names(&["a", "b_c"]));
    }
}
