// C = act(op(A) op(B) + bias)      or      C += op(A) op(B)
//
// In    A      [m, k], or stored [k, m] with TA; rows lda apart
//       B      [k, n], or stored [n, k] with TB; rows ldb apart. With HALF it is stored by halves,
//              two f16 in a word, the earlier one in the lower bits.
//       BIAS   [n], optional
//       MASK   shaped and stored as A, optional: A is taken as A * act'(MASK), where MASK holds
//              the activation's output. It folds the backward of ReLU and tanh into the product.
//       SLOPE  shaped as C, optional: what was summed is multiplied by act'(SLOPE), where SLOPE holds
//              the activation's input: the backward of GELU on its way to the layer before it.
// Out   C      [m, n], rows ldc apart
//       PRE    shaped as C, optional: the sum before the activation, for that backward
//       ROWSUM [m], optional: sum of op(A) over k. With TA that is a layer's bias gradient.
// With splits > 1 workgroup z takes k-range z and writes its partial C, then its partial row
// sums, to C[z * (m n + m)]; the fold kernel adds them up.
// With BATCH there are `batch` products, one for each z: their A, B and C lie stride_a, stride_b and
// stride_c numbers apart (0: they share one), and what is shaped as C or as A lies as it does.
//
// Geometry  TILED: a workgroup of 16x16 owns 16 RM x 64 of C through workgroup memory (a slice of
//           SLICE k); an invocation owns RM x 4, whose rows it takes WIDTH at a time.
//           LANES: a workgroup is one subgroup and owns ROWS LANES x COLS of C (TA: ROWS is 4); a
//           lane loads its own rows of A, the lanes load B together and broadcast it. No
//           workgroup memory, no barrier. QUADS: C is stored by vectors of four columns.
//           SINGLES: sides of A and B that are no whole vectors are loaded number by number.
//           neither: an invocation owns 1 x 4 of C; any shape, any adapter.
// Numerics  f32, each element summed over k in a fixed order, the same for all RM, ROWS and COLS.
// Limits    256 invocations, SLICE (16 RM + 64) x 4 bytes of workgroup memory: 16 KiB at most.
// Twin      ops::matmul::reference
#import activation
#import quad

struct Params {
    m: u32, n: u32, k: u32, accumulate: u32,
    lda: u32, ldb: u32, ldc: u32, splits: u32,
    chunk: u32, sum_accumulate: u32, divisible: u32, pad: u32,
#if BATCH
    batch: u32, stride_a: u32, stride_b: u32, stride_c: u32,
#endif
}
// What C is stored by.
#if QUADS
alias E = vec4<f32>;
#else
alias E = f32;
#endif
#if LANES && !SINGLES
@group(0) @binding(0) var<storage, read> A: array<Q>;
#if HALF
@group(0) @binding(1) var<storage, read> B: array<H>;
#else
@group(0) @binding(1) var<storage, read> B: array<Q>;
#endif
#else
@group(0) @binding(0) var<storage, read> A: array<f32>;
#if HALF
@group(0) @binding(1) var<storage, read> B: array<u32>;
#else
@group(0) @binding(1) var<storage, read> B: array<f32>;
#endif
#endif
#if BIAS
@group(0) @binding(2) var<storage, read> BIAS: array<E>;
#endif
#if MASK
#if LANES && !SINGLES
@group(0) @binding(3) var<storage, read> MASK: array<Q>;
#else
@group(0) @binding(3) var<storage, read> MASK: array<f32>;
#endif
#endif
@group(0) @binding(4) var<storage, read_write> C: array<E>;
#if ROWSUM
@group(0) @binding(5) var<storage, read_write> ROWSUM: array<f32>;
#endif
#if PRE
@group(0) @binding(6) var<storage, read_write> PRE: array<E>;
#endif
#if SLOPE
@group(0) @binding(7) var<storage, read> SLOPE: array<E>;
#endif
@group(0) @binding(14) var<uniform> P: Params;

