// Dropout: units left out of a step, and the others times 1 / (1 - p), forward in activations and back in deltas.
//
//   x (rows, cols) STORE, rows x_ld apart, is multiplied in place: by 0 where the word of a unit is below `limit`, else
//   by `scale`. Its rows are those of the step's batch from `first` on, its columns all units of hidden layer `layer`,
//   counted from 0.
//   drawn (2,): the key of the epoch, two words, the lower half first; which step of the epoch the first one since
//   `order` was written is; step (1,): steps since then.
//
// The words are those of Philox4x32-10 (J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011,
// section 4.3) for the counter (unit / 4, row, step, layer), one for each of four units; the same as on all engines,
// see fastnn/dropout.py.
#include "common.cuh"

struct Words {
    unsigned of[4];
};

__device__ __forceinline__ Words philox(unsigned c0, unsigned c1, unsigned c2, unsigned c3, unsigned k0, unsigned k1) {
    for (int round = 0; round < 10; ++round) {
        const unsigned long long p = 0xD2511F53ull * c0, q = 0xCD9E8D57ull * c2;
        c0 = (unsigned)(q >> 32) ^ c1 ^ k0;
        c1 = (unsigned)q;
        c2 = (unsigned)(p >> 32) ^ c3 ^ k1;
        c3 = (unsigned)p;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

extern "C" __global__ void drop(STORE* x, int64 x_ld, int64 rows, int64 cols, const int64* drawn, const int64* step,
                                int64 first, int64 layer, int64 limit, REAL scale) {
    const int W = WIDTH;
    const int64 j = ((int64)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (j >= cols) return;
    const unsigned k0 = (unsigned)drawn[0], k1 = (unsigned)(drawn[0] >> 32), when = (unsigned)(drawn[1] + step[0]);
    for (int64 i = (int64)blockIdx.y * blockDim.y + threadIdx.y; i < rows; i += (int64)gridDim.y * blockDim.y) {
        Wide<W, STORE> value = fetch<W>(x + i * x_ld + j, cols - j);
        Words words;
        for (int k = 0; k < W; ++k) {
            if (k % 4 == 0)
                words = philox((unsigned)((j + k) / 4), (unsigned)(first + i), when, (unsigned)layer, k0, k1);
            const REAL factor = words.of[(j + k) % 4] < limit ? 0 : scale;
            narrow(widen(value.of[k]) * factor, &value.of[k]);
        }
        put<W>(x + i * x_ld + j, value, cols - j);
    }
}
