//! Counts the bytes that are inflated for each byte read from an image: all files in path order, then each directory of
//! the root alone.

use floe::fs::measure::{MeasureObserver, Reads, read_cost};
use floe::meta::{Image, ImageOptions};
use floe::storage::{Access, FileStorage};
use std::sync::Arc;

struct Quiet;
impl MeasureObserver for Quiet {}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let image = args.next().ok_or("usage: read_cost IMAGE MIB DIR...")?;
    let set = args.next().ok_or("usage: read_cost IMAGE MIB DIR...")?.parse::<u64>()? << 20;
    let storage = Arc::new(FileStorage::open(image.as_ref(), Access::ReadOnly)?);
    let image = Arc::new(Image::open(storage, ImageOptions::default())?);
    let all = read_cost(&image, set, &Reads::Everything, &Quiet)?;
    println!("everything {:.3}", all.ratio().unwrap_or(0.0));
    let mut costs = Vec::new();
    let (mut read, mut inflated) = (0, 0);
    for dir in args {
        let cost = read_cost(&image, set, &Reads::Below(dir.as_bytes()), &Quiet)?;
        read += cost.read_bytes;
        inflated += cost.inflated_bytes;
        costs.extend(cost.ratio());
    }
    costs.sort_by(f64::total_cmp);
    if let Some(most) = costs.last() {
        let mean = costs.iter().sum::<f64>() / costs.len() as f64;
        println!(
            "directories {}: all together {:.2}, mean {mean:.2}, 90% {:.2}, most {most:.2}",
            costs.len(),
            inflated as f64 / read as f64,
            costs[costs.len() * 9 / 10]
        );
    }
    Ok(())
}
