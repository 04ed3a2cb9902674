//! From a recording to dispatches and buffers: launch geometry, liveness, memory.

use super::{
    Access, Call, Kernel, Launch, Owner, Place, Recording, Spaces, Stage, TensorId, TensorInfo,
};
use crate::error::{Error, Result};
use crate::gpu::{Caps, Defines, Family, Gpu, Pipeline, PipelineKey};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// One dispatch of a plan.
#[derive(Clone)]
pub struct Planned {
    /// The kernel.
    pub kernel: &'static Kernel,
    /// All preprocessor names, the adapter's included.
    pub defines: Defines,
    /// Workgroups.
    pub groups: [u32; 3],
    /// The uniform `P`.
    pub words: Vec<u32>,
    /// Tensors by binding.
    pub args: Vec<Option<TensorId>>,
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes that it reads and writes at least; see [`Moves`](super::Moves).
    pub bytes: u64,
    /// Loop iterations of its longest invocation, where they may be many.
    pub iterations: u64,
    /// Rounds that wait for one another; see [`Launch::rounds`](super::Launch).
    pub rounds: u64,
    /// Its part of the step.
    pub stage: Stage,
    /// Whether its kernel may go without bounds checks; see [`Call`].
    pub(super) trusted: bool,
    /// WGSL in place of the kernel's own.
    pub text: Option<Arc<str>>,
    /// Other defines and workgroups that leave the very same bits, with their iterations and rounds;
    /// see [`Plan::tune`].
    pub others: Vec<Other>,
}

/// Defines, workgroups, iterations and rounds of another launch.
pub type Other = (Defines, [u32; 3], u64, u64);

impl Planned {
    /// The pipeline that it needs.
    pub(super) fn key(&self) -> PipelineKey {
        let present: Vec<bool> = self.args.iter().map(Option::is_some).collect();
        PipelineKey {
            kernel: self.kernel.name,
            defines: self.defines.clone(),
            bindings: self.kernel.kinds(&present),
            text: self.text.clone(),
        }
    }

    /// The pipeline itself, built where it is not there yet.
    pub(super) fn pipeline(&self, gpu: &Gpu) -> Result<Arc<Pipeline>> {
        let (key, source) = (self.key(), self.kernel.source);
        // Others' kernels may share a name, and are told apart by their text.
        if crate::ops::is_own(self.kernel) {
            gpu.own_pipeline(&key, source, self.trusted)
        } else {
            gpu.pipeline(&key, source)
        }
    }

    /// Takes its `option`-th launch: 0 is the one that it has.
    pub(super) fn choose(&mut self, option: usize) {
        if let Some(other) = option.checked_sub(1).and_then(|i| self.others.get_mut(i)) {
            std::mem::swap(&mut self.defines, &mut other.0);
            std::mem::swap(&mut self.groups, &mut other.1);
            std::mem::swap(&mut self.iterations, &mut other.2);
            std::mem::swap(&mut self.rounds, &mut other.3);
        }
    }
}

/// A compiled recording: plain data, printable, without a device.
pub struct Plan {
    pub(super) recording: Recording,
    pub(super) dispatches: Vec<Planned>,
    /// Slot of each scratch tensor.
    pub(super) slot_of: Vec<Option<usize>>,
    /// Words of each slot.
    pub(super) slots: Vec<usize>,
}

/// Every tensor starts at a multiple of this many words, so that any part of a buffer can be
/// bound on any adapter.
pub(crate) const ALIGN_WORDS: usize = 64;

