//! A kernel of one's own in the place of ours: read, fitted, checked against the twin.

use super::diagnostic::{Diagnostic, Expanded, Label};
use crate::error::{Error, Result};
use crate::gpu::{Caps, Gpu, Origin, evaluate, expand_lines};
use crate::ops::{self, Difference};
use crate::plan::{Access, Kernel, PARAMS, Plan, Planned, STEP, uniform};
use std::path::Path;
use std::sync::Arc;
use wgpu::naga::proc::Layouter;
use wgpu::naga::valid::{
    Capabilities, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator,
};
use wgpu::naga::{
    self, AddressSpace, GlobalVariable, Module, ScalarKind, StorageAccess, TypeInner,
};

/// A text that takes the place of a kernel's, over the same bindings.
#[derive(Clone, Debug)]
pub struct Own {
    file: String,
    text: Arc<str>,
}

/// What came of trying a kernel of one's own.
#[derive(Clone, Debug, Default)]
pub struct Tried {
    /// Cases that ran.
    pub cases: usize,
    /// Cases that did not, and why.
    pub skipped: Vec<String>,
    /// Why it does not compile; nothing ran then.
    pub refused: Option<Diagnostic>,
    /// Where it is not what the twin is.
    pub mismatches: Vec<Mismatch>,
}

/// A case whose result is another than the twin's.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Mismatch {
    /// The case.
    pub case: String,
    /// The largest difference that it allows, relative to 1 + |value|.
    pub tolerance: f32,
    /// The first element that differs.
    pub difference: Difference,
}

impl Own {
    /// A text, and what to call it.
    pub fn new(file: impl Into<String>, text: &str) -> Self {
        Own { file: file.into(), text: text.into() }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`Io`](Error::Io) naming it.
    pub fn read(path: &Path) -> Result<Self> {
        /// Bytes of a text, at most.
        const LONGEST: u64 = 1 << 20;
        let bytes = std::fs::metadata(path).map_err(Error::io("read", path))?.len();
        if bytes > LONGEST {
            let message = format!("{bytes} bytes are more than the {LONGEST} that a text may have");
            return Err(Error::Shader { name: path.display().to_string(), message });
        }
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        Ok(Own::new(path.display().to_string(), &text))
    }

    /// What it is called.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Compiles it for every case that the registry has of `kernel`, runs them on `gpu`, in its
    /// family and with bounds checks, and compares with the CPU twin. `step` is told of each case
    /// before it runs, and how many there are.
    ///
    /// # Errors
    /// Those of the device. That it does not compile or match is in the result.
    pub fn check(
        &self,
        gpu: &Gpu,
        kernel: &'static Kernel,
        mut step: impl FnMut(&str, usize),
    ) -> Result<Tried> {
        let cases = (kernel.cases)();
        let mut tried = Tried::default();
        for case in &cases {
            let recording = ops::record_case(kernel, case).recording;
            let fits = match Plan::new(recording, gpu.caps()) {
                Ok(plan) => self.groups(&plan.dispatches()[0], gpu.caps()),
                Err(Error::Driver(_)) => continue,
                Err(why) => return Err(why),
            };
            if let Err(why) = fits {
                tried.refused = Some(why.note(format!("in case {}", case.name)));
                return Ok(tried);
            }
        }
        for case in &cases {
            step(&case.name, cases.len());
            match ops::run_case_with(gpu, kernel, case, |plan| self.replace(plan, gpu)) {
                Ok(got) => {
                    tried.cases += 1;
                    let twin = ops::run_twin(kernel, case);
                    let found = ops::differences(kernel, case, &got, &twin);
                    tried.mismatches.extend(found.into_iter().map(|difference| Mismatch {
                        case: case.name.clone(),
                        tolerance: case.tolerance,
                        difference,
                    }));
                }
                Err(Error::Driver(why)) => tried.skipped.push(format!("{}: {why}", case.name)),
                // The driver, or wgpu, where naga had nothing against it.
                Err(Error::Shader { message, .. }) => {
                    // Causes follow one another, line by line; the last one is the reason.
                    let reason = message.lines().map(str::trim).rfind(|line| !line.is_empty());
                    let why = Diagnostic::new(reason.unwrap_or_default())
                        .note(format!("in case {}", case.name));
                    tried.refused = Some(why);
                    return Ok(tried);
                }
                Err(why) => return Err(why),
            }
        }
        Ok(tried)
    }

    /// Puts it in the place of all dispatches of a plan that it can take.
    pub(super) fn replace_in(&self, mut plan: Plan, kernel: &str, gpu: &Gpu) -> Result<Plan> {
        plan.replace(kernel, &self.text, |planned| {
            self.groups(planned, gpu.caps())
                .map_err(|why| Error::Shader { name: self.file.clone(), message: why.line() })
        })?;
        Ok(plan)
    }

