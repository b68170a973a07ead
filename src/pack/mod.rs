//! The packing pipeline.
