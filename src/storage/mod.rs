//! The storage trait and its backends.
