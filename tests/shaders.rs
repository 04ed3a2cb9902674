//! Every shader, for every family of kernels and every variant that the cases of its kernel ask
//! for: it expands, validates, translates to every language that a driver may want, says what the
//! engine says of it, and keeps to WebGPU's default limits; the judges of those languages have
//! nothing against it, and what drivers stumble over is known. No adapter is needed.

#[path = "shaders/hazards.rs"]
mod hazards;
#[path = "shaders/validators.rs"]
mod validators;

use modalign::gpu::{Defines, Family, expand};
use modalign::ops::KERNELS;
use modalign::plan::{Access, Kernel, uniform};
use naga::back::{glsl, hlsl, msl, spv, wgsl};
use naga::proc::{BoundsCheckPolicies, Layouter};
use naga::valid::{
    Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator,
};
use naga::{AddressSpace, Module, ShaderStage, StorageAccess};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::OnceLock;

const FAMILIES: [Family; 6] = [
    Family::Tiled,
    Family::Plain,
    Family::Wide(4),
    Family::Wide(8),
    Family::Wide(16),
    Family::Wide(32),
];

// WebGPU's defaults.
const STORAGE_BUFFERS: usize = 8;
const WORKGROUP_BYTES: u32 = 16 << 10;
const INVOCATIONS: u32 = 256;
const INVOCATIONS_Z: u32 = 64;
const GROUPS: u32 = 65_535;

/// One text that a driver may get to see.
struct Variant {
    kernel: &'static Kernel,
    family: Family,
    defines: Defines,
    present: Vec<bool>,
    /// Fewest bytes of `P` that a case binds.
    params: u32,
}

impl Variant {
    fn name(&self) -> String {
        format!("{} on {} with {:?}", self.kernel.name, self.family, self.defines)
    }
}

/// Variants that differ, each once; checks the grid of every case on the way.
fn variants() -> Vec<Variant> {
    let mut all: BTreeMap<(String, Vec<bool>), Variant> = BTreeMap::new();
    for kernel in KERNELS.iter().copied() {
        for case in (kernel.cases)() {
            let present: Vec<bool> = case.args.iter().map(Option::is_some).collect();
            let params = uniform(&case.words) as u32 * 4;
            for family in FAMILIES {
                let launch = (kernel.launch)(family, &case.words, &case.defines);
                for launch in std::iter::once(&launch).chain(&launch.others) {
                    for groups in launch.groups {
                        let at = format!("{} ({}) on {family}", kernel.name, case.name);
                        assert!((1..=GROUPS).contains(&groups), "{at}: {:?}", launch.groups);
                    }
                    let mut texts = vec![kernel.defines(&case.defines, launch, &present)];
                    // Only CPU adapters are given 64-bit loads.
                    if launch.long && !family.tiled() {
                        texts.push(texts[0].clone());
                        texts[0].insert("LONG", 1);
                    }
                    for defines in texts {
                        // Subgroups, where there are any, must be as wide as asked for.
                        let key = format!("{} {} {defines:?}", kernel.name, family.lanes());
                        let present = present.clone();
                        let known = all.entry((key, present.clone())).or_insert(Variant {
                            kernel,
                            family,
                            defines,
                            present,
                            params,
                        });
                        known.params = known.params.min(params);
                    }
                }
            }
        }
    }
    all.into_values().collect()
}

fn validate(module: &Module, capabilities: Capabilities) -> Result<ModuleInfo, String> {
    Validator::new(ValidationFlags::all(), capabilities)
        .subgroup_stages(ShaderStages::COMPUTE)
        .subgroup_operations(SubgroupOperationSet::all())
        .validate(module)
        .map_err(|e| format!("{:?}", e.into_inner()))
}

