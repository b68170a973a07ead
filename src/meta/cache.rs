//! A least-recently-used cache bounded by bytes, cut into shards so that threads do not queue for one lock.

use lru::{DefaultHasher, LruCache};
use parking_lot::Mutex;
use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicU64, Ordering};

/// Hits and misses since the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheCounters {
    /// Look-ups that found something.
    pub hits: u64,
    /// Look-ups that did not.
    pub misses: u64,
}

struct Shard<K, V> {
    entries: LruCache<K, (V, usize)>,
    bytes: usize,
}

/// Values by key, at most so many bytes of them (each with the weight it was inserted with). The bound is kept shard
/// by shard; one value always stays, however heavy, so a cache too small for a value still serves it.
pub struct ByteLru<K: Hash + Eq, V> {
    shards: Vec<Mutex<Shard<K, V>>>,
    shard_bytes: usize,
    /// Seeded anew in each process, as an image's author chooses the keys.
    hasher: DefaultHasher,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl<K: Hash + Eq + Clone, V: Clone> ByteLru<K, V> {
    /// An empty cache of `bytes` bytes in `shards` shards.
    pub fn new(bytes: usize, shards: usize) -> Self {
        let shards = shards.max(1);
        ByteLru {
            shards: (0..shards).map(|_| Mutex::new(Shard { entries: LruCache::unbounded(), bytes: 0 })).collect(),
            shard_bytes: bytes / shards,
            hasher: DefaultHasher::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    fn shard(&self, key: &K) -> &Mutex<Shard<K, V>> {
        let at = self.hasher.hash_one(key) as usize % self.shards.len();
        &self.shards[at]
    }

    /// The value, which becomes the most recently used of its shard.
    pub fn get(&self, key: &K) -> Option<V> {
        let found = self.shard(key).lock().entries.get(key).map(|(value, _)| value.clone());
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Inserts a value of `weight` bytes and drops the least recently used ones that no longer fit.
    pub fn insert(&self, key: K, value: V, weight: usize) {
        // What goes is dropped after the lock is released: a value's Drop may be expensive.
        let mut gone = Vec::new();
        let mut shard = self.shard(&key).lock();
        if let Some((old, old_weight)) = shard.entries.put(key, (value, weight)) {
            shard.bytes -= old_weight;
            gone.push(old);
        }
        shard.bytes += weight;
        while shard.bytes > self.shard_bytes && shard.entries.len() > 1 {
            if let Some((_, (value, weight))) = shard.entries.pop_lru() {
                shard.bytes -= weight;
                gone.push(value);
            }
        }
        drop(shard);
    }

    /// Hits and misses so far.
    pub fn counters(&self) -> CacheCounters {
        CacheCounters { hits: self.hits.load(Ordering::Relaxed), misses: self.misses.load(Ordering::Relaxed) }
    }

    /// Bytes held now.
    pub fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes_when_bytes_run_out() {
        let cache = ByteLru::new(100, 1);
        for key in 0..4 {
            cache.insert(key, key * 10, 30);
            cache.get(&0);
        }
        assert_eq!(cache.get(&0), Some(0));
        assert_eq!(cache.get(&1), None);
        assert_eq!(cache.get(&3), Some(30));
        assert!(cache.bytes() <= 100);
    }

    #[test]
    fn a_value_heavier_than_the_cache_is_still_served() {
        let cache = ByteLru::new(10, 1);
        cache.insert(1, 'a', 50);
        assert_eq!(cache.get(&1), Some('a'));
        cache.insert(2, 'b', 5);
        assert_eq!(cache.get(&1), None);
    }
}
