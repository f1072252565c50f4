// Whole training steps of a narrow net, many in one launch, by one block: what a step makes never leaves the chip.
//
// A captured step of a small net is a dozen kernels that each wait for the one before, microseconds apiece, while
// nearly all multiprocessors idle. Here one block keeps parameters, activations and deltas in shared memory from
// step to step, and phases wait at a barrier instead of a kernel's end. The price: one multiprocessor has 128
// multiply-adds a cycle, 0.2e12 a second at 1.75 GHz, of which products (tiles.cuh) reach a part - each operand comes
// from shared memory, 32 a cycle, and serves a few multiply-adds. So this pays for nets and batches of few
// multiply-adds and cannot for others; which, is measured on the device (fastnn/backends/cupy_narrow.py).
//
// A step on `rows` rows, in parts of at most `part` of them: fetch their x; forward layer by layer; cost, hits and
// delta^(L) (output.cuh); the other deltas back; then, all deltas known, for every layer Delta = delta^T a, and its
// parameters move (rules.cuh). Between parts Delta waits in global memory. A thread sums the same elements of Delta in
// every part and step, each in one order: the same input gives the same bits.
//
//   theta, Delta, first, second (P,) REAL: as in update.cu; a state that the rule has not is not touched.
//   X (available, n_in) REAL, or bytes (available, n_in) uint8 if from_bytes, times `scale`; classes (available,) or
//   values (available, n_out): targets; weights (available,) if weighted. What is not used is not read. A row number
//   out of range makes the cost NaN.
//   table (layers, 15), written by narrow.py: see Layer; slopes (layers,) REAL: parameters of their g.
//   order, step, constants (steps, width), totals: as in gather.cu, update.cu, finish_step; step[0] += steps.
//   output: which cost, see OUTPUTS; `lanes` of each row there. rule: see RULES.
//
// Shared memory, as laid out in narrow.py: a^(l) with a column of ones, whose Delta is that of the biases. Weights, a
// and delta have odd leading dimensions: whether the lanes of a warp go along a row or down a column of them, they meet
// 32 different banks. (In double two wavefronts of 16.) One block of at most 512 threads.
#include "output.cuh"
#include "rules.cuh"
#include "tiles.cuh"

#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(name) extern __shared__ REAL name[]
#endif

// Asks for memory that somebody will read later: it lies in the L2 cache then. Nothing waits for it, nothing hangs on
// it.
#ifndef PREFETCH
#define PREFETCH prefetch
__device__ inline void prefetch(const void* p, int bytes) {
#if __CUDA_ARCH__ >= 900
    // One instruction for whole groups of 16 bytes: what lies before and behind them is in lines that are asked for as
    // well, nearly always.
    const unsigned long long begin = ((unsigned long long)p + 15) / 16 * 16;
    const unsigned long long end = ((unsigned long long)p + bytes) / 16 * 16;
    if (begin < end)
        asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(begin), "r"((unsigned)(end - begin))
                     : "memory");
#else
    for (int at = 0; at < bytes; at += 128) asm volatile("prefetch.global.L2 [%0];" ::"l"((const char*)p + at));
#endif
}
#endif

#define OF_A_LAYER 15  // numbers in a row of `table`
#define CONSTANTS 7    // of a rule, at most
#define ON_THE_WAY 16  // numbers of a row of X that a lane fetches at once
enum RULES { SGD = 0, MOMENTUM = 1, ADAM = 2 };
enum OUTPUTS {
    SOFTMAX_CROSS_ENTROPY = 0,
    SIGMOID_CROSS_ENTROPY = 1,
    SQUARED_VALUES = 2,
    SQUARED_CLASSES = 3,
    SOFTMAX_SQUARED_VALUES = 4,
    SOFTMAX_SQUARED_CLASSES = 5,
    SOFTMAX_PROBABILITIES = 6
};

// One layer's weights, with what goes in, a (rows, n_in and a one), and what comes back, delta (rows, n_out).
struct Layer {
    int n_in, n_out, g, weights_ld, a_ld, delta_ld;
    int weights_begin, biases_begin;  // in theta, which fits into shared memory
    REAL *weights, *biases, *a, *delta;
    REAL slope;
    Sharing forward, back, gradient;  // `back` makes this delta from that of the layer above
    __device__ Layer(const int64* row, REAL slope, REAL* shared)
        : n_in((int)row[0]), n_out((int)row[1]), g((int)row[8]), weights_ld(n_in | 1), a_ld((n_in + 1) | 1),
          delta_ld(n_out | 1), weights_begin((int)row[2]), biases_begin((int)row[3]), weights(shared + row[4]),
          biases(shared + row[5]), a(shared + row[6]), delta(shared + row[7]), slope(slope),
          forward{(int)row[9], (int)row[10]}, back{(int)row[11], (int)row[12]}, gradient{(int)row[13], (int)row[14]} {}
};

