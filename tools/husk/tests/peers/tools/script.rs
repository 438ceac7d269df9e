//! How a script reads.
//!
//! ```text
//! # a remark
//! == the name of a scenario         begins with a cleared TPM after a reset, in a folder of its own
//! == long: another                  the same, in the long run only
//! nvread 0x1500001 -C o -o read     tpm2_nvread must succeed; a name with tss2_ is taken as it is
//! ! nvread 0x1500001                it must fail
//! !husk startup                     it must fail on Husk and succeed on swtpm: a difference that is meant
//! getcap pcrs >listing              what it prints goes into a file
//! makecredential -n {name} -a ""    {name} stands for what that file holds, "" for an empty word
//! $ cmp read written                a line of shell that must succeed
//! @reset                            the machine resets, its firmware sends TPM2_Startup(CLEAR)
//! @power                            the machine resets
//! ```

/// A file of scripts.
#[derive(Debug)]
pub(crate) struct Family {
    pub(crate) scenarios: Vec<Scenario>,
}

/// One script.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) long: bool,
    pub(crate) lines: Vec<Line>,
}

/// One line of a script.
#[derive(Debug)]
pub(crate) struct Line {
    /// File and number.
    pub(crate) place: String,
    pub(crate) text: &'static str,
    pub(crate) does: Does,
}

/// What a line does.
#[derive(Debug)]
pub(crate) enum Does {
    Tool { words: Vec<&'static str>, output: Option<&'static str>, wanted: Wanted },
    Shell,
    Reset,
    Power,
}

/// How a tool must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Success,
    Failure,
    /// Failure on Husk, success elsewhere.
    Difference,
}

impl Family {
    /// Reads a file; one that does not read ends the test.
    pub(crate) fn read(file: &str, text: &'static str) -> Self {
        let mut scenarios: Vec<Scenario> = Vec::new();
        let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        for (at, text) in lines {
            let place = format!("{file}:{}", at + 1);
            if let Some(name) = text.strip_prefix("== ") {
                let long = name.strip_prefix("long: ");
                let (name, long) = (long.unwrap_or(name), long.is_some());
                scenarios.push(Scenario { name, long, lines: Vec::new() });
            } else {
                let does = Does::read(text);
                let scenario = scenarios.last_mut();
                let scenario = scenario.unwrap_or_else(|| panic!("{place}: a line of no scenario"));
                scenario.lines.push(Line { place, text, does });
            }
        }
        Self { scenarios }
    }

    /// The tools that must succeed somewhere in this file.
    pub(crate) fn tools_that_succeed(&self) -> impl Iterator<Item = &'static str> {
        self.scenarios.iter().flat_map(|scenario| &scenario.lines).filter_map(|line| match &line.does {
            Does::Tool { words, wanted: Wanted::Success, .. } => Some(words[0]),
            Does::Tool { .. } | Does::Shell | Does::Reset | Does::Power => None,
        })
    }
}

impl Does {
    fn read(text: &'static str) -> Self {
        match text {
            "@reset" => Self::Reset,
            "@power" => Self::Power,
            _ if text.starts_with("$ ") => Self::Shell,
            _ => {
                let mut words: Vec<_> = text.split_whitespace().collect();
                let wanted = match words[0] {
                    "!" => Wanted::Failure,
                    "!husk" => Wanted::Difference,
                    _ => Wanted::Success,
                };
                words.drain(..usize::from(wanted != Wanted::Success));
                let output = words.last().and_then(|word| word.strip_prefix('>'));
                words.truncate(words.len() - usize::from(output.is_some()));
                Self::Tool { words, output, wanted }
            }
        }
    }
}
