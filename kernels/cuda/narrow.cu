// Whole training steps of a narrow net, many in one launch, by one block: what a step makes never leaves the chip.
//
// A captured step of a small net is a dozen kernels that each wait for the one before, microseconds apiece, while
// nearly all multiprocessors idle. Here one block keeps parameters, activations and deltas in shared memory from
// step to step, and phases wait at a barrier instead of a kernel's end. The price: one multiprocessor has 128
// multiply-adds a cycle, 0.2e12 a second at 1.75 GHz, of which the tiles below reach a part - each operand comes
// from shared memory, 32 a cycle, and serves `tile` multiply-adds. So this pays for nets and batches of few
// multiply-adds and cannot for others; which, is measured on the device (fastnn/backends/cupy_narrow.py).
//
// A step on `rows` rows, in parts of at most `part` of them: fetch their x; forward layer by layer; cost, hits and
// delta^(L) (output.cuh); the other deltas back; then, all deltas known, for every layer Delta = delta^T a, and its
// parameters move (rules.cuh). Between parts Delta waits in global memory. A thread sums the same elements of Delta in
// every part and step, each in one order: the same input gives the same bits.
//
//   theta, Delta, first, second (P,) REAL: as in update.cu; a state that the rule has not is not touched.
//   X (available, n_in) REAL, or bytes (available, n_in) uint8 if from_bytes, times `scale`; classes (available,) or
//   values (available, n_out): targets. What is not used is not read. A row number out of range makes the cost NaN.
//   table (layers, 9), written by narrow.py: see Layer; slopes (layers,) REAL: parameters of their g.
//   order, step, constants (steps, width), totals: as in gather.cu, update.cu, finish_step; step[0] += steps.
//   output: which cost, see OUTPUTS; `lanes` of each row there. rule: see RULES. Sums of tile x tile in registers: 1, 2 or 4.
//
// Shared memory, as laid out in narrow.py: weights with an odd leading dimension, so that neighbouring units lie in
// different banks; a^(l) with a column of ones, whose Delta is that of the biases. One block of at most 512 threads.
#include "output.cuh"
#include "rules.cuh"

#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(name) extern __shared__ REAL name[]
#endif

#define OF_A_LAYER 9  // numbers in a row of `table`
#define CONSTANTS 6   // of a rule, at most
enum RULES { SGD = 0, MOMENTUM = 1, ADAM = 2 };
enum OUTPUTS { SOFTMAX_CROSS_ENTROPY = 0, SIGMOID_CROSS_ENTROPY = 1, SQUARED_VALUES = 2, SQUARED_CLASSES = 3, SOFTMAX_SQUARED_VALUES = 4, SOFTMAX_SQUARED_CLASSES = 5 };

// One layer's weights, with what goes in, a (rows, n_in and a one), and what comes back, delta (rows, n_out).
struct Layer {
    int n_in, n_out, g, weights_ld, a_ld;
    int64 weights_begin, biases_begin;  // in theta
    REAL *weights, *biases, *a, *delta;
    REAL slope;
    __device__ Layer(const int64* row, REAL slope, REAL* shared)
        : n_in((int)row[0]), n_out((int)row[1]), g((int)row[8]), weights_ld(n_in | 1), a_ld((n_in + 1) | 1), weights_begin(row[2]), biases_begin(row[3]), weights(shared + row[4]), biases(shared + row[5]),
          a(shared + row[6]), delta(shared + row[7]), slope(slope) {}
};

struct Net {
    const int64* table;
    const REAL* slopes;
    REAL* shared;
    int count, tile;
    __device__ Layer layer(int l) const { return Layer(table + OF_A_LAYER * l, slopes[l], shared); }
};

struct Data {
    const REAL* X;
    const uint8* bytes;
    REAL scale;
    const int64* classes;
    const REAL* values;
    const int64* order;
    int64 available;
    int from_bytes, output, lanes;
};

// What a step moves. `constants` are in registers.
struct Moves {
    REAL *theta, *Delta, *first, *second;
    Wide<CONSTANTS, REAL> constants;
    REAL rows;
    int rule;
};

