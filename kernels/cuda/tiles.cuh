// Matrix products of one block from shared memory, a few sums at a time in registers (narrow.cu; chosen by narrow.py).
//
//   products(by, ...): each(i, j, sum over s < terms of x[i * x_row + s * x_term] * y[j * y_column + s * y_term],
//   ahead(i, j))
//
// for all i < rows, j < columns, in a fixed order. `ahead` fetches from afar what `each` will want, before the sums
// where there are registers for it. A number from shared memory serves as many multiply-adds as a tile is long; but
// large tiles are few:
//
//   threads   many short sums: each thread has a tile, and all the terms of its sums
//   warps     few long sums: each warp has a tile, each lane every 32nd term; lanes then hand each other what belongs
//             together
//
// Lanes read neighbours: along a row or down a column, whose distance is odd, so that they meet 32 different banks.
#pragma once
#include "common.cuh"

struct Nothing {};  // where `ahead` has nothing to fetch

// How a product is shared out, chosen by narrow.py: with 1 lane a thread has 1, 2 x 2 or 4 x 4 sums of its own; with 32
// a warp has 2 x 2 or 4 x 8, and each of its lanes every 32nd term of them. `sums`: their number.
struct Sharing {
    int sums, lanes;
};

// T x T sums of one thread: rows side by side, columns 32 apart. All lanes read the same x and neighbouring y; and
// where rows or columns lie side by side in memory too, their distances are known to the compiler. Of T > 1 all rows
// and columns are there.
template <int T, class Ahead, class Each>
__device__ __forceinline__ void tile_of_thread(const REAL* x, int x_row, int x_term, const REAL* y, int y_column,
                                               int y_term, int i, int j, int columns, int terms, const Ahead& ahead,
                                               const Each& each) {
    const bool there = T > 1 || j < columns, early = T * T * sizeof(ahead(0, 0)) <= 128;
    const REAL *left_of = x + i * x_row, *right_of = y + (there ? j : columns - 1) * y_column;
    Wide<T * T, decltype(ahead(0, 0))> fetched = {};
    Wide<T * T, REAL> sums = {};
    if (there && early)
        for (int k = 0; k < T * T; ++k) fetched.of[k] = ahead(i + k / T, j + k % T * WARP);
#pragma unroll 4
    for (int s = 0; s < terms; ++s) {
        Wide<T, REAL> left = {}, right = {};
        for (int k = 0; k < T; ++k) {
            left.of[k] = left_of[k * x_row + s * x_term];
            right.of[k] = right_of[k * WARP * y_column + s * y_term];
        }
        for (int k = 0; k < T * T; ++k) sums.of[k] += left.of[k / T] * right.of[k % T];
    }
    if (there)
        for (int k = 0; k < T * T; ++k)
            each(i + k / T, j + k % T * WARP, sums.of[k], early ? fetched.of[k] : ahead(i + k / T, j + k % T * WARP));
}

// A warp has T rows and 32 T columns at a time; a row and 32 columns of what is left beside and below.
template <class Ahead, class Each>
__device__ __forceinline__ void tiles_of_threads(int T, const REAL* x, int x_row, int x_term, const REAL* y,
                                                 int y_column, int y_term, int rows, int columns, int terms,
                                                 const Ahead& ahead, const Each& each) {
    const int down = T > 1 ? rows / T : 0, across = columns / (T * WARP), whole = down * across,
              covered = whole ? across * T * WARP : 0;
    const int beside = (columns - covered + WARP - 1) / WARP, below = covered / WARP,
              tiles = whole + rows * beside + (rows - down * T) * below;
    for (int tile = threadIdx.x / WARP; tile < tiles; tile += blockDim.x / WARP) {
        if (tile < whole) {
            const int i = tile / across * T, j = tile % across * T * WARP + lane_id();
            if (T == 4)
                tile_of_thread<4>(x, x_row, x_term, y, y_column, y_term, i, j, columns, terms, ahead, each);
            else
                tile_of_thread<2>(x, x_row, x_term, y, y_column, y_term, i, j, columns, terms, ahead, each);
        } else {
            const int left = tile - whole, under = left - rows * beside;
            const int i = under < 0 ? left / beside : down * T + under / below,
                      j = (under < 0 ? covered / WARP + left % beside : under % below) * WARP + lane_id();
            tile_of_thread<1>(x, x_row, x_term, y, y_column, y_term, i, j, columns, terms, ahead, each);
        }
    }
}

