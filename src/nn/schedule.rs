//! Learning rates over time, as functions of the step.

/// What a learning rate is multiplied by in each step of its group: a function of the steps that the
/// group took before, so that it can be asked for any of them, in any order, and nothing of it needs
/// saving.
///
/// ```
/// use modalign::nn::Schedule;
///
/// // transformers' get_linear_schedule_with_warmup(10, 100).
/// let schedule = Schedule::LinearWarmup { steps: 10 }
///     .then(10, Schedule::Linear { from: 1.0, to: 0.0, steps: 90 });
/// assert_eq!([0, 5, 10, 55, 100].map(|t| schedule.factor(t)), [0.0, 0.5, 1.0, 0.5, 0.0]);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Schedule {
    /// 1 throughout.
    #[default]
    Constant,
    /// From 0 in the first step to 1 after `steps`, and 1 from then on: t / steps.
    LinearWarmup {
        /// Steps until the learning rate is what it is set to.
        steps: u64,
    },
    /// From `from` to `to` in `steps`, and `to` from then on; `torch.optim.lr_scheduler.LinearLR`.
    Linear {
        /// At first: `start_factor`.
        from: f64,
        /// In the end: `end_factor`.
        to: f64,
        /// `total_iters`.
        steps: u64,
    },
    /// Half a cosine from 1 to `least` in `steps`, and `least` from then on;
    /// `torch.optim.lr_scheduler.CosineAnnealingLR`, which after `T_max` would rise again.
    Cosine {
        /// `T_max`.
        steps: u64,
        /// `eta_min`, as a share of the learning rate.
        least: f64,
    },
    /// Multiplied by `factor` after every so many steps; `torch.optim.lr_scheduler.StepLR`.
    Step {
        /// `step_size`.
        every: u64,
        /// `gamma`.
        factor: f64,
    },
    /// One after the other; `torch.optim.lr_scheduler.SequentialLR`. See [`then`](Self::then).
    Sequence {
        /// Until `steps` are over.
        first: Box<Schedule>,
        /// `milestones`.
        steps: u64,
        /// From then on, where its own steps begin at 0.
        then: Box<Schedule>,
    },
    /// Both at once, multiplied; `torch.optim.lr_scheduler.ChainedScheduler`. See
    /// [`times`](Self::times).
    Product(Box<Schedule>, Box<Schedule>),
}

impl Schedule {
    /// This one for so many `steps`, then another one, which begins at its own step 0 there.
    pub fn then(self, steps: u64, then: Schedule) -> Self {
        Schedule::Sequence { first: Box::new(self), steps, then: Box::new(then) }
    }

    /// The product of this one and another.
    pub fn times(self, other: Schedule) -> Self {
        Schedule::Product(Box::new(self), Box::new(other))
    }

    /// Linear warm-up, then linear decay to 0 at step `total`; transformers'
    /// `get_linear_schedule_with_warmup`.
    pub fn linear_with_warmup(warmup: u64, total: u64) -> Self {
        let steps = total.saturating_sub(warmup);
        Schedule::LinearWarmup { steps: warmup }
            .then(warmup, Schedule::Linear { from: 1.0, to: 0.0, steps })
    }

    /// Linear warm-up, then half a cosine to 0 at step `total`; transformers'
    /// `get_cosine_schedule_with_warmup`.
    pub fn cosine_with_warmup(warmup: u64, total: u64) -> Self {
        let steps = total.saturating_sub(warmup);
        Schedule::LinearWarmup { steps: warmup }
            .then(warmup, Schedule::Cosine { steps, least: 0.0 })
    }

    /// The factor of a step, `step` being how many the group took before it: 0 for its first.
    pub fn factor(&self, step: u64) -> f64 {
        // How much of so many steps is over; all of none.
        let over = |steps: u64| if step < steps { step as f64 / steps as f64 } else { 1.0 };
        match self {
            Schedule::Constant => 1.0,
            Schedule::LinearWarmup { steps } => over(*steps),
            // The end as it is given, without a rounding.
            Schedule::Linear { to, steps, .. } if step >= *steps => *to,
            Schedule::Linear { from, to, steps } => from + (to - from) * over(*steps),
            Schedule::Cosine { least, steps } if step >= *steps => *least,
            Schedule::Cosine { steps, least } => {
                least + (1.0 - least) * (1.0 + (std::f64::consts::PI * over(*steps)).cos()) / 2.0
            }
            Schedule::Step { every, factor } => {
                factor.powi((step / (*every).max(1)).min(i32::MAX as u64) as i32)
            }
            Schedule::Sequence { first, steps, .. } if step < *steps => first.factor(step),
            Schedule::Sequence { steps, then, .. } => then.factor(step - steps),
            Schedule::Product(a, b) => a.factor(step) * b.factor(step),
        }
    }