/// What the module declares is what the engine binds.
fn check_bindings(variant: &Variant, module: &Module) -> Result<(), String> {
    let kernel = variant.kernel;
    let mut layouter = Layouter::default();
    layouter.update(module.to_ctx()).map_err(|e| e.to_string())?;
    let mut found = BTreeSet::new();
    let (mut storage, mut workgroup) = (0, 0_u32);
    for (_, global) in module.global_variables.iter() {
        let size = layouter[global.ty].size;
        let name = global.name.clone().unwrap_or_default();
        let binding = global.binding.as_ref().map(|b| (b.group, b.binding));
        match global.space {
            AddressSpace::WorkGroup => workgroup += layouter[global.ty].alignment.round_up(size),
            AddressSpace::Storage { access } => {
                storage += 1;
                let Some((0, i)) = binding else { return Err(format!("{name} at {binding:?}")) };
                let wanted =
                    kernel.bindings.get(i as usize).ok_or(format!("no binding {i} ({name})"))?;
                if wanted.name != name {
                    return Err(format!("binding {i} is {name}, the engine has {}", wanted.name));
                }
                let writes = access.contains(StorageAccess::STORE);
                if writes != (wanted.access == Access::Write) {
                    return Err(format!("{name} is {access:?}, the engine has {wanted:?}"));
                }
                found.insert(i as usize);
            }
            AddressSpace::Uniform if binding == Some((0, 14)) => {
                if size > variant.params {
                    return Err(format!("P has {size} bytes, a case binds {}", variant.params));
                }
            }
            AddressSpace::Uniform if binding == Some((0, 15)) => {
                if !kernel.step {
                    return Err("reads the step, and the engine does not bind it".into());
                }
            }
            AddressSpace::Private => {}
            space => return Err(format!("{name} is in {space:?} at {binding:?}")),
        }
    }
    let present: BTreeSet<usize> =
        variant.present.iter().enumerate().filter(|(_, p)| **p).map(|(i, _)| i).collect();
    if !found.is_subset(&present) {
        return Err(format!("declares {found:?}, a call has {present:?}"));
    }
    if storage > STORAGE_BUFFERS || present.len() > STORAGE_BUFFERS {
        return Err(format!("{storage} storage buffers declared, {} bound", present.len()));
    }
    if workgroup > WORKGROUP_BYTES {
        return Err(format!("{workgroup} bytes of workgroup memory"));
    }
    Ok(())
}

fn check_entry(variant: &Variant, module: &Module, subgroups: bool) -> Result<(), String> {
    let [entry] = &module.entry_points[..] else { return Err("want one entry point".into()) };
    if entry.name != "main" || entry.stage != ShaderStage::Compute {
        return Err(format!("entry point '{}' of {:?}", entry.name, entry.stage));
    }
    let [x, y, z] = entry.workgroup_size;
    if x * y * z > INVOCATIONS || z > INVOCATIONS_Z {
        return Err(format!("a workgroup of {x}x{y}x{z}"));
    }
    let lanes = variant.family.lanes();
    if subgroups && (lanes == 0 || x * y * z != lanes) {
        return Err(format!("subgroups in a workgroup of {x}x{y}x{z} where a subgroup is {lanes}"));
    }
    Ok(())
}

/// A text in the languages of drivers.
struct Texts {
    spirv: Vec<u32>,
    /// OpenGL ES, which has neither subgroups nor 64-bit integers.
    glsl: Option<String>,
    hazards: Vec<&'static str>,
}

fn translate(module: &Module, info: &ModuleInfo, gles: bool) -> Result<Texts, String> {
    let entry = || Some((ShaderStage::Compute, "main".to_string()));
    let options = spv::Options { lang_version: (1, 3), ..Default::default() };
    let spirv = spv::write_vec(module, info, &options, None).map_err(|e| format!("SPIR-V: {e}"))?;
    let options = msl::Options { lang_version: (2, 4), ..Default::default() };
    let pipeline = msl::PipelineOptions { entry_point: entry(), ..Default::default() };
    let (metal, _) =
        msl::write_string(module, info, &options, &pipeline).map_err(|e| format!("MSL: {e}"))?;
    let options = hlsl::Options { shader_model: hlsl::ShaderModel::V6_0, ..Default::default() };
    let pipeline = hlsl::PipelineOptions { entry_point: entry() };
    let mut direct = String::new();
    hlsl::Writer::new(&mut direct, &options, &pipeline)
        .write(module, info, None)
        .map_err(|e| format!("HLSL: {e}"))?;
    let web = wgsl::write_string(module, info, wgsl::WriterFlags::empty())
        .map_err(|e| format!("WGSL: {e}"))?;
    if spirv.is_empty() || metal.is_empty() || direct.is_empty() {
        return Err("an empty translation".into());
    }
    naga::front::wgsl::parse_str(&web).map_err(|e| format!("its own WGSL: {e}"))?;
    let mut glsl = None;
    if gles {
        let options = glsl::Options { version: glsl::Version::new_gles(310), ..Default::default() };
        let pipeline = glsl::PipelineOptions {
            shader_stage: ShaderStage::Compute,
            entry_point: "main".into(),
            multiview: None,
        };
        let text = glsl.insert(String::new());
        let policies = BoundsCheckPolicies::default();
        glsl::Writer::new(text, module, info, &options, &pipeline, policies)
            .and_then(|mut w| w.write())
            .map_err(|e| format!("GLSL: {e}"))?;
    }
    Ok(Texts { spirv, glsl, hazards: hazards::hazards(module, info, &metal, &direct) })
}

