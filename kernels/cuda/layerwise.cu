// LARS and LAMB over the flat vector theta, in place (fastnn/optimizers.py). Three launches a step:
//
//   lars_norms, lamb_norms   partials[part, 0, block], [part, 1, block]: sums of squares of theta and of what its norm
//                            is divided by; lamb_norms also moves m and v
//   layer_ratios             ratios[part] = trust ||theta|| / (||other|| + weight_decay ||theta||); a block for each
//   lars_move                v := mu v + rate ratio (D + beta theta), theta -= v
//   lamb_move                theta -= rate ratio (r + beta theta)
//
//   D = Delta / rows (+ decay * Theta on weights),  r = scale m / (sqrt(v correction) + eps)
//   beta: weight decay, on weights
//   scale = 1 / (1 - beta1^t), correction = 1 / (1 - beta2^t), from float64 on the host
//
//   constants (steps, width) REAL: row step[0] holds decay = lambda/n, and then
//     lars  rate, mu, trust, weight_decay
//     lamb  rate, 1 - beta1, 1 - beta2, scale, correction, eps, weight_decay
//   squares (layers, blocks) double: sums of Theta^2 over the weights before the step; written where decay is not 0.
//   theta, velocity, m, v (P,) REAL; Delta REAL, padded (layers.cuh), is left as it was. partials (parts, 2, blocks),
//   ratios (parts,) double. spans (layers, 7): layers.cuh.
// Sums are taken in two stages and a fixed order: the same input gives the same bits.
#include "layers.cuh"

// D of theta[i], whose Delta `walk` finds.
__device__ __forceinline__ REAL part_gradient(const REAL* theta, const REAL* Delta, int64 i, const Part& part,
                                              const Walk& walk, REAL rows, REAL decay) {
    const REAL D = Delta[part.padded + place(walk, 0)] / rows;
    return decay != 0 && part.weights ? D + decay * theta[i] : D;
}

// The direction of a LAMB step at i, from the moments that belong to it.
__device__ __forceinline__ REAL lamb_direction(REAL theta, REAL m, REAL v, REAL scale, REAL correction, REAL eps,
                                               REAL beta) {
    return scale * (m / (sqrt(v * correction) + eps)) + beta * theta;
}

// This block's place in partials. Every thread of the block calls it.
__device__ __forceinline__ void store_squares(double own, double other, double* partials, double* squares,
                                              bool weights) {
    __shared__ double own_of_warp[MAX_WARPS], other_of_warp[MAX_WARPS];
    own = block_sum(own, own_of_warp);
    other = block_sum(other, other_of_warp);
    if (threadIdx.x == 0) {
        double* mine = partials + 2 * (int64)blockIdx.y * gridDim.x + blockIdx.x;
        mine[0] = own;
        mine[gridDim.x] = other;
        if (weights) squares[(int64)(blockIdx.y / 2) * gridDim.x + blockIdx.x] = own;
    }
}

// The length of a step, or, beyond 1e30, where float has no room, a 2^64th of it; `lift` is what the direction is to be
// multiplied by then, exactly.
__device__ __forceinline__ REAL length_of(double length, REAL* lift) {
    const double power = length > 1e30 ? 18446744073709551616.0 : 1;
    *lift = (REAL)power;
    return (REAL)(length / power);
}

extern "C" __global__ void lars_norms(const REAL* theta, const REAL* Delta, const int64* spans, double* partials,
                                      double* squares, const REAL* constants, int64 width, const int64* step,
                                      REAL rows) {
    const REAL decay = constants[step[0] * width];
    const Part part = part_of_block(spans);
    double own = 0, other = 0;
    Walk walk(part, first_index(), index_stride());
    for (int64 i = part.begin + first_index(); i < part.end; i += index_stride()) {
        const double w = theta[i], D = part_gradient(theta, Delta, i, part, walk, rows, decay);
        own += w * w;
        other += D * D;
        advance(&walk);
    }
    store_squares(own, other, partials, squares, decay != 0 && part.weights);
}

