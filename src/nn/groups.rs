//! Parameter groups by name: which optimiser, at what rate, and how far each has come.

use super::Schedule;
use crate::error::{Error, Result, nearest};
use crate::gpu::Gpu;
use crate::ops::optim::Row;
use crate::plan::{ALIGN_WORDS, Memory, SpaceId};

/// An optimiser and its own settings, under PyTorch's names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimizer {
    /// `torch.optim.Adam`: weight decay is added to the gradient.
    Adam {
        /// Of the running means of the gradient and of its square.
        betas: (f64, f64),
        /// Added to the denominator.
        eps: f64,
    },
    /// `torch.optim.AdamW`: weight decay shrinks the value itself, by lr · weight decay.
    AdamW {
        /// As in Adam.
        betas: (f64, f64),
        /// As in Adam.
        eps: f64,
    },
    /// AdamW whose running means are taken as they are, though they begin at 0: BERT's own optimiser
    /// (arXiv:1810.04805), `BertAdam` of pytorch-pretrained-bert. Its first steps are larger than AdamW's,
    /// so it wants a warm-up.
    BertAdam {
        /// As in Adam.
        betas: (f64, f64),
        /// As in Adam.
        eps: f64,
    },
    /// `torch.optim.SGD`: weight decay is added to the gradient.
    Sgd {
        /// The share of the last step's direction; 0 for none, and no memory for it.
        momentum: f64,
        /// How much less than all of the gradient joins the momentum, from the second step on.
        dampening: f64,
        /// Nesterov's momentum, which wants one, and no dampening.
        nesterov: bool,
    },
}

/// β₁, β₂: torch's defaults.
const BETAS: (f64, f64) = (0.9, 0.999);
/// ε: torch's default.
const EPS: f64 = 1e-8;

/// Which optimiser, told apart by what it keeps of each parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Memorized {
    /// Two moments.
    Adam,
    /// A momentum.
    Momentum,
    /// Nothing.
    Nothing,
}

impl Optimizer {
    /// Adam with torch's defaults: betas 0.9 and 0.999, eps 1e-8.
    pub const ADAM: Self = Optimizer::Adam { betas: BETAS, eps: EPS };
    /// AdamW with torch's defaults.
    pub const ADAM_W: Self = Optimizer::AdamW { betas: BETAS, eps: EPS };
    /// BERT's own optimiser with its defaults: betas 0.9 and 0.999, eps 1e-6.
    pub const BERT_ADAM: Self = Optimizer::BertAdam { betas: BETAS, eps: 1e-6 };
    /// SGD with torch's defaults: no momentum.
    pub const SGD: Self = Optimizer::Sgd { momentum: 0.0, dampening: 0.0, nesterov: false };

    pub(super) fn memorized(&self) -> Memorized {
        match self {
            Optimizer::Adam { .. } | Optimizer::AdamW { .. } | Optimizer::BertAdam { .. } => {
                Memorized::Adam
            }
            Optimizer::Sgd { momentum, .. } if *momentum > 0.0 => Memorized::Momentum,
            Optimizer::Sgd { .. } => Memorized::Nothing,
        }
    }

    fn fault(&self) -> Option<String> {
        // What single precision takes for 1 is 1: nothing would ever be forgotten.
        let share = |v: f64| (0.0..1.0).contains(&v) && (v as f32) < 1.0;
        match *self {
            Optimizer::Adam { betas, eps }
            | Optimizer::AdamW { betas, eps }
            | Optimizer::BertAdam { betas, eps } => {
                if !share(betas.0) || !share(betas.1) {
                    return Some(format!("betas are {betas:?}; give two from 0 to below 1"));
                }
                let small = f64::from(f32::MIN_POSITIVE);
                let wrong = !eps.is_finite() || eps < small;
                wrong.then(|| format!("eps is {eps}; give one above 0, as 1e-8"))
            }
            Optimizer::Sgd { momentum, dampening, nesterov } => {
                if !momentum.is_finite() || momentum < 0.0 {
                    return Some(format!("momentum is {momentum}; give one from 0 on"));
                }
                if !dampening.is_finite() {
                    return Some(format!("dampening is {dampening}; give a number"));
                }
                let wrong = nesterov && (momentum == 0.0 || dampening != 0.0);
                wrong.then(|| "nesterov wants a momentum, and dampening 0".into())
            }
        }
    }
}

