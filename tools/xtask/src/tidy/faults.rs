//! Fault codes: unique in their box, in the box whose folder they lie in, each with its three sentences.

use super::Finding;
use super::source::{File, Tree};
use std::collections::BTreeMap;

/// What the documentation of every fault answers.
const ANSWERS: [&str; 3] = ["**Means**", "**Left**", "**Next**"];

/// One variant of a `faults!` enum.
#[derive(Debug, PartialEq, Eq)]
struct Variant {
    line: usize,
    name: String,
    number: u32,
    documentation: String,
}

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut taken: BTreeMap<(String, u32), String> = BTreeMap::new();
    for file in tree.rust(&["src"]).filter(|file| file.product.contains("faults! {")) {
        let Some(place) = place(file) else {
            findings.push(Finding::new(&file.path, 1, "faults: no `enum … in Box` after `faults!`"));
            continue;
        };
        if !lies_in(&file.path, &place) {
            findings.push(Finding::new(
                &file.path,
                1,
                format!("faults: declares faults of `{place}`, which is another box"),
            ));
        }
        for variant in variants(&file.text) {
            let silent = ANSWERS.iter().filter(|answer| !variant.documentation.contains(**answer));
            findings.extend(silent.map(|answer| {
                Finding::new(
                    &file.path,
                    variant.line,
                    format!("faults: `{}` does not say {answer}", variant.name),
                )
            }));
            if let Some(other) = taken.insert((place.clone(), variant.number), variant.name.clone()) {
                let what = format!("faults: number {} is `{other}`'s already", variant.number);
                findings.push(Finding::new(&file.path, variant.line, what));
            }
        }
    }
    findings
}

/// The box named in `enum NAME in BOX {`. The macro's own definition names a parameter instead.
fn place(file: &File) -> Option<String> {
    let declaration = file.product.split("faults! {").nth(1)?.split('{').next()?;
    let place = declaration.rsplit(" in ").next()?.trim();
    place.chars().all(char::is_alphanumeric).then(|| place.to_owned())
}

fn lies_in(path: &str, place: &str) -> bool {
    let name = place.to_lowercase();
    path.starts_with(&format!("src/{name}/")) || path == format!("src/{name}.rs")
}

/// The variants in a file's text: `Name = number, Family, …`, each after its documentation.
fn variants(text: &str) -> Vec<Variant> {
    let mut variants = Vec::new();
    let mut documentation = String::new();
    for (index, line) in text.lines().map(str::trim).enumerate() {
        if let Some(sentence) = line.strip_prefix("///") {
            documentation.push_str(sentence);
        } else if let Some((name, number)) = declared(line) {
            let documentation = std::mem::take(&mut documentation);
            variants.push(Variant { line: index + 1, name, number, documentation });
        } else if !line.starts_with("#[") {
            documentation.clear();
        }
    }
    variants
}

fn declared(line: &str) -> Option<(String, u32)> {
    let (name, rest) = line.split_once(" = ")?;
    let (number, family) = rest.split_once(',')?;
    let is_name = name.starts_with(char::is_uppercase) && name.chars().all(char::is_alphanumeric);
    let has_family = family.trim_start().starts_with(char::is_uppercase);
    (is_name && has_family).then(|| number.trim().parse().ok().map(|number| (name.to_owned(), number)))?
}

#[cfg(test)]
mod tests {
    use super::{Tree, check, variants};

    const GOOD: &str = "crate::faults! {\n /// All.\n pub enum NvFault in Nv {\n\
                        /// **Means** a. **Left** b. **Next** c.\n One = 1, Guest, \"m\", \"n\";\n\
                        /// **Means** a. **Left** b. **Next** c.\n Two = 2,\n Host, \"m\", \"n\";\n }\n}\n";

    fn found(path: &str, text: &str) -> Vec<String> {
        check(&Tree::of(&[(path, text)])).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn numbers_are_unique_and_every_fault_answers_three_questions() {
        let good = GOOD.replace("Two = 2,\n", "Two = 2, ");
        assert_eq!(found("src/nv/fault.rs", &good), Vec::<String>::new());
        assert_eq!(variants(&good).len(), 2);
        assert_eq!(found("src/nv/fault.rs", &good.replace("Two = 2", "Two = 1")).len(), 1);
        assert_eq!(found("src/nv/fault.rs", &good.replacen("**Left**", "", 1)).len(), 1);
        assert_eq!(found("src/volume/fault.rs", &good).len(), 1);
    }
}
