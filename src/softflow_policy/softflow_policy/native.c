/* Chunks of a conditional flow for one state, its weights read once and in the order in which they lie in memory.

   native.py packs the weights and tells the sizes; what this computes is `ConditionalFlow.sample`. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES 16
#define LIMIT 8 /* vectors of outputs that are summed at a time, in registers */

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define LOG_2PI 1.8378770664f

#define INLINE static inline __attribute__((always_inline))
#if defined(__x86_64__)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

/* exp(x), relative error below 2e-7; x is clipped to where the result is a normal number. */
INLINE float exp_(float x)
{
    x = x < -87.0f ? -87.0f : x > 87.0f ? 87.0f : x;
    const int32_t whole = (int32_t)(x * 1.44269504f + (x < 0 ? -0.5f : 0.5f));
    const float k = (float)whole, r = (x - k * 0.693359375f) + k * 2.12194440e-4f; /* |r| <= ln(2) / 2 */
    float p = r * 1.9875691500e-4f + 1.3981999507e-3f; /* Cephes, expf */
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const uint32_t bits = (uint32_t)(whole + 127) << 23; /* of a NaN any: p is one too */
    float two;
    memcpy(&two, &bits, sizeof two);
    return p * two;
}

/* y = start + W x for n vectors of outputs: W lies as inputs x (n * LANES). */
INLINE void columns(const float *w, int inputs, int n, const float *x, vec *y)
{
    vec sum[LIMIT];
#pragma GCC unroll 8
    for (int j = 0; j < n; j++)
        sum[j] = y[j];
    for (int i = 0; i < inputs; i++, w += n * LANES)
#pragma GCC unroll 8
        for (int j = 0; j < n; j++)
            sum[j] += ((const vec *)w)[j] * x[i];
#pragma GCC unroll 8
    for (int j = 0; j < n; j++)
        y[j] = sum[j];
}

/* y = start + W x, `vectors` vectors of outputs, in blocks of LIMIT; returns what lies behind W. */
INLINE const float *product(const float *w, int inputs, int vectors, const float *x, vec *y)
{
    for (int n = 0; vectors > 0; vectors -= n, y += n, w += inputs * n * LANES) {
        n = vectors < LIMIT ? vectors : LIMIT;
        switch (n) { /* a constant keeps the sums in registers */
        case 8: columns(w, inputs, 8, x, y); break;
        case 7: columns(w, inputs, 7, x, y); break;
        case 6: columns(w, inputs, 6, x, y); break;
        case 5: columns(w, inputs, 5, x, y); break;
        case 4: columns(w, inputs, 4, x, y); break;
        case 3: columns(w, inputs, 3, x, y); break;
        case 2: columns(w, inputs, 2, x, y); break;
        default: columns(w, inputs, 1, x, y);
        }
    }
    return w;
}

INLINE const float *linear(const float *w, int inputs, int vectors, const float *x, vec *y)
{
    memcpy(y, w, sizeof(vec) * vectors);
    return product(w + vectors * LANES, inputs, vectors, x, y);
}

INLINE void silu(vec *xs, int vectors)
{
    float *x = (float *)xs;
    for (int i = 0; i < vectors * LANES; i++)
        x[i] = x[i] / (1.0f + exp_(-x[i]));
}

INLINE void exponentials(vec *xs, int vectors, float sign)
{
    float *x = (float *)xs;
    for (int i = 0; i < vectors * LANES; i++)
        x[i] = exp_(sign * x[i]);
}

/* bound * tanh(raw / bound) of `count` numbers, in place; their sum. */
INLINE float bounded(vec *raws, int count, float bound)
{
    float *raw = (float *)raws, sum = 0.0f;
    for (int i = 0; i < (count + LANES - 1) / LANES * LANES; i++)
        raw[i] = bound * (1.0f - 2.0f / (1.0f + exp_(2.0f / bound * raw[i])));
    for (int i = 0; i < count; i++)
        sum += raw[i];
    return sum;
}

INLINE int vectors_of(int count) { return (count + LANES - 1) / LANES; }

/* sizes: inputs, D, width, couplings, further hidden layers; then of each coupling, in the order of sampling, how
   many dimensions it keeps, their places, and the places of the others. */
enum { INPUTS, SIZE, WIDTH, COUPLINGS, FURTHER, PLACES };