/// Parameters that are trained alike: a name and settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// What [`ParamSpec::group`](super::ParamSpec::group) says.
    pub name: String,
    /// How a gradient becomes a step.
    pub optimizer: Optimizer,
    /// Learning rate.
    pub lr: f64,
    /// Weight decay: L2 in Adam and SGD, decoupled in AdamW and BERT's own.
    pub weight_decay: f64,
    /// What the learning rate is multiplied by from step to step.
    pub schedule: Schedule,
}

impl Group {
    /// A group without weight decay, at a constant rate.
    pub fn new(name: impl Into<String>, optimizer: Optimizer, lr: f64) -> Self {
        let schedule = Schedule::Constant;
        Group { name: name.into(), optimizer, lr, weight_decay: 0.0, schedule }
    }

    /// [`Optimizer::ADAM`] without weight decay.
    pub fn adam(name: impl Into<String>, lr: f64) -> Self {
        Self::new(name, Optimizer::ADAM, lr)
    }

    /// [`Optimizer::ADAM_W`] with torch's default weight decay of 0.01.
    pub fn adam_w(name: impl Into<String>, lr: f64) -> Self {
        Self::new(name, Optimizer::ADAM_W, lr).weight_decay(0.01)
    }

    /// SGD with a momentum, which may be 0, without weight decay.
    pub fn sgd(name: impl Into<String>, lr: f64, momentum: f64) -> Self {
        Self::new(name, Optimizer::Sgd { momentum, dampening: 0.0, nesterov: false }, lr)
    }

    /// The same with this weight decay.
    pub fn weight_decay(self, weight_decay: f64) -> Self {
        Group { weight_decay, ..self }
    }

    /// The same under this schedule.
    pub fn schedule(self, schedule: Schedule) -> Self {
        Group { schedule, ..self }
    }

    fn check(&self) -> Result<()> {
        let number = |name: &str, v: f64| {
            let wrong = !v.is_finite() || v < 0.0 || !(v as f32).is_finite();
            wrong.then(|| format!("{name} is {v}; give a number from 0 on"))
        };
        let fault = number("lr", self.lr)
            .or_else(|| number("weight_decay", self.weight_decay))
            .or_else(|| self.optimizer.fault())
            .or_else(|| self.schedule.fault());
        match fault {
            Some(fault) => Err(Error::Config(format!("group '{}': {fault}", self.name))),
            None => Ok(()),
        }
    }

    /// The learning rate of the group's step `t`, from 1.
    pub fn rate(&self, t: u32) -> f64 {
        self.lr * self.schedule.factor(u64::from(t.saturating_sub(1)))
    }

    /// What the device reads in the group's step `t`, from 1; 0 leaves the group as it is.
    pub fn row(&self, t: u32) -> Row {
        let lr = self.rate(t);
        let bias = |beta: f64| (1.0 - beta.powi(t.min(i32::MAX as u32) as i32)) as f32;
        let adam = |(beta1, beta2): (f64, f64), eps: f64| Row {
            t,
            lr: lr as f32,
            keep: 1.0,
            beta1: beta1 as f32,
            // Rounded once, after the subtraction.
            rest1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            rest2: (1.0 - beta2) as f32,
            bias1: bias(beta1),
            bias2: bias(beta2),
            eps: eps as f32,
            ..Row::default()
        };
        match self.optimizer {
            Optimizer::Adam { betas, eps } => {
                Row { decay: self.weight_decay as f32, ..adam(betas, eps) }
            }
            Optimizer::AdamW { betas, eps } => {
                Row { keep: (1.0 - lr * self.weight_decay) as f32, ..adam(betas, eps) }
            }
            Optimizer::BertAdam { betas, eps } => {
                let keep = (1.0 - lr * self.weight_decay) as f32;
                Row { keep, bias1: 1.0, bias2: 1.0, ..adam(betas, eps) }
            }
            Optimizer::Sgd { momentum, dampening, nesterov } => Row {
                t,
                lr: lr as f32,
                decay: self.weight_decay as f32,
                keep: 1.0,
                beta1: momentum as f32,
                // The first step's momentum is its gradient.
                rest1: if t == 1 { 1.0 } else { (1.0 - dampening) as f32 },
                nesterov: u32::from(nesterov),
                ..Row::default()
            },
        }
    }
}

