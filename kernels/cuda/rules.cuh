// The optimizers' rules for one parameter: its new value from its gradient D; the state moves in place. See update.cu.
//
// constants: a row of the step, of which [0] is decay and the others the rule's numbers. STATES: how many vectors the
// state is. of_biases: the rule for these, which have no weight decay of the rule's own.
#pragma once
#include "common.cuh"

struct Sgd {
    static constexpr int STATES = 0;
    REAL rate;
    __device__ Sgd(const REAL* constants) : rate(constants[1]) {}
    __device__ Sgd of_biases() const { return *this; }
    __device__ REAL operator()(REAL theta, REAL D, REAL&, REAL&) const { return theta - rate * D; }
};

struct Momentum {
    static constexpr int STATES = 1;
    REAL rate, mu;
    __device__ Momentum(const REAL* constants) : rate(constants[1]), mu(constants[2]) {}
    __device__ Momentum of_biases() const { return *this; }
    __device__ REAL operator()(REAL theta, REAL D, REAL& velocity, REAL&) const {
        velocity = mu * velocity + D;
        return theta - rate * velocity;
    }
};

struct Adam {
    static constexpr int STATES = 2;
    REAL rate, one_minus_beta1, one_minus_beta2, correction, eps, kept;
    __device__ Adam(const REAL* c)
        : rate(c[1]), one_minus_beta1(c[2]), one_minus_beta2(c[3]), correction(c[4]), eps(c[5]), kept(c[6]) {}
    __device__ Adam of_biases() const {
        Adam other = *this;
        other.kept = 1;
        return other;
    }
    __device__ REAL operator()(REAL theta, REAL D, REAL& m, REAL& v) const {
        m += one_minus_beta1 * (D - m);
        v += one_minus_beta2 * (D * D - v);
        return kept * theta - rate * (m / (sqrt(v * correction) + eps));
    }
};
