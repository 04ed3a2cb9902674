//! A program that has a device of its own, and a small model to run on it.

use modalign::gpu::GpuOptions;
use modalign::plan::{Memory, Pool, Program, SpaceId, Spaces};
use modalign::{Gpu, Tape, Var, wgpu};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// The device that the tests share.
pub fn gpu() -> &'static Gpu {
    static SHARED: OnceLock<Gpu> = OnceLock::new();
    let open = || Gpu::with(&GpuOptions { quiet: true, ..Default::default() });
    SHARED.get_or_init(|| open().expect("an adapter"))
}

/// The bits of 64 floats.
pub fn words(value: impl Fn(usize) -> f32) -> Vec<u32> {
    (0..64).map(|i| value(i).to_bits()).collect()
}

/// `y = x`, a copy that a kernel makes.
pub fn copy_into(tape: &mut Tape, x: Var, y: Var) {
    let rows = tape.constant("rows", &[1], &[f32::from_bits(0)]).unwrap();
    let x = tape.reshape(x, &[1, 64]).unwrap();
    let y = tape.reshape(y, &[1, 64]).unwrap();
    tape.scatter_rows(x, rows, y, 0).unwrap();
}

/// Twice `x` into `y`, and kept as `twice`.
pub struct Model {
    pub spaces: Spaces,
    pub x: SpaceId,
    pub y: SpaceId,
    pub memory: Memory,
    pub program: Program,
    pub twice: Var,
}

impl Model {
    pub fn new(gpu: &Gpu) -> Self {
        let mut spaces = Spaces::new();
        let (x, y) = (spaces.declare("x", 64), spaces.declare("y", 64));
        let memory = Memory::allocate(gpu, &spaces).unwrap();
        let (tape, twice) = recorded(x, y);
        let plan = tape.plan(gpu.caps()).unwrap();
        let program = plan.prepare(gpu, &memory, &mut Pool::new()).unwrap();
        Model { spaces, x, y, memory, program, twice }
    }

    /// The same recording once more.
    pub fn tape(&self) -> Tape {
        self.recorded().0
    }

    /// The same recording once more, and what it has in the place of `twice`.
    pub fn recorded(&self) -> (Tape, Var) {
        recorded(self.x, self.y)
    }

    /// Computes with fresh numbers, and checks them.
    pub fn works(&self, gpu: &Gpu) {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let first = NEXT.fetch_add(1, Ordering::Relaxed);
        self.memory.write(gpu, self.x, 0, &words(|i| (first + i) as f32)).unwrap();
        self.program.run(gpu, &self.memory).unwrap();
        let want: Vec<f32> = (0..64).map(|i| 2.0 * (first + i) as f32).collect();
        assert_eq!(self.memory.read_f32(gpu, self.y, 0, 64).unwrap(), want);
        assert_eq!(self.program.read(gpu, &self.memory, self.twice).unwrap(), want);
    }
}

fn recorded(x: SpaceId, y: SpaceId) -> (Tape, Var) {
    let mut tape = Tape::new();
    let (x, y) = (tape.input("x", &[64], x, 0), tape.input("y", &[64], y, 0));
    let twice = tape.scale(x, 2.0).unwrap();
    tape.name(twice, "twice");
    tape.keep(twice);
    copy_into(&mut tape, twice, y);
    (tape, twice)
}

/// A device with handlers of the host's own.
pub struct Host {
    adapter: wgpu::Adapter,
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    /// What the host's handlers have heard.
    pub faults: Arc<AtomicUsize>,
    pub losses: Arc<AtomicUsize>,
}

impl Host {
    /// Opens a device with what kernels can make use of, or with WebGPU's defaults alone.
    pub fn open(features: bool) -> Self {
        Self::on(Self::adapter(), features)
    }

    /// Another device of the same instance.
    pub fn another(&self) -> Self {
        Self::on(self.adapter.clone(), true)
    }

    fn on(adapter: wgpu::Adapter, features: bool) -> Self {
        let wanted = wgpu::Features::SUBGROUP | wgpu::Features::SHADER_INT64;
        let wanted = if features { wanted } else { wgpu::Features::empty() };
        let (device, queue) = Self::device(&adapter, wanted, wgpu::Limits::default());
        let (faults, losses) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (heard, lost) = (faults.clone(), losses.clone());
        device.on_uncaptured_error(Arc::new(move |_| {
            heard.fetch_add(1, Ordering::SeqCst);
        }));
        device.set_device_lost_callback(move |_, _| {
            lost.fetch_add(1, Ordering::SeqCst);
        });
        Host { adapter, device, queue, faults, losses }
    }

    pub fn adapter() -> wgpu::Adapter {
        let descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
        let instance = wgpu::Instance::new(descriptor);
        let adapter = pollster::block_on(instance.request_adapter(&Default::default()));
        adapter.expect("an adapter")
    }

    pub fn device(
        adapter: &wgpu::Adapter,
        wanted: wgpu::Features,
        limits: wgpu::Limits,
    ) -> (wgpu::Device, wgpu::Queue) {
        pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("the host's"),
            required_features: wanted & adapter.features(),
            required_limits: limits,
            ..Default::default()
        }))
        .expect("a device")
    }

    pub fn gpu(&self) -> Gpu {
        let (device, queue) = (self.device.clone(), self.queue.clone());
        Gpu::from_device(device, queue, &GpuOptions::default()).expect("a Gpu")
    }

    /// A storage buffer.
    pub fn buffer(&self, words: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
        self.plain(words, usage | wgpu::BufferUsages::STORAGE)
    }

    /// A buffer to map.
    pub fn readable(&self, words: u64) -> wgpu::Buffer {
        self.plain(words, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST)
    }

    fn plain(&self, words: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("the host's"),
            size: words * 4,
            usage,
            mapped_at_creation: false,
        })
    }

    /// A buffer to copy from.
    pub fn filled(&self, words: &[u32]) -> wgpu::Buffer {
        let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let buffer = self.plain(words.len() as u64, usage);
        self.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(words));
        buffer
    }

    /// The floats of a buffer that can be mapped.
    pub fn read(&self, buffer: &wgpu::Buffer) -> Vec<f32> {
        buffer.map_async(wgpu::MapMode::Read, .., |result| result.expect("mapped"));
        self.device.poll(wgpu::PollType::wait_indefinitely()).expect("polled");
        bytemuck::pod_collect_to_vec(&buffer.get_mapped_range(..).expect("mapped"))
    }
}