extern "C" __global__ void lamb_norms(const REAL* theta, const REAL* Delta, REAL* first_moment, REAL* second_moment,
                                      const int64* spans, double* partials, double* squares, const REAL* constants,
                                      int64 width, const int64* step, REAL rows) {
    const REAL* c = constants + step[0] * width;
    const REAL decay = c[0], one_minus_beta1 = c[2], one_minus_beta2 = c[3], scale = c[4], correction = c[5],
               eps = c[6], weight_decay = c[7];
    const Part part = part_of_block(spans);
    const REAL beta = part.weights ? weight_decay : 0;
    double own = 0, other = 0;
    Walk walk(part, first_index(), index_stride());
    for (int64 i = part.begin + first_index(); i < part.end; i += index_stride()) {
        const REAL D = part_gradient(theta, Delta, i, part, walk, rows, decay);
        const REAL m = first_moment[i] + one_minus_beta1 * (D - first_moment[i]);
        const REAL v = second_moment[i] + one_minus_beta2 * (D * D - second_moment[i]);
        first_moment[i] = m;
        second_moment[i] = v;
        const double w = theta[i], direction = lamb_direction(theta[i], m, v, scale, correction, eps, beta);
        own += w * w;
        other += direction * direction;
        advance(&walk);
    }
    store_squares(own, other, partials, squares, decay != 0 && part.weights);
}

extern "C" __global__ void layer_ratios(double* ratios, const double* partials, int64 count, const REAL* constants,
                                        int64 width, const int64* step, int lars) {
    const REAL* c = constants + step[0] * width;
    // of lamb both are in the sums already
    const double trust = lars ? (double)c[3] : 1, weight_decay = lars ? (double)c[4] : 0;
    __shared__ double own_of_warp[MAX_WARPS], other_of_warp[MAX_WARPS];
    const double* sums = partials + 2 * (int64)blockIdx.x * count;
    double own = 0, other = 0;
    for (int64 i = threadIdx.x; i < count; i += blockDim.x) {
        own += sums[i];
        other += sums[count + i];
    }
    own = block_sum(own, own_of_warp);
    other = block_sum(other, other_of_warp);
    if (threadIdx.x == 0) {
        own = sqrt(own);
        other = sqrt(other);
        if (blockIdx.x % 2 == 0) other += weight_decay * own;
        ratios[blockIdx.x] = trust * (own > 0 && other > 0 ? own / other : 1);
    }
}

extern "C" __global__ void lars_move(REAL* theta, const REAL* Delta, REAL* velocity, const int64* spans,
                                     const double* ratios, const REAL* constants, int64 width, const int64* step,
                                     REAL rows) {
    const REAL* c = constants + step[0] * width;
    const REAL decay = c[0], rate = c[1], mu = c[2], weight_decay = c[4];
    const Part part = part_of_block(spans);
    REAL lift;
    const REAL beta = part.weights ? weight_decay : 0, length = length_of(rate * ratios[blockIdx.y], &lift);
    Walk walk(part, first_index(), index_stride());
    for (int64 i = part.begin + first_index(); i < part.end; i += index_stride()) {
        const REAL D = part_gradient(theta, Delta, i, part, walk, rows, decay);
        const REAL v = mu * velocity[i] + length * (lift * (D + beta * theta[i]));
        velocity[i] = v;
        theta[i] -= v;
        advance(&walk);
    }
}

extern "C" __global__ void lamb_move(REAL* theta, const REAL* first_moment, const REAL* second_moment,
                                     const int64* spans, const double* ratios, const REAL* constants, int64 width,
                                     const int64* step) {
    const REAL* c = constants + step[0] * width;
    const REAL rate = c[1], scale = c[4], correction = c[5], eps = c[6], weight_decay = c[7];
    const Part part = part_of_block(spans);
    REAL lift;
    const REAL beta = part.weights ? weight_decay : 0, length = length_of(rate * ratios[blockIdx.y], &lift);
    for (int64 i = part.begin + first_index(); i < part.end; i += index_stride())
        theta[i] -=
            length * (lift * lamb_direction(theta[i], first_moment[i], second_moment[i], scale, correction, eps, beta));
}
