// silu and gelu. Their g'(z) does not follow from a = g(z), so training stores it beside a, where `derivative_from`
// expects it. They have kernels of their own, so that those of the other activations need no registers for them.
//
//   activate_of_z       a = g(z), which may be z
//   derivative_of_z     slopes = g'(z), which may be z
//   bias_activate_of_z  a := g(a + b) in place, beside = g'(a + b), in one pass; a, beside (rows, cols) STORE, rows a_ld
//                       and beside_ld apart; each thread moves WIDTH neighbouring columns, fewer at a row's end
//
// NaN in is NaN out; at infinities the table in fastnn/activations.py holds: z beyond +-1000 counts as that where it
// would make NaN of a product with 0.
#include "activation.cuh"

#define BOUND ((REAL)1000)

__device__ __forceinline__ REAL from_below(REAL z) { return z < -BOUND ? -BOUND : z; }
__device__ __forceinline__ REAL within(REAL z) { return z > BOUND ? BOUND : from_below(z); }

__device__ __forceinline__ REAL normal_cdf(REAL z) { return (REAL)0.5 * erfc(-z * (REAL)0.70710678118654752); }

__device__ __forceinline__ REAL value_of_z(int g, REAL z) {
    const REAL low = from_below(z);
    return low * (g == SILU ? value_of(SIGMOID, 0, low) : normal_cdf(low));
}

__device__ __forceinline__ REAL slope_of_z(int g, REAL z) {
    const REAL y = within(z);
    if (g == SILU) {
        const REAL s = value_of(SIGMOID, 0, y);
        return s + s * (y * value_of(SIGMOID, 0, -y));
    }
    return normal_cdf(y) + y * (exp((REAL)-0.5 * y * y) * (REAL)0.39894228040143268);
}

extern "C" __global__ void activate_of_z(const REAL* z, REAL* a, int64 count, int g) {
    for (int64 i = first_index(); i < count; i += index_stride()) a[i] = value_of_z(g, z[i]);
}

extern "C" __global__ void derivative_of_z(const REAL* z, REAL* slopes, int64 count, int g) {
    for (int64 i = first_index(); i < count; i += index_stride()) slopes[i] = slope_of_z(g, z[i]);
}

extern "C" __global__ void bias_activate_of_z(STORE* a, int64 a_ld, STORE* beside, int64 beside_ld, const REAL* b,
                                              int64 rows, int64 cols, int g) {
    const int W = WIDTH;
    const int64 j = ((int64)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (j >= cols) return;
    const Wide<W, REAL> bias = fetch<W>(b + j, cols - j);
    for (int64 i = (int64)blockIdx.y * blockDim.y + threadIdx.y; i < rows; i += (int64)gridDim.y * blockDim.y) {
        Wide<W, STORE> value = fetch<W>(a + i * a_ld + j, cols - j), slope = {};
        for (int k = 0; k < W; ++k) {
            const REAL z = widen(value.of[k]) + bias.of[k];
            narrow(value_of_z(g, z), &value.of[k]);
            narrow(slope_of_z(g, z), &slope.of[k]);
        }
        put<W>(a + i * a_ld + j, value, cols - j);
        put<W>(beside + i * beside_ld + j, slope, cols - j);
    }
}
