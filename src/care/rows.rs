//! All readable rows of a table in key order. Unreadable ones were reported when the trees were walked.

use crate::format::block::KeyRef;
use crate::format::schema::Table;
use crate::meta::Image;
use crate::table::{Onward, Visit};

/// A callback that takes a row and returns whether to continue.
pub(super) type Each<'e> = &'e mut dyn FnMut(KeyRef<'_>, &[u64], &[u8]) -> bool;

/// Passes each row whose key is at least (`from`, 0, "") to `each`, until that returns false.
pub(super) fn each_row(image: &Image, table: &'static Table, from: u64, each: Each<'_>) {
    let first = KeyRef::new(from, 0);
    image.tree(table).walk(image, &mut |visit: &Visit<'_>| {
        let Ok(block) = visit.block else { return Onward::Into };
        if visit.upper.is_some_and(|upper| upper <= first) {
            return Onward::Past;
        }
        if block.level() == 0 {
            for row in block.lower_bound(first)..block.len() {
                if !each(block.key(row), block.ints(row), block.tail(row)) {
                    return Onward::Stop;
                }
            }
        }
        Onward::Into
    });
}
