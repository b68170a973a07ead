//! The packing pipeline.
pub mod filter;
