//! Lists the adapters of this machine, best first, and opens the one a plain run takes.
//!
//! `cargo run --release --example adapters`

use modalign::{Gpu, gpu::list_adapters};

fn main() -> modalign::Result<()> {
    for adapter in list_adapters() {
        let mark = if adapter.chosen { "*" } else { " " };
        println!("{mark} {} ({}, {})", adapter.name, adapter.kind, adapter.backend);
        println!("    {}, {} kernels", adapter.driver, adapter.kernels);
    }
    let gpu = Gpu::new()?;
    let caps = gpu.caps();
    println!("opened {}: bindings up to {} MiB", caps.name, caps.max_binding >> 20);
    Ok(())
}
