// What a training step needs of the output layer, row by row: cost, hits and delta^(L) from z before its bias
// (output.cu says which).
//
// A row is done by `lanes` neighbouring lanes of a warp, a power of two: few for few columns. All threads take
// every turn of the loop over rows, because a shuffle needs the whole warp; a row beyond the end has no columns.
// T is what z and delta lie in: STORE, or REAL; their rows are z_ld and delta_ld apart. Cost and delta of a row are
// multiplied by its weight.
#pragma once
#include "activation.cuh"
#include "costs.cuh"

// Of the rows that a thread did.
struct Sums {
    double cost, hits;
};

// Targets of one row. A row that does not exist has the class -1, or NaN.
struct Classes {
    const int64* y;
    __device__ int64 of_row(int64 row, int64, bool there) const { return there ? y[row] : -1; }
    __device__ REAL at(int64 chosen, int64 j) const { return j == chosen ? 1 : 0; }
    __device__ bool usable(int64 chosen, int64 cols) const { return chosen >= 0 && chosen < cols; }
    __device__ bool hit(int64 chosen, int64 largest) const { return chosen == largest; }
};

struct Values {
    const REAL* y;
    __device__ const REAL* of_row(int64 row, int64 cols, bool there) const { return there ? y + row * cols : nullptr; }
    __device__ REAL at(const REAL* of, int64 j) const { return of ? of[j] : NOT_A_NUMBER; }
    __device__ bool usable(const REAL*, int64) const { return true; }
    __device__ bool hit(const REAL*, int64) const { return false; }
};

// How much each row of the data counts: all the same where there are no weights.
struct Weights {
    const REAL* w;
    int there;
    __device__ REAL of_row(int64 row, bool exists) const { return there && exists ? w[row] : (REAL)1; }
};

// Calls body(i, cols of row i, targets of row i, weight of row i, lane) for the rows of this group of lanes, the same
// number of times in each.
template <class Targets, class Body>
__device__ __forceinline__ void for_rows(const Targets& targets, const Weights& weights, const int64* order,
                                         int64 first, int64 rows, int64 cols, int64 available, int lanes,
                                         const Body& body) {
    const int64 per_block = blockDim.x / lanes;
    for (int64 base = blockIdx.x * per_block; base < rows; base += gridDim.x * per_block) {
        const int64 i = base + threadIdx.x / lanes;
        const bool inside = i < rows;
        const int64 row = inside ? order[first + i] : -1;
        const bool exists = row >= 0 && row < available;
        body(i, inside ? cols : 0, targets.of_row(row, cols, exists), weights.of_row(row, exists),
             (int)(threadIdx.x % lanes));
    }
}

// Largest of z + b in the row, and the sum of e^(z + b - top), in every lane of the group.
template <class T>
__device__ __forceinline__ void softmax_constants(const T* z, const REAL* b, int64 n, int lane, int lanes, REAL* top,
                                                  REAL* sum) {
    REAL largest = -INFINITE, total = 0;
    for (int64 j = lane; j < n; j += lanes) largest = fmax(largest, widen(z[j]) + b[j]);
    largest = group_max(largest, lanes);
    for (int64 j = lane; j < n; j += lanes) total += exp(widen(z[j]) + b[j] - largest);
    *top = largest;
    *sum = group_sum(total, lanes);
}

template <class T>
__device__ __forceinline__ Sums softmax_cross_entropy(const Classes& y, const Weights& weights, const T* z, int64 z_ld,
                                                      const REAL* b, T* delta, int64 delta_ld, const int64* order,
                                                      int64 first, int64 rows, int64 cols, int64 available, int lanes) {
    double cost = 0, hits = 0;
    for_rows(y, weights, order, first, rows, cols, available, lanes,
             [&](int64 i, int64 n, int64 chosen, REAL weight, int lane) {
                 const T* row = z + i * z_ld;
                 REAL top, sum, of_chosen = NOT_A_NUMBER, best = -INFINITE;
                 int64 best_index = cols;
                 softmax_constants(row, b, n, lane, lanes, &top, &sum);
                 if (lane == 0 && chosen >= 0 && chosen < n) of_chosen = widen(row[chosen]) + b[chosen];
                 warp_barrier();  // delta may be z: the lane that holds z of the class must have read it
                 for (int64 j = lane; j < n; j += lanes) {
                     const REAL h = exp(widen(row[j]) + b[j] - top) / sum;
                     if (precedes(h, j, best, best_index)) best = h, best_index = j;
                     narrow(weight * (h - (j == chosen ? (REAL)1 : (REAL)0)), delta + i * delta_ld + j);
                 }
                 const int64 largest = group_argmax(best, best_index, lanes);
                 if (lane == 0 && n) {
                     cost += weight * softmax_cost(log(sum), of_chosen - top);
                     hits += largest == chosen;
                 }
             });
    return {cost, hits};
}

// Targets are the probabilities of the classes, which sum to 1. A hit is where both are largest.
template <class T>
__device__ __forceinline__ Sums softmax_probabilities(const Values& y, const Weights& weights, const T* z, int64 z_ld,
                                                      const REAL* b, T* delta, int64 delta_ld, const int64* order,
                                                      int64 first, int64 rows, int64 cols, int64 available, int lanes) {
    double cost = 0, hits = 0;
    for_rows(y, weights, order, first, rows, cols, available, lanes,
             [&](int64 i, int64 n, const REAL* targets, REAL weight, int lane) {
                 const T* row = z + i * z_ld;
                 REAL top, sum, best = -INFINITE, most = -INFINITE;
                 int64 best_index = cols, most_index = cols;
                 softmax_constants(row, b, n, lane, lanes, &top, &sum);
                 for (int64 j = lane; j < n; j += lanes) {
                     const REAL t = y.at(targets, j), below = widen(row[j]) + b[j] - top, h = exp(below) / sum;
                     cost += weight * (t * softmax_cost(log(sum), below));
                     if (precedes(h, j, best, best_index)) best = h, best_index = j;
                     if (precedes(t, j, most, most_index)) most = t, most_index = j;
                     narrow(weight * (h - t), delta + i * delta_ld + j);
                 }
                 const int64 largest = group_argmax(best, best_index, lanes);
                 const int64 wanted = group_argmax(most, most_index, lanes);
                 if (lane == 0 && n) hits += largest == wanted;
             });
    return {cost, hits};
}

