// z := z + b and a = g(z), separately and in one pass; softmax over rows.
//
//   z (rows, cols), b (cols,), a (rows, cols); a is overwritten and may be z itself.
//   softmax: a_j = e^(z_j - max z) / sum_k e^(z_k - max z), one warp per row.
//
// Row kernels on a two-dimensional grid: threadIdx.x runs along columns, threadIdx.y down rows.
#include "activation.cuh"

extern "C" __global__ void add_bias(REAL* z, const REAL* b, int64 rows, int64 cols) {
    const int64 j = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= cols) return;
    const REAL bias = b[j];
    for (int64 i = (int64)blockIdx.y * blockDim.y + threadIdx.y; i < rows; i += (int64)gridDim.y * blockDim.y)
        z[i * cols + j] += bias;
}

// Overwrites z with z + b, then a with g(z).
extern "C" __global__ void bias_activate(REAL* z, const REAL* b, REAL* a, int64 rows, int64 cols, int g, REAL slope) {
    const int64 j = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= cols) return;
    const REAL bias = b[j];
    for (int64 i = (int64)blockIdx.y * blockDim.y + threadIdx.y; i < rows; i += (int64)gridDim.y * blockDim.y) {
        const REAL shifted = z[i * cols + j] + bias;
        z[i * cols + j] = shifted;
        a[i * cols + j] = value_of(g, slope, shifted);
    }
}

extern "C" __global__ void activate(const REAL* z, REAL* a, int64 count, int g, REAL slope) {
    for (int64 i = first_index(); i < count; i += index_stride()) a[i] = value_of(g, slope, z[i]);
}

// One row by one warp. Every lane touches only its own entries, so h may be z. A row with NaN or +inf, or
// of -inf alone, becomes NaN: the largest number passes over NaN, but then exp and the sum do not.
__device__ __forceinline__ void softmax_row(const REAL* z, REAL* h, int64 cols) {
    REAL top = -INFINITE, sum = 0;
    for (int64 j = lane_id(); j < cols; j += WARP) top = fmax(top, z[j]);
    top = warp_max(top);
    for (int64 j = lane_id(); j < cols; j += WARP) {
        const REAL e = exp(z[j] - top);
        h[j] = e;
        sum += e;
    }
    sum = warp_sum(sum);
    for (int64 j = lane_id(); j < cols; j += WARP) h[j] /= sum;
}

extern "C" __global__ void softmax(const REAL* z, REAL* a, int64 rows, int64 cols) {
    for (int64 i = first_row(); i < rows; i += row_stride()) softmax_row(z + i * cols, a + i * cols, cols);
}

// Overwrites z with z + b, then a with the softmax of its rows.
extern "C" __global__ void bias_softmax(REAL* z, const REAL* b, REAL* a, int64 rows, int64 cols) {
    for (int64 i = first_row(); i < rows; i += row_stride()) {
        for (int64 j = lane_id(); j < cols; j += WARP) z[i * cols + j] += b[j];
        softmax_row(z + i * cols, a + i * cols, cols);
    }
}