/// What a text may use whatever the adapter, and whether it reads by 64-bit integers.
fn capabilities(defines: &Defines) -> (Capabilities, bool) {
    let long = defines.contains_key("LONG");
    // WebGPU's own: every adapter unpacks f16 to f32.
    let mut base = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    base.set(Capabilities::SHADER_INT64, long);
    (base, long)
}

fn check(variant: &Variant) -> Result<Texts, String> {
    let text = expand(variant.kernel.source, &variant.defines)?;
    let module = naga::front::wgsl::parse_str(&text).map_err(|e| e.emit_to_string(&text))?;
    // What needs no subgroup operation must pass without them.
    let (base, long) = capabilities(&variant.defines);
    let plain = validate(&module, base);
    let subgroups = plain.is_err();
    let info = match plain {
        Ok(info) => info,
        Err(_) => validate(&module, base | Capabilities::SUBGROUP)?,
    };
    check_bindings(variant, &module)?;
    check_entry(variant, &module, subgroups)?;
    translate(&module, &info, !subgroups && !long)
}

type Checked = (Variant, Result<Texts, String>);

/// Every variant and what came of it, found out once for all tests.
fn checked() -> &'static [Checked] {
    static CHECKED: OnceLock<Vec<Checked>> = OnceLock::new();
    CHECKED.get_or_init(|| {
        let (mut one, mut two) = (Vec::new(), Vec::new());
        for (i, variant) in variants().into_iter().enumerate() {
            if i % 2 == 0 { one.push(variant) } else { two.push(variant) }
        }
        let work = |half: Vec<Variant>| {
            let each = |v: Variant| {
                let came = check(&v);
                (v, came)
            };
            half.into_iter().map(each).collect::<Vec<_>>()
        };
        std::thread::scope(|scope| {
            let threads = [scope.spawn(|| work(one)), scope.spawn(|| work(two))];
            threads.into_iter().flat_map(|t| t.join().expect("no panic")).collect()
        })
    })
}

#[test]
fn every_variant_translates_and_keeps_to_the_limits() {
    let all = checked();
    let failed = |(v, came): &Checked| came.as_ref().err().map(|e| format!("{}: {e}", v.name()));
    let failures: Vec<String> = all.iter().filter_map(failed).collect();
    println!("{} variants of {} kernels", all.len(), KERNELS.len());
    assert!(failures.is_empty(), "{} fail:\n{}", failures.len(), failures.join("\n"));
    // The three families do differ, or the list above means nothing.
    for define in ["TILED", "LANES", "LONG"] {
        assert!(all.iter().any(|(v, _)| v.defines.contains_key(define)), "no variant has {define}");
    }
}

fn good(failures: Option<Vec<String>>) {
    let failures = failures.unwrap_or_default();
    let shown: Vec<_> = failures.iter().take(20).cloned().collect();
    assert!(failures.is_empty(), "{} fail:\n{}", failures.len(), shown.join("\n"));
}

