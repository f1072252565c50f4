// From z of the output layer, before its bias, everything that a training step needs there, in one kernel:
// z + b, a = g(z + b), the cost and the hits, and delta^(L). No 1/m.
//
//   softmax, cross_entropy   cost log sum_k e^(z_k - top) + (top - z_y);    delta = h - y
//                            of probabilities y_k: sum_k y_k (log sum_j e^(z_j - top) + (top - z_k))
//   sigmoid, cross_entropy   cost sum_k max(z, 0) - y z + log(1 + e^-|z|);  delta = h - y
//   squared_error            cost sum_k (a - y)^2 / 2;                      delta = (a - y) g'(z),
//                            for softmax h (e - sum_j e_j h_j) with e = h - y
//   of errors                identity outputs, or exp with poisson: see costs.cuh; parameter: of the cost
//
//   z, delta (rows, cols) STORE, rows z_ld and delta_ld apart, delta overwritten; it may be z itself. b (cols,) REAL.
//   y: classes (available,) int64 or values (available, cols) REAL; row i of the batch has the targets
//   of row order[step[0] * batch + offset + i]. weights (available,) REAL, by which the row's cost and delta are
//   multiplied, where `weighted` is not 0; else it is not read. partials (2, REDUCTION_BLOCKS) double: cost and hits of each
//   block, overwritten, or added to where `accumulate` is not 0 (the next part of a batch).
//
// A row is done by `lanes` neighbouring lanes of a warp, a power of two: few for few columns. All threads take
// every turn of the loop over rows, because a shuffle needs the whole warp; a row beyond the end has no columns.
// A hit is the first largest output for classes, or where their probability is largest first, and every output on y's
// side of 1/2 for sigmoids. A class
// or a row number out of range makes the cost NaN and never reads foreign memory.
#include "output.cuh"

#define REDUCTION_BLOCKS 256

__device__ __forceinline__ void store_sums(Sums sums, double* partials, int accumulate) {
    __shared__ double cost_of_warp[MAX_WARPS], hits_of_warp[MAX_WARPS];
    const double cost = block_sum(sums.cost, cost_of_warp), hits = block_sum(sums.hits, hits_of_warp);
    if (threadIdx.x == 0) {
        double *its_cost = partials + blockIdx.x, *its_hits = partials + REDUCTION_BLOCKS + blockIdx.x;
        *its_cost = accumulate ? *its_cost + cost : cost;
        *its_hits = accumulate ? *its_hits + hits : hits;
    }
}

extern "C" __global__ void output_softmax_cross_entropy(const STORE* z, int64 z_ld, const REAL* b, STORE* delta,
                                                        int64 delta_ld, const int64* y, const REAL* weights,
                                                        int weighted, const int64* order, const int64* step,
                                                        double* partials, int64 batch, int64 offset, int64 rows,
                                                        int64 cols, int64 available, int lanes, int accumulate) {
    store_sums(softmax_cross_entropy(Classes{y}, Weights{weights, weighted}, z, z_ld, b, delta, delta_ld, order,
                                     step[0] * batch + offset, rows, cols, available, lanes),
               partials, accumulate);
}

extern "C" __global__ void output_softmax_probabilities(const STORE* z, int64 z_ld, const REAL* b, STORE* delta,
                                                        int64 delta_ld, const REAL* y, const REAL* weights,
                                                        int weighted, const int64* order, const int64* step,
                                                        double* partials, int64 batch, int64 offset, int64 rows,
                                                        int64 cols, int64 available, int lanes, int accumulate) {
    store_sums(softmax_probabilities(Values{y}, Weights{weights, weighted}, z, z_ld, b, delta, delta_ld, order,
                                     step[0] * batch + offset, rows, cols, available, lanes),
               partials, accumulate);
}

extern "C" __global__ void output_sigmoid_cross_entropy(const STORE* z, int64 z_ld, const REAL* b, STORE* delta,
                                                        int64 delta_ld, const REAL* y, const REAL* weights,
                                                        int weighted, const int64* order, const int64* step,
                                                        double* partials, int64 batch, int64 offset, int64 rows,
                                                        int64 cols, int64 available, int lanes, int accumulate) {
    store_sums(sigmoid_cross_entropy(Values{y}, Weights{weights, weighted}, z, z_ld, b, delta, delta_ld, order,
                                     step[0] * batch + offset, rows, cols, available, lanes),
               partials, accumulate);
}

extern "C" __global__ void output_squared_values(const STORE* z, int64 z_ld, const REAL* b, STORE* delta,
                                                 int64 delta_ld, const REAL* y, const REAL* weights, int weighted,
                                                 int g, REAL slope, const int64* order, const int64* step,
                                                 double* partials, int64 batch, int64 offset, int64 rows, int64 cols,
                                                 int64 available, int lanes, int accumulate) {
    store_sums(squared_error(Values{y}, Weights{weights, weighted}, z, z_ld, b, delta, delta_ld, g, slope, order,
                             step[0] * batch + offset, rows, cols, available, lanes),
               partials, accumulate);
}

extern "C" __global__ void output_squared_classes(const STORE* z, int64 z_ld, const REAL* b, STORE* delta,
                                                  int64 delta_ld, const int64* y, const REAL* weights, int weighted,
                                                  int g, REAL slope, const int64* order, const int64* step,
                                                  double* partials, int64 batch, int64 offset, int64 rows, int64 cols,
                                                  int64 available, int lanes, int accumulate) {
    store_sums(squared_error(Classes{y}, Weights{weights, weighted}, z, z_ld, b, delta, delta_ld, g, slope, order,
                             step[0] * batch + offset, rows, cols, available, lanes),
               partials, accumulate);
}

extern "C" __global__ void output_softmax_squared_values(const STORE* z, int64 z_ld, const REAL* b, STORE* delta,
                                                         int64 delta_ld, const REAL* y, const REAL* weights,
                                                         int weighted, const int64* order, const int64* step,
                                                         double* partials, int64 batch, int64 offset, int64 rows,
                                                         int64 cols, int64 available, int lanes, int accumulate) {
    store_sums(softmax_squared(Values{y}, Weights{weights, weighted}, z, z_ld, b, delta, delta_ld, order,
                               step[0] * batch + offset, rows, cols, available, lanes),
               partials, accumulate);
}

extern "C" __global__ void output_softmax_squared_classes(const STORE* z, int64 z_ld, const REAL* b, STORE* delta,
                                                          int64 delta_ld, const int64* y, const REAL* weights,
                                                          int weighted, const int64* order, const int64* step,
                                                          double* partials, int64 batch, int64 offset, int64 rows,
                                                          int64 cols, int64 available, int lanes, int accumulate) {
    store_sums(softmax_squared(Classes{y}, Weights{weights, weighted}, z, z_ld, b, delta, delta_ld, order,
                               step[0] * batch + offset, rows, cols, available, lanes),
               partials, accumulate);
}

extern "C" __global__ void output_of_errors(const STORE* z, int64 z_ld, const REAL* b, STORE* delta, int64 delta_ld,
                                            const REAL* y, const REAL* weights, int weighted, int pair, REAL parameter,
                                            const int64* order, const int64* step, double* partials, int64 batch,
                                            int64 offset, int64 rows, int64 cols, int64 available, int lanes,
                                            int accumulate) {
    store_sums(costs_of_errors(Values{y}, Weights{weights, weighted}, z, z_ld, b, delta, delta_ld, pair, parameter,
                               order, step[0] * batch + offset, rows, cols, available, lanes),
               partials, accumulate);
}
