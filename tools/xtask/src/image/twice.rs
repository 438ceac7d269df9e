//! The same sources, built from nothing in two folders: the same bytes.

use super::{IMAGE, Place, build, path, refused, strip};
use crate::failure::Failure;
use crate::{house, process};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is no source.
const LEFT_OUT: [&str; 2] = ["target", ".git"];

/// Builds a copy of the sources in another folder with nothing built before, and compares with what [`make`](super::make) made.
pub(crate) fn compare() -> Result<String, Failure> {
    let folder = house::fresh_workshop("image-twice")?;
    let copy = folder.join("sources of the same commit");
    copy_sources(house::root(), &copy)?;
    let built = build(&Place { sources: copy.clone(), target: Some(folder.join("target")) }, &IMAGE)?;
    let second = folder.join("husk-image");
    strip(&built, &second)?;
    let read = |path: &Path| std::fs::read(path).map_err(|error| Failure::io("read", path, &error));
    let (first, second) = (read(&path()?)?, read(&second)?);
    match difference(&first, &second) {
        None => {
            std::fs::remove_dir_all(&folder).map_err(|error| Failure::io("remove", &folder, &error))?;
            Ok(format!("{} bytes, the same from two folders", first.len()))
        }
        Some(at) => Err(refused(format!(
            "built in two folders it differs from byte {at:#x} on ({} and {} bytes); both are kept: {}",
            first.len(),
            second.len(),
            folder.display()
        ))),
    }
}

fn copy_sources(from: &Path, to: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(to).map_err(|error| Failure::io("make", to, &error))?;
    let unread = |error| Failure::io("read", from, &error);
    for entry in std::fs::read_dir(from).map_err(unread)? {
        let entry: PathBuf = entry.map_err(unread)?.path();
        if !LEFT_OUT.map(OsStr::new).contains(&entry.file_name().unwrap_or_default()) {
            process::run(Command::new("cp").args(["--recursive", "--no-dereference"]).arg(&entry).arg(to))?;
        }
    }
    Ok(())
}

/// The first byte in which they differ.
fn difference(first: &[u8], second: &[u8]) -> Option<usize> {
    let common = first.len().min(second.len());
    let byte = first.iter().zip(second).position(|(one, other)| one != other);
    byte.or((first.len() != second.len()).then_some(common))
}

#[cfg(test)]
mod tests {
    use super::difference;

    #[test]
    fn one_byte_more_or_other_is_a_difference() {
        assert_eq!(difference(b"same", b"same"), None);
        assert_eq!(difference(b"same", b"sane"), Some(2));
        assert_eq!(difference(b"same", b"sames"), Some(4));
        assert_eq!(difference(b"", b"s"), Some(0));
    }
}
