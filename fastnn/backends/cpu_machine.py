"""The numbers of the CPU engine's model of a machine (fastnn/backends/cpu_plan.py): what a step is made of, and where
one way gives way to another.

Fitted to two cores of one server (AVX-512, AMX, 2 MiB of second-level cache a core) by running the plans side by side
(bench/plans.py). More than two cores are extrapolation. Rates are operations a second of one core; seconds are of one
such thing; bytes, rows and numbers as named.
"""

# ---- products -------------------------------------------------------------------------------------------

PANELS_FLOPS = 1.8e11
BLAS_FLOPS = 1.1e11
SCIPY_ROWS = 128  # with fewer rows SciPy's BLAS is slow, MKL is not
SCIPY_FLOPS = 0.6e11  # SciPy's BLAS with that few
MKL_FAR_FLOPS = 1.8e11  # MKL, wide layers, parameters beyond the cache
MKL_FAR_STATE_FLOPS = 1.95e11  # the same for rules with a state, which panels would have to pack too
MKL_WIDTH = 256  # a network whose hidden layers are all this wide is wide to MKL,
MKL_ROWS = 128  # with batches of this many rows
MKL_WIDE_FLOPS = 1.5e11  # MKL, such a network, parameters in the cache
CALL_SECONDS = 0.5e-6  # a call of BLAS
TURN_SECONDS = 0.35e-9  # an upper weight, transposed for panels
OCTET_SECONDS = 0.14e-9  # a number of uint8 data, which is converted, beside one of float32

# ---- threads that meet ----------------------------------------------------------------------------------

MEETING_SECONDS = 4.5e-6  # a step of two threads
BYTES_PER_SECOND = 1.4e10  # parameters and gradients between cores, and parameters from beyond the cache
BLAS_SLICES_UP_TO = 0.75  # parameters per number of the batch's rows, up to which slices move less than sharing does
SPLIT_SECONDS = 4e-6  # two meetings for each layer and tile whose weights two threads share
SPLIT_NUMBER_SECONDS = 1e-9  # a sum or delta of theirs that crosses, written, read and added up
SPLIT_ROW_SECONDS = 0.06e-6  # a row, of which every thread reads a part
SPLIT_NARROW_ROW_SECONDS = 0.02e-6  # the same where a row's outputs fill one vector
SPLIT_INPUTS = 32  # of the widest lower layer, for each thread: with fewer its sums cost more to begin and add up

# ---- parameters that do not stay in a core's cache ------------------------------------------------------

PANELS_PASSES = 1.3  # times they are read in a step
BLAS_PASSES = 5.0
BLAS_STATE_PASSES = 3.0  # for rules with a state, fitted apart
GRADIENT_PASSES = 2.0  # more where shared weights have a gradient, because there are several tiles

# ---- a run, which is an epoch, or what fits into a slice of `fit` ---------------------------------------

TEAM_SECONDS = 150e-6  # to call a team
# To pack and unpack theta, and each vector of the rule's state, for panels: once, and for each of its numbers, in the
# cache or beyond it.
VECTOR_SECONDS = 25e-6
NUMBER_SECONDS = 0.9e-9
FAR_NUMBER_SECONDS = 0.9e-9
SLICE_SECONDS = 0.2  # as in fastnn.training, which is not imported for a number

# ---- the matrix unit (kernels/cpu/amx.py) ---------------------------------------------------------------

AMX_FLOPS = 2.7e11  # of float32, in whole tiles
AMX_SHARED = 0.5  # of that, where others may be on the unit (fastnn/backends/cpu_unit.py): 0.2 to 0.7 were seen
AMX_DATA_SECONDS = 0.32e-9  # a number of a row of data, laid out
AMX_OCTET_SECONDS = 0.15e-9  # the same of uint8
AMX_NUMBER_SECONDS = 0.215e-9  # an activation or delta, laid out
AMX_PARAMETER_SECONDS = 2.35e-9  # a parameter, moved and laid out
AMX_UPPER_SECONDS = 1.25e-9  # an upper weight once more, for the way back
AMX_STEP_SECONDS = 1e-6  # a step in which threads meet
AMX_ROWS_TO_COPY = 64  # with fewer rows a thread does not lay out all weights itself, but uses what others laid out
AMX_SHARED_SECONDS = 8e-6  # a step waits that long for them
# Inputs of the first layer, or outputs of the last, up to which vectors multiply it: FEW of kernels/cpu/amx_thin.py,
# which is not imported for a number (a test compares).
AMX_FEW = 4
# Rows of a thread's tile: half as many where products are too small to wait for rows behind, or parameters do not stay
# near; a quarter where products are tiny; twice as many where rows are long and the first layer has few units.
AMX_ROWS = 256
AMX_NARROW_PARAMETERS = 70_000  # a network with fewer has small products
AMX_TINY_PARAMETERS = 10_000  # a network with fewer has tiny ones
AMX_LAST_UNITS = 128  # up to that many units of the first layer, its gradient takes the last rows first (amx_parts.py)
AMX_MULTIPLE = 32  # rows of a tile are a multiple of it
PAIR_OF_VECTORS = 32  # numbers

# ---- how far panels go ----------------------------------------------------------------------------------

# Bytes of parameters up to which panels are considered.
PANELS_BYTES = 3 << 20  # those stay in a core's cache
PANELS_BYTES_MKL = 10 << 20  # beside MKL
PANELS_BYTES_FAR = 16 << 20  # beside SciPy's BLAS, and for one row
SHARED_BYTES = 64 << 20  # where each thread has its share of the weights

# ---- rows of a tile -------------------------------------------------------------------------------------
# With more, the deltas of a panel leave the first-level cache, or the data of the next tile push out what is needed
# before. Parameters from further away are read once a tile, so they want more rows; one vector of outputs does little
# with a row, which is best used again soon.

PANELS_ROWS = 64
PANELS_FAR_ROWS = 256  # of parameters beyond the cache
SHORT_ROW_BYTES = 1024  # a row of data up to this long is short,
PANELS_SHORT_ROWS = 192  # and a tile has this many of them
LONG_ROW_BYTES = 2048  # a row of data from this length on is long,
PANELS_NARROW_ROWS = 32  # and a tile has this many of them where outputs fill one vector
VECTOR_BYTES = 64  # a vector of the machine that this was fitted to
TILE_MULTIPLE = 16  # rows of a tile are a multiple of it
# Rows, activations and deltas that BLAS is given at a time. A narrow net's products are small, so its tile stays in the
# second-level cache; a wide one's want many rows.
NARROW_PARAMETERS = 60_000  # a net with at most that many is narrow
NARROW_BYTES = 1 << 18
WIDE_BYTES = 3 << 20
