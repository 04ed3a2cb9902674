//! The command from outside: its words, its files, its pages, and the examples. `cargo test --test
//! command cli::` runs those of one file.

#[path = "../chromium/mod.rs"]
mod chromium;
#[path = "../common/mod.rs"]
mod common;
#[path = "../ran/mod.rs"]
mod ran;

mod bench;
mod cli;
mod examples;
mod experiment;
mod faults;
mod field;
mod folds;
mod holistic;
mod import_cli;
mod interactions;
mod matrix;
mod models;
mod profile;
mod readme;
mod report;
mod road;
mod schedulers;
mod selftest;
mod supply;
mod trust;