// each(i, j, sum over s < terms of x[i * x_row + s * x_term] * y[j * y_column + s * y_term]) for all i < rows, j < columns.
// A thread makes T x T sums at once, `down` rows and `across` columns apart: neighbouring threads have neighbouring columns.
template <int T, class Each>
__device__ __forceinline__ void tiled_products(const REAL* x, int x_row, int x_term, const REAL* y, int y_column, int y_term, int rows, int columns, int terms, const Each& each) {
    const int down = (rows + T - 1) / T, across = (columns + T - 1) / T;
    for (int tile = threadIdx.x; tile < down * across; tile += blockDim.x) {
        const int i = tile / across, j = tile % across;
        Wide<T, int> at_x = {}, at_y = {};
        Wide<T * T, REAL> sums = {};
        for (int k = 0; k < T; ++k) {  // beyond the end the first one again, whose sums are dropped
            at_x.of[k] = (i + k * down < rows ? i + k * down : i) * x_row;
            at_y.of[k] = (j + k * across < columns ? j + k * across : j) * y_column;
        }
        for (int s = 0; s < terms; ++s) {
            Wide<T, REAL> left = {}, right = {};
            for (int k = 0; k < T; ++k) {
                left.of[k] = x[at_x.of[k] + s * x_term];
                right.of[k] = y[at_y.of[k] + s * y_term];
            }
            for (int k = 0; k < T * T; ++k) sums.of[k] += left.of[k / T] * right.of[k % T];
        }
        for (int k = 0; k < T * T; ++k) {
            const int row = i + k / T * down, column = j + k % T * across;
            if (row < rows && column < columns) each(row, column, sums.of[k]);
        }
    }
}

template <class Each>
__device__ __forceinline__ void products(int tile, const REAL* x, int x_row, int x_term, const REAL* y, int y_column, int y_term, int rows, int columns, int terms, const Each& each) {
    if (tile == 1)
        tiled_products<1>(x, x_row, x_term, y, y_column, y_term, rows, columns, terms, each);
    else if (tile == 2)
        tiled_products<2>(x, x_row, x_term, y, y_column, y_term, rows, columns, terms, each);
    else
        tiled_products<4>(x, x_row, x_term, y, y_column, y_term, rows, columns, terms, each);
}

// a^(0) of m rows from order[begin] on, a row by each warp.
__device__ __forceinline__ void fetch_rows(const Data& data, const Layer& first, int64 begin, int m) {
    for (int i = threadIdx.x / WARP; i < m; i += blockDim.x / WARP) {
        const int64 row = data.order[begin + i];
        const bool there = row >= 0 && row < data.available;
        for (int k = lane_id(); k < first.n_in; k += WARP) {
            REAL x = NOT_A_NUMBER;
            if (there) x = data.scale * (data.from_bytes ? widen(data.bytes[row * first.n_in + k]) : data.X[row * first.n_in + k]);
            first.a[i * first.a_ld + k] = x;
        }
    }
}

// a^(l+1) = g(a Theta^T + b); of the last layer a Theta^T alone, where delta^(L) will be.
__device__ __forceinline__ void forward(const Net& net, int l, int m) {
    const Layer of = net.layer(l);
    const bool last = l + 1 == net.count;
    const Layer next = net.layer(last ? l : l + 1);
    REAL* target = last ? of.delta : next.a;
    const int ld = last ? of.n_out : next.a_ld;
    products(net.tile, of.a, of.a_ld, 1, of.weights, of.weights_ld, 1, m, of.n_out, of.n_in,
             [&](int i, int j, REAL z) { target[i * ld + j] = last ? z : value_of(of.g, of.slope, z + of.biases[j]); });
}

// delta of layer l's weights from that of the weights above them: (delta Theta) * g'(z).
__device__ __forceinline__ void back(const Net& net, int l, int m) {
    const Layer below = net.layer(l), above = net.layer(l + 1);
    products(net.tile, above.delta, above.n_out, 1, above.weights, 1, above.weights_ld, m, above.n_in, above.n_out,
             [&](int i, int k, REAL sum) { below.delta[i * below.n_out + k] = sum * derivative_from(below.g, below.slope, above.a[i * above.a_ld + k]); });
}

