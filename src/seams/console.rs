/// A line of output that the host reads: static text and a code, never data.
pub trait Console {
    /// Shows `text` with `code`.
    fn line(&mut self, text: &'static str, code: u32);
}
