//! One thread at a time for each key: whoever needs what another thread is just making waits for it.
//! Threads that share a device often begin with the same model at the same moment, and a driver that
//! is asked twice for the same pipeline compiles it twice.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Condvar, Mutex, PoisonError};

/// The keys that somebody is busy with.
pub(super) struct Turns<K> {
    busy: Mutex<HashSet<K>>,
    left: Condvar,
}

/// A key's turn, until it is dropped.
pub(super) struct Turn<'a, K: Eq + Hash + Clone> {
    of: &'a Turns<K>,
    key: K,
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Turns { busy: Mutex::default(), left: Condvar::new() }
    }
}

impl<K: Eq + Hash + Clone> Turns<K> {
    /// Waits until nobody is busy with `key`, and is busy with it from then on.
    pub(super) fn take(&self, key: &K) -> Turn<'_, K> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        while busy.contains(key) {
            busy = self.left.wait(busy).unwrap_or_else(PoisonError::into_inner);
        }
        busy.insert(key.clone());
        Turn { of: self, key: key.clone() }
    }
}

impl<K: Eq + Hash + Clone> Drop for Turn<'_, K> {
    fn drop(&mut self) {
        self.of.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
        self.of.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[test]
    fn a_key_has_one_turn_at_a_time() {
        let (turns, inside, most) = (Turns::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let turn = turns.take(&"a");
                        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::sleep(Duration::from_micros(100));
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(turn);
                    }
                });
            }
        });
        assert_eq!(most.into_inner(), 1);
    }

    #[test]
    fn keys_do_not_wait_for_each_other_and_a_panic_gives_its_turn_back() {
        let turns = Turns::default();
        let _other = turns.take(&1);
        let panicked = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let _turn = turns.take(&2);
                panic!("while building, as a test");
            });
            thread.join().is_err()
        });
        assert!(panicked);
        drop(turns.take(&2));
    }
}
