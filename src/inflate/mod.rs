//! The working set.
