// What the label map asks of a sample's row in a task: the label, and its weight, 1 for task 0 (the
// fused one) and tanh |label - fused label| for the others. Needs LABELS [tasks, P.total]. A row past
// the last takes that one.
#import activation

fn goal_of(sample: u32, task: u32) -> vec2<f32> {
    let row = min(sample, P.total - 1u);
    let label = LABELS[task * P.total + row];
    return vec2<f32>(label, select(safe_tanh(abs(label - LABELS[row])), 1.0, task == 0u));
}