    /// What is wrong with its numbers, if anything.
    pub(crate) fn fault(&self) -> Option<String> {
        let factor = |name: &str, value: f64| {
            let wrong = !value.is_finite() || value < 0.0;
            wrong.then(|| format!("a schedule's {name} is {value}; give a number from 0 on"))
        };
        match self {
            Schedule::Constant | Schedule::LinearWarmup { .. } => None,
            Schedule::Linear { from, to, .. } => factor("from", *from).or(factor("to", *to)),
            Schedule::Cosine { least, .. } => factor("least", *least),
            Schedule::Step { every: 0, .. } => {
                Some("a schedule steps after every 0 steps; give 1 or more".into())
            }
            Schedule::Step { factor: gamma, .. } => factor("factor", *gamma),
            Schedule::Sequence { first, then, .. } => first.fault().or_else(|| then.fault()),
            Schedule::Product(a, b) => a.fault().or_else(|| b.fault()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Schedule;

    fn close(got: f64, want: f64) {
        assert!((got - want).abs() < 1e-14, "{got}, want {want}");
    }

    /// LinearLR multiplies from step to step: by 1 + (end − start) / (total · start + (t − 1)
    /// (end − start)).
    #[test]
    fn linear_is_the_recurrence_of_torch() {
        let (start, end, total) = (1.0 / 3.0, 1.0, 5_u64);
        let schedule = Schedule::Linear { from: start, to: end, steps: total };
        let mut want = start;
        for t in 0..9 {
            if (1..=total).contains(&t) {
                let before = total as f64 * start + (t - 1) as f64 * (end - start);
                want *= 1.0 + (end - start) / before;
            }
            close(schedule.factor(t), want);
        }
    }

    /// CosineAnnealingLR goes from step to step by (1 + cos(π t / T)) / (1 + cos(π (t − 1) / T)) of
    /// what is above eta_min.
    #[test]
    fn cosine_is_the_recurrence_of_torch() {
        let (total, least) = (12_u64, 0.05);
        let schedule = Schedule::Cosine { steps: total, least };
        let cos = |t: u64| (std::f64::consts::PI * t as f64 / total as f64).cos();
        let mut want = 1.0;
        for t in 0..=total {
            if t > 0 {
                want = (1.0 + cos(t)) / (1.0 + cos(t - 1)) * (want - least) + least;
            }
            close(schedule.factor(t), want);
        }
        for t in total..3 * total {
            assert_eq!(schedule.factor(t), least, "it does not rise again");
        }
    }

    #[test]
    fn step_multiplies_after_every_so_many() {
        let schedule = Schedule::Step { every: 3, factor: 0.1 };
        let mut want = 1.0;
        for t in 0..20 {
            if t > 0 && t % 3 == 0 {
                want *= 0.1;
            }
            close(schedule.factor(t), want);
        }
        assert_eq!(schedule.factor(u64::MAX), 0.0);
    }

    /// The formulae of transformers.optimization, as they are written there.
    #[test]
    fn warm_ups_are_those_of_transformers() {
        for (warmup, total) in [(0_u64, 7_u64), (4, 20), (5, 5), (10, 4)] {
            let linear = Schedule::linear_with_warmup(warmup, total);
            let cosine = Schedule::cosine_with_warmup(warmup, total);
            for t in 0..total {
                let (w, n, at) = (warmup as f64, total as f64, t as f64);
                let (mut decay, mut wave) = (at / w.max(1.0), at / w.max(1.0));
                if t >= warmup {
                    decay = ((n - at) / (n - w).max(1.0)).max(0.0);
                    let progress = (at - w) / (n - w).max(1.0);
                    wave = (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0);
                }
                close(linear.factor(t), decay);
                close(cosine.factor(t), wave);
            }
            // Past the end there is nothing left, however long that is.
            for t in [total.max(warmup), total.max(warmup) + 1, u64::MAX] {
                assert_eq!(linear.factor(t), 0.0, "{warmup}, {total} at {t}");
                assert_eq!(cosine.factor(t), 0.0, "{warmup}, {total} at {t}");
            }
        }
    }

    #[test]
    fn schedules_compose() {
        let warm = Schedule::LinearWarmup { steps: 4 };
        let chain = warm.clone().then(4, Schedule::Step { every: 2, factor: 0.5 });
        let want = [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 0.5, 0.5, 0.25];
        assert_eq!([0, 1, 2, 3, 4, 5, 6, 7, 8].map(|t| chain.factor(t)), want);
        // Both at once: the steps count from the beginning.
        let both = warm.times(Schedule::Step { every: 2, factor: 0.5 });
        let want = [0.0, 0.25, 0.25, 0.375, 0.25, 0.25, 0.125];
        assert_eq!([0, 1, 2, 3, 4, 5, 6].map(|t| both.factor(t)), want);
        assert_eq!(Schedule::LinearWarmup { steps: 0 }.factor(0), 1.0);
        assert_eq!(Schedule::default().factor(9), 1.0);
    }

    #[test]
    fn what_cannot_be_a_schedule_is_told() {
        let never = Schedule::Step { every: 0, factor: 0.5 };
        assert!(never.fault().is_some_and(|f| f.contains("every 0 steps")));
        let nested = Schedule::Constant.then(3, Schedule::Cosine { steps: 3, least: f64::NAN });
        assert!(nested.fault().is_some_and(|f| f.contains("least is NaN")));
        let negative = Schedule::Linear { from: 1.0, to: -1.0, steps: 3 };
        assert!(negative.times(never).fault().is_some_and(|f| f.contains("to is -1")));
        assert_eq!(Schedule::linear_with_warmup(3, 9).fault(), None);
    }
}