#[test]
fn the_validator_of_spirv_has_nothing_to_say() {
    let texts = checked().iter().filter_map(|(v, came)| Some((v, came.as_ref().ok()?)));
    let modules: Vec<_> = texts.map(|(v, t)| (v.name(), t.spirv.as_slice())).collect();
    good(validators::spirv(&modules));
}

#[test]
fn the_validator_of_glsl_has_nothing_to_say() {
    let texts = checked().iter().filter_map(|(v, came)| Some((v, came.as_ref().ok()?)));
    let texts: Vec<_> = texts.filter_map(|(v, t)| Some((v.name(), t.glsl.as_deref()?))).collect();
    good(validators::glsl(&texts));
}

#[test]
fn validators_find_what_is_wrong() {
    let (_, came) = &checked()[0];
    let mut module = came.as_ref().expect("translates").spirv.clone();
    module.truncate(module.len() - 1);
    let said = validators::spirv(&[("cut".into(), &module)]);
    assert!(said.is_none_or(|s| s.len() == 1 && s[0].starts_with("cut: ")));
    let said = validators::glsl(&[("bad".into(), "#version 310 es\nvoid main() { x = 1; }\n")]);
    assert!(said.is_none_or(|s| !s.is_empty() && s[0].starts_with("bad: ")));
}

/// What is in a kernel of what drivers stumble over, and why it stays.
const ACCEPTED: &[(&str, &[&str], &str)] = &[
    (
        hazards::BARRIER,
        &[
            "attention",
            "attention_backward_kv",
            "attention_backward_q",
            "lstm_backward",
            "lstm_forward",
        ],
        "A workgroup ends with its own sequence and does not wait for the longest. The length comes \
         from a buffer that is only read, by an index that all invocations share: Tint proves that \
         (tests/webgpu.rs), FXC may not. DXC, which wgpu prefers where dxcompiler.dll is found, does \
         not ask.",
    ),
    (
        hazards::BY_REFERENCE,
        &[
            "align_loss",
            "attention_backward_bias",
            "batch_norm",
            "batch_norm_backward",
            "channel_deviation",
            "contrast",
            "contrast_mean",
            "cross_entropy",
            "embed",
            "frame_rms",
            "l2_normalize",
            "l2_normalize_backward",
            "log_softmax_backward",
            "logsumexp",
            "masked_softmax",
            "objective",
            "outer_backward",
            "reduce_rows",
            "residual_norm",
            "residual_norm_backward",
            "softmax",
            "softmax_backward",
            "standardize",
            "standardize_grad",
        ],
        "naga hands workgroup memory to the entry point by reference in any case, so that a sum \
         written out in main would be handed over just the same. Only a Mac can tell.",
    ),
    (
        hazards::UNBOUNDED,
        &[
            "attention",
            "attention_backward_bias",
            "attention_backward_kv",
            "attention_backward_q",
            "contrast",
            "contrast_backward",
            "cross_entropy",
            "cross_entropy_backward",
            "heads_forward",
            "label_update",
            "log_softmax_backward",
            "logsumexp",
            "logsumexp_backward",
            "lstm_backward",
            "lstm_forward",
            "masked_softmax",
            "matmul",
            "noise",
            "noise_backward",
            "objective",
            "objective_grad",
            "segment_softmax",
            "softmax",
            "spectral_shape",
            "unary",
            "unary_backward",
            "weighted_l1_grad",
        ],
        "Bounds are choices by a comparison of bits, since clamp and min may drop a NaN, and this \
         search knows only those; where there is no upper bound PyTorch has none either, and infinity is \
         what is meant.",
    ),
    (
        hazards::CHOICE,
        &["decibels", "unary", "unary_backward"],
        "What the choice drops comes back: by a second comparison with what was there before, or since \
         another term of the sum is NaN as well.",
    ),
];

#[test]
fn what_drivers_stumble_over_is_known() {
    let mut found: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (variant, came) in checked() {
        let hazards = came.as_ref().map_or(&[][..], |t| &t.hazards);
        found.extend(hazards.iter().map(|h| (*h, variant.kernel.name)));
    }
    let accepted: BTreeSet<(&str, &str)> = ACCEPTED
        .iter()
        .flat_map(|(hazard, kernels, _)| kernels.iter().map(|k| (*hazard, *k)))
        .collect();
    let new: Vec<_> = found.difference(&accepted).collect();
    assert!(new.is_empty(), "mend these, or say why they stay: {new:#?}");
    let gone: Vec<_> = accepted.difference(&found).collect();
    assert!(gone.is_empty(), "not there any more: {gone:#?}");
}

