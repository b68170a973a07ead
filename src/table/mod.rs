//! Copy-on-write trees of table blocks.
