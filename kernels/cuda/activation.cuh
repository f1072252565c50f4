// a = g(z) and g'(z) of the elementwise activations, selected by the code of fastnn/activations.py.
//
// g'(z) comes from a = g(z) alone, so a hidden layer may overwrite z with a. For leaky_relu that works
// because the slope is >= 0: a > 0 exactly where z > 0. For silu and gelu (of_z.cu) no such way exists: there g'(z)
// itself is passed as a. NaN in is NaN out; at 0 and at infinities the
// table in fastnn/activations.py holds.
#pragma once
#include "common.cuh"

enum { IDENTITY = 0, SIGMOID = 1, TANH = 2, RELU = 3, LEAKY_RELU = 4, EXP = 6, SILU = 7, GELU = 8 };

__device__ __forceinline__ REAL value_of(int g, REAL slope, REAL z) {
    switch (g) {
        case SIGMOID: {
            const REAL e = exp(-fabs(z));  // <= 1, so nothing overflows
            return (z < 0 ? e : (REAL)1) / (1 + e);
        }
        case TANH:
            return tanh(z);
        case RELU:
            return z < 0 ? (REAL)0 : z;  // the comparison is false for NaN, which stays
        case LEAKY_RELU:
            if (!(z < 0)) return z;
            return slope == 0 ? (REAL)0 : slope * z;  // 0 * -inf would be NaN
        case EXP:
            return exp(z);
        default:
            return z;
    }
}

__device__ __forceinline__ REAL derivative_from(int g, REAL slope, REAL a) {
    if (g == IDENTITY) return 1;  // the constant, also at NaN
    if (a != a) return a;
    switch (g) {
        case SIGMOID:
            return a * (1 - a);
        case TANH:
            return 1 - a * a;
        case RELU:
            return a > 0 ? 1 : 0;
        case EXP:
        case SILU:
        case GELU:
            return a;
        default:
            return a > 0 ? (REAL)1 : slope;
    }
}
