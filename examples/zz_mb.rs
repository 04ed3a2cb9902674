//! scratch
use std::time::Instant;
fn cpu() -> f64 {
    let s = std::fs::read_to_string("/proc/self/stat").unwrap();
    let f: Vec<&str> = s.rsplit(')').next().unwrap().split_whitespace().collect();
    (f[11].parse::<f64>().unwrap() + f[12].parse::<f64>().unwrap()) / 100.0
}
fn main() {
    let files: Vec<String> = std::env::args().skip(1).collect();
    let instance =
        wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::VULKAN));
    let adapter = &adapters[0];
    let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
        required_features: adapter.features()
            & (wgpu::Features::SUBGROUP | wgpu::Features::IMMEDIATES),
        required_limits: adapter.limits(),
        ..Default::default()
    }))
    .unwrap();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let get = |k: &str, d: u32| {
            text.lines()
                .find_map(|l| l.strip_prefix(&format!("//{k}=")))
                .map_or(d, |v| v.trim().parse().unwrap())
        };
        let (groups, words, flops) =
            (get("groups", 1), get("words", 1 << 20) as u64, get("mflop", 1) as f64 * 1e6);
        let module = unsafe {
            device.create_shader_module_trusted(
                wgpu::ShaderModuleDescriptor {
                    label: None,
                    source: wgpu::ShaderSource::Wgsl(text.clone().into()),
                },
                wgpu::ShaderRuntimeChecks::unchecked(),
            )
        };
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: Default::default(),
            cache: None,
        });
        let mut entries = Vec::new();
        let mut bufs = Vec::new();
        for line in text.lines().filter(|l| l.starts_with("@group(0) @binding(")) {
            let n: u32 =
                line["@group(0) @binding(".len()..].split(')').next().unwrap().parse().unwrap();
            let uniform = line.contains("<uniform>");
            let size = if uniform { 65536 } else { words * 4 };
            let b = device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size,
                usage: wgpu::BufferUsages::STORAGE
                    | wgpu::BufferUsages::UNIFORM
                    | wgpu::BufferUsages::COPY_DST
                    | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            });
            let data: Vec<f32> =
                (0..size / 4).map(|i| ((i * 7919 % 1000) as f32 / 1000.0 - 0.5) * 0.1).collect();
            queue.write_buffer(&b, 0, bytemuck::cast_slice(&data));
            bufs.push((n, b));
        }
        for (n, b) in &bufs {
            entries.push(wgpu::BindGroupEntry { binding: *n, resource: b.as_entire_binding() });
        }
        let bg = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        let run = |reps: u32| {
            let mut e = device.create_command_encoder(&Default::default());
            {
                let mut p = e.begin_compute_pass(&Default::default());
                p.set_pipeline(&pipeline);
                p.set_bind_group(0, &bg, &[]);
                for _ in 0..reps {
                    p.dispatch_workgroups(groups, 1, 1);
                }
            }
            queue.submit([e.finish()]);
            device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
        };
        let t = Instant::now();
        run(1);
        let first = t.elapsed().as_secs_f64();
        let mut best = f64::MAX;
        let c0 = cpu();
        let mut n = 0;
        let t0 = Instant::now();
        while t0.elapsed().as_secs_f64() < 1.0 {
            let t = Instant::now();
            run(1);
            best = best.min(t.elapsed().as_secs_f64());
            n += 1;
        }
        let c = (cpu() - c0) / n as f64;
        println!(
            "{file}: first {:.2} s, best {:.3} ms, cpu {:.3} ms, {:.1} GFLOP/s best, {:.1} per cpu-s",
            first,
            best * 1e3,
            c * 1e3,
            flops / best / 1e9,
            flops / c / 1e9
        );
    }
}
