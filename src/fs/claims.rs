//! What an operation relies on and what it changes. An operation counts only if nothing that it read has changed
//! meanwhile.
//!
//! Operations take no locks. Each is evaluated on a snapshot and notes a [`Claim`] for whatever it reads or writes. In
//! the step that would make its changes count, [`Stamps`] says whether anything claimed has changed since the snapshot.
//! Claims share a fixed number of slots, so two of them may collide. A collision costs a second evaluation, and is
//! never wrong. Called by `draft` and `state`.

use crate::format::ids::InodeId;
use crate::format::rows::ShareKey;
use std::collections::BTreeSet;

/// Number of slots that claims are hashed to. Only a few operations run at a time, so their claims seldom share a slot
/// by chance.
const SLOTS: usize = 4096;

/// Something that an operation reads or changes as a whole. Two operations conflict if they claim the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// An inode: its row, its names if it is a directory, its thawed ranges, and the content if no other inode uses it.
    Inode(InodeId),
    /// A content, tiny content or xattr set that inodes share, and its number of users.
    Shared(ShareKey),
}

impl Claim {
    fn slot(self) -> usize {
        let number = match self {
            Claim::Inode(inode) => inode.0,
            // Inode numbers are below 2^48: no shared object has such a number.
            Claim::Shared(key) => !key.pack(),
        };
        // Fibonacci hashing (Knuth, The Art of Computer Programming, 6.4): neighbouring ids go to distant slots.
        (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as usize % SLOTS
    }
}

/// The claims of one operation: what it reads and what it writes.
#[derive(Debug, Default)]
pub(super) struct Claims {
    read: BTreeSet<usize>,
    written: BTreeSet<usize>,
}

impl Claims {
    pub(super) fn read(&mut self, claim: Claim) {
        self.read.insert(claim.slot());
    }

    pub(super) fn write(&mut self, claim: Claim) {
        self.written.insert(claim.slot());
    }
}

/// The stamp (number of the change) of the last change of each slot. Claims are hashed to slots.
pub(super) struct Stamps(Vec<u64>);

impl Stamps {
    pub(super) fn new() -> Self {
        Stamps(vec![0; SLOTS])
    }

    /// Returns whether nothing claimed has changed after stamp `base`.
    pub(super) fn hold(&self, claims: &Claims, base: u64) -> bool {
        let slots = claims.read.iter().chain(&claims.written);
        slots.into_iter().all(|&slot| self.0.get(slot).is_some_and(|&stamp| stamp <= base))
    }

    /// Returns whether what one claim names has not changed after stamp `base`.
    pub(super) fn holds(&self, claim: Claim, base: u64) -> bool {
        self.0.get(claim.slot()).is_some_and(|&stamp| stamp <= base)
    }

    /// Records that everything that an operation with these claims writes has changed at `stamp`.
    pub(super) fn set(&mut self, claims: &Claims, stamp: u64) {
        for &slot in &claims.written {
            self.set_slot(slot, stamp);
        }
    }

    /// Records that everything has changed at `stamp`.
    pub(super) fn set_all(&mut self, stamp: u64) {
        self.0.fill(stamp);
    }

    /// Records that what one claim names has changed at `stamp`.
    pub(super) fn set_one(&mut self, claim: Claim, stamp: u64) {
        self.set_slot(claim.slot(), stamp);
    }

    fn set_slot(&mut self, slot: usize, stamp: u64) {
        if let Some(old) = self.0.get_mut(slot) {
            *old = stamp;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::rows::ShareKind;

    #[test]
    fn what_was_read_or_written_holds_until_somebody_writes_it() {
        let (a, b) = (Claim::Inode(InodeId(1)), Claim::Shared(ShareKey { kind: ShareKind::Tiny, id: 1 }));
        assert_ne!(a.slot(), b.slot());
        let mut stamps = Stamps::new();
        let mut claims = Claims::default();
        claims.read(a);
        claims.write(b);
        assert!(stamps.hold(&claims, 0));
        stamps.set(&claims, 1);
        assert!(!stamps.hold(&claims, 0) && stamps.hold(&claims, 1));
        // A claim that is only read does not change.
        assert!(stamps.holds(a, 0) && !stamps.holds(b, 0));
        stamps.set_one(a, 2);
        assert!(!stamps.hold(&claims, 1));
    }

    #[test]
    fn neighbouring_ids_have_slots_of_their_own() {
        let slots: BTreeSet<_> = (0..1000).map(|id| Claim::Inode(InodeId(id)).slot()).collect();
        assert!(slots.len() > 900, "{}", slots.len());
    }
}