/// The groups of some parameters while they are trained: settings, and how many steps each has taken.
/// Before an update: [`advance`](Self::advance), then [`write`](Self::write), which is one small
/// upload and allocates nothing.
#[derive(Clone, Debug)]
pub struct Groups {
    list: Vec<Group>,
    steps: Vec<u32>,
    rows: Vec<Row>,
    /// Where the device reads the rows, those of each turn of a step; absent where nothing is trained.
    table: Option<SpaceId>,
}

/// Words from the rows of one turn of a step to those of the next, for so many groups.
pub(super) fn turn_words(groups: usize) -> usize {
    (groups * Row::WORDS).next_multiple_of(ALIGN_WORDS)
}

impl Groups {
    /// Groups that have not taken a step yet, whose rows are in `table`.
    ///
    /// # Errors
    /// [`Config`](Error::Config): two groups of one name, none at all, settings that an optimiser
    /// cannot have.
    pub fn new(list: &[Group], table: Option<SpaceId>) -> Result<Self> {
        for (i, group) in list.iter().enumerate() {
            group.check()?;
            if list[..i].iter().any(|other| other.name == group.name) {
                let name = &group.name;
                return Err(Error::Config(format!("two parameter groups are named '{name}'")));
            }
        }
        let rows = vec![Row::default(); list.len()];
        Ok(Groups { list: list.to_vec(), steps: vec![0; list.len()], rows, table })
    }

    /// The same, whose rows the device reads from `table`.
    pub(super) fn read_from(self, table: Option<SpaceId>) -> Self {
        Groups { table, ..self }
    }

    /// Where the device reads the [rows](Self::rows); none where nothing is trained.
    pub fn table(&self) -> Option<SpaceId> {
        self.table
    }

    /// The groups, in the order of their rows.
    pub fn list(&self) -> &[Group] {
        &self.list
    }

    /// The place of a group of this name.
    pub(super) fn find(&self, name: &str) -> Result<usize> {
        self.list.iter().position(|g| g.name == name).ok_or_else(|| {
            let names = || self.list.iter().map(|g| g.name.as_str());
            Error::Config(match names().next() {
                Some(_) => format!(
                    "no parameter group '{name}'; did you mean '{}'?",
                    nearest(name, names())
                ),
                None => format!("no parameter group '{name}': none was given"),
            })
        })
    }

    /// A group's settings.
    ///
    /// # Errors
    /// An unknown name.
    pub fn get(&self, name: &str) -> Result<&Group> {
        self.find(name).map(|i| &self.list[i])
    }

    /// How many steps a group has taken.
    ///
    /// # Errors
    /// An unknown name.
    pub fn steps(&self, name: &str) -> Result<u32> {
        self.find(name).map(|i| self.steps[i])
    }

    /// Sets a group's learning rate, which its schedule then multiplies.
    ///
    /// # Errors
    /// An unknown name; a rate that is negative or not a number.
    pub fn set_lr(&mut self, name: &str, lr: f64) -> Result<()> {
        self.change(name, |group| group.lr = lr)
    }

    /// Changes any of a group's settings from the next step on, except its name and what its
    /// optimiser keeps of each parameter: Adam and AdamW may replace each other, SGD with momentum
    /// stays with a momentum, and without one without.
    ///
    /// # Errors
    /// An unknown name; settings that the group cannot have. It then keeps those it had.
    pub fn change(&mut self, name: &str, change: impl FnOnce(&mut Group)) -> Result<()> {
        let i = self.find(name)?;
        let before = &self.list[i];
        let mut after = before.clone();
        change(&mut after);
        after.check()?;
        let memory = [before, &after].map(|group| group.optimizer.memorized());
        if after.name != before.name || memory[0] != memory[1] {
            return Err(Error::Config(format!(
                "group '{name}' was laid out for {:?}; its name and what that keeps of each \
                 parameter cannot be changed",
                before.optimizer
            )));
        }
        self.list[i] = after;
        Ok(())
    }

