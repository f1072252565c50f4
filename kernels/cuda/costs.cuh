// Costs J of one output with its target, and their slopes, as fastnn/costs.py has them: what cost.cu, delta.cu and
// output.cuh share. z, a: the output before and after g; y: the target; NaN stays NaN.
#pragma once

#define POISSON 4
#define HUBER 5
#define QUANTILE 6

// softmax, cross_entropy: of the class itself, or times its probability; log sum_k e^(z_k - top), and below = z - top.
__device__ __forceinline__ REAL softmax_cost(REAL log_sum, REAL below) { return log_sum - below; }

// sigmoid, cross_entropy: log1p and max(z, 0), that keeps NaN, so that nothing overflows.
__device__ __forceinline__ REAL sigmoid_cost(REAL z, REAL y) {
    const REAL positive = z < 0 ? (REAL)0 : z;
    return positive - y * z + log1p(exp(-fabs(z)));
}
__device__ __forceinline__ bool wrong_side(REAL a, REAL y) { return (a >= (REAL)0.5) != (y >= (REAL)0.5); }

__device__ __forceinline__ double squared(REAL e) { return (double)e * e; }  // beyond float, perhaps

// softmax, squared_error: the slope, from e = a - y and dot = sum_j e_j a_j.
__device__ __forceinline__ REAL through_softmax(REAL a, REAL e, REAL dot) { return a * (e - dot); }

// Of errors e = a - y, a = e^z with POISSON, else z. `pair` is the code of POISSON, HUBER, QUANTILE or ABSOLUTE_ERROR;
// parameter: the threshold of HUBER, the quantile of QUANTILE. The cost of POISSON is from z; 0 log 0 is 0.
__device__ __forceinline__ REAL output_of(int pair, REAL z) { return pair == POISSON ? exp(z) : z; }

__device__ __forceinline__ REAL slope_of_error(int pair, REAL parameter, REAL e) {
    if (pair == POISSON) return e;
    if (pair == HUBER) return e > parameter ? parameter : e < -parameter ? -parameter : e;
    const REAL above = pair == QUANTILE ? 1 - parameter : (REAL)1, below = pair == QUANTILE ? -parameter : (REAL)-1;
    return e > 0 ? above : e < 0 ? below : e;
}

__device__ __forceinline__ double cost_of_error(int pair, REAL parameter, REAL z, REAL y) {
    if (pair == POISSON) return exp((double)z) - y - (y > 0 ? y * (z - log((double)y)) : 0);
    const REAL e = z - y;
    const double size = fabs((double)e), t = parameter;
    if (pair == HUBER) return size <= t ? size * size / 2 : t * (size - t / 2);
    return size * (pair != QUANTILE ? 1.0 : e > 0 ? 1 - t : t);
}