    /// As [`replace_in`](Self::replace_in) for a plan of one kernel.
    fn replace(&self, plan: Plan, gpu: &Gpu) -> Result<Plan> {
        let kernel = plan.dispatches().first().map_or("", |d| d.kernel.name);
        self.replace_in(plan, kernel, gpu)
    }

    /// Everything that can be said of it without running it; its workgroups.
    fn groups(&self, planned: &Planned, caps: &Caps) -> Result<[u32; 3], Diagnostic> {
        let list: Vec<String> = planned.defines.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let with = if list.is_empty() { "nothing defined".into() } else { list.join(" ") };
        self.fit(planned, caps).map_err(|why| why.note(format!("compiled with {with}")))
    }

    fn fit(&self, planned: &Planned, caps: &Caps) -> Result<[u32; 3], Diagnostic> {
        let (text, origins) =
            expand_lines(&self.text, &planned.defines).map_err(|e| self.preprocessor(&e))?;
        let expanded = Expanded { file: &self.file, text: &text, origins: &origins };
        let label =
            |span: naga::Span, note: &str| span.to_range().map(|bytes| expanded.label(bytes, note));
        let module = naga::front::wgsl::parse_str(&text).map_err(|e| {
            let mut why = Diagnostic::new(e.message());
            why.labels.extend(e.labels().filter_map(|(span, note)| label(span, note)));
            why.notes.extend(e.notes().map(|n| format!("note: {n}")));
            why
        })?;
        // Halves that are stored in words: unpack2x16float, which every backend of ours has.
        let mut capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
        capabilities.set(Capabilities::SHADER_INT64, caps.long_loads);
        capabilities.set(Capabilities::SUBGROUP, caps.subgroup.is_some());
        Validator::new(ValidationFlags::all(), capabilities)
            .subgroup_stages(ShaderStages::COMPUTE)
            .subgroup_operations(SubgroupOperationSet::all())
            .validate(&module)
            .map_err(|e| {
                let mut why = Diagnostic::new(causes(e.as_inner()));
                // The message has numbers, and the places are called by them.
                let name = |note: &str| note.replace("naga::ir::Expression ", "");
                why.labels.extend(e.spans().filter_map(|(span, note)| label(*span, &name(note))));
                why
            })?;
        if !module.entry_points.iter().any(|e| e.name == "main") {
            return Err(Diagnostic::new("there is no entry point 'main'"));
        }
        let mut params = None;
        for (handle, global) in module.global_variables.iter() {
            if global.binding.is_none() {
                continue;
            }
            if let Err((message, note)) = binding(&module, global, planned) {
                let why = Diagnostic::new(message);
                let at = label(module.global_variables.get_span(handle), &note);
                return Err(at.into_iter().fold(why, Diagnostic::at));
            }
            if global.binding.as_ref().is_some_and(|b| b.binding == PARAMS) {
                params = Some(global);
            }
        }
        let names = params.map_or_else(Vec::new, |p| word_names(&module, p, &planned.words));
        header(&expanded, &self.text, planned, &names, caps)
    }

    /// `line 3: message` of the preprocessor.
    fn preprocessor(&self, message: &str) -> Diagnostic {
        let numbered = message.strip_prefix("line ").and_then(|rest| rest.split_once(": "));
        let parsed = numbered.and_then(|(n, rest)| Some((n.parse::<usize>().ok()?, rest)));
        let Some((line, rest)) = parsed else { return Diagnostic::new(message) };
        let text = self.text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
        let indent = text.chars().take_while(|c| c.is_whitespace()).count();
        Diagnostic::new(rest).at(Label {
            file: self.file.clone(),
            line,
            column: indent + 1,
            width: text.trim().chars().count(),
            text: text.into(),
            note: "here".into(),
        })
    }
}

/// The integers among a dispatch's words, by the names that its shader has for them.
pub fn sizes(planned: &Planned) -> Vec<(String, i64)> {
    let named = || {
        let (text, _) = expand_lines(planned.kernel.source, &planned.defines).ok()?;
        let module = naga::front::wgsl::parse_str(&text).ok()?;
        let mut all = module.global_variables.iter().map(|(_, global)| global);
        let params = all.find(|g| g.binding.as_ref().is_some_and(|b| b.binding == PARAMS))?;
        Some(word_names(&module, params, &planned.words))
    };
    named().unwrap_or_default()
}

