// z := z + b, a = g(z), and both in one pass; softmax over rows.
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

// a := g(a + b) in place, in one pass; rows of a lie a_ld apart. Each thread moves WIDTH neighbouring columns, fewer at
// a row's end.
extern "C" __global__ void bias_activate(STORE* a, int64 a_ld, const REAL* b, int64 rows, int64 cols, int g,
                                         REAL slope) {
    const int W = WIDTH;
    const int64 j = ((int64)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (j >= cols) return;
    const Wide<W, REAL> bias = fetch<W>(b + j, cols - j);
    for (int64 i = (int64)blockIdx.y * blockDim.y + threadIdx.y; i < rows; i += (int64)gridDim.y * blockDim.y) {
        Wide<W, STORE> z = fetch<W>(a + i * a_ld + j, cols - j);
        for (int k = 0; k < W; ++k) narrow(value_of(g, slope, widen(z.of[k]) + bias.of[k]), &z.of[k]);
        put<W>(a + i * a_ld + j, z, cols - j);
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