#[test]
fn hazards_are_really_found() {
    let found = |text: &str| {
        let module = naga::front::wgsl::parse_str(text).expect("WGSL");
        let info = validate(&module, Capabilities::default()).expect("valid");
        translate(&module, &info, true).expect("translates").hazards
    };
    let shared = "fn handed(v: f32, i: u32) -> f32 { w[i] = v; workgroupBarrier(); return w[0]; }";
    let main = |body: &str| {
        let helper = if body.contains("handed(") { shared } else { "" };
        format!(
            "var<workgroup> w: array<f32, 64>;\n\
             @group(0) @binding(0) var<storage, read_write> X: array<f32>;\n\
             @group(0) @binding(1) var<storage, read> N: array<u32>;\n\
             {helper}\n\
             @compute @workgroup_size(64)\n\
             fn main(@builtin(local_invocation_index) i: u32) {{ {body} }}"
        )
    };
    let bounded = "X[i] = exp(-min(X[i], 1.0)); for (var k = 0u; k < 9u; k++) { w[i] = X[k]; }";
    assert_eq!(found(&main(bounded)), [] as [&str; 0]);
    assert_eq!(found(&main("X[i] = exp(X[i]);")), [hazards::UNBOUNDED]);
    assert_eq!(found(&main("X[i] = tanh(min(X[i], 1.0));")), [hazards::UNBOUNDED]);
    assert_eq!(found(&main("var v = vec4<f32>(); v[i] = 1.0; X[i] = v.x;")), [hazards::COMPONENT]);
    assert_eq!(found(&main("X[i] = bitcast<f32>(0x7f800000u | i);")), [hazards::NOT_FINITE]);
    let choices =
        ["select(x, 8.0, x > 8.0)", "select(0.0, x, x >= 0.0)", "select(x, X[0], x < 1.0)"];
    let found_in = |choice: &str| found(&main(&format!("let x = X[i]; X[i] = {choice};")));
    assert_eq!(choices.map(|c| found_in(c).len()), [1, 1, 0]);
    assert_eq!(found_in(choices[0]), [hazards::CHOICE]);
    assert_eq!(found(&main("X[i] = handed(1.0, i);")), [hazards::BY_REFERENCE]);
    let n = "let n = N[0];";
    for body in [
        "for (var k = 0u; k < n; k++) { workgroupBarrier(); }",
        "var k = 0u; while (true) { k++; workgroupBarrier(); if (k > n) { break; } }",
        "if (n > 3u) { return; } workgroupBarrier();",
        "var k = 0u; if (n > 3u) { k = n; } if (k > 2u) { workgroupBarrier(); }",
    ] {
        assert_eq!(found(&main(&format!("{n} {body}"))), [hazards::BARRIER], "{body}");
    }
    let after = format!("{n} for (var k = 0u; k < n; k++) {{ X[k] = 1.0; }} workgroupBarrier();");
    assert_eq!(found(&main(&after)), [] as [&str; 0]);
}

#[test]
fn the_limits_are_really_looked_at() {
    let kernel = modalign::ops::find("scatter_rows").expect("a kernel");
    let case = &(kernel.cases)()[0];
    let present: Vec<bool> = case.args.iter().map(Option::is_some).collect();
    let launch = (kernel.launch)(Family::Plain, &case.words, &case.defines);
    let defines = kernel.defines(&case.defines, &launch, &present);
    let params = uniform(&case.words) as u32 * 4;
    let variant = Variant { kernel, family: Family::Plain, defines, present, params };
    let module = |text: &str| naga::front::wgsl::parse_str(text).expect("WGSL");

    let memory = |n: u32| {
        format!("var<workgroup> a: array<f32, {n}>; @compute @workgroup_size(1) fn main() {{}}")
    };
    assert_eq!(check_bindings(&variant, &module(&memory(4096))), Ok(()));
    assert!(check_bindings(&variant, &module(&memory(4097))).unwrap_err().contains("16388 bytes"));
    let other = "@group(0) @binding(0) var<storage> B: array<f32>;";
    assert!(check_bindings(&variant, &module(other)).unwrap_err().contains("the engine has X"));
    let size = |n: u32| format!("@compute @workgroup_size({n}) fn main() {{}}");
    assert_eq!(check_entry(&variant, &module(&size(256)), false), Ok(()));
    assert!(check_entry(&variant, &module(&size(257)), false).unwrap_err().contains("257x1x1"));
    assert!(check_entry(&variant, &module(&size(8)), true).unwrap_err().contains("subgroups"));
}

