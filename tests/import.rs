//! Other people's feature files: what is read bit for bit, and what is refused without harm.

#[path = "import/bombs.rs"]
mod bombs;
#[path = "import/brought.rs"]
mod brought;
#[path = "import/field.rs"]
mod field;
#[path = "import/fuzzed.rs"]
mod fuzzed;
#[path = "import/hostile.rs"]
mod hostile;
#[path = "import/leaks.rs"]
mod leaks;
#[path = "import/mutated.rs"]
mod mutated;
#[path = "import/others.rs"]
mod others;
#[path = "import/place.rs"]
mod place;
#[path = "import/round_trip.rs"]
mod round_trip;
#[path = "fuzz/targets.rs"]
mod targets;

/// Counts what each thread holds.
#[global_allocator]
static COUNTED: bombs::Counted = bombs::Counted;