template <class T>
__device__ __forceinline__ Sums sigmoid_cross_entropy(const Values& y, const Weights& weights, const T* z, int64 z_ld,
                                                      const REAL* b, T* delta, int64 delta_ld, const int64* order,
                                                      int64 first, int64 rows, int64 cols, int64 available, int lanes) {
    double cost = 0, hits = 0;
    for_rows(y, weights, order, first, rows, cols, available, lanes,
             [&](int64 i, int64 n, const REAL* targets, REAL weight, int lane) {
                 int wrong = 0;
                 for (int64 j = lane; j < n; j += lanes) {
                     const REAL t = y.at(targets, j), shifted = widen(z[i * z_ld + j]) + b[j],
                                h = value_of(SIGMOID, 0, shifted);
                     cost += weight * sigmoid_cost(shifted, t);
                     wrong += wrong_side(h, t);
                     narrow(weight * (h - t), delta + i * delta_ld + j);
                 }
                 wrong = group_sum(wrong, lanes);
                 if (lane == 0 && n) hits += wrong == 0;
             });
    return {cost, hits};
}

template <class Targets, class T>
__device__ __forceinline__ Sums squared_error(const Targets& y, const Weights& weights, const T* z, int64 z_ld,
                                              const REAL* b, T* delta, int64 delta_ld, int g, REAL slope,
                                              const int64* order, int64 first, int64 rows, int64 cols, int64 available,
                                              int lanes) {
    double cost = 0, hits = 0;
    for_rows(y, weights, order, first, rows, cols, available, lanes,
             [&](int64 i, int64 n, auto target, REAL weight, int lane) {
                 REAL best = -INFINITE;
                 int64 best_index = cols;
                 for (int64 j = lane; j < n; j += lanes) {
                     const REAL a = value_of(g, slope, widen(z[i * z_ld + j]) + b[j]), e = a - y.at(target, j);
                     cost += weight * squared(e);
                     if (precedes(a, j, best, best_index)) best = a, best_index = j;
                     narrow(weight * (e * derivative_from(g, slope, a)), delta + i * delta_ld + j);
                 }
                 const int64 largest = group_argmax(best, best_index, lanes);
                 if (lane == 0 && n) {
                     hits += y.hit(target, largest);
                     if (!y.usable(target, n)) cost += NOT_A_NUMBER;
                 }
             });
    return {cost / 2, hits};
}

template <class T>
__device__ __forceinline__ Sums costs_of_errors(const Values& y, const Weights& weights, const T* z, int64 z_ld,
                                                const REAL* b, T* delta, int64 delta_ld, int pair, REAL parameter,
                                                const int64* order, int64 first, int64 rows, int64 cols,
                                                int64 available, int lanes) {
    double cost = 0;
    for_rows(y, weights, order, first, rows, cols, available, lanes,
             [&](int64 i, int64 n, const REAL* targets, REAL weight, int lane) {
                 for (int64 j = lane; j < n; j += lanes) {
                     const REAL shifted = widen(z[i * z_ld + j]) + b[j], t = y.at(targets, j);
                     cost += weight * cost_of_error(pair, parameter, shifted, t);
                     narrow(weight * slope_of_error(pair, parameter, output_of(pair, shifted) - t),
                            delta + i * delta_ld + j);
                 }
             });
    return {cost, 0};
}

template <class Targets, class T>
__device__ __forceinline__ Sums softmax_squared(const Targets& y, const Weights& weights, const T* z, int64 z_ld,
                                                const REAL* b, T* delta, int64 delta_ld, const int64* order,
                                                int64 first, int64 rows, int64 cols, int64 available, int lanes) {
    double cost = 0, hits = 0;
    for_rows(y, weights, order, first, rows, cols, available, lanes,
             [&](int64 i, int64 n, auto target, REAL weight, int lane) {
                 const T* row = z + i * z_ld;
                 REAL top, sum, best = -INFINITE, dot = 0;
                 int64 best_index = cols;
                 softmax_constants(row, b, n, lane, lanes, &top, &sum);
                 for (int64 j = lane; j < n; j += lanes) {
                     const REAL h = exp(widen(row[j]) + b[j] - top) / sum, e = h - y.at(target, j);
                     cost += weight * squared(e);
                     dot += e * h;
                     if (precedes(h, j, best, best_index)) best = h, best_index = j;
                 }
                 dot = group_sum(dot, lanes);
                 for (int64 j = lane; j < n; j += lanes) {
                     const REAL h = exp(widen(row[j]) + b[j] - top) / sum;
                     narrow(weight * through_softmax(h, h - y.at(target, j), dot), delta + i * delta_ld + j);
                 }
                 const int64 largest = group_argmax(best, best_index, lanes);
                 if (lane == 0 && n) {
                     hits += y.hit(target, largest);
                     if (!y.usable(target, n)) cost += NOT_A_NUMBER;
                 }
             });
    return {cost / 2, hits};
}
