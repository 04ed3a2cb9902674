//! What the program is made of, and what it may do: licences, unsafe code, calls to the network.

use crate::ran::{Place, SMALL};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Licences that ask for no more than to be named, or for nothing of a program that uses them as they are.
const ALLOWED: [&str; 13] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    // Of the decoders of sound: their own files stay under it, which are used as they are.
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Whether an SPDX expression can be met by the allowed licences alone.
fn allowed(expression: &str) -> bool {
    let plain = expression.replace('/', " OR ").replace(['(', ')'], " ");
    let all_of = |part: &str| {
        part.split(" OR ")
            .any(|one| ALLOWED.contains(&one.split(" WITH ").next().unwrap_or("").trim()))
    };
    plain.split(" AND ").all(all_of)
}

#[test]
fn every_crate_has_a_licence_that_allows_it() {
    let compiler = Command::new("rustc").arg("-vV").output().unwrap().stdout;
    let compiler = String::from_utf8(compiler).unwrap();
    let host = compiler.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", host])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let all: Value = serde_json::from_slice(&out.stdout).unwrap();
    let packages = all["packages"].as_array().unwrap();
    assert!(packages.len() > 100);
    for package in packages {
        let licence = package["license"].as_str().unwrap_or_default();
        assert!(allowed(licence), "{}: '{licence}'", package["name"]);
    }
    assert!(!allowed("GPL-3.0") && !allowed("MIT AND GPL-2.0") && !allowed(""));
}

/// What `cargo deny` is told, which has the advisories besides.
#[test]
fn the_same_licences_are_allowed_to_cargo_deny() {
    let text = fs::read_to_string(root().join("deny.toml")).unwrap();
    let told: toml::Table = text.parse().unwrap();
    let listed: Vec<&str> = told["licenses"]["allow"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|one| one.as_str())
        .filter(|one| !one.contains(" WITH "))
        .collect();
    assert_eq!(listed, ALLOWED);
}

/// What crates.io takes, with what docs.rs needs to show all of it.
#[test]
fn the_package_is_whole_and_small() {
    let listed = Command::new(env!("CARGO"))
        .args(["package", "--list", "--allow-dirty", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let listed = String::from_utf8(listed.stdout).unwrap();
    let files: Vec<&str> = listed.lines().collect();
    for needed in ["LICENSE", "README.md", "src/lib.rs", "shaders/matmul.wgsl", "Cargo.lock"] {
        assert!(files.contains(&needed), "{needed}");
    }
    let sizes = files.iter().filter_map(|file| fs::metadata(root().join(file)).ok());
    let bytes: u64 = sizes.map(|about| about.len()).sum();
    // crates.io takes 10 MiB compressed; most of this is text.
    assert!(bytes < 12 << 20, "{bytes} bytes, before they are compressed");
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    assert_eq!(manifest["package"]["metadata"]["docs"]["rs"]["all-features"].as_bool(), Some(true));
}

/// Blocks of unsafe code by file, as CONTRIBUTING lists them.
#[test]
fn unsafe_code_is_where_it_is_listed() {
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let blocks = text.lines().filter(|line| {
                    let code = line.split("//").next().unwrap_or_default();
                    code.contains("unsafe {")
                        || code.contains("unsafe fn")
                        || code.contains("unsafe impl")
                });
                let (count, name) = (blocks.count(), path.strip_prefix(root()).unwrap());
                if count > 0 {
                    found.insert(name.to_string_lossy().replace('\\', "/"), count);
                    let explained = text.matches("SAFETY:").count();
                    assert!(
                        explained >= count,
                        "{}: {explained} of {count} explained",
                        name.display()
                    );
                }
            }
        }
    }
    let text = fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap();
    let section = text.split("## Unsafe code").nth(1).unwrap().split("\n## ").next().unwrap();
    let listed: BTreeMap<String, usize> = section
        .lines()
        .filter_map(|line| {
            let (file, rest) = line.strip_prefix("- `")?.split_once("` (")?;
            Some((file.to_string(), rest.split(')').next()?.parse().ok()?))
        })
        .collect();
    assert_eq!(found, listed, "CONTRIBUTING, Unsafe code");
}

/// Under a tracer, where there is one.
#[cfg(target_os = "linux")]
#[test]
fn nothing_calls_the_network() {
    if Command::new("strace").arg("-V").output().is_err() {
        println!("skipped: there is no strace");
        return;
    }
    let place = Place::fresh("network");
    place.ok(SMALL);
    for (i, line) in [
        "train --data small.safetensors --out run --max-epochs 1 --quiet",
        "report run --out run.html --quiet",
        "inspect small.safetensors",
    ]
    .into_iter()
    .enumerate()
    {
        let log = place.at(&format!("calls{i}"));
        let plain = place.command(line);
        let mut traced = Command::new("strace");
        traced.args(["-f", "-e", "trace=socket,connect", "-o"]).arg(&log);
        traced.arg(plain.get_program()).args(plain.get_args()).current_dir(place.root());
        let out = traced.output().unwrap();
        let text = fs::read_to_string(&log).unwrap_or_default();
        if !out.status.success() && !text.contains("exited with") {
            println!("skipped: nothing can be traced here");
            return;
        }
        let calls: Vec<&str> = text.lines().filter(|l| l.contains("AF_INET")).collect();
        assert!(calls.is_empty(), "{line}: {calls:?}");
    }
}
