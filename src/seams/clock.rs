/// A clock that the host can neither stop nor turn back (Secure TSC).
pub trait Clock {
    /// Milliseconds since an arbitrary instant before launch; never decreases.
    fn now_ms(&self) -> u64;
}

/// A function is a clock.
impl<F: Fn() -> u64> Clock for F {
    fn now_ms(&self) -> u64 {
        self()
    }
}
