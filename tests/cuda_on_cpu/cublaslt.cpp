// A stand-in for libcublasLt without a device: real descriptors, checked as the library's documentation says; the product itself is
// handed to a callback. Whoever passes a wrong size, a destroyed object or somebody else's algorithm gets INVALID_VALUE.
// Counts the objects that live. Written from cublasLt.h's documentation, not from fastnn's binding.
#include <cstdint>
#include <cstring>
#include <map>
#include <set>
#include <string>

enum Status { SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum DescAttribute { TRANSA = 3, TRANSB = 4, EPILOGUE = 7, BIAS_POINTER = 8, AUX_POINTER = 11, AUX_LD = 12, BIAS_TYPE = 26 };
enum PreferenceAttribute { MAX_WORKSPACE = 1, REDUCTION_MASK = 3, ALIGN_A = 5, ALIGN_B = 6, ALIGN_C = 7, ALIGN_D = 8 };

struct Attributes {  // of a product or a preference
    std::map<int, std::string> bytes;
    int64_t get(int which, int64_t otherwise) const {
        auto found = bytes.find(which);
        if (found == bytes.end()) return otherwise;
        int64_t value = 0;
        std::memcpy(&value, found->second.data(), found->second.size());
        return value;
    }
    int set(const std::map<int, size_t> &sizes, int which, const void *buffer, size_t size) {
        auto known = sizes.find(which);
        if (known == sizes.end() || known->second != size || !buffer) return INVALID_VALUE;
        bytes[which] = std::string(static_cast<const char *>(buffer), size);
        return SUCCESS;
    }
};
struct Desc : Attributes { int compute, scale; };
struct Layout { int type; uint64_t rows, columns; int64_t ld; };
struct Preference : Attributes {};
struct Algorithm { uint64_t data[8]; };
struct Result { Algorithm algorithm; size_t workspace; int state; float waves; int reserved[4]; };
static_assert(sizeof(Result) == 96, "as in cublasLt.h");

// What a product comes to; mirrored by `Problem` in cublaslt.py.
struct Problem {
    int32_t compute, scale, trans_a, trans_b, epilogue, bias_type, type_a, type_b, type_d, index;
    int64_t m, n, k, lda, ldb, ldd, aux_ld;
    uint64_t a, b, c, d, bias, aux, workspace, workspace_bytes, stream;
    double alpha, beta;
};

static std::set<void *> living;
static char handle;  // its address
static int answer_of_create = SUCCESS, refused_epilogue = 0, refusal = NOT_SUPPORTED;
static int (*callback)(const Problem *) = nullptr;
static uint64_t alignments = 0;  // asked for by the last heuristic

template <class T> static T *known(void *object) { return living.count(object) ? static_cast<T *>(object) : nullptr; }
template <class T> static int destroy(void *object) {
    if (!living.erase(object)) return INVALID_VALUE;
    delete static_cast<T *>(object);
    return SUCCESS;
}

static int describe(const Desc *desc, const Layout *A, const Layout *B, const Layout *C, const Layout *D, Problem *p) {
    if (!desc || !A || !B || !C || !D || C != D) return INVALID_VALUE;
    std::memset(p, 0, sizeof *p);
    p->compute = desc->compute, p->scale = desc->scale;
    p->trans_a = desc->get(TRANSA, 0), p->trans_b = desc->get(TRANSB, 0), p->epilogue = desc->get(EPILOGUE, 1);
    p->bias = desc->get(BIAS_POINTER, 0), p->bias_type = desc->get(BIAS_TYPE, -1);
    p->aux = desc->get(AUX_POINTER, 0), p->aux_ld = desc->get(AUX_LD, 0);
    p->type_a = A->type, p->type_b = B->type, p->type_d = D->type, p->lda = A->ld, p->ldb = B->ld, p->ldd = D->ld;
    p->m = D->rows, p->n = D->columns, p->k = p->trans_a ? A->rows : A->columns;
    uint64_t rows_a = p->trans_a ? A->columns : A->rows, rows_b = p->trans_b ? B->columns : B->rows, columns_b = p->trans_b ? B->rows : B->columns;
    if (rows_a != D->rows || columns_b != D->columns || rows_b != uint64_t(p->k)) return INVALID_VALUE;
    if (A->ld < int64_t(A->rows) || B->ld < int64_t(B->rows) || D->ld < int64_t(D->rows)) return INVALID_VALUE;
    bool wants_aux = p->epilogue & 128, wants_bias = p->epilogue & (4 | 16 | 256 | 512);
    if (wants_aux && (!p->aux || p->aux_ld % 128 || p->aux_ld < p->m)) return INVALID_VALUE;
    if (wants_bias && (!p->bias || p->bias_type != D->type)) return INVALID_VALUE;
    return SUCCESS;
}

static uint64_t fingerprint(const Problem &p) { return uint64_t(p.epilogue) << 48 ^ uint64_t(p.m) << 32 ^ uint64_t(p.n) << 16 ^ uint64_t(p.k); }

extern "C" {
int cublasLtCreate(void **made) { *made = &handle; return answer_of_create; }
size_t cublasLtGetVersion() { return 130100; }

int cublasLtMatmulDescCreate(void **made, int compute, int scale) {
    auto desc = new Desc; desc->compute = compute, desc->scale = scale;
    living.insert(*made = desc);
    return SUCCESS;
}
int cublasLtMatmulDescDestroy(void *desc) { return destroy<Desc>(desc); }
int cublasLtMatmulDescSetAttribute(void *desc, int which, const void *buffer, size_t size) {
    static const std::map<int, size_t> sizes{{TRANSA, 4}, {TRANSB, 4}, {EPILOGUE, 4}, {BIAS_POINTER, 8}, {AUX_POINTER, 8}, {AUX_LD, 8}, {BIAS_TYPE, 4}};
    return known<Desc>(desc) ? known<Desc>(desc)->set(sizes, which, buffer, size) : INVALID_VALUE;
}
int cublasLtMatrixLayoutCreate(void **made, int type, uint64_t rows, uint64_t columns, int64_t ld) {
    living.insert(*made = new Layout{type, rows, columns, ld});
    return SUCCESS;
}
int cublasLtMatrixLayoutDestroy(void *layout) { return destroy<Layout>(layout); }
int cublasLtMatmulPreferenceCreate(void **made) { living.insert(*made = new Preference); return SUCCESS; }
int cublasLtMatmulPreferenceDestroy(void *preference) { return destroy<Preference>(preference); }
int cublasLtMatmulPreferenceSetAttribute(void *preference, int which, const void *buffer, size_t size) {
    static const std::map<int, size_t> sizes{{MAX_WORKSPACE, 8}, {REDUCTION_MASK, 4}, {ALIGN_A, 4}, {ALIGN_B, 4}, {ALIGN_C, 4}, {ALIGN_D, 4}};
    return known<Preference>(preference) ? known<Preference>(preference)->set(sizes, which, buffer, size) : INVALID_VALUE;
}

// Two algorithms, and between them one whose state says that it cannot be used.
int cublasLtMatmulAlgoGetHeuristic(void *lt, void *desc, void *A, void *B, void *C, void *D, void *preference, int wanted, Result *results, int *found) {
    Problem p;
    auto given = known<Preference>(preference);
    int status = describe(known<Desc>(desc), known<Layout>(A), known<Layout>(B), known<Layout>(C), known<Layout>(D), &p);
    if (status || lt != &handle || !given || wanted < 3 || given->get(REDUCTION_MASK, 7) != 2) return status ? status : INVALID_VALUE;
    if (p.epilogue == refused_epilogue) return refusal;
    alignments = 0;
    for (int which : {ALIGN_D, ALIGN_C, ALIGN_B, ALIGN_A}) alignments = alignments << 16 | given->get(which, 256);
    for (int i = 0; i < 3; i++) {
        results[i] = Result{};
        results[i].algorithm.data[0] = fingerprint(p), results[i].algorithm.data[1] = i;
        results[i].workspace = given->get(MAX_WORKSPACE, 0), results[i].state = i == 1 ? NOT_SUPPORTED : SUCCESS;
    }
    *found = 3;
    return SUCCESS;
}

int cublasLtMatmul(void *lt, void *desc, const void *alpha, uint64_t a, void *A, uint64_t b, void *B, const void *beta, uint64_t c, void *C, uint64_t d, void *D,
                   const Algorithm *algorithm, uint64_t workspace, size_t workspace_bytes, uint64_t stream) {
    Problem p;
    int status = describe(known<Desc>(desc), known<Layout>(A), known<Layout>(B), known<Layout>(C), known<Layout>(D), &p);
    if (status || lt != &handle || !callback) return status ? status : INVALID_VALUE;
    if (!algorithm || algorithm->data[0] != fingerprint(p) || algorithm->data[1] == 1) return INVALID_VALUE;
    p.index = algorithm->data[1];
    p.a = a, p.b = b, p.c = c, p.d = d, p.workspace = workspace, p.workspace_bytes = workspace_bytes, p.stream = stream;
    bool wide = p.scale == 1;  // CUDA_R_64F
    p.alpha = wide ? *static_cast<const double *>(alpha) : *static_cast<const float *>(alpha);
    p.beta = wide ? *static_cast<const double *>(beta) : *static_cast<const float *>(beta);
    return callback(&p);
}

// ---- for the tests
void stand_in_multiply(int (*function)(const Problem *)) { callback = function; }
void stand_in_create_answers(int status) { answer_of_create = status; }
void stand_in_refuses(int epilogue, int status) { refused_epilogue = epilogue, refusal = status; }
uint64_t stand_in_alignments() { return alignments; }
size_t stand_in_living() { return living.size(); }
}
