//! A simulated secure processor: real report layout, real guest messages, its own roots.
