//! Translated texts before the judges of their languages: spirv-val and glslangValidator, where they
//! are installed (Debian's spirv-tools and glslang-tools).

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

/// Whether a program is there. Where it is not, says so.
fn there(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: there is no {program}");
    }
    found
}

/// Splits a list in two and works on both halves at once.
fn halves<T: Sync, R: Send>(all: &[T], work: impl Fn(&T) -> Option<R> + Sync) -> Vec<R> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = all
            .chunks(all.len().div_ceil(2).max(1))
            .map(|half| scope.spawn(|| half.iter().filter_map(&work).collect::<Vec<_>>()))
            .collect();
        threads.into_iter().flat_map(|t| t.join().expect("no panic")).collect()
    })
}

/// What it says against a module.
fn spirv_val(module: &[u32], environment: &str) -> Option<String> {
    let mut child = Command::new("spirv-val")
        .args(["--target-env", environment])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("spirv-val runs");
    let bytes: Vec<u8> = module.iter().flat_map(|w| w.to_le_bytes()).collect();
    child.stdin.take().expect("piped").write_all(&bytes).expect("is read");
    let output = child.wait_with_output().expect("ends");
    let said = [output.stdout, output.stderr].concat();
    (!output.status.success()).then(|| String::from_utf8_lossy(&said).trim().to_string())
}

/// What spirv-val says against modules, each with its name; nothing where it is not there.
pub fn spirv(modules: &[(String, &[u32])]) -> Option<Vec<String>> {
    if !there("spirv-val") {
        return None;
    }
    // The same module comes from several variants.
    let once: BTreeMap<&[u32], &str> =
        modules.iter().map(|(name, m)| (*m, name.as_str())).collect();
    let once: Vec<_> = once.into_iter().collect();
    let failures = halves(&once, |(module, name)| {
        let mut said = spirv_val(module, "vulkan1.1")?;
        // naga gives every array type a stride, also that of a function's own variable, which newer
        // validators hold against a module for Vulkan (wgpu#7696). The rest is for any environment.
        if said.contains("VUID-StandaloneSpirv-None-10684") {
            said = spirv_val(module, "spv1.3")?;
        }
        Some(format!("{name}: {said}"))
    });
    println!("{} SPIR-V modules", once.len());
    Some(failures)
}

/// The same of glslangValidator and texts of OpenGL ES.
pub fn glsl(texts: &[(String, &str)]) -> Option<Vec<String>> {
    if !there("glslangValidator") {
        return None;
    }
    let once: BTreeMap<&str, &str> = texts.iter().map(|(name, t)| (*t, name.as_str())).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let mut files = Vec::new();
    for (i, (text, name)) in once.into_iter().enumerate() {
        let path = folder.path().join(format!("{i}.comp"));
        std::fs::write(&path, text).expect("a file");
        files.push((path, name.to_string()));
    }
    let parts: Vec<_> = files.chunks(64).collect();
    let failures = halves(&parts, |part| {
        let output = Command::new("glslangValidator")
            .args(part.iter().map(|(path, _)| path))
            .output()
            .expect("glslangValidator runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        // It says the name of each file and what is wrong with it below that.
        let mut at = "";
        let mut errors = Vec::new();
        for line in said.lines() {
            if let Some((_, name)) = part.iter().find(|(path, _)| path.as_os_str() == line) {
                at = name;
            } else if line.starts_with("ERROR") {
                errors.push(format!("{at}: {line}"));
            }
        }
        if !output.status.success() && errors.is_empty() {
            errors.push(said);
        }
        (!errors.is_empty()).then_some(errors)
    });
    println!("{} texts of GLSL", files.len());
    Some(failures.concat())
}