    /// The next update is the next step of every group.
    pub fn advance(&mut self) {
        self.steps.iter_mut().for_each(|t| *t = t.saturating_add(1));
    }

    /// The next update is the next step of these groups only; see
    /// [`Params::optimize_only`](super::Params::optimize_only). Each group counts its own steps, for
    /// its bias corrections and its schedule.
    ///
    /// # Errors
    /// An unknown name; then no group advances.
    pub fn advance_only(&mut self, names: &[&str]) -> Result<()> {
        names.iter().try_for_each(|name| self.find(name).map(drop))?;
        for (group, t) in self.list.iter().zip(&mut self.steps) {
            if names.contains(&group.name.as_str()) {
                *t = t.saturating_add(1);
            }
        }
        Ok(())
    }

    /// Sets how many steps a group has taken, as in a run that goes on.
    ///
    /// # Errors
    /// An unknown name.
    pub fn set_steps(&mut self, name: &str, steps: u32) -> Result<()> {
        self.find(name).map(|i| self.steps[i] = steps)
    }

    /// Sets how many steps all groups have taken.
    pub fn set_all_steps(&mut self, steps: u32) {
        self.steps.fill(steps);
    }

    /// What the device reads of each group, in the order of their rows.
    pub fn rows(&mut self) -> &[Row] {
        for ((row, group), t) in self.rows.iter_mut().zip(&self.list).zip(&self.steps) {
            *row = group.row(*t);
        }
        &self.rows
    }

    /// The same rows for each of so many turns of a step, where the device reads them.
    #[cfg(feature = "bench")]
    pub(crate) fn rows_of_turns(&mut self, turns: usize) -> Vec<u32> {
        let stride = turn_words(self.list.len());
        let rows: &[u32] = bytemuck::cast_slice(self.rows());
        let mut all = vec![0; turns.saturating_sub(1) * stride + rows.len()];
        all.chunks_mut(stride.max(1)).for_each(|turn| turn[..rows.len()].copy_from_slice(rows));
        all
    }

    /// Writes the settings for what is submitted next.
    ///
    /// # Errors
    /// [`Access`](Error::Access) where the memory is of other spaces or another device; those of the
    /// device.
    pub fn write(&mut self, gpu: &Gpu, memory: &Memory) -> Result<()> {
        self.write_turn(gpu, memory, 0)
    }

