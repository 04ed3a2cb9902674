// What the kernels of the covariance term share: sums over the entries of FEATURES covariances, and
// what they come to for each pair. A kernel declares COV, COEF and P (d, pairs, margin, list), and
// says where the results go: put_term(p, value), put_norm(i, value).
#import row

// sums[i, j], i < j, is the squared distance of C_i and C_j; sums[i, i] the squared norm of C_i.
var<private> sums: array<f32, ${FEATURES * FEATURES}>;

// Finds the sums; every invocation gets them.
fn measure(id: u32) {
    let size = P.d * P.d;
#for i in 0..FEATURES
#for j in i..FEATURES
    var s${i}${j} = 0.0;
#endfor
#endfor
    for (var e = row_start(id); e < size; e += STRIDE) {
#for i in 0..FEATURES
        let c${i} = COV[${i}u * size + e];
        s${i}${i} += c${i} * c${i};
#endfor
#for i in 0..FEATURES
#for j in i + 1..FEATURES
        s${i}${j} += (c${i} - c${j}) * (c${i} - c${j});
#endfor
#endfor
    }
#for i in 0..FEATURES
#for j in i..FEATURES
    sums[${i * FEATURES + j}] = row_sum(s${i}${j}, id);
#endfor
#endfor
}

// Terms, norms and coefficients from the sums; for one invocation. Returns the weighted sum.
fn settle() -> f32 {
    for (var i = 0u; i < ${FEATURES}u; i++) {
        put_norm(i, sqrt(sums[i * ${FEATURES + 1}u]));
        for (var j = 0u; j < ${FEATURES}u; j++) { COEF[i * ${FEATURES}u + j] = 0.0; }
    }
    var loss = 0.0;
    for (var p = 0u; p < P.pairs; p++) {
        let a = min(P.list[p].x, P.list[p].y);
        let b = max(P.list[p].x, P.list[p].y);
        let weight = bitcast<f32>(P.list[p].z);
        let term = 0.25 * sums[a * ${FEATURES}u + b] / (f32(P.d) * f32(P.d));
        put_term(p, term);
        if (weight == 0.0) { continue; }
        let held = weight < 0.0 && term >= P.margin;
        loss += weight * select(term, P.margin, held);
        let coef = select(weight, 0.0, held);
        COEF[a * ${FEATURES}u + b] = coef;
        COEF[b * ${FEATURES}u + a] = coef;
    }
    return loss;
}
