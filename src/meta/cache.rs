//! An LRU cache bounded by bytes, split into shards so that threads do not wait for one lock.

use lru::{DefaultHasher, LruCache};
use parking_lot::Mutex;
use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Cache hits and misses since the cache was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheCounters {
    /// Number of lookups that found a value.
    pub hits: u64,
    /// Number of lookups that found no value.
    pub misses: u64,
}

struct Shard<K, V> {
    entries: LruCache<K, (V, usize)>,
    bytes: usize,
}

impl<K: Hash + Eq, V> Shard<K, V> {
    fn new() -> Mutex<Self> {
        Mutex::new(Shard { entries: LruCache::unbounded(), bytes: 0 })
    }
}

/// A cache with a limit on its bytes. Each shard drops its least recently used values first. Each value counts with the
/// weight given at insertion plus [`ByteLru::ENTRY`]. Each shard is limited to its part of the bytes. A value heavier
/// than that stays only if the whole cache is within its limit, or if it is the only one, so a cache that is too small
/// for a value can still hold it.
pub struct ByteLru<K: Hash + Eq, V> {
    /// The first shard. It is a separate field so that there is always at least one shard.
    first: Mutex<Shard<K, V>>,
    others: Vec<Mutex<Shard<K, V>>>,
    bytes: usize,
    /// Bytes of all shards, entries included. It decides whether a value that is too heavy for its shard may stay. It
    /// is exact while nothing is inserted.
    total: AtomicUsize,
    /// Hasher that chooses the shard of a key. It has a new seed in each process, because the author of an image
    /// chooses the keys.
    hasher: DefaultHasher,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl<K: Hash + Eq + Clone, V: Clone> ByteLru<K, V> {
    /// Bytes that an entry takes besides what its value refers to: its share of a table that grows by doubling, the
    /// links of the list, and the allocator's overhead.
    pub const ENTRY: usize = size_of::<K>() + size_of::<(V, usize)>() + 96;

    /// Makes an empty cache with a limit of `bytes` bytes in `shards` shards.
    pub fn new(bytes: usize, shards: usize) -> Self {
        ByteLru {
            first: Shard::new(),
            others: (1..shards).map(|_| Shard::new()).collect(),
            bytes,
            total: AtomicUsize::new(0),
            hasher: DefaultHasher::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    fn shard(&self, key: &K) -> &Mutex<Shard<K, V>> {
        let at = self.hasher.hash_one(key) as usize % (1 + self.others.len());
        self.others.get(at).unwrap_or(&self.first)
    }

    /// Returns the value of `key`, which becomes the most recently used one of its shard.
    pub fn get(&self, key: &K) -> Option<V> {
        let found = self.shard(key).lock().entries.get(key).map(|(value, _)| value.clone());
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Inserts a value that takes `weight` bytes besides its entry, and drops the least recently used values of its
    /// shard that no longer fit.
    pub fn insert(&self, key: K, value: V, weight: usize) {
        // Removed values are dropped after the lock is released: a value's Drop may be expensive.
        let mut gone = Vec::new();
        let weight = weight.saturating_add(Self::ENTRY);
        let shard_bytes = self.bytes / (1 + self.others.len());
        let mut shard = self.shard(&key).lock();
        let before = shard.bytes;
        if let Some((old, old_weight)) = shard.entries.put(key, (value, weight)) {
            shard.bytes -= old_weight;
            gone.push(old);
        }
        shard.bytes += weight;
        let elsewhere = self.total.fetch_add(weight, Ordering::Relaxed).saturating_sub(before);
        loop {
            let (is_last, others) = (shard.entries.len() <= 1, elsewhere > 0);
            let too_many = (shard.bytes > shard_bytes && !is_last) || elsewhere + shard.bytes > self.bytes;
            if !too_many || (is_last && !others) {
                break;
            }
            let Some((_, (value, weight))) = shard.entries.pop_lru() else { break };
            shard.bytes -= weight;
            gone.push(value);
        }
        self.total.fetch_sub(before + weight - shard.bytes, Ordering::Relaxed);
        drop(shard);
    }

    /// Returns the cache hits and misses so far.
    pub fn counters(&self) -> CacheCounters {
        CacheCounters { hits: self.hits.load(Ordering::Relaxed), misses: self.misses.load(Ordering::Relaxed) }
    }

    /// Returns the bytes that the cache holds now, entries included.
    pub fn bytes(&self) -> usize {
        std::iter::once(&self.first).chain(&self.others).map(|shard| shard.lock().bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: usize = ByteLru::<i32, i32>::ENTRY;

    #[test]
    fn the_least_recently_used_goes_when_bytes_run_out() {
        let cache = ByteLru::new(100 + 3 * ENTRY, 1);
        for key in 0..4 {
            cache.insert(key, key * 10, 30);
            cache.get(&0);
        }
        assert_eq!(cache.get(&0), Some(0));
        assert_eq!(cache.get(&1), None);
        assert_eq!(cache.get(&3), Some(30));
        assert!(cache.bytes() <= 100 + 3 * ENTRY);
    }

    #[test]
    fn a_value_heavier_than_the_cache_is_still_served() {
        let cache = ByteLru::new(10, 1);
        cache.insert(1, 'a', 50);
        assert_eq!(cache.get(&1), Some('a'));
        cache.insert(2, 'b', 5);
        assert_eq!(cache.get(&1), None);
    }

    #[test]
    fn heavy_values_in_many_shards_stay_within_the_bytes_of_the_cache() {
        let limit = 1000 + 8 * ENTRY;
        let cache = ByteLru::new(limit, 8);
        for key in 0..1000 {
            let weight = 100 + key as usize * 7919 % 800;
            cache.insert(key, key, weight);
            assert!(cache.bytes() <= limit, "{} bytes in a cache of {limit}", cache.bytes());
            assert_eq!(cache.bytes(), cache.total.load(Ordering::Relaxed));
        }
    }

    #[test]
    fn entries_that_weigh_nothing_are_counted() {
        let cache = ByteLru::new(10_000, 1);
        (0..1000).for_each(|key| cache.insert(key, 0, 0));
        assert!(cache.bytes() <= 10_000 && cache.bytes() > 9_000);
    }
}