// Where the matrices of a workgroup's product begin.
#if BATCH
var<private> a_first: u32;
var<private> b_first: u32;
var<private> c_first: u32;
#else
const a_first = 0u;
const b_first = 0u;
const c_first = 0u;
#endif

// Which part of a sum over k the workgroups at z take: of a batch, the whole of their own.
fn part_of(z: u32) -> u32 {
#if BATCH
    a_first = z * P.stride_a;
    b_first = z * P.stride_b;
    c_first = z * P.stride_c;
    return 0u;
#else
    return z;
#endif
}

#if LANES && SINGLES
// Four neighbouring numbers of a row of `end`, from the column-th on, which lies at `at`: where they lie, those
// beyond the end where the last one does, and what counts of them.
fn four_at(at: u32, column: u32, end: u32) -> vec4<u32> {
    let last = end - 1u - min(column, end - 1u);
    return vec4<u32>(at) + min(vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(last));
}

fn four_within(value: vec4<f32>, column: u32, end: u32) -> vec4<f32> {
    return select(vec4<f32>(), value, vec4<u32>(column) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(end));
}

fn a_four(at: u32, column: u32, end: u32) -> vec4<f32> {
    let i = four_at(at, column, end);
    var value = vec4<f32>(A[i.x], A[i.y], A[i.z], A[i.w]);
#if MASK
    value *= slope4(vec4<f32>(MASK[i.x], MASK[i.y], MASK[i.z], MASK[i.w]));
#endif
    return four_within(value, column, end);
}

fn b_four(at: u32, column: u32, end: u32) -> vec4<f32> {
    let i = four_at(at, column, end);
    return four_within(vec4<f32>(B[i.x], B[i.y], B[i.z], B[i.w]), column, end);
}
#endif
#if LANES && !SINGLES
// Four neighbouring numbers of B.
fn b_quad(at: u32) -> vec4<f32> {
#if HALF
    return quad_of_halves(B[at]);
#else
    return quad(B[at]);
#endif
}
#endif
#if !LANES
// One number of B.
fn b_one(at: u32) -> f32 {
#if HALF
    let pair = unpack2x16float(B[at / 2u]);
    return select(pair.x, pair.y, at % 2u == 1u);
#else
    return B[at];
#endif
}
#endif

// The slope of the masked activation, from its output.
fn slope(y: f32) -> f32 {
#if MASK == 0
    return 1.0;
#else
#if MASK_ACT == 3
    return 1.0 - y * y;
#else
    return select(1.0, 0.0, y <= 0.0);
#endif
#endif
}

fn slope4(y: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(slope(y.x), slope(y.y), slope(y.z), slope(y.w));
}

// What becomes of a sum, element `at` of C, in column `col`; both count in units of E.
fn finish(at: u32, col: u32, value: E) {
    var v = value;
#if BIAS
    v += BIAS[col];
#endif
#if SLOPE
    let x = SLOPE[at];
#if SLOPE_ACT == 2
#if QUADS
    v *= gelu_slope4(x);
#else
    v *= gelu_slope(x);
#endif
#else
    v = select(v, E(), x <= E());
#endif
#endif
    if (P.accumulate != 0u) { v += C[at]; }
#if PRE
    PRE[at] = v;
#endif
#if ACT == 1
#if QUADS
    v = relu4(v);
#else
    v = relu(v);
#endif
#endif
#if ACT == 2
#if QUADS
    v = gelu4(v);
#else
    v = gelu(v);
#endif
#endif
#if ACT == 3
#if QUADS
    v = safe_tanh4(v);
#else
    v = safe_tanh(v);
#endif
#endif
#if ACT == 4
#if QUADS
    v = safe_sigmoid4(v);
#else
    v = safe_sigmoid(v);
#endif
#endif
    C[at] = v;
}

