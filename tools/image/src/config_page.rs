//! A launch configuration as a measured page.
//!
//! **What.** [`page`] and [`read`]: 8 bytes `HUSKCFG1`, a little-endian `u32` length, the configuration's text, zeros.
//! **Trust.** The digest: whoever changes the page changes MEASUREMENT.
//! **Laws.** One spelling: what reads is byte for byte what is written.
//! **Not here.** Putting it into a file: [`crate::rewrite`].

use crate::digest::{PAGE_BYTES, Page};
use husk::attest::launch::LaunchConfig;

/// What the page starts with.
pub const MAGIC: [u8; 8] = *b"HUSKCFG1";
/// Where the text starts.
const TEXT_AT: usize = MAGIC.len() + size_of::<u32>();

/// The page that says `config`; none if it does not fit, which no configuration of this version does.
#[must_use]
pub fn page(config: &LaunchConfig) -> Option<Box<Page>> {
    let mut page = Box::new([0; PAGE_BYTES]);
    let (head, text) = page.split_at_mut_checked(TEXT_AT)?;
    let length = u32::try_from(config.write_to(text).ok()?).ok()?;
    head.split_at_mut(MAGIC.len()).0.copy_from_slice(&MAGIC);
    head.split_at_mut(MAGIC.len()).1.copy_from_slice(&length.to_le_bytes());
    Some(page)
}

/// The configuration that a page says; none if it is another page.
#[must_use]
pub fn read(page: &Page) -> Option<LaunchConfig> {
    let (length, text) = page.strip_prefix(&MAGIC)?.split_first_chunk()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (text, rest) = text.split_at_checked(length)?;
    if rest.iter().any(|byte| *byte != 0) { None } else { LaunchConfig::parse(text).ok() }
}