/* Returns 1 if there is no memory. */
CLONES static int sample(const int32_t *sizes, const float *weights, float bound, float std_bound,
                         const float *state, const float *noise, int count, float *chunks, float *log_probs)
{
    const int inputs = sizes[INPUTS], size = sizes[SIZE], width = sizes[WIDTH];
    const int couplings = sizes[COUPLINGS], further = sizes[FURTHER];
    const int wide = vectors_of(width), all = vectors_of(size);
    vec *const room = malloc(sizeof(vec) * ((2 + couplings) * wide + 5 * all));
    if (room == NULL)
        return 1;
    vec *a = room, *b = a + wide, *code = b + wide, *kept = code + couplings * wide + 2 * all;
    vec *const scale = kept + all;

    weights = linear(weights, inputs, wide, state, a);
    silu(a, wide);
    weights = linear(weights, width, couplings * wide + 2 * all, (const float *)a, code);
    vec *const mean = code + couplings * wide, *const log_std = mean + all;
    const float spread = bounded(log_std, size, std_bound);
    exponentials(log_std, all, 1.0f);

    for (int row = 0; row < count; row++, noise += size, chunks += size) {
        const float *w = weights;
        const int32_t *places = sizes + PLACES;
        float log_det = spread, square = 0.0f;
        for (int i = 0; i < size; i++)
            square += noise[i] * noise[i];
        for (int i = 0; i < size; i++)
            chunks[i] = ((const float *)mean)[i] + noise[i] * ((const float *)log_std)[i];
        for (int k = 0; k < couplings; k++, places += size) {
            const int keeps = *places++, moves = size - keeps, moved = vectors_of(moves);
            for (int i = 0; i < keeps; i++)
                ((float *)kept)[i] = chunks[places[i]];
            memcpy(a, code + k * wide, sizeof(vec) * wide);
            w = product(w, keeps, wide, (const float *)kept, a);
            silu(a, wide);
            for (int layer = 0; layer < further; layer++) {
                w = linear(w, width, wide, (const float *)a, b);
                silu(b, wide);
                vec *const other = a;
                a = b, b = other;
            }
            w = linear(w, width, 2 * moved, (const float *)a, scale); /* scale, then shift behind its padding */
            log_det -= bounded(scale, moves, bound);
            exponentials(scale, moved, -1.0f);
            for (int i = 0; i < moves; i++) {
                float *x = chunks + places[keeps + i];
                *x = (*x - ((const float *)(scale + moved))[i]) * ((const float *)scale)[i];
            }
        }
        log_probs[row] = -0.5f * (square + size * LOG_2PI) - log_det;
    }
    free(room);
    return 0;
}

/* -- Python */

typedef struct {
    PyObject_HEAD
    Py_buffer sizes, weights;
    float bound, std_bound;
    Py_ssize_t horizon, actions;
} Flow;

/* How many weights such sizes have; -1 where they contradict themselves. */
static Py_ssize_t weights_of(const int32_t *sizes, Py_ssize_t count)
{
    if (count < PLACES)
        return -1;
    const Py_ssize_t inputs = sizes[INPUTS], size = sizes[SIZE], width = sizes[WIDTH], couplings = sizes[COUPLINGS];
    if (inputs < 1 || size < 1 || width < 1 || couplings < 0 || sizes[FURTHER] < 0)
        return -1;
    if (count != PLACES + couplings * (1 + size))
        return -1;
    const Py_ssize_t wide = vectors_of(width), all = vectors_of(size);
    Py_ssize_t vectors = (1 + inputs) * wide + (1 + width) * (couplings * wide + 2 * all);
    const int32_t *places = sizes + PLACES;
    for (Py_ssize_t k = 0; k < couplings; k++, places += size) {
        const int keeps = *places++;
        if (keeps < 0 || keeps > size)
            return -1;
        for (Py_ssize_t i = 0; i < size; i++)
            if (places[i] < 0 || places[i] >= size)
                return -1;
        vectors += keeps * wide + (1 + width) * (sizes[FURTHER] * wide + 2 * vectors_of(size - keeps));
    }
    return vectors * LANES;
}

