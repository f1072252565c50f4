"""The numbers by which compiled code is told activations, pairs of output and cost, and rules; tests hold them
against fastnn's tables.
"""

IDENTITY, SIGMOID, TANH, RELU, LEAKY_RELU, SOFTMAX = range(6)  # activations
SOFTMAX_CROSS_ENTROPY, SIGMOID_CROSS_ENTROPY, SQUARED_ERROR, SOFTMAX_SQUARED_ERROR = range(4)  # pairs
SGD, MOMENTUM, ADAM, LARS, LAMB = range(5)  # rules
