//! Pages that follow one another with one type.

use crate::digest::{LaunchDigest, PAGE_BYTES, Page, PageType};

/// No launch that this crate looks at has more pages than this: 4 GiB. A file that asks for more is refused, since a
/// few bytes could otherwise ask for a day's work.
pub const PAGES_MAX: u64 = 1 << 20;

/// Pages as a hypervisor hands them to SNP_LAUNCH_UPDATE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run<'a> {
    /// Their type.
    pub page_type: PageType,
    /// Guest-physical address of the first.
    pub gpa: u64,
    /// What is in them.
    pub content: Content<'a>,
}

/// What is in a run's pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// That many pages of zeros, or pages whose content does not count.
    Blank(u64),
    /// These bytes of the file.
    Pages(&'a [Page]),
    /// One page that the hypervisor makes, and that can be foretold.
    Made(Box<Page>),
}

impl Run<'_> {
    /// How many pages.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        match &self.content {
            Content::Blank(count) => *count,
            Content::Pages(pages) => pages.len() as u64,
            Content::Made(_) => 1,
        }
    }

    /// Extends `digest` by every page, lowest address first.
    pub fn extend(&self, digest: &mut LaunchDigest) {
        match &self.content {
            Content::Blank(count) => {
                for index in 0..*count {
                    digest.extend(self.page_type, self.address(index), &[0; PAGE_BYTES]);
                }
            }
            Content::Pages(pages) => {
                for (index, page) in (0..).zip(*pages) {
                    digest.extend(self.page_type, self.address(index), page);
                }
            }
            Content::Made(page) => digest.extend(self.page_type, self.gpa, page),
        }
    }

    /// Where the page of that index lies. Parsers refuse runs that reach beyond the address space.
    const fn address(&self, index: u64) -> u64 {
        self.gpa.wrapping_add(index * PAGE_BYTES as u64)
    }
}
