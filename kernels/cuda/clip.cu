// Gradients that are longer than a given length, scaled to it (fastnn/rule.py, clip_norm). Three launches before an
// update:
//
//   clip_norms    partials[part, block] = a part of the sum of D^2
//   clip_factor   clip[1] = clip[0] / ||D|| where that is below 1, else 1; one block
//   clip_delta    where clip[1] is not 1, Delta becomes what gives clip[1] D in place of D
//
//   D = Delta / rows (+ decay * Theta on weights, never on biases)
//   constants (steps, width) REAL: row step[0] begins with decay = lambda/n (update.cu)
//   theta (P,) REAL; Delta REAL, padded (layers.cuh); partials (parts, blocks) double; clip (2,) double. spans (layers,
//   7): layers.cuh. Sums are taken in two stages and a fixed order.
#include "layers.cuh"

extern "C" __global__ void clip_norms(const REAL* theta, const REAL* Delta, const int64* spans, double* partials,
                                      const REAL* constants, int64 width, const int64* step, REAL rows) {
    const Part part = part_of_block(spans);
    const REAL decay = part.weights ? constants[step[0] * width] : 0;
    __shared__ double of_warp[MAX_WARPS];
    double sum = 0;
    Walk walk(part, first_index(), index_stride());
    for (int64 i = part.begin + first_index(); i < part.end; i += index_stride()) {
        REAL D = Delta[part.padded + place(walk, 0)] / rows;
        if (decay != 0) D += decay * theta[i];
        sum += (double)D * D;
        advance(&walk);
    }
    sum = block_sum(sum, of_warp);
    if (threadIdx.x == 0) partials[(int64)blockIdx.y * gridDim.x + blockIdx.x] = sum;
}

extern "C" __global__ void clip_factor(double* clip, const double* partials, int64 count) {
    __shared__ double of_warp[MAX_WARPS];
    double sum = 0;
    for (int64 i = threadIdx.x; i < count; i += blockDim.x) sum += partials[i];
    sum = sqrt(block_sum(sum, of_warp));
    // where the sum is infinite the step is lost, and that is found; NaN stays with D
    if (threadIdx.x == 0) clip[1] = sum > clip[0] ? (sum - sum == 0 ? clip[0] / sum : sum - sum) : 1;
}

extern "C" __global__ void clip_delta(const REAL* theta, REAL* Delta, const int64* spans, const double* clip,
                                      const REAL* constants, int64 width, const int64* step, REAL rows) {
    const REAL factor = (REAL)clip[1];
    if (factor == 1) return;
    const Part part = part_of_block(spans);
    // what the update adds is taken off before: factor (Delta + rows decay theta) - rows decay theta
    const REAL decay = part.weights ? rows * constants[step[0] * width] * (factor - 1) : 0;
    Walk walk(part, first_index(), index_stride());
    for (int64 i = part.begin + first_index(); i < part.end; i += index_stride()) {
        REAL* at = Delta + part.padded + place(walk, 0);
        *at = decay != 0 ? factor * *at + decay * theta[i] : factor * *at;
        advance(&walk);
    }
}
