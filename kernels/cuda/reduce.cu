// Sums over a whole vector in double, and the second stage of every reduction.
//
//   squares_and_nonfinite   partials[block] = sum of x^2,  partials[blocks + block] = number of inf and NaN
//   add_partials            totals[c] += scale * sum of partials[c, :]      one block for each c
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