/// An error with what caused it.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// Whether a variable is what the engine binds there: else what is wrong, and what to do.
fn binding(
    module: &Module,
    global: &GlobalVariable,
    planned: &Planned,
) -> Result<(), (String, String)> {
    let Some(place) = &global.binding else { return Ok(()) };
    let (kernel, number) = (planned.kernel, place.binding);
    let fail = |message: String, note: &str| Err((message, note.to_string()));
    let bindings = || -> String {
        let all = kernel.bindings.iter().enumerate();
        let all = all.map(|(i, b)| {
            let access = if b.access == Access::Read { "read" } else { "read_write" };
            let optional = if b.optional { ", optional" } else { "" };
            format!("{i} {} ({access}{optional})", b.name)
        });
        let step = if kernel.step { ", 15 S" } else { "" };
        format!("{}, 14 P{step}", all.collect::<Vec<_>>().join(", "))
    };
    if place.group != 0 {
        return fail("everything is in group 0".into(), "in another group");
    }
    match global.space {
        AddressSpace::Uniform if number == PARAMS => {
            let mut layouter = Layouter::default();
            let size = layouter.update(module.to_ctx()).ok().map(|()| layouter[global.ty].size);
            let given = uniform(&planned.words) as u32 * 4;
            match size {
                Some(size) if size > given => fail(
                    format!("P has {size} bytes here, the engine gives {given}"),
                    "more words than there are",
                ),
                _ => Ok(()),
            }
        }
        AddressSpace::Uniform if number == STEP && kernel.step => Ok(()),
        AddressSpace::Uniform if number == STEP => {
            let name = kernel.name;
            fail(format!("{name} is not given the step (binding {STEP})"), "not bound")
        }
        AddressSpace::Storage { access } => {
            let wanted = kernel.bindings.get(number as usize);
            let there = planned.args.get(number as usize).is_some_and(Option::is_some);
            match wanted {
                None => fail(
                    format!("{} has no binding {number}; it has {}", kernel.name, bindings()),
                    "not bound",
                ),
                Some(b) if !there => fail(
                    format!("{} is not given in every call: put it inside #if {0}", b.name),
                    "not bound in this call",
                ),
                Some(b) => {
                    let writes = access.contains(StorageAccess::STORE);
                    match (writes, b.access) {
                        (true, Access::Read) => fail(
                            format!("{} is an input: want var<storage, read>", b.name),
                            "declared as written",
                        ),
                        (false, Access::Write) => fail(
                            format!("{} is a result: want var<storage, read_write>", b.name),
                            "declared as only read",
                        ),
                        _ => Ok(()),
                    }
                }
            }
        }
        _ => fail(
            format!("binding {number} is none of {}; it has {}", kernel.name, bindings()),
            "not bound",
        ),
    }
}

/// Words of `P` that are integers, by the names of the struct's fields.
fn word_names(module: &Module, params: &GlobalVariable, words: &[u32]) -> Vec<(String, i64)> {
    let TypeInner::Struct { members, .. } = &module.types[params.ty].inner else {
        return Vec::new();
    };
    members
        .iter()
        .filter_map(|member| {
            let TypeInner::Scalar(scalar) = module.types[member.ty].inner else { return None };
            let word = *words.get(member.offset as usize / 4)?;
            let value = match scalar.kind {
                ScalarKind::Uint => i64::from(word),
                ScalarKind::Sint => i64::from(word as i32),
                _ => return None,
            };
            Some((member.name.clone()?, value))
        })
        .collect()
}

/// The comment that says how many workgroups there are.
const HEADER: &str = "workgroups:";

/// Names that the preprocessor lines of a text ask for: 0 where they are not defined.
fn asked_for(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().map(str::trim).filter(|l| l.starts_with("#if ") || l.contains("${"));
    lines.flat_map(|l| l.split(|c: char| !c.is_alphanumeric() && c != '_'))
}

