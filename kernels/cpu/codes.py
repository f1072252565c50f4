"""The numbers by which compiled code is told activations, pairs of output and cost, and rules; tests hold them
against fastnn's tables.
"""

IDENTITY, SIGMOID, TANH, RELU, LEAKY_RELU, SOFTMAX, EXP, SILU, GELU = range(9)  # activations
OF_Z = SILU  # from this one on g'(z) is not known from a = g(z), and programs keep it beside a
# pairs of an output with a cost; the last four take the cost's parameter for the slope, which their outputs
# (exp of the first, identity of the others) have not
SOFTMAX_CROSS_ENTROPY, SIGMOID_CROSS_ENTROPY, SQUARED_ERROR, SOFTMAX_SQUARED_ERROR = range(4)
POISSON, HUBER, QUANTILE, ABSOLUTE_ERROR = range(4, 8)
GIVEN = 8  # no pair: the values of the rows are the deltas of the output layer themselves
SGD, MOMENTUM, ADAM, LARS, LAMB = range(5)  # rules
GRADIENT = -1  # no rule: D is written where Theta was
