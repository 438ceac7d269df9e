//! A cpio archive in the format that the kernel unpacks ("newc", kernel documentation, `early-userspace/buffer-format`).

/// File types and permissions of an entry's mode field.
const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// An archive under construction.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    folders: std::collections::BTreeSet<String>,
    entries: u32,
}

impl Archive {
    /// Adds a file; everything in this archive may be executed.
    pub(super) fn file(&mut self, path: &str, content: &[u8]) {
        self.parents(path);
        self.entry(path, PROGRAM, content);
    }

    /// The finished archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        for (end, _) in path.match_indices('/') {
            let folder = &path[..end];
            if !folder.is_empty() && self.folders.insert(folder.to_owned()) {
                self.entry(folder, FOLDER, &[]);
            }
        }
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let name = path.trim_start_matches('/');
        let [content_bytes, name_bytes] = [content.len(), name.len() + 1];
        self.bytes.extend_from_slice(b"070701");
        // Inode, mode, user, group, links, time, size, device ×2, special device ×2, name's size, checksum (unused).
        let numbers =
            [self.entries as usize, mode as usize, 0, 0, 1, 0, content_bytes, 0, 0, 0, 0, name_bytes, 0];
        for number in numbers {
            self.bytes.extend_from_slice(format!("{number:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn entries_are_aligned_and_folders_come_before_their_files() {
        let mut archive = Archive::default();
        archive.file("/a/b/file", b"12345");
        archive.file("/a/other", b"");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let at = |name: &[u8]| bytes.windows(name.len()).position(|window| window == name);
        assert!(at(b"a\0") < at(b"a/b\0") && at(b"a/b\0") < at(b"a/b/file\0"));
        for (position, _) in bytes.windows(6).enumerate().filter(|(_, window)| window == b"070701") {
            assert_eq!(position % 4, 0);
        }
    }
}
