//! The engine as a guest: a program with a wgpu device, buffers and an encoder of its own has a
//! small network computed between its own commands, in the one submission that it makes anyway.
//!
//! `cargo run --release --no-default-features --example share_device`

use modalign::gpu::GpuOptions;
use modalign::nn::{Params, linear, linear_specs};
use modalign::ops::{Act, random};
use modalign::plan::{Memory, Pool, Spaces};
use modalign::wgpu::{self, BufferUsages as Usage};
use modalign::{Error, Gpu, Result, Tape};

const ROWS: usize = 8;
const INPUTS: usize = 16;
const HIDDEN: usize = 32;
const OUTPUTS: usize = 4;

fn main() -> Result<()> {
    // What the host has before it hears of this crate: a device, a queue, buffers.
    let (device, queue) = open();
    let buffer = |label, words: usize, usage| {
        device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: words as u64 * 4,
            usage,
            mapped_at_creation: false,
        })
    };
    let sensor = buffer("sensor", ROWS * INPUTS, Usage::COPY_SRC | Usage::COPY_DST);
    let frame = buffer("frame", ROWS * INPUTS, Usage::STORAGE | Usage::COPY_DST);
    let scores = buffer("scores", ROWS * OUTPUTS, Usage::STORAGE | Usage::COPY_SRC);
    let back = buffer("back", ROWS * OUTPUTS, Usage::MAP_READ | Usage::COPY_DST);

    // The guest: a network that reads `frame` and writes `scores`.
    let gpu = Gpu::from_device(device.clone(), queue.clone(), &GpuOptions::default())?;
    let mut spaces = Spaces::new();
    let input = spaces.declare("frame", ROWS * INPUTS);
    let output = spaces.declare("scores", ROWS * OUTPUTS);
    let mut specs = linear_specs("first", (INPUTS, INPUTS, HIDDEN), true, "all");
    specs.extend(linear_specs("second", (HIDDEN, HIDDEN, OUTPUTS), true, "all"));
    let params = Params::new(specs, &[], &mut spaces, gpu.caps().max_binding, false)?;

    let mut tape = Tape::new();
    let x = tape.input("frame", &[ROWS, INPUTS], input, 0);
    let h = linear(&mut tape, &params, "first", x, Act::Relu)?;
    let y = linear(&mut tape, &params, "second", h, Act::None)?;
    // Row i of the output is row i of the host's buffer.
    let rows: Vec<f32> = (0..ROWS as u32).map(f32::from_bits).collect();
    let rows = tape.constant("rows", &[ROWS], &rows)?;
    let to = tape.input("scores", &[ROWS, OUTPUTS], output, 0);
    tape.scatter_rows(y, rows, to, 0)?;

    let given = [(input, frame.clone()), (output, scores.clone())];
    let memory = Memory::bind(&gpu, &spaces, &given)?;
    let weights = params.initial(3);
    params.upload(&gpu, &memory, &weights)?;
    let program = tape.plan(gpu.caps())?.prepare(&gpu, &memory, &mut Pool::new())?;

    // A frame of the host's: a copy, the network, a copy; one encoder, one submission.
    let values = random(5, ROWS * INPUTS);
    queue.write_buffer(&sensor, 0, bytemuck::cast_slice(&values));
    let mut encoder = device.create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(&sensor, 0, &frame, 0, frame.size());
    program.record(&gpu, &memory, &mut encoder, false, &[])?;
    encoder.copy_buffer_to_buffer(&scores, 0, &back, 0, back.size());
    queue.submit([encoder.finish()]);

    // The host reads its own buffer, in its own way.
    back.map_async(wgpu::MapMode::Read, .., |result| result.expect("the host maps its buffer"));
    device.poll(wgpu::PollType::wait_indefinitely()).map_err(|e| Error::Gpu(e.to_string()))?;
    let view = back.get_mapped_range(..).map_err(|e| Error::Gpu(e.to_string()))?;
    let found: Vec<f32> = bytemuck::pod_collect_to_vec(&view);

    // The same by hand.
    let layer = |name: &str, x: &[f32], outputs: usize| -> Vec<f32> {
        let (_, w) = weights.get(&format!("{name}.weight")).expect("a weight");
        let (_, b) = weights.get(&format!("{name}.bias")).expect("a bias");
        let inputs = w.len() / outputs;
        let dot = |row: &[f32], n: usize| -> f32 {
            b[n] + row.iter().zip(&w[n * inputs..]).map(|(x, w)| x * w).sum::<f32>()
        };
        x.chunks(inputs).flat_map(|row| (0..outputs).map(move |n| dot(row, n))).collect()
    };
    let hidden: Vec<f32> = layer("first", &values, HIDDEN).iter().map(|h| h.max(0.0)).collect();
    let wanted = layer("second", &hidden, OUTPUTS);
    let largest = found.iter().zip(&wanted).fold(0.0, |m: f32, (f, w)| m.max((f - w).abs()));
    assert!(found.len() == wanted.len() && largest < 1e-5, "off by {largest}");
    println!(
        "{} scores on {}, within {largest:e} of the same by hand",
        found.len(),
        gpu.caps().name
    );
    Ok(())
}

/// A device as any program opens one: here with subgroups where there are any.
fn open() -> (wgpu::Device, wgpu::Queue) {
    let descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    let instance = wgpu::Instance::new(descriptor);
    let adapter = pollster::block_on(instance.request_adapter(&Default::default()));
    let adapter = adapter.expect("an adapter");
    pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
        required_features: adapter.features() & wgpu::Features::SUBGROUP,
        ..Default::default()
    }))
    .expect("a device")
}
