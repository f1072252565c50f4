// Costs of the errors e = a - y of identity outputs, and their slopes, as fastnn/costs.py has them. `pair` is the code
// of HUBER, QUANTILE or ABSOLUTE_ERROR; parameter: the threshold of the first, the quantile of the second. NaN stays NaN.
#pragma once

#define HUBER 4
#define QUANTILE 5

__device__ __forceinline__ REAL slope_of_error(int pair, REAL parameter, REAL e) {
    if (pair == HUBER) return e > parameter ? parameter : e < -parameter ? -parameter : e;
    const REAL above = pair == QUANTILE ? 1 - parameter : (REAL)1, below = pair == QUANTILE ? -parameter : (REAL)-1;
    return e > 0 ? above : e < 0 ? below : e;
}

__device__ __forceinline__ double cost_of_error(int pair, REAL parameter, REAL e) {
    const double size = fabs((double)e), t = parameter;
    if (pair == HUBER) return size <= t ? size * size / 2 : t * (size - t / 2);
    return size * (pair != QUANTILE ? 1.0 : e > 0 ? 1 - t : t);
}
