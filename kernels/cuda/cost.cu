// Sum over rows of the cost, from z so that it stays finite, and the rows that are right ("hits").
//
//   softmax, cross_entropy   log sum_k e^(z_k - top) + (top - z_y),  top = max z; of probabilities y_k
//                            sum_k y_k (log sum_j e^(z_j - top) + (top - z_k))
//   sigmoid, cross_entropy   sum_k max(z, 0) - y z + log(1 + e^-|z|)
//   squared_error            sum_k (a - y)^2 / 2
//   of errors                sum_k, of z and y, see costs.cuh
//
//   z, a (rows, cols); y (rows, cols), or classes (rows,). weights (rows,), by which each row's cost is multiplied,
//   where `weighted` is not 0; else it is not read.
//   partials (2, blocks), double: overwritten with each block's cost and hits.
//
// A hit is the first largest output for classes, or where their probability is largest first, and every output on y's
// side of 1/2 for sigmoids;
// squared_error and errors of values, and poisson, count none. One warp per row; a row's terms are REAL, sums are double.
// A class outside 0..cols-1 makes the cost NaN instead of reading foreign memory.
#include "common.cuh"
#include "costs.cuh"

__device__ __forceinline__ void store_partials(double cost, double hits, double* partials) {
    __shared__ double cost_of_warp[MAX_WARPS], hits_of_warp[MAX_WARPS];
    cost = block_sum(cost, cost_of_warp);
    hits = block_sum(hits, hits_of_warp);
    if (threadIdx.x == 0) {
        partials[blockIdx.x] = cost;
        partials[gridDim.x + blockIdx.x] = hits;
    }
}

__device__ __forceinline__ REAL weight_of(const REAL* weights, int weighted, int64 row) {
    return weighted ? weights[row] : (REAL)1;
}

extern "C" __global__ void cost_softmax_cross_entropy(const REAL* z, const REAL* a, const int64* classes,
                                                      const REAL* weights, int weighted, double* partials, int64 rows,
                                                      int64 cols) {
    double cost = 0, hits = 0;
    for (int64 i = first_row(); i < rows; i += row_stride()) {
        const REAL* row = z + i * cols;
        const int64 chosen = classes[i];
        REAL top = -INFINITE, sum = 0;
        for (int64 j = lane_id(); j < cols; j += WARP) top = fmax(top, row[j]);
        top = warp_max(top);
        for (int64 j = lane_id(); j < cols; j += WARP) sum += exp(row[j] - top);
        sum = warp_sum(sum);
        const int64 largest = warp_argmax(a + i * cols, cols);
        if (lane_id() == 0) {  // the other lanes hold the same numbers
            const REAL of_chosen = chosen >= 0 && chosen < cols ? row[chosen] : NOT_A_NUMBER;
            cost += weight_of(weights, weighted, i) * softmax_cost(log(sum), of_chosen - top);
            hits += largest == chosen;
        }
    }
    store_partials(cost, hits, partials);
}

extern "C" __global__ void cost_softmax_probabilities(const REAL* z, const REAL* a, const REAL* y, const REAL* weights,
                                                      int weighted, double* partials, int64 rows, int64 cols) {
    double cost = 0, hits = 0;
    for (int64 i = first_row(); i < rows; i += row_stride()) {
        const REAL *row = z + i * cols, *targets = y + i * cols, weight = weight_of(weights, weighted, i);
        REAL top = -INFINITE, sum = 0;
        for (int64 j = lane_id(); j < cols; j += WARP) top = fmax(top, row[j]);
        top = warp_max(top);
        for (int64 j = lane_id(); j < cols; j += WARP) sum += exp(row[j] - top);
        sum = warp_sum(sum);
        for (int64 j = lane_id(); j < cols; j += WARP) cost += weight * (targets[j] * softmax_cost(log(sum), row[j] - top));
        const int64 largest = warp_argmax(a + i * cols, cols), wanted = warp_argmax(targets, cols);
        if (lane_id() == 0) hits += largest == wanted;
    }
    store_partials(cost, hits, partials);
}

extern "C" __global__ void cost_sigmoid_cross_entropy(const REAL* z, const REAL* a, const REAL* y, const REAL* weights,
                                                      int weighted, double* partials, int64 rows, int64 cols) {
    double cost = 0, hits = 0;
    for (int64 i = first_row(); i < rows; i += row_stride()) {
        const REAL weight = weight_of(weights, weighted, i);
        int wrong = 0;
        for (int64 k = i * cols + lane_id(); k < (i + 1) * cols; k += WARP) {
            cost += weight * sigmoid_cost(z[k], y[k]);
            wrong += wrong_side(a[k], y[k]);
        }
        wrong = warp_sum(wrong);
        if (lane_id() == 0) hits += wrong == 0;
    }
    store_partials(cost, hits, partials);
}

extern "C" __global__ void cost_squared_values(const REAL* a, const REAL* y, const REAL* weights, int weighted,
                                               double* partials, int64 count, int64 cols) {
    double cost = 0;
    for (int64 k = first_index(); k < count; k += index_stride())
        cost += weight_of(weights, weighted, k / cols) * squared(a[k] - y[k]);
    store_partials(cost / 2, 0, partials);
}

extern "C" __global__ void cost_of_errors(const REAL* z, const REAL* y, const REAL* weights, int weighted,
                                          double* partials, int64 count, int64 cols, int pair, REAL parameter) {
    double cost = 0;
    for (int64 k = first_index(); k < count; k += index_stride())
        cost += weight_of(weights, weighted, k / cols) * cost_of_error(pair, parameter, z[k], y[k]);
    store_partials(cost, 0, partials);
}

extern "C" __global__ void cost_squared_classes(const REAL* a, const int64* classes, const REAL* weights, int weighted,
                                                double* partials, int64 rows, int64 cols) {
    double cost = 0, hits = 0;
    for (int64 i = first_row(); i < rows; i += row_stride()) {
        const REAL *row = a + i * cols, weight = weight_of(weights, weighted, i);
        const int64 chosen = classes[i];
        for (int64 j = lane_id(); j < cols; j += WARP)
            cost += weight * squared(row[j] - (j == chosen ? (REAL)1 : (REAL)0));
        const int64 largest = warp_argmax(row, cols);
        if (lane_id() == 0) {
            hits += largest == chosen;
            if (chosen < 0 || chosen >= cols) cost += NOT_A_NUMBER;
        }
    }
    store_partials(cost / 2, hits, partials);
}
