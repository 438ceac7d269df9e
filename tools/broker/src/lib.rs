//! The key broker: keeps the newest head and the keys of every VM, and releases them to the only living instance.
