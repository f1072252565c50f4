// Where the parameters of a layer lie: in theta, flat, and in Delta and the copy of theta for products, whose matrices
// begin at aligned addresses and have rows of an aligned length ("padded"; fastnn/backends/cupy_update.py).
//
//   spans (layers, 7): in theta, where the weights begin, where the biases begin, where the layer ends; in a padded
//   vector, where the weights begin and where the biases begin; the columns of the weights; elements from one of their
//   padded rows to the next.
#pragma once
#include "common.cuh"

#define OF_A_SPAN 7

// The weights or the biases of a layer: theta[begin..end), which are rows of `cols` elements, and in a padded vector
// lie from `padded` on with rows `ld` apart.
struct Part {
    int64 begin, end, padded, cols, ld;
    bool weights;
};

__device__ __forceinline__ Part part_of_layer(const int64* spans, int64 layer, bool weights) {
    const int64* span = spans + OF_A_SPAN * layer;
    if (weights) return {span[0], span[1], span[3], span[5], span[6], true};
    return {span[1], span[2], span[4], span[2] - span[1], span[2] - span[1], false};
}

// Where parts are numbered weights, biases of layer 0, weights, biases of layer 1, ..., that of the blocks with its
// number in blockIdx.y.
__device__ __forceinline__ Part part_of_block(const int64* spans) {
    return part_of_layer(spans, blockIdx.y / 2, blockIdx.y % 2 == 0);
}

// The places, in a padded matrix, of elements first, first + stride, first + 2 stride, ... of its rows written one
// after another. A division takes as long as some dozen other instructions: there are two at the start and none on the
// way.
struct Walk {
    int64 cols, ld, row, col, rows_on, cols_on;
    __device__ Walk(const Part& part, int64 first, int64 stride)
        : cols(part.cols > 0 ? part.cols : 1), ld(part.ld), row(first / cols), col(first - row * cols),
          rows_on(stride / cols), cols_on(stride - rows_on * cols) {}
};

__device__ __forceinline__ void advance(Walk* walk) {
    walk->row += walk->rows_on;
    walk->col += walk->cols_on;
    if (walk->col >= walk->cols) walk->col -= walk->cols, ++walk->row;
}

// Of the k-th element behind the present one.
__device__ __forceinline__ int64 place(const Walk& walk, int k) {
    const int64 cols = walk.cols, ld = walk.ld;
    int64 row = walk.row, col = walk.col + k;
    while (col >= cols) col -= cols, ++row;
    return row * ld + col;
}

// W elements from the present one on, which may go on in the next row.
template <int W, class T>
__device__ __forceinline__ Wide<W, T> fetch(const T* p, const Walk& walk) {
    if (walk.col + W <= walk.cols) return fetch<W>(p + place(walk, 0));
    Wide<W, T> x;
    for (int k = 0; k < W; ++k) x.of[k] = p[place(walk, k)];
    return x;
}
template <int W, class T>
__device__ __forceinline__ void put(T* p, const Walk& walk, const Wide<W, T>& x) {
    if (walk.col + W <= walk.cols)
        put<W>(p + place(walk, 0), x);
    else
        for (int k = 0; k < W; ++k) p[place(walk, k)] = x.of[k];
}