struct Net {
    const int64* table;
    const REAL* slopes;
    REAL* shared;
    int count;
    __device__ Layer layer(int l) const { return Layer(table + OF_A_LAYER * l, slopes[l], shared); }
};

struct Data {
    const REAL* X;
    const uint8* bytes;
    REAL scale;
    const int64* classes;
    const REAL *values, *weights;
    const int64* order;
    int64 available;
    int weighted, from_bytes, output, lanes;
};

// What a step moves. `constants` are in registers.
struct Moves {
    REAL *theta, *Delta, *first, *second;
    Wide<CONSTANTS, REAL> constants;
    REAL rows, per_row;  // and 1 / rows: a division for each parameter would take as long as much of its rule
    int rule;
};

// What a rule remembers of a parameter.
struct State {
    REAL first, second;
};

// a^(0) of m rows from order[begin] on, a row by each warp. So many numbers of a lane are on their way at once: one at
// a time would wait for memory for each.
template <class T>
__device__ __forceinline__ void fetch_rows(const Data& data, const T* X, const Layer& first, int64 begin, int m) {
    for (int i = threadIdx.x / WARP; i < m; i += blockDim.x / WARP) {
        const int64 row = data.order[begin + i];
        const bool there = row >= 0 && row < data.available;
        const T* from = X + (there ? row * first.n_in : 0);
        for (int column = lane_id(); column < first.n_in; column += ON_THE_WAY * WARP) {
            Wide<ON_THE_WAY, T> x = {};
            for (int k = 0; k < ON_THE_WAY; ++k)
                if (there && column + k * WARP < first.n_in) x.of[k] = from[column + k * WARP];
            for (int k = 0; k < ON_THE_WAY; ++k)
                if (column + k * WARP < first.n_in)
                    first.a[i * first.a_ld + column + k * WARP] = there ? data.scale * widen(x.of[k]) : NOT_A_NUMBER;
        }
    }
}

// Asks for m rows from order[begin] on, a row by each thread, the last ones first: they have the fewest sums to make.
template <class T>
__device__ __forceinline__ void ask_for_rows(const Data& data, const T* X, int n_in, int64 begin, int m) {
    for (int i = blockDim.x - 1 - threadIdx.x; i < m; i += blockDim.x) {
        const int64 row = data.order[begin + i];
        if (row >= 0 && row < data.available) PREFETCH(X + row * n_in, n_in * (int)sizeof(T));
    }
}

// a^(l+1) = g(a Theta^T + b); of the last layer a Theta^T alone, where delta^(L) will be. Lanes go along the rows of
// the batch, here and in `back`: there are more of them than units.
__device__ __forceinline__ void forward(const Net& net, int l, int m) {
    const Layer of = net.layer(l);
    const bool last = l + 1 == net.count;
    const Layer next = net.layer(last ? l : l + 1);
    REAL* target = last ? of.delta : next.a;
    const int ld = last ? of.delta_ld : next.a_ld;
    products(
        of.forward, of.weights, of.weights_ld, 1, of.a, of.a_ld, 1, of.n_out, m, of.n_in,
        [](int, int) { return Nothing{}; },
        [&](int j, int i, REAL z, Nothing) {
            target[i * ld + j] = last ? z : value_of(of.g, of.slope, z + of.biases[j]);
        });
}

// delta of layer l's weights from that of the weights above them: (delta Theta) * g'(z).
__device__ __forceinline__ void back(const Net& net, int l, int m) {
    const Layer below = net.layer(l), above = net.layer(l + 1);
    products(
        below.back, above.weights, 1, above.weights_ld, above.delta, above.delta_ld, 1, above.n_in, m, above.n_out,
        [](int, int) { return Nothing{}; },
        [&](int k, int i, REAL sum, Nothing) {
            below.delta[i * below.delta_ld + k] =
                sum * derivative_from(below.g, below.slope, above.a[i * above.a_ld + k]);
        });
}