fn files(folder: &Path) -> Vec<(String, String)> {
    let mut found: Vec<_> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "wgsl"))
        .map(|path| {
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            (name, std::fs::read_to_string(&path).expect("text"))
        })
        .collect();
    found.sort();
    found
}

#[test]
fn every_shader_file_is_a_registered_kernel_and_names_its_twin() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = files(&root.join("shaders"));
    let names: BTreeSet<&str> = found.iter().map(|(n, _)| n.as_str()).collect();
    let registered: BTreeSet<&str> = KERNELS.iter().map(|k| k.name).collect();
    assert_eq!(names, registered, "files in shaders/ against registered kernels");
    assert_eq!(KERNELS.len(), registered.len(), "two kernels of one name");
    for (name, text) in &found {
        let kernel = modalign::ops::find(name).expect("registered");
        assert_eq!(kernel.source, text, "{name} is made of another file");
        assert!(!(kernel.cases)().is_empty(), "{name} has no case");
        let header: Vec<&str> = text.lines().take_while(|l| l.starts_with("//")).collect();
        let twin = header
            .iter()
            .find_map(|l| l.strip_prefix("// Twin"))
            .unwrap_or_else(|| panic!("{name}: the comment at its head names no twin"))
            .trim();
        // `ops::lstm::reference::forward`: that module has that function.
        // A module may have a folder: `ops::optim::adam::reference::adam`.
        let mut path = twin.split("::").skip(1).peekable();
        let mut file = root.join("src/ops");
        while let Some(module) = path.next_if(|part| *part != "reference") {
            file.push(module);
        }
        let source = std::fs::read_to_string(file.with_extension("rs"))
            .unwrap_or_else(|_| panic!("{name}: its twin {twin} is in no file"));
        // Its twins may be a file of their own in that folder.
        let apart = std::fs::read_to_string(file.join("reference.rs")).unwrap_or_default();
        let source = source + &apart;
        let last = path.last().unwrap_or_default();
        let there = match last {
            "reference" => source.contains("pub mod reference"),
            function => source.contains(&format!("pub fn {function}(t: &mut Twin)")),
        };
        assert!(there, "{name}: there is no {twin}");
    }
}

#[test]
fn the_kernels_of_the_roofline_translate() {
    for (name, source, variants) in modalign::bench::ROOFLINE_KERNELS {
        for defines in variants {
            let defines = defines.iter().copied().collect();
            let text = expand(source, &defines).unwrap_or_else(|e| panic!("{name}: {e}"));
            let module = naga::front::wgsl::parse_str(&text)
                .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(&text)));
            let (base, _) = capabilities(&defines);
            let info = validate(&module, base).unwrap_or_else(|e| panic!("{e}"));
            translate(&module, &info, false).map_or_else(|e| panic!("{name}: {e}"), drop);
        }
    }
    let files = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders/bench"));
    assert_eq!(files.len(), modalign::bench::ROOFLINE_KERNELS.len());
}

#[test]
fn every_shared_file_is_imported_somewhere() {
    let shaders = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let kernels = files(&shaders);
    for (name, text) in files(&shaders.join("shared")) {
        assert!(text.starts_with("//"), "{name} has no comment at its head");
        let line = format!("#import {name}");
        let used = kernels.iter().any(|(_, t)| t.lines().any(|l| l.trim() == line));
        assert!(used, "{name} is imported by no kernel");
    }
}
