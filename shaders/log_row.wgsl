// RING[S.slot, column of k] = Xk[0]: single numbers into the log's row of this step
//
// In    X0 .. X6  [1] each, as many as there are
// Out   RING      [slots, width], left alone by a slot that it has not
// Geometry  one invocation.
// Twin      ops::log_row::reference::log_row

#import step
struct Params { slots: u32, width: u32, c0: u32, c1: u32, c2: u32, c3: u32, c4: u32, c5: u32, c6: u32 }
@group(0) @binding(0) var<storage, read> X0: array<f32>;
#if X1
@group(0) @binding(1) var<storage, read> X1: array<f32>;
#endif
#if X2
@group(0) @binding(2) var<storage, read> X2: array<f32>;
#endif
#if X3
@group(0) @binding(3) var<storage, read> X3: array<f32>;
#endif
#if X4
@group(0) @binding(4) var<storage, read> X4: array<f32>;
#endif
#if X5
@group(0) @binding(5) var<storage, read> X5: array<f32>;
#endif
#if X6
@group(0) @binding(6) var<storage, read> X6: array<f32>;
#endif
@group(0) @binding(7) var<storage, read_write> RING: array<f32>;
@group(0) @binding(14) var<uniform> P: Params;

fn put(column: u32, value: f32) {
    if (S.slot < P.slots && column < P.width) { RING[S.slot * P.width + column] = value; }
}

@compute @workgroup_size(1)
fn main() {
    put(P.c0, X0[0]);
#if X1
    put(P.c1, X1[0]);
#endif
#if X2
    put(P.c2, X2[0]);
#endif
#if X3
    put(P.c3, X3[0]);
#endif
#if X4
    put(P.c4, X4[0]);
#endif
#if X5
    put(P.c5, X5[0]);
#endif
#if X6
    put(P.c6, X6[0]);
#endif
}