/// Workgroups by the header comment, or else those that ours has.
fn header(
    expanded: &Expanded,
    text: &str,
    planned: &Planned,
    words: &[(String, i64)],
    caps: &Caps,
) -> Result<[u32; 3], Diagnostic> {
    let own = |origin: &&Origin| origin.shared.is_none();
    let lines = expanded.text.lines().zip(expanded.origins);
    let found = lines.filter(|(_, origin)| own(origin)).find_map(|(line, _)| {
        let comment = line.trim().strip_prefix("//")?.trim();
        let list = comment.strip_prefix(HEADER)?;
        // Both are parts of the text, so that their distance is a place in it.
        Some((list.as_ptr() as usize - expanded.text.as_ptr() as usize, list))
    });
    let Some((start, list)) = found else { return Ok(planned.groups) };
    let zeros = asked_for(text)
        .chain(asked_for(planned.kernel.source))
        .chain(planned.kernel.bindings.iter().filter(|b| b.optional).map(|b| b.name))
        .filter(|name| name.starts_with(|c: char| c.is_ascii_uppercase()))
        .map(|name| (name, 0));
    let defines = planned.defines.iter().map(|(name, value)| (*name, i64::from(*value)));
    let words_ = words.iter().map(|(name, value)| (name.as_str(), *value));
    let names: Vec<(&str, i64)> = zeros.chain(defines).chain(words_).collect();
    let mut groups = [1; 3];
    let mut at = start;
    for (i, part) in list.split(',').enumerate() {
        let indent = part.len() - part.trim_start().len();
        let label =
            |note: &str| expanded.label(at + indent..at + indent + part.trim().len().max(1), note);
        let Some(slot) = groups.get_mut(i) else {
            return Err(Diagnostic::new("a grid has three sides at most").at(label("a fourth")));
        };
        let value = evaluate(part, names.iter().copied()).map_err(|e| {
            let known: Vec<&str> = words.iter().map(|(name, _)| name.as_str()).collect();
            let known = format!("P has the integers {}", known.join(", "));
            Diagnostic::new(format!("workgroups: {e}")).at(label("in this expression")).note(known)
        })?;
        if !(1..=i64::from(caps.max_groups)).contains(&value) {
            let message = format!("workgroups: want 1 to {}, this is {value}", caps.max_groups);
            let why = Diagnostic::new(message).at(label("out of range"));
            return Err(if value < 1 {
                why
            } else {
                why.note(
                    "ours fold a long grid in two, and find their place by wid.y * count.x + wid.x",
                )
            });
        }
        *slot = value as u32;
        at += part.len() + 1;
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Family;
    use crate::ops::find;

    /// Fits a text to each case of a kernel, without a device.
    fn fit(kernel: &str, text: &str) -> Result<Vec<[u32; 3]>, String> {
        let (kernel, caps) = (find(kernel).unwrap(), Caps::defaults(Family::Wide(8)));
        let own = Own::new("mine.wgsl", text);
        (kernel.cases)()
            .iter()
            .map(|case| {
                let plan = Plan::new(ops::record_case(kernel, case).recording, &caps).unwrap();
                own.groups(&plan.dispatches()[0], &caps).map_err(|d| d.render(false))
            })
            .collect()
    }

    #[test]
    fn our_own_kernels_fit() {
        for kernel in ops::KERNELS {
            fit(kernel.name, kernel.source).unwrap_or_else(|e| panic!("{}: {e}", kernel.name));
        }
    }

    #[test]
    fn workgroups_by_a_comment() {
        let ours = find("softmax").unwrap().source;
        let headed = format!("// workgroups: (rows + 7) / 8, 1 + (cols > 1000)\n{ours}");
        let groups = fit("softmax", &headed).unwrap();
        assert!(groups.contains(&[9, 1, 1]) && groups.contains(&[1, 2, 1]), "{groups:?}");
        let bad = |header: &str| fit("softmax", &format!("{header}\n{ours}")).unwrap_err();
        assert!(bad("// workgroups: rws / 8").contains("mine.wgsl:1:16"));
        assert!(bad("// workgroups: rws / 8").contains("rows, cols"));
        assert!(bad("// workgroups: rows - rows").contains("want 1 to"));
        assert!(bad("// workgroups: 1, 1, 1, 1").contains("three sides"));
    }

    #[test]
    fn faults_are_shown_where_they_are() {
        let ours = find("softmax").unwrap().source;
        let said = fit("softmax", &ours.replace("let share", "let shore")).unwrap_err();
        let line = ours.lines().position(|l| l.contains("Y[i] *= share")).unwrap() + 1;
        assert!(said.contains(&format!("mine.wgsl:{line}:17")) && said.contains('^'), "{said}");
        let said = fit("softmax", &ours.replace("read_write> Y", "read> Y")).unwrap_err();
        assert!(said.contains("mine.wgsl:"), "{said}");
        let said = fit("softmax", &ours.replace("@binding(1)", "@binding(5)")).unwrap_err();
        assert!(said.contains("no binding 5") && said.contains("1 Y (read_write)"), "{said}");
        let said = fit("softmax", &ours.replace("cols: u32 }", "cols: array<vec4<u32>, 4> }"));
        assert!(said.is_err());
        let said = fit("softmax", &ours.replace("#import row", "#import rou")).unwrap_err();
        assert!(said.contains("'rou'") && said.contains("#import rou"), "{said}");
        let said = fit("unary", "fn f() {}").unwrap_err();
        assert!(said.contains("'main'"), "{said}");
    }
}
