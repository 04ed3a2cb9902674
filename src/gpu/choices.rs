//! Which of several launches was found to be the fastest, by class: kept on disk for each adapter,
//! driver and version of this crate. What a class is, its user knows (`plan::Plan::tune`).

use super::Caps;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What a process may spend on measuring.
const BUDGET: Duration = Duration::from_millis(800);

#[derive(serde::Serialize, serde::Deserialize)]
struct File {
    adapter: String,
    driver: String,
    choices: BTreeMap<String, usize>,
}

struct State {
    table: BTreeMap<String, usize>,
    left: Duration,
}

/// The choices made on one adapter.
pub struct Choices {
    adapter: String,
    driver: String,
    path: Option<PathBuf>,
    state: Mutex<State>,
}

impl Choices {
    /// Reads what is known of an adapter; with `off` nothing is known, measured or kept.
    pub(super) fn open(caps: &Caps, off: bool) -> Self {
        let (adapter, driver) = (caps.name.clone(), format!("{} {}", caps.backend, caps.driver));
        let digest = crate::files::fingerprint(format!("{adapter} {driver}").as_bytes());
        let name = format!("tuned_{}_{}.json", digest, env!("CARGO_PKG_VERSION"));
        let path = crate::files::cache_folder().filter(|_| !off).map(|folder| folder.join(name));
        let state =
            State { table: BTreeMap::new(), left: if off { Duration::ZERO } else { BUDGET } };
        let choices = Choices { adapter, driver, path, state: Mutex::new(state) };
        choices.state().table = choices.read();
        choices
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the file holds; nothing where there is none, or none that can be used.
    fn read(&self) -> BTreeMap<String, usize> {
        let bytes = self.path.as_ref().and_then(|path| crate::files::kept(path));
        bytes
            .and_then(|bytes| serde_json::from_slice::<File>(&bytes).ok())
            .filter(|file| file.adapter == self.adapter && file.driver == self.driver)
            .map_or_else(BTreeMap::new, |file| file.choices)
    }

    /// The choice for a class.
    pub fn get(&self, class: &str) -> Option<usize> {
        self.state().table.get(class).copied()
    }

    /// What is left of the time for measuring.
    pub fn left(&self) -> Duration {
        self.state().left
    }

    /// Makes a choice that took `spent` to find.
    pub fn set(&self, class: String, option: usize, spent: Duration) {
        let mut state = self.state();
        state.table.insert(class, option);
        state.left = state.left.saturating_sub(spent);
    }

    /// Writes the choices to disk, beside those that other processes have made meanwhile. Failing to
    /// is no error: the next start measures again.
    pub fn save(&self) {
        let Some(path) = &self.path else { return };
        let mut choices = self.read();
        choices.extend(self.state().table.clone());
        let file = File { adapter: self.adapter.clone(), driver: self.driver.clone(), choices };
        match serde_json::to_vec_pretty(&file) {
            Ok(bytes) => crate::files::keep(path, &bytes, "choices"),
            Err(why) => log::debug!("choices not kept: {why}"),
        }
    }
}
