//! How much memory reading a foreign file may take, whatever its lengths claim.

use super::Fault;

/// Room for every file beyond its own size: a small file may hold many small objects.
const FIXED: usize = 24 << 20;

/// What is left of the memory that a file may make us allocate. Charges are never given back, so
/// that the sum of all charges bounds the peak.
pub(crate) struct Budget {
    left: usize,
}

impl Budget {
    /// For a file of `bytes` bytes: that much again, and a fixed room.
    pub(crate) fn of(bytes: usize) -> Budget {
        Budget { left: bytes.saturating_add(FIXED) }
    }

    /// No limit.
    pub(crate) fn unlimited() -> Budget {
        Budget { left: usize::MAX }
    }

    /// Room for what was unpacked, which is a file now.
    pub(crate) fn unpacked(&mut self, bytes: usize) {
        self.left = self.left.saturating_add(bytes);
    }

    /// Takes `bytes`.
    pub(crate) fn charge(&mut self, bytes: usize) -> Result<(), Fault> {
        match self.left.checked_sub(bytes) {
            Some(left) => self.left = left,
            None => {
                return Err(Fault::new(
                    "its small objects would take more memory than the file is large; save the arrays as numpy arrays, not as lists of numbers",
                ));
            }
        }
        Ok(())
    }

    /// Room for `more` items behind those of `items`, charged as it grows.
    pub(crate) fn room<T>(&mut self, items: &mut Vec<T>, more: usize) -> Result<(), Fault> {
        let needed = items.len().saturating_add(more);
        if needed > items.capacity() {
            let capacity = needed.max(2 * items.capacity()).max(4);
            self.charge(capacity.saturating_mul(size_of::<T>()))?;
            items.reserve_exact(capacity - items.len());
        }
        Ok(())
    }

    /// Adds one item to `items`.
    pub(crate) fn push<T>(&mut self, items: &mut Vec<T>, item: T) -> Result<(), Fault> {
        self.room(items, 1)?;
        items.push(item);
        Ok(())
    }

    /// A text of its own, charged with its header.
    pub(crate) fn text(&mut self, texts: &mut Vec<String>, text: &str) -> Result<(), Fault> {
        self.charge(text.len())?;
        self.push(texts, text.to_string())
    }
}
