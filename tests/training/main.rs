//! Data, models and training, by the library. One program, so that its tests share devices and compile
//! a kernel once. `cargo test --test training golden::` runs those of one file.

#[path = "../bert_fixture/mod.rs"]
mod bert_fixture;
#[path = "../common/mod.rs"]
mod common;
#[path = "../ran/mod.rs"]
mod ran;
#[path = "../text_place/mod.rs"]
mod text_place;

mod acoustic;
mod bert;
mod by_word;
mod clfa;
mod encoders;
mod explain;
mod faults;
mod features;
mod golden;
mod house;
mod inside;
mod metrics;
mod missing;
mod models;
mod real_data;
mod resume;
mod schedule;
mod sources;
mod text;
mod text_errors;
mod tokens;
mod umi;
