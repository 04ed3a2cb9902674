//! Watching a run: a bar on a terminal, a line for each epoch, and the curves in the run folder.

use super::signals::{self, Watched};
use super::{Global, curves, fatal, output, run_folder};
use crate::data::Task;
use crate::plan::Written;
use crate::train::{EpochRecord, Observer, Session, StepRecord};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// An observer that shows what happens and keeps `curves.svg` up to date.
pub(super) struct Progress {
    run: PathBuf,
    /// Before everything it says; a demo watches several runs.
    label: String,
    terminal: bool,
    /// From the first step on.
    bar: Option<ProgressBar>,
    lines: bool,
    introduce: bool,
    epochs: usize,
    epoch_began: Instant,
    loss: f64,
    history: Vec<EpochRecord>,
    /// From the first step on there is something to save.
    watched: Option<Watched>,
    debug: bool,
}

impl Progress {
    /// Watches a training run and says what it is about.
    pub(super) fn new(global: &Global, run: &Path) -> Self {
        Progress { introduce: !global.quiet, ..Self::brief(global, run, "") }
    }

    /// Shows what kernels wrote where numbers are not finite.
    pub(super) fn debugging(self, wanted: bool) -> Self {
        Progress { debug: wanted, ..self }
    }

    /// Watches without an introduction.
    pub(super) fn brief(global: &Global, run: &Path, label: &str) -> Self {
        Progress {
            run: run.to_path_buf(),
            label: label.into(),
            terminal: !global.quiet && std::io::stderr().is_terminal(),
            bar: None,
            lines: !global.quiet && label.is_empty(),
            introduce: false,
            epochs: 0,
            epoch_began: Instant::now(),
            loss: 0.0,
            history: Vec::new(),
            watched: None,
            debug: false,
        }
    }

    /// A line that a bar does not overwrite.
    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| output::note(line)),
            None => output::note(line),
        }
    }

    /// The epochs of the run, earlier calls' included.
    pub(super) fn into_history(self) -> Vec<EpochRecord> {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.history
    }
}

/// What a task is, with its names as far as there is room for them.
fn told(task: &Task) -> String {
    const MOST: usize = 12;
    let shown = task.names.len().min(MOST);
    let rest = if task.names.len() > shown { ", …" } else { "" };
    format!("{} ({}{rest})", task.about(), task.names[..shown].join(", "))
}

impl Observer for Progress {
    fn debug_numerics(&self) -> bool {
        self.debug
    }

    fn traced(&mut self, written: &[(usize, Written)]) {
        let number = |x: f32| if x.is_finite() { format!("{x:.3e}") } else { "-".into() };
        let rows = written.iter().map(|(batch, w)| {
            let shape: Vec<String> = w.shape.iter().map(ToString::to_string).collect();
            vec![
                batch.to_string(),
                w.dispatch.to_string(),
                w.kernel.to_string(),
                w.tensor.clone(),
                shape.join("x"),
                number(w.least),
                number(w.most),
                format!("{:.3e}", w.mean),
                w.not_finite.to_string(),
            ]
        });
        let header = [
            "batch",
            "dispatch",
            "kernel",
            "tensor",
            "shape",
            "least",
            "most",
            "mean |x|",
            "not finite",
        ];
        let table = output::table(header, 5, rows).to_string();
        match &self.bar {
            Some(bar) => bar.suspend(|| output::show(&table)),
            None => output::show(&table),
        }
    }

    fn stop(&mut self) -> bool {
        signals::pending().is_some()
    }

    fn begin(&mut self, session: &mut Session, first_epoch: usize) {
        self.watched.get_or_insert_with(Watched::begin);
        fatal::keeps(&self.run);
        self.epochs = session.model().config().train.max_epochs;
        // What is no log any more was said when the run was taken up.
        self.history = run_folder::epochs(&self.run).unwrap_or_default();
        self.epoch_began = Instant::now();
        if !self.introduce {
            return;
        }
        let train = session.data().split(crate::data::SplitName::Train);
        let rows = train.map_or(0, crate::data::Split::rows);
        let senses: Vec<&str> =
            session.model().reads().modalities().iter().map(|m| m.name()).collect();
        let parameters = session.params().count();
        let memory = output::bytes(session.bytes());
        let dispatches = session.step_plan().map_or(0, |plan| plan.dispatches().len());
        self.say(&format!(
            "{rows} training rows of {}; {parameters} parameters; a step is {dispatches} dispatches; \
             {memory} on the device",
            senses.join(", ")
        ));
        let unread: Vec<&str> = session.unread().into_iter().map(|m| m.name()).collect();
        if !unread.is_empty() {
            let (name, unread) = (&session.model().config().model.name, unread.join(", "));
            self.say(&format!(
                "note: {name} does not read {unread}, which the data have; modalign models says which do"
            ));
        }
        let data = session.data();
        if !data.task().one_number() {
            self.say(&format!("what it learns to tell: {}", told(data.task())));
        }
        if let Some(note) = data.task_note() {
            self.say(&format!("note: {note}"));
        }
        let run = self.run.display();
        if first_epoch > 1 {
            self.say(&format!("{run}: going on with epoch {first_epoch}"));
        } else if self.terminal {
            self.say(&format!(
                "Ctrl-C stops after the step and saves it; go on later with: modalign train --resume {run}"
            ));
        }
    }

    fn step(&mut self, record: &StepRecord, done: usize, total: usize) {
        // A slow average, so that the number can be read.
        let first = record.batch == 1;
        self.loss = if first { record.loss } else { 0.95 * self.loss + 0.05 * record.loss };
        if !self.terminal {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let template = "{prefix} {bar:24.cyan} {pos}/{len} {msg}";
            // A template that does not parse would only cost the bar its looks.
            let style = ProgressStyle::with_template(template);
            ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        if first {
            bar.set_prefix(format!("{}epoch {}/{}", self.label, record.epoch, self.epochs));
        }
        let rate = done as f64 / self.epoch_began.elapsed().as_secs_f64().max(1e-3);
        bar.set_message(format!("loss {:.3}  {rate:.0} samples/s", self.loss));
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    }

    fn epoch(&mut self, record: &EpochRecord) {
        if self.lines {
            let seconds = self.epoch_began.elapsed().as_secs_f64();
            let valid = record
                .valid
                .as_ref()
                .map_or_else(String::new, |m| format!("  valid {}", m.headline(4)));
            let best = if record.best && record.valid.is_some() { "  best" } else { "" };
            self.say(&format!(
                "epoch {:>3}/{}  {seconds:>5.1} s  loss {:.4}{valid}{best}",
                record.epoch, self.epochs, record.loss
            ));
        }
        self.history.push(record.clone());
        if let Err(why) = curves::write_run(&self.run.join("curves.svg"), &self.history) {
            // The run itself is safe; only its picture is not.
            log::warn!("{why}");
        }
        self.epoch_began = Instant::now();
    }
}