impl Plan {
    /// Fits a recording to an adapter.
    ///
    /// # Errors
    /// [`OutOfMemory`](Error::OutOfMemory) where one tensor is larger than a binding may be,
    /// [`TooLarge`](Error::TooLarge) where a dispatch has more workgroups than the adapter takes,
    /// [`Shape`](Error::Shape) where a kernel would read halves as floats, or scratch that no earlier
    /// call has written.
    pub fn new(mut recording: Recording, caps: &Caps) -> Result<Self> {
        // Before anything is computed from sizes, and once more for the scratch of split calls.
        fit(&recording.tensors, caps)?;
        let before = recording.tensors.len();
        divide(&mut recording, caps.family);
        fit(&recording.tensors[before..], caps)?;
        for call in &recording.calls {
            let bindings = call.kernel.bindings.iter().zip(&call.args);
            let tensors = bindings
                .filter(|(b, _)| !b.half)
                .filter_map(|(_, arg)| Some(arg.as_ref()?.index()));
            if let Some(info) = tensors.map(|i| &recording.tensors[i]).find(|t| t.half) {
                let detail = format!("'{}' is stored by halves, which it cannot read", info.name);
                return Err(Error::shape(call.kernel.name, detail));
            }
        }
        let mut most = (0, "");
        let dispatches: Vec<Planned> = recording
            .calls
            .iter()
            .map(|call| {
                let launch = (call.kernel.launch)(caps.family, &call.words, &call.defines).on(caps);
                most = most.max((launch.iterations, call.kernel.name));
                let present: Vec<bool> = call.args.iter().map(Option::is_some).collect();
                let of = |launch| call.kernel.defines(&call.defines, launch, &present);
                let defines = of(&launch);
                let bindings = call.kernel.bindings.iter().zip(&call.args);
                let moved = bindings.filter_map(|(b, arg)| {
                    let len = recording.tensors[arg.as_ref()?.index()].words() as u64;
                    Some(b.moved(&call.words, &defines, len).iter().sum::<u64>())
                });
                let bytes = 4 * moved.sum::<u64>();
                Planned {
                    kernel: call.kernel,
                    defines,
                    others: launch
                        .others
                        .iter()
                        .filter(|l| l.groups.iter().all(|g| *g <= caps.max_groups))
                        .map(|l| (of(l), l.groups, l.iterations, l.rounds))
                        .collect(),
                    groups: launch.groups,
                    words: call.words.clone(),
                    args: call.args.clone(),
                    flops: call.flops,
                    bytes,
                    iterations: launch.iterations,
                    rounds: launch.rounds,
                    stage: call.stage,
                    trusted: call.trusted,
                    text: None,
                }
            })
            .collect();
        if let Some(d) = dispatches.iter().find(|d| d.groups.iter().any(|g| *g > caps.max_groups)) {
            let [x, y, z] = d.groups;
            return Err(Error::TooLarge {
                what: format!("kernel '{}' in {x}x{y}x{z} workgroups", d.kernel.name),
                advice: format!(
                    "{} takes {} along each axis; use a smaller batch",
                    caps.name, caps.max_groups
                ),
            });
        }
        if let Some(limit) = caps.max_iterations.filter(|limit| most.0 > *limit) {
            return Err(Error::Driver(format!(
                "{} ends loops after {limit} iterations and would compute nonsense: kernel '{}' \
                 makes {}; install a newer driver (Debian 12: mesa-vulkan-drivers of backports), \
                 or use shorter sequences or smaller hidden sizes",
                caps.driver, most.1, most.0
            )));
        }
        written_first(&recording)?;
        let (slot_of, slots) = assign(&recording);
        Ok(Plan { recording, dispatches, slot_of, slots })
    }

    /// Takes the `option`-th launch of every dispatch that has so many.
    pub fn choose(&mut self, option: usize) {
        self.dispatches.iter_mut().for_each(|d| d.choose(option));
    }

    /// The dispatches in order.
    pub fn dispatches(&self) -> &[Planned] {
        &self.dispatches
    }

    /// Puts `text` in the place of a kernel's own WGSL, over the same bindings. `groups` gives each
    /// dispatch its workgroups. Such a text is compiled with bounds checks on any device.
    ///
    /// # Errors
    /// The first of `groups`.
    pub fn replace<E>(
        &mut self,
        kernel: &str,
        text: &Arc<str>,
        mut groups: impl FnMut(&Planned) -> Result<[u32; 3], E>,
    ) -> Result<(), E> {
        for planned in self.dispatches.iter_mut().filter(|d| d.kernel.name == kernel) {
            planned.groups = groups(planned)?;
            planned.text = Some(text.clone());
        }
        Ok(())
    }

    /// The tensor that a dispatch names among its arguments; `None` for one of another tape.
    pub fn tensor(&self, id: TensorId) -> Option<&TensorInfo> {
        self.recording.get(id)
    }