    /// The same for turn `turn`, from 0, of a step that updates its groups by turns; see
    /// [`Params::optimize_turn`](super::Params::optimize_turn).
    ///
    /// # Errors
    /// As [`write`](Self::write); [`Access`](Error::Access) for a turn that the parameters were not
    /// [made for](super::Params::by_turns).
    pub fn write_turn(&mut self, gpu: &Gpu, memory: &Memory, turn: usize) -> Result<()> {
        let at = turn * turn_words(self.list.len());
        match self.table {
            Some(table) => memory.write(gpu, table, at, bytemuck::cast_slice(self.rows())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(group: Group) -> String {
        Groups::new(&[group], None).expect_err("a fault").to_string()
    }

    #[test]
    fn names_are_known_and_apart() {
        let list = [Group::adam("bert", 1e-3), Group::sgd("bert.no_decay", 0.1, 0.9)];
        let mut groups = Groups::new(&list, None).unwrap();
        let twice = [list[0].clone(), list[0].clone()];
        let error = Groups::new(&twice, None).unwrap_err().to_string();
        assert!(error.contains("two parameter groups are named 'bert'"), "{error}");
        for error in [
            groups.get("bret").map(drop),
            groups.set_lr("bret", 1.0),
            groups.advance_only(&["bert.no_decay", "bret"]),
        ] {
            let error = error.unwrap_err().to_string();
            assert!(error.contains("no parameter group 'bret'; did you mean 'bert'?"), "{error}");
        }
        assert_eq!(groups.steps("bert.no_decay").unwrap(), 0, "nothing has advanced");
    }

    #[test]
    fn berts_own_optimiser_takes_means_as_they_are() {
        let group = Group::new("a", Optimizer::BERT_ADAM, 0.5).weight_decay(0.1);
        for t in [1, 2, 1000] {
            let row = group.row(t);
            assert_eq!((row.bias1, row.bias2), (1.0, 1.0), "step {t}");
            assert_eq!((row.keep, row.decay, row.eps), (0.95, 0.0, 1e-6));
            assert_eq!((row.beta1, row.rest2), (0.9, 0.001));
        }
    }

    #[test]
    fn settings_that_cannot_be_are_told() {
        for (group, said) in [
            (Group::adam("a", f64::NAN), "lr is NaN"),
            (Group::adam("a", -0.1), "lr is -0.1"),
            (Group::adam("a", 1e300), "lr is 1"),
            (Group::adam_w("a", 0.1).weight_decay(-1.0), "weight_decay is -1"),
            (
                Group::new("a", Optimizer::Adam { betas: (0.9, 1.0), eps: 1e-8 }, 0.1),
                "betas are (0.9, 1.0)",
            ),
            // Of which single precision would make 1.
            (
                Group::new("a", Optimizer::Adam { betas: (1.0 - 1e-9, 0.9), eps: 1e-8 }, 0.1),
                "betas are (0.999999999, 0.9)",
            ),
            (Group::new("a", Optimizer::AdamW { betas: (0.9, 0.9), eps: 0.0 }, 0.1), "eps is 0"),
            (Group::sgd("a", 0.1, -0.9), "momentum is -0.9"),
            (
                Group::new(
                    "a",
                    Optimizer::Sgd { momentum: 0.0, dampening: 0.0, nesterov: true },
                    0.1,
                ),
                "nesterov wants a momentum",
            ),
            (
                Group::adam("a", 0.1).schedule(Schedule::Step { every: 0, factor: 0.1 }),
                "every 0 steps",
            ),
        ] {
            let error = refused(group);
            assert!(error.contains("group 'a': ") && error.contains(said), "{error}");
        }
    }

    #[test]
    fn what_an_optimizer_keeps_does_not_change() {
        let list = [Group::adam("a", 0.1), Group::sgd("m", 0.1, 0.9), Group::sgd("p", 0.1, 0.0)];
        let mut groups = Groups::new(&list, None).unwrap();
        groups.change("a", |g| g.optimizer = Optimizer::ADAM_W).unwrap();
        for (name, optimizer) in [
            ("a", Optimizer::SGD),
            ("m", Optimizer::SGD),
            ("p", Optimizer::ADAM),
            ("p", Optimizer::Sgd { momentum: 0.1, dampening: 0.0, nesterov: false }),
        ] {
            let error = groups.change(name, |g| g.optimizer = optimizer).unwrap_err().to_string();
            assert!(error.contains("cannot be changed"), "{error}");
        }
        assert!(groups.change("a", |g| g.name = "b".into()).is_err());
        groups.set_lr("a", f64::INFINITY).unwrap_err();
        assert_eq!(groups.get("a").unwrap().lr, 0.1);
    }

    #[test]
    fn each_group_counts_its_own_steps() {
        let warm = Schedule::LinearWarmup { steps: 4 };
        let list = [Group::adam("a", 0.5).schedule(warm), Group::adam("b", 0.1)];
        let mut groups = Groups::new(&list, None).unwrap();
        assert_eq!(groups.rows()[0].t, 0);
        groups.advance();
        groups.advance_only(&["a"]).unwrap();
        groups.advance_only(&["a"]).unwrap();
        let [a, b] = [0, 1].map(|i| groups.rows()[i]);
        assert_eq!((a.t, a.lr, a.bias1), (3, 0.25, (1.0 - 0.9_f64.powi(3)) as f32));
        assert_eq!((b.t, b.lr, b.bias1), (1, 0.1, (1.0 - 0.9_f64) as f32));
        groups.set_all_steps(9);
        assert_eq!(groups.rows()[0].t + groups.rows()[1].t, 18);
    }
}
