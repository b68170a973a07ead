//! Measures how small a tree becomes and what packing and reading it cost, for floe's settings and for other programs.
//!
//! It runs programs (floe itself among them) on the user's data, in a directory that it makes and removes, and reads
//! the results through real mounts. Invariants: it is the only room of the library that reads the clock, because it
//! measures; no mount, process or file outlives a run, however the run ends; a figure that was not measured is absent.
//! Called by `cli/bench.rs`.

mod axis;
pub mod command;
mod forecast;
mod labels;
pub mod machine;
pub mod mounts;
mod other;
mod own;
mod page;
pub mod peers;
pub mod plan;
mod plot;
pub mod reading;
mod report;
pub mod run;
pub mod sample;
pub mod settings;
mod sheet;
mod show;
pub mod survey;
mod table;
mod tree;
mod turn;
pub mod work;

pub use page::html;
pub use plot::readme_svg;
pub use report::{
    Entry, Kind, Machine, Method, Missing, Outcome, Packing, Parts, Pass, Range, Read, ReadCost, Report, Sample, Saved,
    Size, Source,
};
pub use show::{Human, Utc, counted, entries};
pub use table::table;
