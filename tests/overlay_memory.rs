//! The memory that an overlay reports, compared with the allocator's count.

use floe::format::block::{Key, Row};
use floe::format::schema::{self, Table};
use floe::meta::Overlay;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

static BYTES: AtomicUsize = AtomicUsize::new(0);

/// The bytes that glibc uses for an allocation: 8 more, rounded up to 16, at least 32.
fn taken(size: usize) -> usize {
    (size + 8).next_multiple_of(16).max(32)
}

// SAFETY: every call is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(taken(layout.size()), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        BYTES.fetch_sub(taken(layout.size()), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const ROWS: u64 = 100_000;

fn row(table: &'static Table, n: u64) -> Row {
    let key = if table.leaf.has_name {
        Key::named(n / 1000, format!("some file {n}").as_bytes())
    } else {
        Key::new(n / 1000, n)
    };
    let ints = (0..table.leaf.ints.len() as u64).map(|i| n * i).collect();
    Row { key, ints, tail: if table.leaf.has_tail { vec![7; 8] } else { Vec::new() } }
}

fn check(what: &str, table: &'static Table, order: impl Iterator<Item = u64>) {
    let before = BYTES.load(Ordering::Relaxed);
    let mut overlay = Overlay::default();
    for n in order {
        let row = row(table, n);
        overlay.set(table, row.key.clone(), Some(row));
    }
    let real = BYTES.load(Ordering::Relaxed) - before;
    let said = overlay.bytes();
    assert!(real <= said && said <= real + real / 2, "{what}: {said} bytes said, {real} allocated");
}

#[test]
fn an_overlay_takes_the_bytes_it_says_and_at_most_a_third_less() {
    for table in [&schema::DIRENTS, &schema::THAWED, &schema::INODES] {
        check("ascending", table, 0..ROWS);
        check("descending", table, (0..ROWS).rev());
        check("scattered", table, (0..ROWS).map(|n| n * 7_919 % ROWS));
    }
}
