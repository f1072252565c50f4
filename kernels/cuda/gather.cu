// The rows of a batch, in the order of an epoch: out[i] = source[order[first + i]].
//
//   source (available, cols) REAL or (available,) classes; order (any,) row numbers; out (rows, ...), overwritten.
//
// A row number outside 0..available-1 gives NaN, or class -1 (whose cost is NaN), and never reads foreign memory.
#include "common.cuh"

extern "C" __global__ void gather_rows(const REAL* source, const int64* order, REAL* out, int64 first, int64 rows, int64 cols, int64 available) {
    const int64 j = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= cols) return;
    for (int64 i = (int64)blockIdx.y * blockDim.y + threadIdx.y; i < rows; i += (int64)gridDim.y * blockDim.y) {
        const int64 row = order[first + i];
        out[i * cols + j] = row >= 0 && row < available ? source[row * cols + j] : NOT_A_NUMBER;
    }
}

extern "C" __global__ void gather_classes(const int64* source, const int64* order, int64* out, int64 first, int64 rows, int64 available) {
    for (int64 i = first_index(); i < rows; i += index_stride()) {
        const int64 row = order[first + i];
        out[i] = row >= 0 && row < available ? source[row] : -1;
    }
}
