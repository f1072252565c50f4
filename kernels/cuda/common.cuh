// What every kernel file shares: types, the warp and block reductions, the order used by argmax.
//
// REAL is float or double, given by -DREAL=float: what is computed in. STORE is what activations, deltas and the copy
// of the weights for products lie in: REAL, or bf16 beside float. Literals are written 0, 1 or (REAL)0.5: a plain 0.5
// would turn a float expression into double. Sizes and indices are 64-bit, because rows * columns may
// exceed 2^31. Rows of a matrix x lie x_ld elements apart where the kernel takes an x_ld (checked in sources.py), else
// one right after another; what lies between them is neither read nor written. No floating-point atomics anywhere: the
// same input gives the same bits.
#pragma once

#ifndef REAL
#error "compile with -DREAL=float or -DREAL=double"
#endif

typedef long long int64;
typedef unsigned char uint8;
struct bf16 {
    unsigned short bits;  // the upper half of a float
};
#ifndef STORE
#define STORE REAL
#endif

#define WARP 32
#define MAX_WARPS 32  // of a block: 1024 threads
#define FULL_WARP 0xffffffffu
// By their bits: the macros are in headers that NVRTC does not have.
#define INFINITE ((REAL)__int_as_float(0x7f800000))
#define NOT_A_NUMBER ((REAL)__int_as_float(0x7fffffff))

// The two faults are planted by tests only, which must then fail.
#ifdef FASTNN_FAULT_NO_BARRIER
#define block_barrier()
#define warp_barrier()
#else
#define block_barrier() __syncthreads()
#define warp_barrier() __syncwarp()
#endif
#ifdef FASTNN_FAULT_SHORT_SHUFFLE
#define FIRST_SHUFFLE 8
#else
#define FIRST_SHUFFLE 16
#endif

