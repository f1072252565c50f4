// Delta_b: sums over the rows of delta, column by column, in two stages and a fixed order.
//
//   column_sums      chunks[c, j] (+)= sum of x[i, j] over the rows i of chunk c
//   derivative_sums  the same for delta after delta := delta * g'(z), in one pass: g' from a = g(z) / kept, where kept
//                    is 1 - p of units with dropout, else 1
//   sum_chunks       Delta[target + j] (+)= sum over c of chunks[begin + c * n + j], for every layer at once
//
//   x, delta, a (rows, cols) STORE, rows x_ld, delta_ld, a_ld apart; chunks (chunks, cols) REAL, overwritten, or added
//   to where `accumulate` is not 0. table (layers, 4): begin in chunks, number of chunks, target in Delta, columns n; a
//   layer without chunks is left alone.
//
// A block of (x, y) threads sums x * WIDTH columns of one chunk (blockIdx.y) of consecutive rows; at a row's end a
// thread has fewer. At most 256 threads.
#include "activation.cuh"

#define MAX_THREADS 256

// After this, thread (x, 0) holds the sums over threadIdx.y.
template <int W>
__device__ __forceinline__ void over_lanes(REAL* sum, REAL* of_lane) {
    for (int k = 0; k < W; ++k) of_lane[(threadIdx.y * blockDim.x + threadIdx.x) * W + k] = sum[k];
    block_barrier();
    if (threadIdx.y != 0) return;
    for (int k = 0; k < W; ++k) {
        sum[k] = 0;
        for (unsigned lane = 0; lane < blockDim.y; ++lane) sum[k] += of_lane[(lane * blockDim.x + threadIdx.x) * W + k];
    }
}

// The sums of the columns of x, or of x := x * g'(z), over the rows of this block's chunk.
template <bool FACTOR>
__device__ __forceinline__ void chunk_sums(STORE* x, int64 x_ld, const STORE* a, int64 a_ld, REAL* chunks, int64 rows,
                                           int64 cols, int64 rows_per_chunk, int g, REAL slope, REAL kept,
                                           int accumulate, REAL* of_lane) {
    const int W = WIDTH;
    const int64 j = ((int64)blockIdx.x * blockDim.x + threadIdx.x) * W;
    const int64 start = blockIdx.y * rows_per_chunk;
    const int64 stop = start + rows_per_chunk < rows ? start + rows_per_chunk : rows;
    Wide<W, REAL> sum = {};
    if (j < cols)
        for (int64 i = start + threadIdx.y; i < stop; i += blockDim.y) {
            Wide<W, STORE> value = fetch<W>(x + i * x_ld + j, cols - j);
            if (FACTOR) {
                const Wide<W, STORE> h = fetch<W>(a + i * a_ld + j, cols - j);
                for (int k = 0; k < W; ++k)
                    narrow(widen(value.of[k]) * derivative_from(g, slope, widen(h.of[k]) * kept),
                           &value.of[k]);
                put<W>(x + i * x_ld + j, value, cols - j);
            }
            for (int k = 0; k < W; ++k) sum.of[k] += widen(value.of[k]);
        }
    over_lanes<W>(sum.of, of_lane);
    if (threadIdx.y != 0 || j >= cols) return;
    REAL* target = chunks + blockIdx.y * cols + j;
    if (accumulate) {
        const Wide<W, REAL> before = fetch<W>(target, cols - j);
        for (int k = 0; k < W; ++k) sum.of[k] += before.of[k];
    }
    put<W>(target, sum, cols - j);
}

extern "C" __global__ void column_sums(const STORE* x, int64 x_ld, REAL* chunks, int64 rows, int64 cols,
                                       int64 rows_per_chunk, int accumulate) {
    __shared__ REAL of_lane[MAX_THREADS * WIDTH];
    chunk_sums<false>((STORE*)x, x_ld, x, x_ld, chunks, rows, cols, rows_per_chunk, IDENTITY, 0, 1, accumulate,
                      of_lane);
}

extern "C" __global__ void derivative_sums(STORE* delta, int64 delta_ld, const STORE* a, int64 a_ld, REAL* chunks,
                                           int64 rows, int64 cols, int64 rows_per_chunk, int g, REAL slope,
                                           REAL kept, int accumulate) {
    __shared__ REAL of_lane[MAX_THREADS * WIDTH];
    chunk_sums<true>(delta, delta_ld, a, a_ld, chunks, rows, cols, rows_per_chunk, g, slope, kept, accumulate, of_lane);
}

extern "C" __global__ void sum_chunks(const REAL* chunks, REAL* Delta, const int64* table) {
    const int64* row = table + 4 * (int64)blockIdx.y;
    const int64 count = row[1], n = row[3], j = first_index();
    if (j >= n) return;
    if (count == 0) return;
    REAL sum = 0;
    for (int64 c = 0; c < count; ++c) sum += chunks[row[0] + c * n + j];
    Delta[row[2] + j] = sum;
}