// The cost, the hits and delta^(L) of m rows.
__device__ __forceinline__ Sums costs(const Data& data, const Layer& last, int64 begin, int m) {
    const Classes classes{data.classes};
    const Values values{data.values};
    const Weights weights{data.weights, data.weighted};
    const REAL *z = last.delta, *b = last.biases;
    REAL* delta = last.delta;
    switch (data.output) {
        case SOFTMAX_CROSS_ENTROPY:
            return softmax_cross_entropy(classes, weights, z, last.delta_ld, b, delta, last.delta_ld, data.order, begin,
                                         m, last.n_out, data.available, data.lanes);
        case SIGMOID_CROSS_ENTROPY:
            return sigmoid_cross_entropy(values, weights, z, last.delta_ld, b, delta, last.delta_ld, data.order, begin,
                                         m, last.n_out, data.available, data.lanes);
        case SQUARED_VALUES:
            return squared_error(values, weights, z, last.delta_ld, b, delta, last.delta_ld, last.g, last.slope,
                                 data.order, begin, m, last.n_out, data.available, data.lanes);
        case SQUARED_CLASSES:
            return squared_error(classes, weights, z, last.delta_ld, b, delta, last.delta_ld, last.g, last.slope,
                                 data.order, begin, m, last.n_out, data.available, data.lanes);
        case SOFTMAX_SQUARED_VALUES:
            return softmax_squared(values, weights, z, last.delta_ld, b, delta, last.delta_ld, data.order, begin, m,
                                   last.n_out, data.available, data.lanes);
        case SOFTMAX_PROBABILITIES:
            return softmax_probabilities(values, weights, z, last.delta_ld, b, delta, last.delta_ld, data.order, begin,
                                         m, last.n_out, data.available, data.lanes);
        default:
            return softmax_squared(classes, weights, z, last.delta_ld, b, delta, last.delta_ld, data.order, begin, m,
                                   last.n_out, data.available, data.lanes);
    }
}

template <class Rule>
__device__ __forceinline__ State state_of(const Moves& moves, int at) {
    State state = {};
    if (Rule::STATES > 0) state.first = moves.first[at];
    if (Rule::STATES > 1) state.second = moves.second[at];
    return state;
}

// Delta (+)= delta^T a of one layer and m rows; with the last rows of a step its parameters move by the rule. Returns
// the sum of squares of its weights before, if they decay: of each thread's in REAL, which are few.
template <class Rule>
__device__ __forceinline__ REAL gradient(const Layer& of, const Moves& moves, int m, bool begins, bool ends) {
    const Rule rule(moves.constants.of), of_biases = rule.of_biases();
    const REAL decay = moves.constants.of[0];
    const bool whole = begins && ends;
    REAL squares = 0;
    const auto place = [&](int j, int k) {
        return k < of.n_in ? of.weights_begin + j * of.n_in + k : of.biases_begin + j;
    };
    const auto ahead = [&](int j, int k) { return ends ? state_of<Rule>(moves, place(j, k)) : State{}; };
    products(of.gradient, of.delta, 1, of.delta_ld, of.a, 1, of.a_ld, of.n_out, of.n_in + 1, m, ahead,
             [&](int j, int k, REAL sum, State state) {
                 const int at = place(j, k);
                 if (!whole) {  // one question, not two for each parameter
                     if (!begins) sum += moves.Delta[at];
                     if (!ends) {
                         moves.Delta[at] = sum;
                         return;
                     }
                 }
                 const bool decays = decay != 0 && k < of.n_in;
                 REAL* theta = k < of.n_in ? of.weights + j * of.weights_ld + k : of.biases + j;
                 const REAL old = *theta;
                 REAL D = sum * moves.per_row;
                 if (decays) D += decay * old, squares += old * old;
                 *theta = (k < of.n_in ? rule : of_biases)(old, D, state.first, state.second);
                 if (Rule::STATES > 0) moves.first[at] = state.first;
                 if (Rule::STATES > 1) moves.second[at] = state.second;
             });
    return squares;
}

template <class Rule>
__device__ __forceinline__ double gradients(const Net& net, const Moves& moves, int m, bool begins, bool ends) {
    double squares = 0;
    for (int l = 0; l < net.count; ++l) squares += gradient<Rule>(net.layer(l), moves, m, begins, ends);
    return squares;
}

