/* Chunks of a conditional flow for one state, its weights read once and in the order in which they lie in memory.

   native.py packs the weights and tells the sizes; what this computes is `ConditionalFlow.sample`. */

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
   many dimensions it keeps, their places, and the places of the others. Returns 1 if there is no memory. */
CLONES int softflow_flow_sample(const int32_t *sizes, const float *weights, float bound, float std_bound,
                                const float *state, const float *noise, int count, float *chunks, float *log_probs)
{
    const int inputs = sizes[0], size = sizes[1], width = sizes[2], couplings = sizes[3], further = sizes[4];
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
        const int32_t *places = sizes + 5;
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