#if QUADS
// Four columns at a time: C is not in parts, and its rows are whole vectors.
fn store(row: u32, col4: u32, value: vec4<f32>) {
    if (row >= P.m || col4 * 4u >= P.n) { return; }
    finish(c_first / 4u + row * (P.ldc / 4u) + col4, col4, value);
}
#else
fn store(row: u32, col: u32, z: u32, value: f32) {
    if (row >= P.m || col >= P.n) { return; }
    if (P.splits > 1u) {
        C[z * (P.m * P.n + P.m) + row * P.n + col] = value;
        return;
    }
    finish(c_first + row * P.ldc + col, col, value);
}
#endif

#if ROWSUM
fn store_sum(row: u32, z: u32, value: f32) {
    if (row >= P.m) { return; }
#if !QUADS
    if (P.splits > 1u) {
        C[z * (P.m * P.n + P.m) + P.m * P.n + row] = value;
        return;
    }
#endif
    ROWSUM[row] = value + select(0.0, ROWSUM[row], P.sum_accumulate != 0u);
}
#endif

#if TILED
// One element of op(A) and op(B), zero beyond k_end. Rows and columns past the end repeat the last one, whose
// copies are not stored: a branch around each load costs more than they do.
fn load_a(row: u32, k: u32, k_end: u32) -> f32 {
    let r = min(row, P.m - 1u);
    let within = min(k, P.k - 1u);
#if TA
    let at = a_first + within * P.lda + r;
#else
    let at = a_first + r * P.lda + within;
#endif
#if MASK
    return select(0.0, A[at] * slope(MASK[at]), k < k_end);
#else
    return select(0.0, A[at], k < k_end);
#endif
}

fn load_b(k: u32, col: u32, k_end: u32) -> f32 {
    let c = min(col, P.n - 1u);
    let within = min(k, P.k - 1u);
#if TB
    return select(0.0, b_one(b_first + c * P.ldb + within), k < k_end);
#else
    return select(0.0, b_one(b_first + within * P.ldb + c), k < k_end);
#endif
}

// An invocation owns rows and columns that are 16 apart; four of them lie side by side in workgroup memory, so that
// one load brings them.
#if WIDTH == 1
alias Rows = f32;
#else
alias Rows = vec${WIDTH}<f32>;
#endif
var<workgroup> tile_a: array<Rows, ${SLICE * 16 * RM / WIDTH}>;
var<workgroup> tile_b: array<vec4<f32>, ${SLICE * 16}>;

// Where the l-th of 16 lies in a row of workgroup memory: elsewhere for each k, so that neighbours that write the
// same l of neighbouring k use different banks.
fn turned(l: u32, k: u32) -> u32 {
    return l ^ (k % 16u);
}

fn fetch_a(row: u32, k: u32, k_end: u32) -> Rows {
    return Rows(
#for r in 0..WIDTH
        load_a(row + ${16 * r}u, k, k_end),
#endfor
    );
}