// m rows from order[begin] on, all the way, and those that follow are asked for. Adds to the thread's cost and hits.
__device__ __forceinline__ void part_of_step(const Net& net, const Data& data, const Moves& moves, int64 begin, int m,
                                             int64 next_begin, int next_m, bool begins, bool ends, Sums* sums) {
    if (data.from_bytes)
        fetch_rows(data, data.bytes, net.layer(0), begin, m);
    else
        fetch_rows(data, data.X, net.layer(0), begin, m);
    block_barrier();
    for (int l = 0; l < net.count; ++l) {
        if (l + 1 == net.count) {
            if (data.from_bytes)
                ask_for_rows(data, data.bytes, net.layer(0).n_in, next_begin, next_m);
            else
                ask_for_rows(data, data.X, net.layer(0).n_in, next_begin, next_m);
        }
        forward(net, l, m);
        block_barrier();
    }
    const Sums found = costs(data, net.layer(net.count - 1), begin, m);
    sums->cost += found.cost;
    sums->hits += found.hits;
    block_barrier();
    for (int l = net.count - 2; l >= 0; --l) {
        back(net, l, m);
        block_barrier();
    }
    double squares = 0;
    if (moves.rule == SGD) squares = gradients<Sgd>(net, moves, m, begins, ends);
    if (moves.rule == MOMENTUM) squares = gradients<Momentum>(net, moves, m, begins, ends);
    if (moves.rule == ADAM) squares = gradients<Adam>(net, moves, m, begins, ends);
    sums->cost += (double)moves.rows / 2 * moves.constants.of[0] * squares;
    block_barrier();
}

__device__ __forceinline__ Sums train(const Net& net, const Data& data, Moves moves, const REAL* constants, int64 width,
                                      int64 first, int64 steps, int64 batch, int64 part) {
    Sums sums = {0, 0};
    const int64 rows = (int64)moves.rows;
    for (int64 s = first; s < first + steps; ++s) {
        // so many always: then they stay in registers
        for (int k = 0; k < CONSTANTS; ++k) moves.constants.of[k] = k < width ? constants[s * width + k] : 0;
        for (int64 offset = 0; offset < rows; offset += part) {
            const int64 left = rows - offset;
            const bool ends = left <= part;
            // rows that follow; behind the last step none
            const int64 next = ends ? (s + 1 < first + steps ? rows : 0) : left - part;
            part_of_step(net, data, moves, s * batch + offset, (int)(ends ? left : part),
                         ends ? (s + 1) * batch : s * batch + offset + part, (int)(next < part ? next : part),
                         offset == 0, ends, &sums);
        }
    }
    return sums;
}

// Parameters between global and shared memory; on the way in also the ones beside each a, for `part` rows.
__device__ __forceinline__ void load_parameters(const Net& net, const REAL* theta, int part) {
    for (int l = 0; l < net.count; ++l) {
        const Layer of = net.layer(l);
        for (int k = threadIdx.x; k < of.n_in * of.n_out; k += blockDim.x)
            of.weights[k / of.n_in * of.weights_ld + k % of.n_in] = theta[of.weights_begin + k];
        for (int k = threadIdx.x; k < of.n_out; k += blockDim.x) of.biases[k] = theta[of.biases_begin + k];
        for (int k = threadIdx.x; k < part; k += blockDim.x) of.a[k * of.a_ld + of.n_in] = 1;
    }
}

__device__ __forceinline__ void store_parameters(const Net& net, REAL* theta) {
    for (int l = 0; l < net.count; ++l) {
        const Layer of = net.layer(l);
        for (int k = threadIdx.x; k < of.n_in * of.n_out; k += blockDim.x)
            theta[of.weights_begin + k] = of.weights[k / of.n_in * of.weights_ld + k % of.n_in];
        for (int k = threadIdx.x; k < of.n_out; k += blockDim.x) theta[of.biases_begin + k] = of.biases[k];
    }
}

extern "C" __global__ void __launch_bounds__(512)
    narrow_steps(REAL* theta, REAL* Delta, REAL* first, REAL* second, const REAL* X, const uint8* bytes, int from_bytes,
                 REAL scale, const int64* classes, const REAL* values, const REAL* weights, int weighted,
                 int64 available, const int64* table, const REAL* slopes, int layers, const int64* order, int64* step,
                 const REAL* constants, int64 width, double* totals, int64 steps, int64 batch, int64 rows, int64 part,
                 int rule, int output, int lanes) {
    __shared__ double cost_of_warp[MAX_WARPS], hits_of_warp[MAX_WARPS];
    DYNAMIC_SHARED(memory);
    const Net net = {table, slopes, memory, layers};
    const Data data = {X,     bytes,     scale,    classes,    values, weights,
                       order, available, weighted, from_bytes, output, lanes};
    const Moves moves = {theta, Delta, first, second, {}, (REAL)rows, 1 / (REAL)rows, rule};
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
