"""The numbers of the CPU engine's model of a machine (fastnn/backends/cpu_plan.py): what a step is made of, and where
one way gives way to another.

Fitted to two cores of one server (AVX-512, AMX, 2 MiB of second-level cache a core) by running the plans side by side
(bench/plans.py). More than two cores are extrapolation. Rates are operations a second of one core; seconds are of one
such thing; bytes, rows and numbers as named.
"""

# ---- products -------------------------------------------------------------------------------------------

PANELS_FLOPS = 1.8e11
BLAS_FLOPS = 1.1e11
SCIPY_FLOPS = 0.6e11  # of SciPy's BLAS with fewer rows than
SCIPY_ROWS = 128  # these; MKL is not that slow there
MKL_FAR_FLOPS = 1.7e11  # of MKL with parameters beyond the cache, whose layers are wide
MKL_FAR_STATE_FLOPS = 1.95e11  # and for rules with a state, which panels would pack too
MKL_WIDE_FLOPS = 1.5e11  # of MKL in the cache, where no hidden layer is narrower than
MKL_WIDTH = 256  # this, and a batch has so many
MKL_ROWS = 128  # rows
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
VECTOR_SECONDS = 25e-6  # to pack and unpack theta, and each vector of the rule's state, for panels
NUMBER_SECONDS = 1.2e-9  # and each of its numbers, in the cache
FAR_NUMBER_SECONDS = 2.2e-9  # and beyond
SLICE_SECONDS = 0.2  # as in fastnn.training, which is not imported for a number

# ---- the matrix unit (kernels/cpu/amx.py) ---------------------------------------------------------------

AMX_FLOPS = 2.7e11  # of float32, in whole tiles
AMX_DATA_SECONDS = 0.32e-9  # a number of a row of data, laid out
AMX_OCTET_SECONDS = 0.15e-9  # the same of uint8
AMX_NUMBER_SECONDS = 0.215e-9  # an activation or delta, laid out
AMX_PARAMETER_SECONDS = 2.35e-9  # a parameter, moved and laid out
AMX_UPPER_SECONDS = 1.25e-9  # an upper weight once more, for the way back
AMX_STEP_SECONDS = 1e-6  # a step in which threads meet
AMX_ROWS_TO_COPY = 64  # with fewer rows a thread uses weights that others have laid out,
AMX_SHARED_SECONDS = 8e-6  # and the step waits for them
AMX_FEW = 4  # inputs of the first layer, or outputs of the last, which vectors multiply (kernels/cpu/amx_thin.py)
# Rows of a thread's tile: half as many where products are too small to wait for rows behind, or parameters do not stay
# near; a quarter where products are tiny; twice as many where rows are long and the first layer has few units.
AMX_ROWS = 256
AMX_NARROW_PARAMETERS = 70_000  # of a network whose products are small,
AMX_TINY_PARAMETERS = 10_000  # and of one whose are tiny
AMX_LAST_UNITS = 128  # few: their gradient takes the last rows first (kernels/cpu/amx_parts.py)
AMX_MULTIPLE = 32  # of rows
PAIR_OF_VECTORS = 32  # numbers

# ---- how far panels go ----------------------------------------------------------------------------------

PANELS_BYTES = 3 << 20  # of parameters, which stay in a core's cache
PANELS_BYTES_MKL = 10 << 20  # and further away, weighed against MKL
PANELS_BYTES_FAR = 16 << 20  # or SciPy's BLAS, or for one row
SHARED_BYTES = 64 << 20  # and where each thread has its share of the weights

# ---- rows of a tile -------------------------------------------------------------------------------------
# With more, the deltas of a panel leave the first-level cache, or the data of the next tile push out what is needed
# before. Parameters from further away are read once a tile, so they want more rows; one vector of outputs does little
# with a row, which is best used again soon.

PANELS_ROWS = 64
PANELS_FAR_ROWS = 256  # of parameters beyond the cache
PANELS_SHORT_ROWS = 192  # of rows of at most
SHORT_ROW_BYTES = 1024  # so many bytes
PANELS_NARROW_ROWS = 32  # where outputs fill one vector, of rows of at least
LONG_ROW_BYTES = 2048  # so many bytes
VECTOR_BYTES = 64  # of the machine that this was fitted to
TILE_MULTIPLE = 16  # of rows
# Rows, activations and deltas that BLAS is given at a time. A narrow net's products are small, so its tile stays in the
# second-level cache; a wide one's want many rows.
NARROW_PARAMETERS = 60_000  # of a narrow net, at most
NARROW_BYTES = 1 << 18
WIDE_BYTES = 3 << 20