static PyObject *flow_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    Flow *self = (Flow *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    if (!PyArg_ParseTuple(args, "y*y*ffnn", &self->sizes, &self->weights, &self->bound, &self->std_bound,
                          &self->horizon, &self->actions)) {
        Py_DECREF(self);
        return NULL;
    }
    const Py_ssize_t count = weights_of(self->sizes.buf, self->sizes.len / 4);
    if (count < 0 || self->weights.len != 4 * count ||
        self->horizon * self->actions != ((const int32_t *)self->sizes.buf)[SIZE]) {
        PyErr_SetString(PyExc_ValueError, "sizes and weights are not of one flow");
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void flow_dealloc(Flow *self)
{
    PyBuffer_Release(&self->sizes);
    PyBuffer_Release(&self->weights);
    Py_TYPE(self)->tp_free(self);
}

/* A contiguous array of float32 of this shape, a dimension of -1 being any; returns 0, or -1 with an error. */
static int array(PyObject *object, const char *name, int flags, const Py_ssize_t *shape, int dims, Py_buffer *view)
{
    if (PyObject_GetBuffer(object, view, flags | PyBUF_ND | PyBUF_FORMAT) == 0) {
        int fits = view->ndim == dims && strcmp(view->format, "f") == 0;
        for (int i = 0; fits && i < dims; i++)
            fits = shape[i] < 0 || view->shape[i] == shape[i];
        if (fits)
            return 0;
        PyBuffer_Release(view);
    } else if (PyErr_ExceptionMatches(PyExc_TypeError)) /* no array at all */
        return -1;
    PyErr_Clear();
    PyObject *const found = PyObject_GetAttrString(object, "shape");
    PyObject *const type = found ? PyObject_GetAttrString(object, "dtype") : NULL;
    PyObject *const must = type ? PyTuple_New(dims) : NULL;
    for (int i = 0; must && i < dims; i++)
        PyTuple_SET_ITEM(must, i, shape[i] < 0 ? PyUnicode_FromString("N") : PyLong_FromSsize_t(shape[i]));
    if (must)
        PyErr_Format(PyExc_ValueError, "%s has shape %S, %S, must have %S, float32, without gaps", name, found, type,
                     must);
    Py_XDECREF(found), Py_XDECREF(type), Py_XDECREF(must);
    return -1;
}

static PyObject *flow_sample(Flow *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 4)
        return PyErr_Format(PyExc_TypeError, "sample() takes 4 arguments, %zd were given", count);
    const int32_t *sizes = self->sizes.buf;
    Py_buffer state, noise, chunks, log_probs;
    if (array(args[0], "state", 0, (Py_ssize_t[]){1, sizes[INPUTS]}, 2, &state))
        return NULL;
    if (array(args[1], "noise", 0, (Py_ssize_t[]){-1, self->horizon, self->actions}, 3, &noise))
        goto no_noise;
    const Py_ssize_t rows = noise.shape[0];
    if (array(args[2], "chunks", PyBUF_WRITABLE, noise.shape, 3, &chunks))
        goto no_chunks;
    if (array(args[3], "log_prob", PyBUF_WRITABLE, &rows, 1, &log_probs))
        goto no_log_probs;
    int failed;
    Py_BEGIN_ALLOW_THREADS
    failed = sample(sizes, self->weights.buf, self->bound, self->std_bound, state.buf, noise.buf, (int)rows, chunks.buf,
                    log_probs.buf);
    Py_END_ALLOW_THREADS
    if (failed)
        PyErr_NoMemory();
    PyBuffer_Release(&log_probs);
no_log_probs:
    PyBuffer_Release(&chunks);
no_chunks:
    PyBuffer_Release(&noise);
no_noise:
    PyBuffer_Release(&state);
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef flow_methods[] = {
    {"sample", (PyCFunction)(void (*)(void))flow_sample, METH_FASTCALL,
     "state (1, S), noise (N, h, A); writes chunks (N, h, A), log_prob (N,). float32. Lets other threads run."},
    {NULL}};

static PyTypeObject flow_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "softflow_policy._native.Flow",
    .tp_doc = "Flow(sizes, weights, log_scale_max, log_std_max, horizon, action_dim), as native.py packs them.",
    .tp_basicsize = sizeof(Flow),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = flow_new,
    .tp_dealloc = (destructor)flow_dealloc,
    .tp_methods = flow_methods,
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "_native", .m_size = -1};

PyMODINIT_FUNC PyInit__native(void)
{
    if (PyType_Ready(&flow_type) < 0)
        return NULL;
    PyObject *const made = PyModule_Create(&module);
    if (made != NULL && PyModule_AddObjectRef(made, "Flow", (PyObject *)&flow_type) < 0) {
        Py_DECREF(made);
        return NULL;
    }
    return made;
}