    /// Bytes of the scratch buffers.
    pub fn scratch_bytes(&self) -> u64 {
        self.slots.iter().map(|w| *w as u64 * 4).sum()
    }

    /// Bytes of everything a step needs: scratch and the persistent spaces.
    pub fn total_bytes(&self, spaces: &Spaces) -> u64 {
        self.scratch_bytes() + spaces.bytes() + self.recording.constants.len() as u64 * 4
    }

    /// Sum of all floating-point operations.
    pub fn flops(&self) -> u64 {
        self.dispatches.iter().map(|d| d.flops).sum()
    }
}

/// Refuses a tensor that is larger than a binding may be. Shaders count in 32 bits, whatever an
/// adapter can bind.
fn fit(tensors: &[TensorInfo], caps: &Caps) -> Result<()> {
    let most = caps.max_binding.min(u64::from(u32::MAX));
    for tensor in tensors {
        let bytes = tensor.words() as u64 * 4;
        if bytes > most {
            return Err(Error::OutOfMemory {
                what: format!("tensor '{}' {:?}", tensor.name, tensor.shape),
                bytes,
                advice: format!("one binding of {} holds {most}; use a smaller batch", caps.name),
            });
        }
    }
    Ok(())
}

/// Makes two calls of each that its kernel wants split on this family.
fn divide(recording: &mut Recording, family: Family) {
    let calls = std::mem::take(&mut recording.calls);
    let mut all = Vec::with_capacity(calls.len());
    for mut call in calls {
        let launch = (call.kernel.launch)(family, &call.words, &call.defines);
        let Some(split) = launch.split else {
            all.push(call);
            continue;
        };
        let (binding, len) = split.partial;
        let (name, shape) = ("partial".into(), vec![len]);
        let partial = Some(recording.add(TensorInfo::new(name, shape, Place::Scratch)));
        let results = split.fold_args.iter().map(|i| call.args[*i]);
        let fold = Call {
            kernel: split.fold,
            args: std::iter::once(partial).chain(results).collect(),
            words: split.fold_words,
            defines: Defines::new(),
            flops: len as u64,
            stage: call.stage,
            trusted: call.trusted && crate::ops::is_own(split.fold),
        };
        call.args[binding] = partial;
        call.words = split.words;
        all.extend([call, fold]);
    }
    recording.calls = all;
}

/// Refuses a recording in which a call reads scratch before anything has written it: what is there
/// then is left over from another tensor, and differs from one replay to the next.
fn written_first(recording: &Recording) -> Result<()> {
    // What has been written of each scratch tensor, as spans of words.
    let mut written: Vec<Vec<Range<usize>>> = vec![Vec::new(); recording.tensors.len()];
    for call in &recording.calls {
        let named = || call.kernel.bindings.iter().zip(&call.args);
        let given = || named().filter_map(|(b, arg)| Some((b, (*arg)?)));
        let present: Vec<bool> = call.args.iter().map(Option::is_some).collect();
        let defines = call.kernel.defines(&call.defines, &Launch::of([1; 3]), &present);
        for (binding, id) in given() {
            let (Owner::Scratch(owner), span) = recording.memory(id) else { continue };
            let [read, _] = binding.moved(&call.words, &defines, span.len() as u64);
            // A whole with parts may have some that only this call writes.
            let whole = recording.tensors[id.index()].place == Place::Scratch;
            let there = &written[owner];
            let any = there.iter().any(|w| w.start < span.end && span.start < w.end);
            let all = || covered(there, span.clone());
            if read > 0 && !span.is_empty() && !(if whole { any } else { all() }) {
                let name = &recording.tensors[id.index()].name;
                let detail = format!(
                    "it reads '{name}' (binding {}), which nothing has written before",
                    binding.name
                );
                return Err(Error::shape(call.kernel.name, detail));
            }
        }
        for (_, id) in given().filter(|(b, _)| b.access == Access::Write) {
            if let (Owner::Scratch(owner), span) = recording.memory(id)
                && !written[owner].contains(&span)
            {
                written[owner].push(span);
            }
        }
    }
    Ok(())
}