fn fetch_b(k: u32, col: u32, k_end: u32) -> vec4<f32> {
    return vec4<f32>(
#for q in 0..4
        load_b(k, col + ${16 * q}u, k_end),
#endfor
    );
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) id: u32) {
    let row0 = wid.y * ${16 * RM}u;
    let col0 = wid.x * 64u;
    let ty = id / 16u;
    let tx = id % 16u;
    let z = part_of(wid.z);
    let k_begin = z * P.chunk;
    let k_end = min(P.k, k_begin + P.chunk);
    // What this invocation fetches of a slice: neighbours read neighbours.
#if TA
    let a_k = ty;
    let a_row = tx;
#else
    let a_k = tx;
    let a_row = ty;
#endif
#if TB
    let b_k = tx;
    let b_col = ty;
#else
    let b_k = ty;
    let b_col = tx;
#endif
#for r in 0..RM
    var acc${r} = vec4<f32>();
    var sum${r} = 0.0;
#endfor
    for (var k0 = k_begin; k0 < k_end; k0 += ${SLICE}u) {
#for j in 0..SLICE / 16
#for i in 0..RM / WIDTH
        let next_a${j}_${i} = fetch_a(row0 + a_row + ${64 * i}u, k0 + a_k + ${16 * j}u, k_end);
#endfor
        let next_b${j} = fetch_b(k0 + b_k + ${16 * j}u, col0 + b_col, k_end);
#endfor
#for j in 0..SLICE / 16
#for i in 0..RM / WIDTH
        tile_a[(a_k + ${16 * j}u) * ${16 * RM / WIDTH}u + ${16 * i}u + turned(a_row, a_k)] = next_a${j}_${i};
#endfor
        tile_b[(b_k + ${16 * j}u) * 16u + turned(b_col, b_k)] = next_b${j};
#endfor
        workgroupBarrier();
        for (var kk = 0u; kk < ${SLICE}u; kk++) {
            let b = tile_b[kk * 16u + turned(tx, kk)];
#for i in 0..RM / WIDTH
            let a${i} = tile_a[kk * ${16 * RM / WIDTH}u + ${16 * i}u + turned(ty, kk)];
#endfor
#for r in 0..RM
#if WIDTH == 1
            let a_one${r} = a${r};
#else
            let a_one${r} = a${r / WIDTH}[${r % WIDTH}];
#endif
            acc${r} += a_one${r} * b;
#if ROWSUM
            sum${r} += a_one${r};
#endif
#endfor
        }
        workgroupBarrier();
    }
#for r in 0..RM
#for q in 0..4
    store(row0 + ty + ${16 * r}u, col0 + tx + ${16 * q}u, z, acc${r}[${q}]);
#endfor
#if ROWSUM
    if (wid.x == 0u && tx == 0u) { store_sum(row0 + ty + ${16 * r}u, z, sum${r}); }
#endif
#endfor
}
#endif

#if LANES && !TA
@compute @workgroup_size(${LANES})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row0 = wid.y * ${ROWS * LANES}u + lane;
    let col0 = wid.x * ${COLS}u;
    let z = part_of(wid.z);
#if SINGLES
    let lda = P.lda;
    let ldb = P.ldb;
#else
    let lda = P.lda / 4u;
    let ldb = P.ldb / 4u;
#endif
#for r in 0..ROWS
    let at${r} = a_first / ${4 - 3 * SINGLES}u + min(row0 + ${r * LANES}u, P.m - 1u) * lda;
#endfor
    let k_begin = z * P.chunk / 4u;
    let k_end = (min(P.k, (z + 1u) * P.chunk) + 3u) / 4u;
    // Which of the COLS vectors of B that a step of four k needs this lane loads.
#for j in 0..(COLS + LANES - 1) / LANES
#if SINGLES
#if TB
    let b_at${j} = b_first + min(col0 + (lane + ${j * LANES}u) % ${COLS}u, P.n - 1u) * ldb;
#else
    let b_k${j} = ((lane + ${j * LANES}u) % ${COLS}u) / ${COLS / 4}u;
    let b_col${j} = min(col0 + (lane + ${j * LANES}u) % ${COLS / 4}u * 4u, P.n - 1u);
#endif
#else
#if TB
    let b_at${j} = b_first / 4u + min(col0 + (lane + ${j * LANES}u) % ${COLS}u, P.n - 1u) * ldb;
#else
    let b_at${j} = b_first / 4u + ((lane + ${j * LANES}u) % ${COLS}u) / ${COLS / 4}u * ldb
        + min(col0 / 4u + (lane + ${j * LANES}u) % ${COLS / 4}u, P.n / 4u - 1u);
#endif
#endif
#endfor
#for r in 0..ROWS
#for q in 0..COLS / 4
    var acc${r}_${q} = vec4<f32>();
#endfor
    var sum${r} = 0.0;
