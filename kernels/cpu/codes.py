"""The numbers by which compiled code is told activations, pairs of output and cost, and rules; tests hold them
against fastnn's tables.
"""

IDENTITY, SIGMOID, TANH, RELU, LEAKY_RELU, SOFTMAX, SILU, GELU = range(8)  # activations
OF_Z = SILU  # from this one on g'(z) is not known from a = g(z), and programs keep it beside a
# pairs of an output with a cost; the last three are of identity outputs, and take the cost's parameter for the slope
SOFTMAX_CROSS_ENTROPY, SIGMOID_CROSS_ENTROPY, SQUARED_ERROR, SOFTMAX_SQUARED_ERROR = range(4)
HUBER, QUANTILE, ABSOLUTE_ERROR = range(4, 7)
SGD, MOMENTUM, ADAM, LARS, LAMB = range(5)  # rules
GRADIENT = -1  # no rule: D is written where Theta was
