//! The workspace's files, and Rust text with its comments, strings and tests set apart.

use crate::failure::Failure;
use std::fs;
use std::path::Path;

/// One text file.
#[derive(Clone, Debug)]
pub(super) struct File {
    /// From the workspace's root, with `/`.
    pub(super) path: String,
    pub(super) text: String,
    /// Rust only: the text with strings blanked, so that comments and code remain. Lines keep their numbers.
    pub(super) spoken: String,
    /// Rust only: the text with strings and comments blanked.
    pub(super) code: String,
    /// Rust only: the code without items under `#[cfg(test)]`.
    pub(super) product: String,
}

/// All text files of the workspace.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    pub(super) files: Vec<File>,
}

impl Tree {
    /// Reads what lies below `root`, but for what cargo and git keep there.
    pub(super) fn read(root: &Path) -> Result<Self, Failure> {
        let mut tree = Self::default();
        tree.read_folder(root, root)?;
        tree.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(tree)
    }

    fn read_folder(&mut self, root: &Path, folder: &Path) -> Result<(), Failure> {
        let entries = fs::read_dir(folder).map_err(|error| Failure::io("read", folder, &error))?;
        for path in entries.flatten().map(|entry| entry.path()) {
            let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            if path.file_name().is_some_and(|name| name == "target" || name == ".git") {
                continue;
            }
            if path.is_dir() {
                self.read_folder(root, &path)?;
            } else if let Ok(text) = fs::read_to_string(&path) {
                self.files.push(File::new(relative, text));
            }
        }
        Ok(())
    }

    /// The Rust files in these folders.
    pub(super) fn rust<'a>(&'a self, folders: &'a [&'a str]) -> impl Iterator<Item = &'a File> {
        self.files.iter().filter(move |file| file.is_rust() && super::within(&file.path, folders))
    }

    /// The file at a path.
    pub(super) fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// A made-up workspace.
    #[cfg(test)]
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        Self { files: files.iter().map(|(path, text)| File::new((*path).into(), (*text).into())).collect() }
    }
}

impl File {
    pub(super) fn new(path: String, text: String) -> Self {
        let [mut spoken, mut code, mut product] = [String::new(), String::new(), String::new()];
        if path.ends_with(".rs") {
            let kinds = kinds(text.as_bytes());
            spoken = keep(&text, &kinds, |kind| kind != Kind::Literal);
            code = keep(&text, &kinds, |kind| kind == Kind::Code);
            product = without_tests(&code);
        }
        Self { path, text, spoken, code, product }
    }

    pub(super) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }
}

/// What a byte of Rust text belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

/// Says of every byte what it belongs to.
fn kinds(text: &[u8]) -> Vec<Kind> {
    let mut kinds = Vec::with_capacity(text.len());
    while kinds.len() < text.len() {
        let at = kinds.len();
        let rest = &text[at..];
        let after_word = at > 0 && is_word(text[at - 1]);
        let (kind, length) = match rest {
            [b'/', b'/', ..] => (Kind::Comment, line_length(rest)),
            [b'/', b'*', ..] => (Kind::Comment, block_comment_length(rest)),
            [b'"', ..] => (Kind::Literal, string_length(rest)),
            [b'r', b'"' | b'#', ..] if !after_word || prefixed(text, at) => raw_length(rest),
            [b'\'', ..] => char_length(rest),
            _ => (Kind::Code, 1),
        };
        kinds.resize((at + length.max(1)).min(text.len()), kind);
    }
    kinds
}

/// Whether the `r` at this position follows the `b` or `c` of a raw byte or C string.
fn prefixed(text: &[u8], at: usize) -> bool {
    matches!(text[at - 1], b'b' | b'c') && (at < 2 || !is_word(text[at - 2]))
}

pub(super) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn line_length(rest: &[u8]) -> usize {
    rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len())
}