#endfor
    for (var k = k_begin; k < k_end; k++) {
#for r in 0..ROWS
#if SINGLES
        let a${r} = a_four(at${r} + k * 4u, k * 4u, P.k);
#else
        var a${r} = quad(A[at${r} + k]);
#if MASK
        a${r} *= slope4(quad(MASK[at${r} + k]));
#endif
#endif
#if ROWSUM
        sum${r} += dot(a${r}, vec4<f32>(1.0));
#endif
#endfor
#for j in 0..(COLS + LANES - 1) / LANES
#if SINGLES
#if TB
        let b${j} = b_four(b_at${j} + k * 4u, k * 4u, P.k);
#else
        // Beyond the end of k it is A that is zero, and what is multiplied by it is there.
        let b${j} = b_four(b_first + min(k * 4u + b_k${j}, P.k - 1u) * ldb + b_col${j}, b_col${j}, P.n);
#endif
#else
#if TB
        let b${j} = b_quad(b_at${j} + k);
#else
        let b${j} = b_quad(b_at${j} + k * 4u * ldb);
#endif
#endif
#endfor
#for q in 0..COLS / 4
        {
#if TB
#for c in 0..4
            let v${c} = subgroupBroadcast(b${(4 * q + c) / LANES}, ${(4 * q + c) % LANES}u);
#endfor
#for r in 0..ROWS
            acc${r}_${q} += vec4<f32>(dot(a${r}, v0), dot(a${r}, v1), dot(a${r}, v2), dot(a${r}, v3));
#endfor
#else
#for c in 0..4
            let v${c} = subgroupBroadcast(
                b${(COLS / 4 * c + q) / LANES}, ${(COLS / 4 * c + q) % LANES}u);
#for r in 0..ROWS
            acc${r}_${q} += a${r}[${c}] * v${c};
#endfor
#endfor
#endif
        }
#endfor
    }
    // A loop, not unrolled: the store is long, and a just-in-time compiler sees it once.
    var acc: array<vec4<f32>, ${ROWS * COLS / 4}>;
#for r in 0..ROWS
#for q in 0..COLS / 4
    acc[${r * COLS / 4 + q}] = acc${r}_${q};
#endfor
#endfor
#if QUADS
    for (var i = 0u; i < ${ROWS * COLS / 4}u; i++) {
        let row = row0 + i / ${COLS / 4}u * ${LANES}u;
        store(row, wid.x * ${COLS / 4}u + i % ${COLS / 4}u, acc[i]);
    }
#else
    for (var i = 0u; i < ${ROWS * COLS}u; i++) {
        store(row0 + i / ${COLS}u * ${LANES}u, col0 + i % ${COLS}u, z, acc[i / 4u][i % 4u]);
    }
#endif
#if ROWSUM
    if (wid.x == 0u) {
#for r in 0..ROWS
        store_sum(row0 + ${r * LANES}u, z, sum${r});
#endfor
    }
#endif
}
#endif

#if LANES && TA
@compute @workgroup_size(${LANES})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row0 = wid.y * ${4 * LANES}u + lane * 4u;
    let col0 = wid.x * ${COLS}u;
    let z = part_of(wid.z);
#if SINGLES
    let lda = P.lda;
    let ldb = P.ldb;
    let a_row = min(row0, P.m - 1u);
#else
    let lda = P.lda / 4u;
    let ldb = P.ldb / 4u;
    let a_col = a_first / 4u + min(row0, P.m - 4u) / 4u;
#endif
    let k_begin = z * P.chunk;
    let k_end = min(P.k, k_begin + P.chunk);
    // Four k at a time: this lane loads some of the COLS vectors of B that they need.
#for j in 0..(COLS + LANES - 1) / LANES
    let b_k${j} = ((lane + ${j * LANES}u) % ${COLS}u) / ${COLS / 4}u;
#if SINGLES
    let b_col${j} = min(col0 + (lane + ${j * LANES}u) % ${COLS / 4}u * 4u, P.n - 1u);
#else
    let b_col${j} = b_first / 4u + min(col0 / 4u + (lane + ${j * LANES}u) % ${COLS / 4}u, P.n / 4u - 1u);
