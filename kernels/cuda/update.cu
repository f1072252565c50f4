// One optimizer step over the flat vector theta, in place (fastnn/optimizers.py), in one pass.
//
//   D = Delta / rows (+ decay * Theta on weights, never on biases)
//   sgd       theta -= rate D
//   momentum  v := mu v + D;  theta -= rate v
//   adam      m += (1 - beta1) (D - m);  v += (1 - beta2) (D^2 - v)
//             theta -= rate m / (sqrt(v correction) + eps)
//             rate = alpha / (1 - beta1^t), correction = 1 / (1 - beta2^t), from float64 on the host
//
//   theta, Delta, m, v (P,) REAL; Delta is left as it was.
//   low: the copy of theta for products, where STORE is bf16 (else not touched): rounded from the new theta.
//   spans (layers, 5): where a layer's weights begin, where its biases begin, where it ends; where both begin in low.
//   constants (steps, width) REAL: row step[0] holds decay = lambda/n and then the rule's numbers in the order above.
//   squares (layers, blocks) double: sums of Theta^2 over the weights before the step; written where decay is not 0.
//
// Layer l is done by the blocks with blockIdx.y = l. Neighbouring parameters are moved 16 bytes at a time where the
// arrays are aligned alike, one by one at the ends, and one by one everywhere where they are not.
#include "rules.cuh"

#define PARAMETERS (int)(16 / sizeof(REAL))

// The vectors of an update, all of one layout but low. Absent state is null.
struct Vectors {
    REAL* theta;
    const REAL* Delta;
    REAL *first, *second;
};

// W neighbours from i on: their new values into theta and low[i..]; returns the sum of their old squares if decay is not 0.
template <int W, class Rule>
__device__ __forceinline__ double update_neighbours(const Rule& rule, const Vectors& of, STORE* low, int64 i, REAL rows, REAL decay) {
    Wide<W, REAL> theta = fetch<W>(of.theta + i), first = {}, second = {};
    const Wide<W, REAL> Delta = fetch<W>(of.Delta + i);
    if (of.first) first = fetch<W>(of.first + i);
    if (of.second) second = fetch<W>(of.second + i);
    double squares = 0;
    for (int k = 0; k < W; ++k) {
        REAL D = Delta.of[k] / rows;
        if (decay != 0) {
            D += decay * theta.of[k];
            squares += (double)theta.of[k] * theta.of[k];
        }
        theta.of[k] = rule(theta.of[k], D, first.of[k], second.of[k]);
    }
    put<W>(of.theta + i, theta);
    if (of.first) put<W>(of.first + i, first);
    if (of.second) put<W>(of.second + i, second);
    if (sizeof(STORE) != sizeof(REAL)) {
        Wide<W, STORE> rounded;
        for (int k = 0; k < W; ++k) narrow(theta.of[k], &rounded.of[k]);
        put<W>(low + i, rounded);
    }
    return squares;
}

// theta[begin..end); low is shifted so that low[i] belongs to theta[i].
template <class Rule>
__device__ __forceinline__ double update_range(const Rule& rule, const Vectors& of, STORE* low, int64 begin, int64 end, REAL rows, REAL decay) {
    const int W = PARAMETERS;
    int64 head = begin;  // the first parameter at a multiple of 16 bytes
    while (head < end && !aligned<W>(of.theta + head)) ++head;
    const bool alike = aligned<W>(of.Delta + head) && (!of.first || aligned<W>(of.first + head)) && (!of.second || aligned<W>(of.second + head));
    const int64 many = alike ? (end - head) / W : 0, tail = head + many * W;
    double squares = 0;
    for (int64 k = first_index(); k < many; k += index_stride()) squares += update_neighbours<W>(rule, of, low, head + k * W, rows, decay);
    const int64 before = head - begin, alone = before + (end - tail);
    for (int64 k = first_index(); k < alone; k += index_stride()) squares += update_neighbours<1>(rule, of, low, k < before ? begin + k : tail + (k - before), rows, decay);
    return squares;
}

template <class Rule>
__device__ __forceinline__ void update(const Vectors& of, STORE* low, const int64* spans, const REAL* constants, double* squares, REAL rows, double* of_warp) {
    const int64* span = spans + 5 * (int64)blockIdx.y;  // begin, biases, end, begin in low, biases in low
    const Rule rule(constants);
    const REAL decay = constants[0];
    const double sum = update_range(rule, of, low + (span[3] - span[0]), span[0], span[1], rows, decay);
    update_range(rule, of, low + (span[4] - span[1]), span[1], span[2], rows, 0);
    if (decay == 0) return;  // the same for all threads
    const double total = block_sum(sum, of_warp);
    if (threadIdx.x == 0) squares[blockIdx.y * gridDim.x + blockIdx.x] = total;
}

extern "C" __global__ void update_sgd(REAL* theta, STORE* low, const REAL* Delta, const int64* spans, const REAL* constants, int64 width, const int64* step, double* squares, REAL rows) {
    __shared__ double of_warp[MAX_WARPS];
    update<Sgd>({theta, Delta, nullptr, nullptr}, low, spans, constants + step[0] * width, squares, rows, of_warp);
}

extern "C" __global__ void update_momentum(REAL* theta, STORE* low, const REAL* Delta, REAL* velocity, const int64* spans, const REAL* constants, int64 width, const int64* step, double* squares,
                                           REAL rows) {
    __shared__ double of_warp[MAX_WARPS];
    update<Momentum>({theta, Delta, velocity, nullptr}, low, spans, constants + step[0] * width, squares, rows, of_warp);
}

extern "C" __global__ void update_adam(REAL* theta, STORE* low, const REAL* Delta, REAL* first_moment, REAL* second_moment, const int64* spans, const REAL* constants, int64 width, const int64* step,
                                       double* squares, REAL rows) {
    __shared__ double of_warp[MAX_WARPS];
    update<Adam>({theta, Delta, first_moment, second_moment}, low, spans, constants + step[0] * width, squares, rows, of_warp);
}

// low := theta rounded, layer by layer: before the first step, and after theta was changed from outside.
extern "C" __global__ void round_theta(const REAL* theta, STORE* low, const int64* spans) {
    const int64* span = spans + 5 * (int64)blockIdx.y;
    for (int64 i = span[0] + first_index(); i < span[2]; i += index_stride()) narrow(theta[i], low + (i < span[1] ? i - span[0] + span[3] : i - span[1] + span[4]));
}
