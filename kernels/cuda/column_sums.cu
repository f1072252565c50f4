// Delta_b: sums over the rows of x, column by column.
//
//   sums[c, j] (+)= sum of x[i, j] over the rows i of chunk c      x (rows, cols), sums (chunks, cols)
//
// Overwrites sums, or adds to them where `accumulate` is not 0. One block sums TILE columns of one chunk
// (blockIdx.y) of consecutive rows, in a fixed order. Tall arrays take two launches: many chunks into
// scratch memory, then that scratch, (chunks, cols), as one chunk into Delta_b.
#include "common.cuh"

#define TILE 32    // columns of a block: threadIdx.x
#define ROW_LANES 8  // rows summed side by side: threadIdx.y

extern "C" __global__ void column_sums(const REAL* x, REAL* sums, int64 rows, int64 cols, int64 rows_per_chunk, int accumulate) {
    __shared__ REAL of_lane[ROW_LANES][TILE];
    const int64 j = (int64)blockIdx.x * TILE + threadIdx.x;
    const int64 start = blockIdx.y * rows_per_chunk;
    const int64 stop = start + rows_per_chunk < rows ? start + rows_per_chunk : rows;
    REAL sum = 0;
    if (j < cols)
        for (int64 i = start + threadIdx.y; i < stop; i += ROW_LANES) sum += x[i * cols + j];
    of_lane[threadIdx.y][threadIdx.x] = sum;
    block_barrier();
    if (threadIdx.y != 0 || j >= cols) return;
    REAL total = 0;
    for (int lane = 0; lane < ROW_LANES; ++lane) total += of_lane[lane][threadIdx.x];
    REAL* target = sums + blockIdx.y * cols + j;
    *target = accumulate ? *target + total : total;
}
