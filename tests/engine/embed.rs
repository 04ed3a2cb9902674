//! The engine inside another program: its device, its encoder, its buffers, its mistakes.

mod host;
mod random_calls;

use host::{Host, Model, gpu, words};
use modalign::gpu::{Caps, Family, GpuOptions};
use modalign::plan::{Memory, Pool, Program, Ring, SpaceId, Spaces, Step};
use modalign::{Error, Gpu, Result, Tape, Var, wgpu};
use std::sync::atomic::Ordering;

/// Every misuse is this error, on one line.
#[track_caller]
fn refused<T>(result: Result<T>, part: &str) {
    let error = result.err().expect("refused");
    assert!(matches!(error, Error::Access { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(part) && !text.contains('\n'), "{text}");
}

// ---- what is used where it does not belong ----------------------------------------------------

#[test]
fn bad_ids_and_ranges_are_refused_and_leave_the_device_alone() {
    let gpu = gpu();
    let model = Model::new(gpu);
    let (memory, x, y) = (&model.memory, model.x, model.y);
    let mut others = Spaces::new();
    // Of the very same number, name and size.
    let foreign = others.declare("x", 64);

    refused(memory.write(gpu, foreign, 0, &[1]), "declared elsewhere");
    refused(memory.read(gpu, foreign, 0, 1), "declared elsewhere");
    refused(memory.buffer(foreign), "declared elsewhere");
    refused(others.words(x), "declared elsewhere");
    refused(others.grow(x, 1), "declared elsewhere");
    refused(memory.write(gpu, x, 65, &[1]), "'x' has 64 words");
    refused(memory.write(gpu, x, 0, &[0; 65]), "'x' has 64 words");
    refused(memory.write(gpu, x, usize::MAX, &[1]), "'x' has 64 words");
    refused(memory.read(gpu, y, 1, 64), "'y' has 64 words");
    refused(memory.read(gpu, y, 0, usize::MAX), "'y' has 64 words");
    refused(memory.read_f32(gpu, y, usize::MAX, usize::MAX), "'y' has 64 words");
    // A space that was declared after the memory was made, and one that has grown since.
    let mut spaces = model.spaces.clone();
    let late = spaces.declare("late", 4);
    spaces.grow(x, 1000).unwrap();
    refused(memory.write(gpu, late, 0, &[1]), "declared elsewhere");
    refused(memory.write(gpu, x, 500, &[1]), "'x' has 64 words");

    let ring = |rows, width| Ring::new(gpu, y, rows, width);
    refused(ring(0, 1), "no ring");
    refused(ring(1, 0), "no ring");
    refused(ring(usize::MAX, usize::MAX), "no ring");
    let mut long = ring(65, 1).unwrap();
    refused(model.program.replay(gpu, memory, true, &[], Some(&mut long)), "'y' has 64 words");
    let mut elsewhere = Ring::new(gpu, foreign, 4, 1).unwrap();
    let replayed = model.program.replay(gpu, memory, true, &[], Some(&mut elsewhere));
    refused(replayed, "declared elsewhere");
    refused(model.program.replay(gpu, memory, true, &[x, foreign], None), "declared elsewhere");
    refused(model.program.run_some(gpu, 0..100), "no dispatch 99");
    refused(model.program.run_some(gpu, 7..8), "no dispatch 7");
    model.program.run_some(gpu, 3..3).expect("nothing of nothing");

    gpu.check().expect("nothing reached the device");
    model.works(gpu);
}

#[test]
fn memories_programs_and_devices_are_told_apart() {
    let gpu = gpu();
    let (one, two) = (Model::new(gpu), Model::new(gpu));
    let again = Memory::allocate(gpu, &one.spaces).unwrap();
    refused(one.program.run(gpu, &two.memory), "another Memory");
    refused(one.program.run(gpu, &again), "another Memory");
    refused(one.program.read(gpu, &again, one.twice), "another Memory");
    refused(one.memory.read(gpu, two.x, 0, 1), "declared elsewhere");

    let other = Gpu::with(&GpuOptions { quiet: true, ..Default::default() }).unwrap();
    refused(one.memory.write(&other, one.x, 0, &[1]), "another Gpu");
    refused(one.memory.read(&other, one.x, 0, 1), "another Gpu");
    refused(one.memory.write_step(&other, &Step::default()), "another Gpu");
    refused(one.program.run(&other, &one.memory), "another Gpu");
    refused(one.program.read(&other, &one.memory, one.twice), "another Gpu");
    refused(one.program.run_some(&other, 0..1), "another Gpu");
    let plan = |caps: &Caps| one.tape().plan(caps).unwrap();
    refused(plan(gpu.caps()).prepare(&other, &one.memory, &mut Pool::new()), "another Gpu");
    refused(plan(gpu.caps()).prepare(gpu, &two.memory, &mut Pool::new()), "tensor 'x'");
    let mut pool = Pool::new();
    plan(gpu.caps()).prepare(gpu, &one.memory, &mut pool).unwrap();
    let there = Memory::allocate(&other, &one.spaces).unwrap();
    refused(plan(other.caps()).prepare(&other, &there, &mut pool), "another Gpu");

    // A handle of the same device is the same device.
    let handle = gpu.clone();
    one.works(&handle);
    two.works(gpu);
    other.check().unwrap();
}

#[test]
fn a_tensor_beyond_its_space_is_refused_before_it_runs() {
    let gpu = gpu();
    let compiled = |offset: usize| {
        let (mut spaces, mut tape) = (Spaces::new(), Tape::new());
        let space = spaces.declare("x", 100);
        let x = tape.input("late", &[8, 8], space, offset);
        tape.scale(x, 2.0).unwrap();
        tape.compile(gpu, &spaces)
    };
    refused(compiled(64), "'x' has 100 words");
    // Where nothing can be bound the tape says so.
    let error = compiled(3).err().expect("refused");
    assert!(matches!(error, Error::Shape { .. }), "{error}");
    assert!(error.to_string().contains("multiple of 64"), "{error}");
    gpu.check().unwrap();
}

#[test]
fn a_fault_of_the_device_is_of_the_call_that_caused_it() {
    // A buffer of another device: nothing here can see that, the device can.
    let host = Host::open(true);
    let other = host.another();
    let gpu = &host.gpu();
    let model = Model::new(gpu);
    let buffer = other.buffer(64, wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC);
    let memory = Memory::bind(gpu, &model.spaces, &[(model.x, buffer)]).unwrap();
    let prepared =
        model.tape().plan(gpu.caps()).unwrap().prepare(gpu, &memory, &mut Pool::new()).map(drop);
    assert!(matches!(prepared, Err(Error::Gpu(_))), "{prepared:?}");
    let written = memory.write(gpu, model.x, 0, &[1]);
    assert!(matches!(written, Err(Error::Gpu(_))), "{written:?}");
    gpu.check().expect("told once");
    model.works(gpu);
    for host in [&host, &other] {
        assert_eq!(host.faults.load(Ordering::SeqCst), 0);
    }

    // What a user submits beside this crate, without a scope, is told once at the next point.
    let alone = Gpu::with(&GpuOptions { quiet: true, ..Default::default() }).unwrap();
    let small = alone.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 4,
        usage: wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    alone.queue().write_buffer(&small, 0, &[0; 64]);
    assert!(matches!(alone.wait(), Err(Error::Gpu(_))));
    alone.wait().expect("once");
    Model::new(&alone).works(&alone);
}

#[test]
fn a_bad_shader_is_its_own_error() {
    let gpu = gpu();
    let model = Model::new(gpu);
    let mut plan = model.tape().plan(gpu.caps()).unwrap();
    let kernel = plan.dispatches()[0].kernel.name;
    plan.replace(kernel, &"@compute fn main() {}".into(), |_| Ok::<_, Error>([1, 1, 1])).unwrap();
    let prepared = plan.prepare(gpu, &model.memory, &mut Pool::new()).map(drop);
    assert!(matches!(prepared, Err(Error::Shader { .. })), "{prepared:?}");
    model.works(gpu);
}

// ---- pools --------------------------------------------------------------------------------------

#[test]
fn what_a_program_keeps_is_there_until_another_of_its_pool_runs() {
    let gpu = gpu();
    let model = Model::new(gpu);
    let mut pool = Pool::new();
    let prepare = |pool: Option<&mut Pool>| {
        let mut fresh = Pool::new();
        let (tape, twice) = model.recorded();
        let plan = tape.plan(gpu.caps()).unwrap();
        let pool = pool.unwrap_or(&mut fresh);
        (plan.prepare(gpu, &model.memory, pool).unwrap(), twice)
    };
    let (a, b) = (prepare(Some(&mut pool)), prepare(Some(&mut pool)));
    let apart = prepare(None);
    let read = |p: &(Program, Var)| p.0.read(gpu, &model.memory, p.1);
    refused(read(&a), "'twice' is not there");
    model.memory.write_f32(gpu, model.x, 0, &[3.0; 64]).unwrap();
    a.0.run(gpu, &model.memory).unwrap();
    apart.0.run(gpu, &model.memory).unwrap();
    assert_eq!(read(&a).unwrap(), [6.0; 64], "one of another pool does not matter");
    model.memory.write_f32(gpu, model.x, 0, &[5.0; 64]).unwrap();
    b.0.run(gpu, &model.memory).unwrap();
    refused(read(&a), "another one of its Pool");
    assert_eq!(read(&b).unwrap(), [10.0; 64]);
    assert_eq!(read(&apart).unwrap(), [6.0; 64]);
    a.0.run(gpu, &model.memory).unwrap();
    assert_eq!(read(&a).unwrap(), [10.0; 64]);
    refused(read(&b), "another one of its Pool");
}

// ---- the host's device --------------------------------------------------------------------------

#[test]
fn a_hosts_device_is_used_as_it_was_opened() {
    for features in [true, false] {
        let host = Host::open(features);
        let gpu = host.gpu();
        let (caps, limits) = (gpu.caps(), host.device.limits());
        assert_eq!(caps.max_binding, limits.max_storage_buffer_binding_size);
        assert_eq!(caps.max_buffer, limits.max_buffer_size);
        assert_eq!(caps.name, host.device.adapter_info().name);
        let subgroups = host.device.features().contains(wgpu::Features::SUBGROUP);
        assert_eq!(caps.subgroup.is_some(), subgroups);
        assert!(features || !matches!(caps.family, Family::Wide(_)) && !caps.timestamps);
        Model::new(&gpu).works(&gpu);
        assert_eq!(host.faults.load(Ordering::SeqCst), 0, "the host's handler heard of it");
    }
}

#[test]
fn a_device_below_what_kernels_need_is_refused_by_the_limits_name() {
    let limits = wgpu::Limits {
        max_compute_invocations_per_workgroup: 128,
        max_compute_workgroup_size_x: 128,
        ..Default::default()
    };
    let (device, queue) = Host::device(&Host::adapter(), wgpu::Features::empty(), limits);
    let error = Gpu::from_device(device, queue, &GpuOptions::default()).err().expect("refused");
    assert!(matches!(error, Error::NoAdapter(_)), "{error}");
    let text = error.to_string();
    assert!(text.contains("max_compute_invocations_per_workgroup = 128"), "{text}");
}

#[test]
fn the_hosts_handlers_stay_its_own() {
    let host = Host::open(true);
    let gpu = host.gpu();
    let model = Model::new(&gpu);
    // A mistake of the host is for the host.
    let small = host.buffer(4, wgpu::BufferUsages::COPY_DST);
    host.queue.write_buffer(&small, 0, &[0; 640]);
    assert_eq!(host.faults.load(Ordering::SeqCst), 1);
    model.works(&gpu);
    // A mistake of this crate's user is for the user.
    refused(model.memory.write(&gpu, model.x, 100, &[1]), "'x' has 64 words");
    assert_eq!(host.faults.load(Ordering::SeqCst), 1);
    // So is its loss, which this crate finds out about by itself.
    host.device.destroy();
    let error = model.memory.read(&gpu, model.x, 0, 1).expect_err("lost");
    assert!(matches!(error, Error::DeviceLost(_)), "{error}");
    assert!(matches!(gpu.wait(), Err(Error::DeviceLost(_))));
    assert!(matches!(model.program.run(&gpu, &model.memory), Err(Error::DeviceLost(_))));
    assert_eq!(host.losses.load(Ordering::SeqCst), 1, "the host's own callback");
}

#[test]
fn a_host_may_tell_of_a_loss() {
    let host = Host::open(true);
    let gpu = host.gpu();
    let model = Model::new(&gpu);
    gpu.set_lost("the driver was\nreset");
    let error = model.program.run(&gpu, &model.memory).expect_err("lost");
    assert_eq!(error.to_string().lines().count(), 1);
    assert!(error.to_string().contains("the driver was reset"), "{error}");
}

#[test]
fn a_step_is_recorded_between_the_hosts_own_commands() {
    let host = Host::open(true);
    let gpu = host.gpu();
    let (mut spaces, mut tape) = (Spaces::new(), Tape::new());
    let (input, output) = (spaces.declare("in", 64), spaces.declare("out", 64));
    let sums = spaces.declare("sums", 64);
    let x = tape.input("in", &[64], input, 0);
    let y = tape.input("out", &[64], output, 0);
    let doubled = tape.scale(x, 2.0).unwrap();
    host::copy_into(&mut tape, doubled, y);

    let both = wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
    let (from, to) = (host.buffer(64, both), host.buffer(80, both));
    let given = [(input, from.clone()), (output, to.clone())];
    let memory = Memory::bind(&gpu, &spaces, &given).unwrap();
    let program = tape.plan(gpu.caps()).unwrap().prepare(&gpu, &memory, &mut Pool::new()).unwrap();

    let source = host.filled(&words(|i| i as f32));
    let back = host.readable(64);
    let mut encoder = host.device.create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(&source, 0, &from, 0, 256);
    program.record(&gpu, &memory, &mut encoder, true, &[sums]).unwrap();
    // Twice the double: the output goes back in, and a pass of the host's own takes the step.
    encoder.copy_buffer_to_buffer(&to, 0, &from, 0, 256);
    {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        program.record_pass(&gpu, &memory, &mut pass, false).unwrap();
    }
    encoder.copy_buffer_to_buffer(&to, 0, &back, 0, 256);
    host.queue.submit([encoder.finish()]);
    assert_eq!(host.read(&back), (0..64).map(|i| 4.0 * i as f32).collect::<Vec<_>>());
    // The crate's own way to the same buffers.
    assert_eq!(memory.read_f32(&gpu, output, 3, 1).unwrap(), [12.0]);
    assert_eq!(memory.buffer(output).unwrap(), &to);
    assert_eq!(host.faults.load(Ordering::SeqCst), 0);

    let other = Memory::allocate(&gpu, &spaces).unwrap();
    let mut encoder = host.device.create_command_encoder(&Default::default());
    refused(program.record(&gpu, &other, &mut encoder, true, &[]), "another Memory");
}

#[test]
fn buffers_that_do_not_fit_a_space_are_refused() {
    let host = Host::open(true);
    let gpu = host.gpu();
    let mut spaces = Spaces::new();
    let (a, b) = (spaces.declare("a", 63), spaces.declare("b", 4));
    let foreign = Spaces::new().declare("a", 63);
    let bind = |given: &[(SpaceId, wgpu::Buffer)]| Memory::bind(&gpu, &spaces, given);
    let all = wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
    let good = host.buffer(64, all);
    refused(bind(&[(foreign, good.clone())]), "declared elsewhere");
    refused(bind(&[(a, host.buffer(63, all))]), "has 63 words, 64 are wanted");
    refused(bind(&[(a, host.readable(64))]), "STORAGE");
    refused(bind(&[(a, good.clone()), (a, host.buffer(64, all))]), "twice");
    refused(bind(&[(a, good.clone()), (b, good.clone())]), "twice");
    // One that is never written or read by this crate needs nothing else; asking to is refused.
    let shy = host.buffer(64, wgpu::BufferUsages::empty());
    let memory = bind(&[(a, shy)]).unwrap();
    refused(memory.write(&gpu, a, 0, &[1]), "COPY_DST");
    refused(memory.read(&gpu, a, 0, 1), "COPY_SRC");
    memory.write(&gpu, b, 0, &[7]).unwrap();
    assert_eq!(memory.read(&gpu, b, 0, 1).unwrap(), [7]);
    assert_eq!(host.faults.load(Ordering::SeqCst), 0);
}

// ---- types --------------------------------------------------------------------------------------

#[test]
fn what_embedders_hold_may_go_to_other_threads() {
    fn both<T: Send + Sync + 'static>() {}
    both::<Gpu>();
    both::<Program>();
    both::<Memory>();
    both::<Pool>();
    both::<Ring>();
    both::<Spaces>();
    both::<modalign::nn::Params>();
    both::<modalign::plan::Plan>();
    both::<modalign::plan::Recording>();
    both::<Error>();
    // And are used there, each thread with a handle of its own.
    let gpu = gpu();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let handle = gpu.clone();
            scope.spawn(move || Model::new(&handle).works(&handle));
        }
    });
}