// The cost, the hits and delta^(L) of m rows.
__device__ __forceinline__ Sums costs(const Data& data, const Layer& last, int64 begin, int m) {
    const Classes classes{data.classes};
    const Values values{data.values};
    const REAL *z = last.delta, *b = last.biases;
    REAL* delta = last.delta;
    switch (data.output) {
        case SOFTMAX_CROSS_ENTROPY:
            return softmax_cross_entropy(classes, z, last.n_out, b, delta, last.n_out, data.order, begin, m, last.n_out, data.available, data.lanes);
        case SIGMOID_CROSS_ENTROPY:
            return sigmoid_cross_entropy(values, z, last.n_out, b, delta, last.n_out, data.order, begin, m, last.n_out, data.available, data.lanes);
        case SQUARED_VALUES:
            return squared_error(values, z, last.n_out, b, delta, last.n_out, last.g, last.slope, data.order, begin, m, last.n_out, data.available, data.lanes);
        case SQUARED_CLASSES:
            return squared_error(classes, z, last.n_out, b, delta, last.n_out, last.g, last.slope, data.order, begin, m, last.n_out, data.available, data.lanes);
        case SOFTMAX_SQUARED_VALUES:
            return softmax_squared(values, z, last.n_out, b, delta, last.n_out, data.order, begin, m, last.n_out, data.available, data.lanes);
        default:
            return softmax_squared(classes, z, last.n_out, b, delta, last.n_out, data.order, begin, m, last.n_out, data.available, data.lanes);
    }
}

// One parameter, `at` in theta and *theta in shared memory, from the whole of its Delta; returns its old square if it decays.
__device__ __forceinline__ double move(const Moves& moves, int64 at, REAL* theta, REAL Delta, bool decays) {
    const REAL decay = decays ? moves.constants.of[0] : 0, old = *theta;
    REAL D = Delta / moves.rows, first = 0, second = 0;
    if (decay != 0) D += decay * old;
    if (moves.rule != SGD) first = moves.first[at];
    if (moves.rule == ADAM) second = moves.second[at];
    if (moves.rule == SGD) *theta = Sgd(moves.constants.of)(old, D, first, second);
    if (moves.rule == MOMENTUM) *theta = Momentum(moves.constants.of)(old, D, first, second);
    if (moves.rule == ADAM) *theta = Adam(moves.constants.of)(old, D, first, second);
    if (moves.rule != SGD) moves.first[at] = first;
    if (moves.rule == ADAM) moves.second[at] = second;
    return decay != 0 ? (double)old * old : 0;
}

// Delta (+)= delta^T a of one layer and m rows; with the last rows of a step its parameters move. Returns squares as `move`.
__device__ __forceinline__ double gradient(int tile, const Layer& of, const Moves& moves, int m, bool begins, bool ends) {
    double squares = 0;
    products(tile, of.delta, 1, of.n_out, of.a, 1, of.a_ld, of.n_out, of.n_in + 1, m, [&](int j, int k, REAL sum) {
        const bool weight = k < of.n_in;
        const int64 at = weight ? of.weights_begin + (int64)j * of.n_in + k : of.biases_begin + j;
        REAL* theta = weight ? of.weights + j * of.weights_ld + k : of.biases + j;
        if (!begins) sum += moves.Delta[at];
        if (ends)
            squares += move(moves, at, theta, sum, weight);
        else
            moves.Delta[at] = sum;
    });
    return squares;
}