// Sums of N values over the warp, handed out: that of value number lane * N / 32 is returned. At each step a lane keeps
// one half of the values and gives the other away: 31 shuffles for 32 of them, not 5 for each.
template <int N>
__device__ __forceinline__ REAL hand_out(Wide<N, REAL> values) {
    int mask = FIRST_SHUFFLE;
#pragma unroll
    for (int half = N / 2; half > 0; half /= 2) {
        const bool upper = lane_id() & mask;
        for (int k = 0; k < half; ++k) {
            const REAL mine = upper ? values.of[k + half] : values.of[k],
                       given = upper ? values.of[k] : values.of[k + half];
            values.of[k] = mine + __shfl_xor_sync(FULL_WARP, given, mask);
        }
        mask /= 2;
    }
    for (; mask > 0; mask /= 2) values.of[0] += __shfl_xor_sync(FULL_WARP, values.of[0], mask);
    return values.of[0];
}

// A warp has R x C sums at a time, at most 32, its lanes every 32nd term of each.
template <int R, int C, class Ahead, class Each>
__device__ __forceinline__ void tiles_of_warps(const REAL* x, int x_row, int x_term, const REAL* y, int y_column,
                                               int y_term, int rows, int columns, int terms, const Ahead& ahead,
                                               const Each& each) {
    const int across = (columns + C - 1) / C, tiles = (rows + R - 1) / R * across, mine = lane_id() * (R * C) / WARP;
    for (int tile = threadIdx.x / WARP; tile < tiles; tile += blockDim.x / WARP) {
        const int i = tile / across * R, j = tile % across * C, row = i + mine / C, column = j + mine % C;
        // of lanes that are handed the same sum, the first
        const bool there = row < rows && column < columns && lane_id() * (R * C) % WARP == 0;
        decltype(ahead(0, 0)) fetched = {};
        if (there) fetched = ahead(row, column);
        Wide<R, int> at_x = {};
        Wide<C, int> at_y = {};
        // beyond the end the last one again, whose sums are dropped
        for (int k = 0; k < R; ++k) at_x.of[k] = (i + k < rows ? i + k : rows - 1) * x_row;
        for (int k = 0; k < C; ++k) at_y.of[k] = (j + k < columns ? j + k : columns - 1) * y_column;
        Wide<R * C, REAL> sums = {};
#pragma unroll 4
        for (int s = lane_id(); s < terms; s += WARP) {
            Wide<R, REAL> left = {};
            Wide<C, REAL> right = {};
            for (int k = 0; k < R; ++k) left.of[k] = x[at_x.of[k] + s * x_term];
            for (int k = 0; k < C; ++k) right.of[k] = y[at_y.of[k] + s * y_term];
            for (int k = 0; k < R * C; ++k) sums.of[k] += left.of[k / C] * right.of[k % C];
        }
        const REAL sum = hand_out(sums);
        if (there) each(row, column, sum, fetched);
    }
}

template <class Ahead, class Each>
__device__ __forceinline__ void products(Sharing by, const REAL* x, int x_row, int x_term, const REAL* y, int y_column,
                                         int y_term, int rows, int columns, int terms, const Ahead& ahead,
                                         const Each& each) {
    if (by.lanes == 1)
        tiles_of_threads(by.sums == 16  ? 4
                         : by.sums == 4 ? 2
                                        : 1,
                         x, x_row, x_term, y, y_column, y_term, rows, columns, terms, ahead, each);
    else if (by.sums == 4)
        tiles_of_warps<2, 2>(x, x_row, x_term, y, y_column, y_term, rows, columns, terms, ahead, each);
    else
        tiles_of_warps<4, 8>(x, x_row, x_term, y, y_column, y_term, rows, columns, terms, ahead, each);
}
