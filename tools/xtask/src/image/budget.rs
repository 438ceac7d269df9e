//! The limits in `firmware/budget.toml`: lines of `name = number # why`.

use crate::failure::Failure;
use std::collections::BTreeMap;
use std::path::Path;

/// Every limit by its name.
#[derive(Debug)]
pub(super) struct Budget(BTreeMap<String, u64>);

impl Budget {
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|error| Failure::io("read", path, &error))?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let limits = text.lines().filter_map(|line| {
            let (name, rest) = line.split_once(" = ")?;
            let number = rest.split('#').next()?.trim().parse().ok()?;
            Some((name.to_owned(), number))
        });
        Self(limits.collect())
    }

    /// Fails if `cost` is more than the budget grants under `name`, or if it grants nothing.
    pub(super) fn check(&self, name: &str, cost: u64) -> Result<(), Failure> {
        match self.0.get(name) {
            Some(limit) if cost <= *limit => Ok(()),
            Some(limit) => Err(Failure::failed(format!(
                "image: {name} is {cost} bytes, and firmware/budget.toml grants {limit}"
            ))),
            None => {
                Err(Failure::failed(format!("image: firmware/budget.toml does not say what {name} may be")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Budget;

    #[test]
    fn what_is_not_granted_is_refused() {
        let budget = Budget::parse("# a comment = 3\n[part]\nimage = 100 # why\n");
        assert!(budget.check("image", 100).is_ok());
        assert!(budget.check("image", 101).is_err());
        assert!(budget.check("resident", 1).is_err());
    }
}