/// Whether spans cover another one altogether.
fn covered(spans: &[Range<usize>], wanted: Range<usize>) -> bool {
    let mut at = wanted.start;
    while at < wanted.end {
        match spans.iter().filter(|s| s.start <= at && at < s.end).map(|s| s.end).max() {
            Some(end) => at = end,
            None => return false,
        }
    }
    true
}

/// Gives every scratch tensor a slot, reusing a slot once its tensor was used for the last time.
fn assign(recording: &Recording) -> (Vec<Option<usize>>, Vec<usize>) {
    let count = recording.tensors.len();
    let (mut first, mut last) = (vec![usize::MAX; count], vec![0; count]);
    // The tensors whose memory a call uses. A part lives as long as what it is a part of.
    let owners = |call: &Call| -> Vec<usize> {
        call.args.iter().flatten().map(|t| recording.owner(*t).index()).collect()
    };
    for (at, call) in recording.calls.iter().enumerate() {
        for tensor in owners(call) {
            first[tensor] = first[tensor].min(at);
            last[tensor] = at;
        }
    }
    let mut kept = vec![false; count];
    for (i, info) in recording.tensors.iter().enumerate() {
        kept[recording.owner(recording.at(i)).index()] |= info.keep;
    }
    let mut slot_of = vec![None; count];
    let mut slots: Vec<usize> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    for (at, call) in recording.calls.iter().enumerate() {
        for tensor in owners(call) {
            let info = &recording.tensors[tensor];
            if info.place != Place::Scratch || first[tensor] != at || slot_of[tensor].is_some() {
                continue;
            }
            let words = info.words().max(1).next_multiple_of(ALIGN_WORDS);
            // The smallest free slot that fits, else the largest one, grown.
            let best = free
                .iter()
                .copied()
                .filter(|s| slots[*s] >= words)
                .min_by_key(|s| slots[*s])
                .or_else(|| free.iter().copied().max_by_key(|s| slots[*s]));
            let slot = match best {
                Some(slot) => {
                    free.retain(|s| *s != slot);
                    slots[slot] = slots[slot].max(words);
                    slot
                }
                None => {
                    slots.push(words);
                    slots.len() - 1
                }
            };
            slot_of[tensor] = Some(slot);
        }
        let mut ended = owners(call);
        ended.retain(|t| last[*t] == at && !kept[*t]);
        ended.sort_unstable();
        ended.dedup();
        free.extend(ended.into_iter().filter_map(|t| slot_of[t]));
    }
    for i in 0..count {
        slot_of[i] = slot_of[recording.owner(recording.at(i)).index()];
    }
    (slot_of, slots)
}

/// `16x375x64`, or `scalar`.
fn extents(shape: &[usize]) -> String {
    if shape.is_empty() {
        return "scalar".into();
    }
    shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("x")
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:>3}  {:<9}{:<24}{:>14}  {:>9}  {:>9}  bindings",
            "#", "stage", "kernel", "workgroups", "MFLOP", "KiB"
        )?;
        for (i, d) in self.dispatches.iter().enumerate() {
            let [x, y, z] = d.groups;
            let shapes: Vec<String> = d
                .kernel
                .bindings
                .iter()
                .zip(&d.args)
                .filter_map(|(b, a)| a.map(|a| (b, &self.recording.tensors[a.index()])))
                .map(|(b, t)| {
                    let arrow = if b.access == Access::Write { "→" } else { "" };
                    let half = if t.half { " f16" } else { "" };
                    format!("{arrow}{}[{}{half}]", t.name, extents(&t.shape))
                })
                .collect();
            writeln!(
                f,
                "{i:>3}  {:<9}{:<24}{:>14}  {:>9.3}  {:>9.1}  {}",
                d.stage,
                d.kernel.name,
                format!("{x}x{y}x{z}"),
                d.flops as f64 / 1e6,
                d.bytes as f64 / 1024.0,
                shapes.join(" ")
            )?;
        }
        write!(
            f,
            "{} dispatches, {:.2} MFLOP, {:.2} MiB of scratch in {} buffers",
            self.dispatches.len(),
            self.flops() as f64 / 1e6,
            self.scratch_bytes() as f64 / f64::from(1 << 20),
            self.slots.len()
        )
    }
}