#endif
#endfor
#for r in 0..4
#for q in 0..COLS / 4
    var acc${r}_${q} = vec4<f32>();
#endfor
#endfor
    var sum = vec4<f32>();
    for (var k = k_begin; k < k_end; k += 4u) {
#for j in 0..(COLS + LANES - 1) / LANES
#if SINGLES
        let b${j} = b_four(b_first + min(k + b_k${j}, P.k - 1u) * ldb + b_col${j}, b_col${j}, P.n);
#else
        let b${j} = b_quad(min(k + b_k${j}, P.k - 1u) * ldb + b_col${j});
#endif
#endfor
#for i in 0..4
        {
#if SINGLES
            let at = a_first + min(k + ${i}u, P.k - 1u) * lda + a_row;
            let a = select(vec4<f32>(), a_four(at, a_row, P.m), k + ${i}u < k_end);
#else
            let at = min(k + ${i}u, P.k - 1u) * lda + a_col;
            var a = select(vec4<f32>(), quad(A[at]), k + ${i}u < k_end);
#if MASK
            a *= slope4(quad(MASK[at]));
#endif
#endif
#if ROWSUM
            sum += a;
#endif
#for q in 0..COLS / 4
            let v${q} = subgroupBroadcast(
                b${(i * COLS / 4 + q) / LANES}, ${(i * COLS / 4 + q) % LANES}u);
#for r in 0..4
            acc${r}_${q} += a[${r}] * v${q};
#endfor
#endfor
        }
#endfor
    }
    var acc: array<vec4<f32>, ${COLS}>;
#for r in 0..4
#for q in 0..COLS / 4
    acc[${r * COLS / 4 + q}] = acc${r}_${q};
#endfor
#endfor
#if QUADS
    for (var i = 0u; i < ${COLS}u; i++) {
        store(row0 + i / ${COLS / 4}u, wid.x * ${COLS / 4}u + i % ${COLS / 4}u, acc[i]);
    }
#else
    for (var i = 0u; i < ${4 * COLS}u; i++) {
        store(row0 + i / ${COLS}u, col0 + i % ${COLS}u, z, acc[i / 4u][i % 4u]);
    }
#endif
#if ROWSUM
    if (wid.x == 0u) {
        for (var r = 0u; r < 4u; r++) { store_sum(row0 + r, z, sum[r]); }
    }
#endif
}
#endif

#if !TILED && !LANES
@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let quads = (P.n + 3u) / 4u;
    let item = wid.x * 64u + id;
    let row = item / quads;
    let col = item % quads * 4u;
    if (row >= P.m) { return; }
    let z = part_of(wid.z);
    let k_begin = z * P.chunk;
    let k_end = min(P.k, k_begin + P.chunk);
    let last = P.n - 1u;
    var acc = vec4<f32>();
    var sum = 0.0;
    for (var k = k_begin; k < k_end; k++) {
#if TA
        let at = a_first + k * P.lda + row;
#else
        let at = a_first + row * P.lda + k;
#endif
        var a = A[at];
#if MASK
        a *= slope(MASK[at]);
#endif
        sum += a;
#if TB
        let b = b_first + k;
        acc += a * vec4<f32>(b_one(b + col * P.ldb), b_one(b + min(col + 1u, last) * P.ldb),
            b_one(b + min(col + 2u, last) * P.ldb), b_one(b + min(col + 3u, last) * P.ldb));
#else
        let b = b_first + k * P.ldb;
        acc += a * vec4<f32>(b_one(b + col), b_one(b + min(col + 1u, last)),
            b_one(b + min(col + 2u, last)), b_one(b + min(col + 3u, last)));
#endif
    }
    for (var c = 0u; c < 4u; c++) { store(row, col + c, z, acc[c]); }
#if ROWSUM
    if (col == 0u) { store_sum(row, z, sum); }
#endif
}
#endif