// Numbers in memory and in registers. bf16 is written here rather than taken from cuda_bf16.h, so that NVRTC
// needs no header, and the CPU rounds as the device does: to nearest, ties to even; NaN stays NaN.
__device__ __forceinline__ REAL widen(REAL x) { return x; }
__device__ __forceinline__ REAL widen(uint8 x) { return x; }
__device__ __forceinline__ REAL widen(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }
__device__ __forceinline__ void narrow(REAL x, REAL* y) { *y = x; }
__device__ __forceinline__ void narrow(REAL x, bf16* y) {
    const unsigned bits = __float_as_uint((float)x);
    y->bits = x != x ? 0x7fff : (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// W neighbours in memory, moved by one access of up to 16 bytes where the address allows it.
template <int W, class T>
struct alignas(W * sizeof(T) < 16 ? W * sizeof(T) : 16) Wide {
    T of[W];
};
template <int W, class T>
__device__ __forceinline__ bool aligned(const T* p) {
    return (unsigned long long)p % alignof(Wide<W, T>) == 0;
}
template <int W, class T>
__device__ __forceinline__ Wide<W, T> fetch(const T* p) {
    if (aligned<W>(p)) return *(const Wide<W, T>*)p;
    Wide<W, T> x;
    for (int k = 0; k < W; ++k) x.of[k] = p[k];
    return x;
}
template <int W, class T>
__device__ __forceinline__ void put(T* p, const Wide<W, T>& x) {
    if (aligned<W>(p))
        *(Wide<W, T>*)p = x;
    else
        for (int k = 0; k < W; ++k) p[k] = x.of[k];
}

// The first `count` of them where a row ends before: what lies behind is neither read nor written.
template <int W, class T>
__device__ __forceinline__ Wide<W, T> fetch(const T* p, int64 count) {
    if (count >= W) return fetch<W>(p);
    Wide<W, T> x = {};
    for (int k = 0; k < W - 1; ++k)
        if (k < count) x.of[k] = p[k];
    return x;
}
template <int W, class T>
__device__ __forceinline__ void put(T* p, const Wide<W, T>& x, int64 count) {
    if (count >= W)
        put<W>(p, x);
    else
        for (int k = 0; k < W - 1; ++k)
            if (k < count) p[k] = x.of[k];
}
#define WIDTH (int)(16 / sizeof(STORE))  // numbers of STORE in 16 bytes

// Where a thread of a one-dimensional grid starts, and how far it strides.
__device__ __forceinline__ int64 first_index() { return (int64)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ __forceinline__ int64 index_stride() { return (int64)gridDim.x * blockDim.x; }

// Kernels that give each row to one warp: the warp's number in the grid, the warps in the grid, the lane.
__device__ __forceinline__ int64 first_row() { return first_index() / WARP; }
__device__ __forceinline__ int64 row_stride() { return index_stride() / WARP; }
__device__ __forceinline__ int lane_id() { return threadIdx.x % WARP; }

// Sum over the warp, the same bits in every lane: at each step both partners add the same two numbers.
template <class T>
__device__ __forceinline__ T warp_sum(T value) {
    for (int step = FIRST_SHUFFLE; step > 0; step /= 2) value += __shfl_xor_sync(FULL_WARP, value, step);
    return value;
}

// The same over `lanes` neighbouring lanes, a power of two; the whole warp calls it.
template <class T>
__device__ __forceinline__ T group_sum(T value, int lanes) {
    for (int step = lanes * FIRST_SHUFFLE / WARP; step > 0; step /= 2) value += __shfl_xor_sync(FULL_WARP, value, step);
    return value;
}
__device__ __forceinline__ REAL group_max(REAL value, int lanes) {
    for (int step = lanes * FIRST_SHUFFLE / WARP; step > 0; step /= 2)
        value = fmax(value, __shfl_xor_sync(FULL_WARP, value, step));
    return value;
}

// Largest number of the warp; NaN is passed over unless there is nothing else.
__device__ __forceinline__ REAL warp_max(REAL value) {
    for (int step = FIRST_SHUFFLE; step > 0; step /= 2) value = fmax(value, __shfl_xor_sync(FULL_WARP, value, step));
    return value;
}

// Whether entry (value, index) comes before (best, best_index) as argmax of NumPy has it: NaN is the
// largest, and of equals the first wins. A total order, so the result does not depend on the reduction.
__device__ __forceinline__ bool precedes(REAL value, int64 index, REAL best, int64 best_index) {
    const bool is_nan = value != value, best_is_nan = best != best;
    if (is_nan != best_is_nan) return is_nan;
    if (is_nan || value == best) return index < best_index;
    return value > best;
}

// Position of the largest among each lane's (best, best_index), the same in all lanes of the group.
__device__ __forceinline__ int64 group_argmax(REAL best, int64 best_index, int lanes) {
    for (int step = lanes * FIRST_SHUFFLE / WARP; step > 0; step /= 2) {
        const REAL value = __shfl_xor_sync(FULL_WARP, best, step);
        const int64 index = __shfl_xor_sync(FULL_WARP, best_index, step);
        if (precedes(value, index, best, best_index)) best = value, best_index = index;
    }
    return best_index;
}

// Position of the largest of row[0..n), n >= 1; one warp, the same in every lane.
__device__ __forceinline__ int64 warp_argmax(const REAL* row, int64 n) {
    REAL best = -INFINITE;
    int64 best_index = n;  // behind every real entry, so lanes without one never win
    for (int64 j = lane_id(); j < n; j += WARP)
        if (precedes(row[j], j, best, best_index)) best = row[j], best_index = j;
    return group_argmax(best, best_index, WARP);
}

// Sum over the block in a fixed order, valid in thread 0. All threads call it; blocks are whole warps.
// of_warp: shared memory for MAX_WARPS numbers, used by this call alone.
__device__ __forceinline__ double block_sum(double value, double* of_warp) {
    value = warp_sum(value);
    if (lane_id() == 0) of_warp[threadIdx.x / WARP] = value;
    block_barrier();
    double total = 0;
    if (threadIdx.x == 0)
        for (unsigned warp = 0; warp < blockDim.x / WARP; ++warp) total += of_warp[warp];
    return total;
}
