//! Where things lie in the workspace.

use crate::failure::Failure;
use std::path::{Path, PathBuf};

/// The workspace's root.
pub(crate) fn root() -> &'static Path {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR"));
    tool.ancestors().nth(2).unwrap_or(tool)
}

/// A folder below `target/husk/`, made if it is not there; everything that this tool makes lies there.
pub(crate) fn workshop(name: &str) -> Result<PathBuf, Failure> {
    let folder = root().join("target/husk").join(name);
    std::fs::create_dir_all(&folder).map_err(|error| Failure::io("make", &folder, &error))?;
    Ok(folder)
}

/// The same folder, emptied of what an earlier run left.
pub(crate) fn fresh_workshop(name: &str) -> Result<PathBuf, Failure> {
    let folder = root().join("target/husk").join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(|error| Failure::io("empty", &folder, &error))?;
    }
    workshop(name)
}
