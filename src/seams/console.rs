/// A line of output that the host reads: static text and a code, never data.
pub trait Console {
    /// Shows `text` with `code`.
    fn line(&mut self, text: &'static str, code: u32);
}

/// A function is a console.
impl<F: FnMut(&'static str, u32)> Console for F {
    fn line(&mut self, text: &'static str, code: u32) {
        self(text, code);
    }
}
