// One optimizer step over the flat vector theta, in place (fastnn/optimizers.py), in one pass.
//
//   D = Delta / rows (+ decay * Theta on weights, never on biases)
//   sgd       theta -= rate D
//   momentum  v := mu v + D;  theta -= rate v
//   adam      m += (1 - beta1) (D - m);  v += (1 - beta2) (D^2 - v)
//             theta := kept theta - rate m / (sqrt(v correction) + eps)
//             rate = alpha / (1 - beta1^t), correction = 1 / (1 - beta2^t), kept = 1 - alpha weight_decay (for biases
//             1), from float64 on the host
//
//   theta, m, v (P,) REAL; Delta REAL, padded (layers.cuh), is left as it was.
//   low: the copy of theta for products, padded, rounded from the new theta; theta itself where there is none.
//   spans (layers, 7): layers.cuh. What lies between the rows of Delta and low is neither read nor written.
//   constants (steps, width) REAL: row step[0] holds decay = lambda/n and then the rule's numbers in the order above.
//   squares (layers, blocks) double: sums of Theta^2 over the weights before the step; written where decay is not 0.
//
// Layer l is done by the blocks with blockIdx.y = l. Neighbouring parameters are moved 16 bytes at a time where theta
// and the state are aligned alike, one by one at the ends, and one by one everywhere where they are not.
#include "layers.cuh"
#include "rules.cuh"

#define PARAMETERS (int)(16 / sizeof(REAL))

// The vectors of an update. Absent state is null.
struct Vectors {
    REAL* theta;
    const REAL* Delta;
    STORE* low;
    REAL *first, *second;
};

// W neighbours from theta[i] on, which `walk` finds in Delta and low: their new values; returns the sum of their old
// squares if decay is not 0.
template <int W, class Rule>
__device__ __forceinline__ double update_neighbours(const Rule& rule, const Vectors& of, int64 i, const Part& part,
                                                    const Walk& walk, REAL rows, REAL decay) {
    Wide<W, REAL> theta = fetch<W>(of.theta + i), first = {}, second = {};
    const Wide<W, REAL> Delta = fetch<W>(of.Delta + part.padded, walk);
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
    if ((const void*)of.low != (const void*)of.theta) {
        Wide<W, STORE> rounded;
        for (int k = 0; k < W; ++k) narrow(theta.of[k], &rounded.of[k]);
        put<W>(of.low + part.padded, walk, rounded);
    }
    return squares;
}

template <class Rule>
__device__ __forceinline__ double update_part(const Rule& rule, const Vectors& of, const Part& part, REAL rows,
                                              REAL decay) {
    const int W = PARAMETERS;
    int64 head = part.begin;  // the first parameter at a multiple of 16 bytes
    while (head < part.end && !aligned<W>(of.theta + head)) ++head;
    const bool alike = (!of.first || aligned<W>(of.first + head)) && (!of.second || aligned<W>(of.second + head));
    const int64 many = alike ? (part.end - head) / W : 0, tail = head + many * W;
    double squares = 0;
    Walk walk(part, head - part.begin + first_index() * W, index_stride() * W);
    for (int64 k = first_index(); k < many; k += index_stride()) {
        squares += update_neighbours<W>(rule, of, head + k * W, part, walk, rows, decay);
        advance(&walk);
    }
    const int64 before = head - part.begin, alone = before + (part.end - tail);
    for (int64 k = first_index(); k < alone; k += index_stride()) {
        const int64 i = k < before ? part.begin + k : tail + (k - before);
        squares += update_neighbours<1>(rule, of, i, part, Walk(part, i - part.begin, 0), rows, decay);
    }
    return squares;
}

template <class Rule>
__device__ __forceinline__ void update(const Vectors& of, const int64* spans, const REAL* constants, double* squares,
                                       REAL rows, double* of_warp) {
    const Rule rule(constants);
    const REAL decay = constants[0];
    const double sum = update_part(rule, of, part_of_layer(spans, blockIdx.y, true), rows, decay);
    update_part(rule.of_biases(), of, part_of_layer(spans, blockIdx.y, false), rows, 0);
    if (decay == 0) return;  // the same for all threads
    const double total = block_sum(sum, of_warp);
    if (threadIdx.x == 0) squares[blockIdx.y * gridDim.x + blockIdx.x] = total;
}

extern "C" __global__ void update_sgd(REAL* theta, STORE* low, const REAL* Delta, const int64* spans,
                                      const REAL* constants, int64 width, const int64* step, double* squares,
                                      REAL rows) {
    __shared__ double of_warp[MAX_WARPS];
    update<Sgd>({theta, Delta, low, nullptr, nullptr}, spans, constants + step[0] * width, squares, rows, of_warp);
}

extern "C" __global__ void update_momentum(REAL* theta, STORE* low, const REAL* Delta, REAL* velocity,
                                           const int64* spans, const REAL* constants, int64 width, const int64* step,
                                           double* squares, REAL rows) {
    __shared__ double of_warp[MAX_WARPS];
    update<Momentum>({theta, Delta, low, velocity, nullptr}, spans, constants + step[0] * width, squares, rows,
                     of_warp);
}

extern "C" __global__ void update_adam(REAL* theta, STORE* low, const REAL* Delta, REAL* first_moment,
                                       REAL* second_moment, const int64* spans, const REAL* constants, int64 width,
                                       const int64* step, double* squares, REAL rows) {
    __shared__ double of_warp[MAX_WARPS];
    update<Adam>({theta, Delta, low, first_moment, second_moment}, spans, constants + step[0] * width, squares, rows,
                 of_warp);
}

// low := theta rounded, layer by layer: before the first step, and after theta was changed from outside.
extern "C" __global__ void round_theta(const REAL* theta, STORE* low, const int64* spans) {
    for (int biases = 0; biases < 2; ++biases) {
        const Part part = part_of_layer(spans, blockIdx.y, !biases);
        Walk walk(part, first_index(), index_stride());
        for (int64 i = part.begin + first_index(); i < part.end; i += index_stride()) {
            narrow(theta[i], low + part.padded + place(walk, 0));
            advance(&walk);
        }
    }
}
