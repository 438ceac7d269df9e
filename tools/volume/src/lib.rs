//! What an operator can see of a sealed volume without its keys.