fn block_comment_length(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn string_length(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// `r"…"`, `r#"…"#`; a raw identifier (`r#name`) is code.
fn raw_length(rest: &[u8]) -> (Kind, usize) {
    let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return (Kind::Code, 1);
    }
    let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let open = 2 + hashes;
    let body = rest[open..].windows(close.len()).position(|window| window == close);
    (Kind::Literal, body.map_or(rest.len(), |body| open + body + close.len()))
}

/// A character literal, or the quote of a lifetime.
fn char_length(rest: &[u8]) -> (Kind, usize) {
    let end = match rest {
        [_, b'\\', ..] => rest.iter().skip(3).position(|byte| *byte == b'\'').map(|at| at + 3),
        [_, first, ..] => Some(1 + utf8_length(*first)).filter(|end| rest.get(*end) == Some(&b'\'')),
        _ => None,
    };
    end.map_or((Kind::Code, 1), |end| (Kind::Literal, end + 1))
}

fn utf8_length(first: u8) -> usize {
    match first {
        0..0x80 => 1,
        0x80..0xE0 => 2,
        0xE0..0xF0 => 3,
        _ => 4,
    }
}

/// The text with every other byte replaced by a space; line ends stay.
fn keep(text: &str, kinds: &[Kind], kept: impl Fn(Kind) -> bool) -> String {
    let bytes = text.bytes().zip(kinds);
    let blanked = bytes.map(|(byte, kind)| if kept(*kind) || byte == b'\n' { byte } else { b' ' });
    String::from_utf8_lossy(&blanked.collect::<Vec<_>>()).into_owned()
}

/// The code with every item under `#[cfg(test)]` blanked.
fn without_tests(code: &str) -> String {
    let mut product = code.to_owned();
    let mut from = 0;
    while let Some(at) = product[from..].find("#[cfg(test)]").map(|at| at + from) {
        let end = item_end(&product, at + "#[cfg(test)]".len());
        let blank: String = product[at..end].chars().map(|c| if c == '\n' { c } else { ' ' }).collect();
        product.replace_range(at..end, &blank);
        from = at;
    }
    product
}

/// Where the item that starts at `from` ends: after its closing brace, or its semicolon.
fn item_end(code: &str, from: usize) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(from) {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b'}' if depth == 1 => return at + 1,
            b'}' | b')' | b']' => depth = depth.saturating_sub(1),
            b';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// The number of the line at a byte offset, from 1.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// Where a word occurs, as a whole word.
pub(super) fn word_offsets<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bounded = move |at: usize| {
        let before = at.checked_sub(1).and_then(|at| text.as_bytes().get(at));
        let after = text.as_bytes().get(at + word.len());
        [before, after].into_iter().flatten().all(|byte| !is_word(*byte))
    };
    text.match_indices(word).map(|(at, _)| at).filter(move |at| bounded(*at))
}

#[cfg(test)]
mod tests {
    use super::{File, word_offsets};

    fn file(text: &str) -> File {
        File::new("x.rs".into(), text.into())
    }

    #[test]
    fn strings_and_comments_are_told_from_code() {
        let file =
            file("let a = \"un\\\"safe\"; // safe\nlet b = r#\"x\"y\"#; /* a /* b */ c */ 'x' 'a: '\\'' z");
        assert_eq!(file.code.split_whitespace().collect::<Vec<_>>().join(" "), "let a = ; let b = ; 'a: z");
        assert!(file.spoken.contains("// safe") && !file.spoken.contains("un\\"));
        assert_eq!(file.code.lines().count(), file.text.lines().count());
    }

    #[test]
    fn tests_are_no_part_of_the_product() {
        let file = file(
            "fn a() {}\n#[cfg(test)]\nmod tests { fn b() { x(); } }\nfn c() {}\n#[cfg(test)]\nuse d;\nfn e() {}",
        );
        assert_eq!(
            file.product.split_whitespace().collect::<Vec<_>>().join(" "),
            "fn a() {} fn c() {} fn e() {}"
        );
    }

    #[test]
    fn words_are_whole() {
        assert_eq!(word_offsets("unsafe_code unsafe(x) not_unsafe", "unsafe").collect::<Vec<_>>(), [12]);
    }
}
