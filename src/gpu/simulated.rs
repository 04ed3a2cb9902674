//! What drivers report of GPUs that are not here, as data: enough to say which kernels they would get and
//! whether a plan fits. Nothing of it was measured, and no speed follows from it.

use super::{Caps, Family};
use crate::error::{Error, Result, nearest};
use serde::{Deserialize, Serialize};

const PROFILES: &str = include_str!("profiles.json");

/// A GPU as its driver describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Simulated {
    /// Its name.
    pub name: String,
    /// "vulkan", "metal", "dx12", "any".
    pub backend: String,
    /// The driver that reports these limits.
    pub driver: String,
    /// Smallest and largest subgroup; none where it offers no subgroup operations.
    pub subgroup: Option<(u32, u32)>,
    /// Largest storage binding, bytes.
    pub max_binding: u64,
    /// Largest buffer, bytes.
    pub max_buffer: u64,
    /// Storage and uniform offset alignment, bytes.
    pub align: u64,
    /// Memory that a program can have, bytes.
    pub memory: u64,
}

impl Simulated {
    /// All that are known.
    ///
    /// # Errors
    /// None that a released program has: the data are part of it, and tested.
    pub fn all() -> Result<Vec<Simulated>> {
        serde_json::from_str(PROFILES).map_err(|e| Error::Config(format!("profiles.json: {e}")))
    }

    /// The first whose name contains `name`, in any case.
    ///
    /// # Errors
    /// [`Config`](Error::Config): none does.
    pub fn find(name: &str) -> Result<Simulated> {
        let all = Self::all()?;
        let wanted = name.to_lowercase();
        let found = all.iter().find(|one| one.name.to_lowercase().contains(&wanted)).cloned();
        found.ok_or_else(|| {
            let close = nearest(name, all.iter().map(|one| one.name.as_str()));
            Error::Config(format!(
                "no GPU of that name is known, did you mean '{close}'? (devices --simulate list)"
            ))
        })
    }

    /// Its capabilities, as an open device of it would have them.
    pub fn caps(&self) -> Caps {
        Caps {
            name: self.name.clone(),
            backend: self.backend.clone(),
            driver: self.driver.clone(),
            subgroup: self.subgroup,
            max_binding: self.max_binding,
            max_buffer: self.max_buffer,
            align: self.align,
            ..Caps::defaults(Family::Tiled)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_read_and_make_sense() {
        let all = Simulated::all().unwrap();
        assert!(all.len() > 8);
        let least = Caps::defaults(Family::Tiled);
        for one in &all {
            let caps = one.caps();
            assert!(caps.max_binding >= least.max_binding, "{}", one.name);
            assert!(
                caps.max_buffer >= least.max_buffer
                    && caps.max_buffer <= one.memory.max(caps.max_buffer)
            );
            assert!(one.align.is_power_of_two() && (16..=256).contains(&one.align), "{}", one.name);
            assert!(one.subgroup.is_none_or(|(a, b)| a <= b && b <= 128), "{}", one.name);
        }
        assert_eq!(Simulated::find("adreno").unwrap().name, "Qualcomm Adreno 660");
        assert!(Simulated::find("Voodoo").unwrap_err().to_string().contains("did you mean"));
    }
}