// m rows from order[begin] on, all the way. Adds to the thread's cost and hits.
__device__ __forceinline__ void part_of_step(const Net& net, const Data& data, const Moves& moves, int64 begin, int m, bool begins, bool ends, Sums* sums) {
    fetch_rows(data, net.layer(0), begin, m);
    block_barrier();
    for (int l = 0; l < net.count; ++l) {
        forward(net, l, m);
        block_barrier();
    }
    const Sums found = costs(data, net.layer(net.count - 1), begin, m);
    block_barrier();
    for (int l = net.count - 2; l >= 0; --l) {
        back(net, l, m);
        block_barrier();
    }
    double squares = 0;
    for (int l = 0; l < net.count; ++l) squares += gradient(net.tile, net.layer(l), moves, m, begins, ends);
    sums->cost += found.cost + (double)moves.rows / 2 * moves.constants.of[0] * squares;
    sums->hits += found.hits;
    block_barrier();
}

__device__ __forceinline__ Sums train(const Net& net, const Data& data, Moves moves, const REAL* constants, int64 width, int64 first, int64 steps, int64 batch, int64 part) {
    Sums sums = {0, 0};
    const int64 rows = (int64)moves.rows;
    for (int64 s = first; s < first + steps; ++s) {
        for (int k = 0; k < CONSTANTS; ++k) moves.constants.of[k] = k < width ? constants[s * width + k] : 0;  // so many always: then they stay in registers
        for (int64 offset = 0; offset < rows; offset += part) {
            const int64 left = rows - offset;
            part_of_step(net, data, moves, s * batch + offset, (int)(left < part ? left : part), offset == 0, left <= part, &sums);
        }
    }
    return sums;
}

// Parameters between global and shared memory; on the way in also the ones beside each a, for `part` rows.
__device__ __forceinline__ void load_parameters(const Net& net, const REAL* theta, int part) {
    for (int l = 0; l < net.count; ++l) {
        const Layer of = net.layer(l);
        for (int k = threadIdx.x; k < of.n_in * of.n_out; k += blockDim.x) of.weights[k / of.n_in * of.weights_ld + k % of.n_in] = theta[of.weights_begin + k];
        for (int k = threadIdx.x; k < of.n_out; k += blockDim.x) of.biases[k] = theta[of.biases_begin + k];
        for (int k = threadIdx.x; k < part; k += blockDim.x) of.a[k * of.a_ld + of.n_in] = 1;
    }
}

__device__ __forceinline__ void store_parameters(const Net& net, REAL* theta) {
    for (int l = 0; l < net.count; ++l) {
        const Layer of = net.layer(l);
        for (int k = threadIdx.x; k < of.n_in * of.n_out; k += blockDim.x) theta[of.weights_begin + k] = of.weights[k / of.n_in * of.weights_ld + k % of.n_in];
        for (int k = threadIdx.x; k < of.n_out; k += blockDim.x) theta[of.biases_begin + k] = of.biases[k];
    }
}

extern "C" __global__ void __launch_bounds__(512) narrow_steps(REAL* theta, REAL* Delta, REAL* first, REAL* second, const REAL* X, const uint8* bytes, int from_bytes, REAL scale, const int64* classes, const REAL* values,
    int64 available, const int64* table, const REAL* slopes, int layers, const int64* order, int64* step, const REAL* constants, int64 width, double* totals, int64 steps, int64 batch, int64 rows, int64 part, int rule, int output,
    int lanes, int tile) {
    __shared__ double cost_of_warp[MAX_WARPS], hits_of_warp[MAX_WARPS];
    DYNAMIC_SHARED(memory);
    const Net net = {table, slopes, memory, layers, tile};
    const Data data = {X, bytes, scale, classes, values, order, available, from_bytes, output, lanes};
    const Moves moves = {theta, Delta, first, second, {}, (REAL)rows, rule};
    const int64 begin = step[0];
    load_parameters(net, theta, (int)part);  // what comes first, fetching rows, ends with a barrier
    const Sums sums = train(net, data, moves, constants, width, begin, steps, batch, part);
    store_parameters(net, theta);
    const double cost = block_sum(sums.cost, cost_of_warp), hits = block_sum(sums.hits, hits_of_warp);
    if (threadIdx.x == 0) {
        totals[0] += cost;
        totals[1] += hits;
        step[0] = begin + steps;
    }
}
