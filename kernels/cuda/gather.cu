// The rows of a batch, in the order of an epoch: out[i] = scale * source[order[first + i]].
//
//   first = step[0] * batch + offset: `step` counts the steps of a run on the device, so that a recorded launch
//   fetches other rows each time it is repeated.
//   source (available, cols) REAL or uint8; order (any,) row numbers; out (rows, cols) STORE, rows out_ld apart,
//   overwritten.
//
// A row number outside 0..available-1 gives NaN and never reads foreign memory. Each thread moves `width`
// neighbouring columns, 1 or WIDTH, which then divides cols.
#include "common.cuh"

template <int W, class Source>
__device__ __forceinline__ void gather(const Source* source, const int64* order, const int64* step, STORE* out,
                                       int64 out_ld, int64 batch, int64 offset, int64 rows, int64 cols, int64 available,
                                       REAL scale) {
    const int64 j = ((int64)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (j >= cols) return;
    const int64 first = step[0] * batch + offset;
    for (int64 i = (int64)blockIdx.y * blockDim.y + threadIdx.y; i < rows; i += (int64)gridDim.y * blockDim.y) {
        const int64 row = order[first + i];
        const bool there = row >= 0 && row < available;
        const Wide<W, Source> x = fetch<W>(source + (there ? row : 0) * cols + j);
        Wide<W, STORE> result;
        for (int k = 0; k < W; ++k) narrow(there ? scale * widen(x.of[k]) : NOT_A_NUMBER, &result.of[k]);
        put<W>(out + i * out_ld + j, result);
    }
}

extern "C" __global__ void gather_rows(const REAL* source, const int64* order, const int64* step, STORE* out,
                                       int64 out_ld, int64 batch, int64 offset, int64 rows, int64 cols, int64 available,
                                       REAL scale, int width) {
    if (width == 1)
        gather<1>(source, order, step, out, out_ld, batch, offset, rows, cols, available, scale);
    else
        gather<WIDTH>(source, order, step, out, out_ld, batch, offset, rows, cols, available, scale);
}

extern "C" __global__ void gather_bytes(const uint8* source, const int64* order, const int64* step, STORE* out,
                                        int64 out_ld, int64 batch, int64 offset, int64 rows, int64 cols,
                                        int64 available, REAL scale, int width) {
    if (width == 1)
        gather<1>(source, order, step, out, out_ld, batch, offset, rows, cols, available, scale);
    else
        gather<WIDTH>(source, order, step, out, out_ld, batch, offset, rows, cols, available, scale);
}
