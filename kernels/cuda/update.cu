// One optimizer step over the flat vector theta, in place (fastnn/optimizers.py).
//
//   D = Delta / rows (+ decay * Theta on weights, never on biases)
//   sgd       theta -= rate D
//   momentum  v := mu v + D;  theta -= rate v
//   adam      m += (1 - beta1) (D - m);  v += (1 - beta2) (D^2 - v)
//             theta -= rate m / (sqrt(v correction) + eps)
//             rate = alpha / (1 - beta1^t), correction = 1 / (1 - beta2^t), from float64 on the host
//
//   theta, Delta, m, v (P,) REAL; Delta is left as it was.
//   spans (layers, 3): where a layer's weights begin, where its biases begin, where it ends.
// Layer l is done by the blocks with blockIdx.y = l, so a thread knows weight from bias by one comparison.
#include "common.cuh"

struct Span {
    int64 begin, biases, end;
};

__device__ __forceinline__ Span span_of_layer(const int64* spans) {
    const int64* row = spans + 3 * (int64)blockIdx.y;
    return {row[0], row[1], row[2]};
}

__device__ __forceinline__ REAL gradient(const REAL* theta, const REAL* Delta, int64 i, const Span& span, REAL rows, REAL decay) {
    const REAL D = Delta[i] / rows;
    return decay != 0 && i < span.biases ? D + decay * theta[i] : D;
}

extern "C" __global__ void update_sgd(REAL* theta, const REAL* Delta, const int64* spans, REAL rows, REAL decay, REAL rate) {
    const Span span = span_of_layer(spans);
    for (int64 i = span.begin + first_index(); i < span.end; i += index_stride())
        theta[i] -= rate * gradient(theta, Delta, i, span, rows, decay);
}

extern "C" __global__ void update_momentum(REAL* theta, const REAL* Delta, REAL* velocity, const int64* spans, REAL rows, REAL decay, REAL rate, REAL mu) {
    const Span span = span_of_layer(spans);
    for (int64 i = span.begin + first_index(); i < span.end; i += index_stride()) {
        const REAL v = mu * velocity[i] + gradient(theta, Delta, i, span, rows, decay);
        velocity[i] = v;
        theta[i] -= rate * v;
    }
}

extern "C" __global__ void update_adam(REAL* theta, const REAL* Delta, REAL* first_moment, REAL* second_moment, const int64* spans, REAL rows, REAL decay,
                                       REAL rate, REAL one_minus_beta1, REAL one_minus_beta2, REAL correction, REAL eps) {
    const Span span = span_of_layer(spans);
    for (int64 i = span.begin + first_index(); i < span.end; i += index_stride()) {
        const REAL D = gradient(theta, Delta, i, span, rows, decay);
        const REAL m = first_moment[i] + one_minus_beta1 * (D - first_moment[i]);
        const REAL v = second_moment[i] + one_minus_beta2 * (D * D - second_moment[i]);
        first_moment[i] = m;
        second_moment[i] = v;
        theta[i] -= rate * (m / (sqrt(v * correction) + eps));
    }
}
