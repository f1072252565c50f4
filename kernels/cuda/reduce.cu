// Sums over a whole vector in double, and the second stage of every reduction.
//
//   squares_and_nonfinite   partials[block] = sum of x^2,  partials[blocks + block] = number of inf and NaN
//   add_partials            totals[c] += scale * sum of partials[c, :]      one block for each c
//
//   finish_step             the last launch of a training step: adds its cost and its hits to totals, counts the step
//
//   x (count,) REAL; partials (2, blocks) double, overwritten; totals (columns,) double, accumulated.
#include "common.cuh"

extern "C" __global__ void squares_and_nonfinite(const REAL* x, double* partials, int64 count) {
    __shared__ double squares_of_warp[MAX_WARPS], nonfinite_of_warp[MAX_WARPS];
    double squares = 0, nonfinite = 0;
    for (int64 i = first_index(); i < count; i += index_stride()) {
        const double value = x[i];
        squares += value * value;
        nonfinite += x[i] - x[i] != 0;  // inf - inf and NaN - NaN are NaN, which differs from 0
    }
    squares = block_sum(squares, squares_of_warp);
    nonfinite = block_sum(nonfinite, nonfinite_of_warp);
    if (threadIdx.x == 0) {
        partials[blockIdx.x] = squares;
        partials[gridDim.x + blockIdx.x] = nonfinite;
    }
}

extern "C" __global__ void add_partials(double* totals, const double* partials, int64 count, double scale) {
    __shared__ double of_warp[MAX_WARPS];
    double sum = 0;
    for (int64 i = threadIdx.x; i < count; i += blockDim.x) sum += partials[blockIdx.x * count + i];
    sum = block_sum(sum, of_warp);
    if (threadIdx.x == 0) totals[blockIdx.x] += scale * sum;
}

// totals[0] += sum of partials[0, :] + rows / 2 * lambda/n * sum of squares;  totals[1] += sum of partials[1, :];
// step[0] += 1. partials (2, stride) double, of which `count` columns are used; squares (square_count,) double: sums of
// Theta^2, without biases, from before the update. constants: the row of the step begins with lambda/n (update.cu). One
// block.
extern "C" __global__ void finish_step(double* totals, int64* step, const double* partials, int64 stride, int64 count,
                                       const double* squares, int64 square_count, const REAL* constants, int64 width,
                                       int64 rows) {
    __shared__ double cost_of_warp[MAX_WARPS], hits_of_warp[MAX_WARPS], squares_of_warp[MAX_WARPS];
    const double decay = constants[step[0] * width];
    double cost = 0, hits = 0, sum = 0;
    for (int64 i = threadIdx.x; i < count; i += blockDim.x) cost += partials[i], hits += partials[stride + i];
    if (decay != 0)
        for (int64 i = threadIdx.x; i < square_count; i += blockDim.x) sum += squares[i];
    cost = block_sum(cost, cost_of_warp);
    hits = block_sum(hits, hits_of_warp);
    sum = block_sum(sum, squares_of_warp);
    if (threadIdx.x == 0) {  // every thread has read step[0] before the barriers above
        totals[0] += cost + (double)rows / 2 * decay * sum;
        totals[1] += hits;
        step[0] += 1;
    }
}
