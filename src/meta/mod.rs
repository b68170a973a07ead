//! The tables by name.
