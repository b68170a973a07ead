//! The writable state as a whole, on storages in memory: commits, checkpoints, and how they work with changes and
//! failures.

mod carried;
mod commits;
mod freezing;
mod freezing_compared;
mod freezing_matched;
mod gate;
mod sharing;
mod snapshots;
mod snapshots_power;
mod waiting;
pub mod world;
