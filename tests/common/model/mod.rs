//! An in-memory model of a POSIX file system, programs of random operations, and their comparison with a file system
//! under test. Called by the tests `writing_model`, `writing_power` and `writing_faults`.
#![allow(dead_code, unused_imports, reason = "each test binary uses its own part")]

pub mod bytes;
pub mod data;
pub mod echo;
pub mod full;
pub mod images;
pub mod kernel;
pub mod life;
pub mod machine;
pub mod names;
pub mod power;
pub mod program;
pub mod rng;
pub mod scan;
pub mod shrink;
pub mod state;
pub mod step;
pub mod subject;
pub mod within;

pub use program::{Freeze, Mix, Op, Programs};
pub use rng::Rng;
pub use state::{Id, Kind, Model, Node, ROOT};
pub use step::step;
pub use subject::Subject;
