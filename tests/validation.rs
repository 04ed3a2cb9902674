//! Vulkan's own referee: the Khronos validation layer, over kernels, training and resumed training.
//! It must be there (it says so in its log) and have nothing to say. Skipped where no layer is found:
//! Debian's Chromium brings one, and so does the package vulkan-validationlayers.
#![cfg(all(feature = "cli", target_os = "linux"))]

mod ran;

use modalign::gpu::{Family, GpuOptions};
use modalign::ops::{self, KERNELS};
use modalign::plan::{Case, CaseArg};
use modalign::{Error, Gpu};
use ran::{Place, SMALL};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The layer's library. `MODALIGN_VALIDATION_LAYER` names another, or nothing to go without.
fn layer() -> Option<PathBuf> {
    let named = std::env::var_os("MODALIGN_VALIDATION_LAYER").map(PathBuf::from);
    let name = "libVkLayer_khronos_validation.so";
    let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    // Chromium's is the newer one.
    let places = ["/usr/lib/chromium", &multiarch, "/usr/lib64", "/usr/lib", "/usr/local/lib"];
    let found = match named {
        Some(path) => Some(path).filter(|p| p.is_file()),
        None => places.iter().map(|p| Path::new(p).join(name)).find(|p| p.is_file()),
    };
    if found.is_none() {
        eprintln!("skipped: no validation layer; MODALIGN_VALIDATION_LAYER can name its library");
    }
    found
}

/// What the layer says that is not this engine's to mend, and why.
const OTHERS: &[(&str, &str)] = &[(
    "VUID-StandaloneSpirv-None-10684",
    "naga gives every array type a stride, also that of a function's own variable: wgpu#7696",
)];

/// A layer with its settings and its log, for one process.
struct Layer {
    folder: PathBuf,
}

impl Layer {
    fn new(place: &Place, library: &Path, name: &str) -> Self {
        let folder = place.at(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        let manifest = serde_json::json!({
            "file_format_version": "1.2.0",
            "layer": {
                "name": "VK_LAYER_KHRONOS_validation",
                "type": "GLOBAL",
                "library_path": library,
                "api_version": "1.4.0",
                "implementation_version": "1",
                "description": "Khronos validation",
            },
        });
        let settings = format!(
            "khronos_validation.debug_action = VK_DBG_LAYER_ACTION_LOG_MSG\n\
             khronos_validation.report_flags = error,warn,info\n\
             khronos_validation.log_filename = {}\n\
             khronos_validation.validate_sync = true\n",
            folder.join("log").display()
        );
        let write = |name: &str, text: &str| {
            std::fs::write(folder.join(name), text).expect("a file");
        };
        write("VkLayer_khronos_validation.json", &manifest.to_string());
        write("vk_layer_settings.txt", &settings);
        Layer { folder }
    }

    /// Runs a command that must succeed with the layer between it and the driver.
    fn over(&self, mut command: Command) -> String {
        let output = command
            // The layer does not see how well llvmpipe optimises.
            .env("GALLIVM_PERF", "nopt")
            .env("VK_LAYER_PATH", &self.folder)
            .env("VK_INSTANCE_LAYERS", "VK_LAYER_KHRONOS_validation")
            .env("VK_LAYER_SETTINGS_PATH", self.folder.join("vk_layer_settings.txt"))
            .output()
            .expect("runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    /// What the layer complains of. It must have been there.
    fn complaints(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        // The first is what newer layers say of themselves, the second what older ones do.
        let there = ["Current Validation Enabled", "Khronos Validation Layer Active"];
        assert!(there.iter().any(|t| log.contains(t)), "the layer was not there: {log}");
        let told = |l: &&str| l.contains("Validation Error") || l.contains("Validation Warning");
        let ours = |l: &&str| !OTHERS.iter().any(|(id, _)| l.contains(&format!("[ {id} ]")));
        let lines: Vec<&str> = log.lines().collect();
        let at = lines.iter().enumerate().filter(|(_, l)| told(l) && ours(l));
        at.map(|(i, _)| lines[i..lines.len().min(i + 4)].join("\n")).collect()
    }
}

fn silent(found: Vec<String>, what: &str) {
    let shown: Vec<&String> = found.iter().take(20).collect();
    assert!(found.is_empty(), "{what}: {} complaints: {shown:#?}", found.len());
}

#[test]
fn training_and_resuming_leave_the_layer_silent() {
    let Some(library) = layer() else { return };
    let place = Place::fresh("validation-train");
    place.ok(SMALL);
    let lines = [
        "train --data small.safetensors --out run --max-epochs 1 --quiet",
        "train --resume run --max-epochs 2 --quiet",
        "eval --model run",
    ];
    for (i, line) in lines.iter().enumerate() {
        let layer = Layer::new(&place, &library, &format!("layer-{i}"));
        layer.over(place.command(line));
        silent(layer.complaints(), line);
    }
}

#[test]
fn kernels_leave_the_layer_silent() {
    let Some(library) = layer() else { return };
    let place = Place::fresh("validation-kernels");
    let layer = Layer::new(&place, &library, "layer");
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "runs_of_kernels", "--ignored", "--nocapture"]);
    command.env("XDG_CACHE_HOME", place.at("cache"));
    let out = layer.over(command);
    assert!(out.contains("runs of kernels"), "{out}");
    silent(layer.complaints(), "kernels");
}

fn words(case: &Case) -> usize {
    let len = |arg: &CaseArg| match arg {
        CaseArg::F(values) => values.len(),
        CaseArg::U(values) => values.len(),
    };
    case.args.iter().flatten().map(len).sum()
}

/// Of every kernel the smallest and the largest case.
#[test]
#[ignore = "the test of kernels runs it, under the layer"]
fn runs_of_kernels() {
    let ran = AtomicUsize::new(0);
    for family in [None, Some(Family::Tiled)] {
        let options = GpuOptions { family, quiet: true, no_tune: true, ..Default::default() };
        let gpu = Gpu::with(&options).expect("an adapter");
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(kernel) = KERNELS.get(next.fetch_add(1, Ordering::Relaxed)) {
                let mut cases = (kernel.cases)();
                cases.sort_by_key(words);
                let last = cases.len() - 1;
                for case in cases[..1.min(last)].iter().chain(&cases[last..]) {
                    match ops::run_case(&gpu, kernel, case) {
                        Ok(_) => ran.fetch_add(1, Ordering::Relaxed),
                        Err(Error::Driver(why)) => {
                            println!("{} is not run: {why}", kernel.name);
                            0
                        }
                        Err(why) => panic!("{} ({}): {why}", kernel.name, case.name),
                    };
                }
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(work);
            scope.spawn(work);
        });
    }
    println!("{} runs of kernels", ran.into_inner());
}
