//! Jobs on several threads, and what came of each.

use super::{Checked, Failure, Part};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// What happens while an adapter is checked.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// A part begins; it has so many jobs.
    Begin(Part, usize),
    /// A thread begins a job of a part: what, and where.
    Job(Part, &'a str),
    /// A job is over; the number of its failures.
    Done(Part, usize),
}

/// What came of checking one thing: a kernel on a device, a gradient, a training.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Comparisons.
    pub cases: usize,
    /// The largest difference that was seen; infinite where something is not a number.
    pub largest: f64,
    /// The largest that would have been allowed there.
    pub allowed: f64,
    /// Where it was seen.
    pub at: String,
    /// What is wrong: where, what, how much.
    pub failures: Vec<Failure>,
    /// What this adapter is known not to do, and why; no failures.
    pub skipped: Vec<String>,
}

impl Outcome {
    /// Counts a comparison: a difference and the largest one allowed, which is seen at `at`.
    /// `detail` says what is wrong where it is too large.
    pub fn see(
        &mut self,
        difference: f64,
        allowed: f64,
        at: impl Fn() -> String,
        detail: impl FnOnce() -> String,
    ) {
        let difference = if difference.is_nan() { f64::INFINITY } else { difference };
        self.cases += 1;
        if self.at.is_empty() || difference > self.largest {
            (self.largest, self.allowed, self.at) = (difference, allowed, at());
        }
        if difference > allowed {
            self.failures.push(Failure { at: at(), detail: detail(), difference });
        }
    }

    /// Counts a comparison that could not be made: what was to be compared failed.
    pub fn fail(&mut self, at: String, detail: String) {
        self.cases += 1;
        self.failures.push(Failure { at, detail, difference: f64::INFINITY });
    }

    /// Takes over another outcome of the same thing.
    pub fn merge(&mut self, other: Outcome) {
        self.cases += other.cases;
        if self.at.is_empty() || other.largest > self.largest {
            (self.largest, self.allowed, self.at) = (other.largest, other.allowed, other.at);
        }
        self.failures.extend(other.failures);
        self.skipped.extend(other.skipped);
    }
}

/// One job: whose row it belongs to, what it is called while it runs, and its work.
pub(super) struct Job<'a> {
    pub row: String,
    pub name: String,
    pub work: Box<dyn Fn() -> Outcome + Send + Sync + 'a>,
}

/// Runs jobs on as many threads as the machine has, at most eight: most of the time goes into
/// compiling, which drivers do on the thread that asks. Rows come in the order of their first jobs,
/// whichever job ends first.
pub(super) fn run(part: Part, jobs: &[Job], watch: &(dyn Fn(Progress) + Sync)) -> Vec<Checked> {
    watch(Progress::Begin(part, jobs.len()));
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get()).clamp(2, 8);
    let next = AtomicUsize::new(0);
    let mut done: Vec<(usize, Outcome, f64)> = std::thread::scope(|scope| {
        let work = || {
            let mut done = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(job) = jobs.get(at) else { return done };
                watch(Progress::Job(part, &job.name));
                let start = Instant::now();
                let outcome = (job.work)();
                watch(Progress::Done(part, outcome.failures.len()));
                done.push((at, outcome, start.elapsed().as_secs_f64()));
            }
        };
        let threads: Vec<_> = (0..threads.min(jobs.len())).map(|_| scope.spawn(work)).collect();
        // A panic of a job is a bug of ours and goes on being one.
        let join = |t: std::thread::ScopedJoinHandle<_>| match t.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        threads.into_iter().flat_map(join).collect()
    });
    done.sort_by_key(|(at, ..)| *at);
    let mut rows: Vec<Checked> = Vec::new();
    for (at, outcome, seconds) in done {
        let name = &jobs[at].row;
        let row = rows.iter().position(|row| row.name == *name).unwrap_or_else(|| {
            rows.push(Checked::new(part, name));
            rows.len() - 1
        });
        rows[row].add(outcome, seconds);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_order_and_count_everything() {
        let job = |row: &str, difference: f64| Job {
            row: row.into(),
            name: row.into(),
            work: Box::new(move || {
                let mut outcome = Outcome::default();
                outcome.see(difference, 0.5, || format!("at {difference}"), || "off".into());
                outcome
            }),
        };
        let jobs = [job("b", 0.1), job("a", 0.7), job("b", 0.2), job("b", f64::NAN)];
        let seen = AtomicUsize::new(0);
        let rows = run(Part::Kernel, &jobs, &|p| {
            if let Progress::Done(_, failures) = p {
                seen.fetch_add(1 + 10 * failures, Ordering::Relaxed);
            }
        });
        assert_eq!(seen.into_inner(), 24);
        let all: Vec<_> = rows.iter().map(|r| (r.name.as_str(), r.cases, r.failed)).collect();
        assert_eq!(all, [("b", 3, 1), ("a", 1, 1)]);
        assert_eq!((rows[0].largest, rows[1].largest), (f64::INFINITY, 0.7));
        assert_eq!(rows[1].failures[0].at, "at 0.7");
    }
}
