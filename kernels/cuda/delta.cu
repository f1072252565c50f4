// delta of the output layer, and the factor g'(z) on the way back. No 1/m anywhere.
//
//   output:      delta = (a - y) * g'(z)              overwrites delta; g = identity for cross_entropy,
//                                                     where the delta is a - y
//   softmax, squared_error:
//                delta = h * (e - sum_j e_j h_j)      e = a - y, h = a; overwrites delta; one warp per row
//   of errors:   delta = slope of the cost at a - y   overwrites delta; identity outputs, exp with poisson: see costs.cuh
//   hidden:      delta := delta * g'(z)               in place
//
//   a, delta (rows, cols); y (rows, cols), or classes (rows,), which mean their one-hot rows.
// delta may not overlap a or y. The factor is a real product, so NaN and 0 * inf stay NaN.
#include "activation.cuh"
#include "costs.cuh"

extern "C" __global__ void delta_values(const REAL* a, const REAL* y, REAL* delta, int64 count, int g, REAL slope) {
    for (int64 i = first_index(); i < count; i += index_stride())
        delta[i] = (a[i] - y[i]) * derivative_from(g, slope, a[i]);
}

extern "C" __global__ void delta_of_errors(const REAL* a, const REAL* y, REAL* delta, int64 count, int pair,
                                           REAL parameter) {
    for (int64 i = first_index(); i < count; i += index_stride())
        delta[i] = slope_of_error(pair, parameter, a[i] - y[i]);
}

__device__ __forceinline__ REAL one_hot(int64 j, int64 chosen) { return j == chosen ? 1 : 0; }

extern "C" __global__ void delta_classes(const REAL* a, const int64* classes, REAL* delta, int64 rows, int64 cols,
                                         int g, REAL slope) {
    const int64 j = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= cols) return;
    for (int64 i = (int64)blockIdx.y * blockDim.y + threadIdx.y; i < rows; i += (int64)gridDim.y * blockDim.y) {
        const REAL h = a[i * cols + j];
        delta[i * cols + j] = (h - one_hot(j, classes[i])) * derivative_from(g, slope, h);
    }
}

extern "C" __global__ void delta_softmax_values(const REAL* a, const REAL* y, REAL* delta, int64 rows, int64 cols) {
    for (int64 i = first_row(); i < rows; i += row_stride()) {
        const REAL *h = a + i * cols, *target = y + i * cols;
        REAL dot = 0;
        for (int64 j = lane_id(); j < cols; j += WARP) dot += (h[j] - target[j]) * h[j];
        dot = warp_sum(dot);
        for (int64 j = lane_id(); j < cols; j += WARP) delta[i * cols + j] = through_softmax(h[j], h[j] - target[j], dot);
    }
}

extern "C" __global__ void delta_softmax_classes(const REAL* a, const int64* classes, REAL* delta, int64 rows,
                                                 int64 cols) {
    for (int64 i = first_row(); i < rows; i += row_stride()) {
        const REAL* h = a + i * cols;
        const int64 chosen = classes[i];
        REAL dot = 0;
        for (int64 j = lane_id(); j < cols; j += WARP) dot += (h[j] - one_hot(j, chosen)) * h[j];
        dot = warp_sum(dot);
        for (int64 j = lane_id(); j < cols; j += WARP)
            delta[i * cols + j] = through_softmax(h[j], h[j] - one_hot(j, chosen), dot);
    }
}

extern "C" __global__ void times_derivative(REAL* delta, const REAL* a, int64 count, int g, REAL slope) {
    for (int64 i = first_index(); i < count; i += index_stride()) delta[i] *= derivative_from(g, slope, a[i]);
}
