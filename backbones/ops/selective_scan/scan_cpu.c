/* The selective scan on a CPU: forward and backward of the canonical problem that contract.py states.
 *
 * A unit of work is one batch element and one tile of LANES channels: it walks each route from end to end in chunks of
 * CHUNK steps, with the tile's states in the first-level cache. Rows of the activations are gathered into small
 * step-major buffers, whatever their strides and dtype, then every loop below runs over LANES contiguous values, which
 * the compiler turns into vector instructions. Threads share units; nothing that a unit computes depends on how many
 * threads there are, and sums across units are taken in a fixed order: results are bitwise the same for any number.
 *
 * Backward: within a chunk the states and decays of one state index n are kept for the reverse sweep (two buffers of
 * CHUNK x LANES), so that neither is computed twice; across chunks the forward's checkpoints are the starting points.
 *
 * The file includes itself once per arithmetic type: float (polynomial exponentials) and double (libm, for gradcheck).
 */
#ifndef REAL

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK 32
#define LANES 32

/* One function body per instruction set, chosen when the library is loaded. Needs ifuncs (glibc), hence the conditions;
 * elsewhere the compiler's default instruction set has to do, which on ARM includes NEON. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 11
#define CLONES_float __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES_float
#endif
#define CLONES_double

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#define ALIGNED __attribute__((aligned(64)))
#else
#define INLINE static inline
#define ALIGNED
#endif

enum dtype { FLOAT32, FLOAT64, BFLOAT16, FLOAT16 };
enum route { ROWS, ROWS_REVERSED, COLUMNS, COLUMNS_REVERSED };

/* An activation; strides in elements. lane is the stride of the channels, of B and C that of the states. */
typedef struct {
  char *data;
  int64_t dtype, batch, step, route, group, lane;
} tensor;

/* Absent tensors have data == NULL. Sizes as in contract.py; E/G channels in each of the G groups. cpu.py fills this in
 * as one array of 64-bit integers. */
typedef struct {
  int64_t batch, length, routes, channels, states, groups, height, width, softplus, threads;
  int64_t slices; /* backward: parts of a group's tiles, each with a partial dB and dC of its own */
  const int64_t *codes;
  tensor u, delta, B, C, z, dy;                 /* read */
  const void *A, *D, *delta_bias, *dlast_state; /* read; contiguous, of the arithmetic type */
  tensor y, du, ddelta, dz;                     /* written; where route is 0, the routes are summed */
  void *last_state;                             /* (B, K, E, N) */
  void *checkpoints;                            /* (B, K, chunks, N, E): the state before each chunk */
  void *dA, *dD, *ddelta_bias;                  /* (B, K, E, N), (B, K, E), (B, K, E) */
  void *dB, *dC;                                /* (slices, B, L, K, G, N) */
} problem;

_Static_assert(sizeof(void *) == 8 && sizeof(problem) == (12 + 6 * 7 + 4 + 4 * 7 + 7) * 8, "as cpu.py fills it in");

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t round_up_division(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Pixels that a route visits at steps start .. start + steps - 1. */
INLINE void visit(const problem *p, int64_t code, int64_t start, int64_t steps, int64_t *pixels) {
  int reversed = code == ROWS_REVERSED || code == COLUMNS_REVERSED;
  int64_t step = reversed ? p->length - 1 - start : start, move = reversed ? -1 : 1;
  if (code == ROWS || code == ROWS_REVERSED) {
    for (int64_t s = 0; s < steps; s++) pixels[s] = step + move * s;
    return;
  }
  int64_t row = step % p->height, column = step / p->height;
  for (int64_t s = 0; s < steps; s++) {
    pixels[s] = row * p->width + column;
    row += move;
    if (row == p->height) row = 0, column++;
    if (row < 0) row = p->height - 1, column--;
  }
}

INLINE float float_of_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

INLINE uint32_t bits_of_float(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

INLINE float from_bfloat16(uint16_t half) { return float_of_bits((uint32_t)half << 16); }

INLINE uint16_t to_bfloat16(float value) { /* to nearest, ties to even */
  uint32_t bits = bits_of_float(value);
  uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

INLINE float from_float16(uint16_t half) {
  uint32_t magnitude = (uint32_t)(half & 0x7fffu) << 13;
  float scaled = float_of_bits(magnitude) * 0x1p112f; /* moves the exponent's bias; exact, subnormals too */
  uint32_t bits = bits_of_float(scaled);
  bits = magnitude >= 0x0f800000u ? (magnitude | 0x7f800000u) : bits; /* infinity, NaN */
  return float_of_bits(bits | (uint32_t)(half & 0x8000u) << 16);
}

INLINE uint16_t to_float16(float value) { /* to nearest, ties to even */
  uint32_t bits = bits_of_float(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  uint32_t normal = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  uint32_t subnormal = bits_of_float(float_of_bits(magnitude) + 0.5f) - 0x3f000000u; /* the addition rounds */
  uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;  /* 65520 and above round to infinity */
  half = magnitude > 0x7f800000u ? 0x7e00u : half;
  return (uint16_t)(sign | half);
}

/* 2^x for x in [-127, 128]. The polynomial has no constant term but 1: its error is a relative error of x below 4.4e-7,
 * which a slowly decaying state does not accumulate. 0 at -127, infinity at 128. */
INLINE float exp2_in_range(float x) {
  const float magic = 12582912.0f + 127.0f; /* 1.5*2^23: adding it rounds to an integer in the low mantissa bits */
  float shifted = x + magic;
  float r = x - (shifted - magic); /* in [-0.5, 0.5] */
  float power = float_of_bits(bits_of_float(shifted) << 23);
  float q = 0.0013333538f;
  q = q * r + 0.009666245f;
  q = q * r + 0.055505004f;
  q = q * r + 0.24022351f;
  q = q * r + 0.6931471f;
  return (q * r + 1.0f) * power;
}

/* The clamps compare bit patterns, which takes one instruction each: as unsigned integers, negative floats come after
 * all positive ones and grow with their magnitude; as signed integers, positive floats keep their order. Either loses
 * NaN: the callers make sure that another operand still holds it. */
INLINE float clamp_below(float x) { /* to -127 at least */
  uint32_t bits = bits_of_float(x), low = 0xc2fe0000u;
  return float_of_bits(bits < low ? bits : low);
}

INLINE float clamp_above(float x) { /* to 128 at most */
  int32_t bits = (int32_t)bits_of_float(x), high = 0x43000000;
  return float_of_bits((uint32_t)(bits < high ? bits : high));
}

INLINE float exp2_float(float x) { return exp2_in_range(clamp_above(clamp_below(x))); }

/* e^-|x| */
INLINE float exp_minus_float(float x) { return exp2_in_range(clamp_below(fabsf(x) * -1.44269504f)); }

/* log(1 + x) for x in [0, 1]; relative error below 1e-7, so that small step sizes keep their digits. */
INLINE float log1p_float(float x) {
  float q = 0.0052326927f;
  q = q * x - 0.029505232f;
  q = q * x + 0.07822595f;
  q = q * x - 0.13663244f;
  q = q * x + 0.19106007f;
  q = q * x - 0.24842982f;
  q = q * x + 0.33319098f;
  q = q * x - 0.49999493f;
  q = q * x + 0.99999994f;
  return q * x;
}

INLINE double exp2_double(double x) { return exp2(x); }
INLINE double exp_minus_double(double x) { return exp(-fabs(x)); }
INLINE double log1p_double(double x) { return log1p(x); }

#define REAL float
#define REAL_DTYPE FLOAT32
#define NAME(name) name##_float
#include "scan_cpu.c"
#undef REAL
#undef REAL_DTYPE
#undef NAME
#define REAL double
#define REAL_DTYPE FLOAT64
#define NAME(name) name##_double
#include "scan_cpu.c"

#else

/* ---- values of any dtype ---- */

INLINE REAL NAME(load)(const char *data, int64_t dtype, int64_t index) {
  switch (dtype) {
    case FLOAT32: return (REAL)((const float *)data)[index];
    case FLOAT64: return (REAL)((const double *)data)[index];
    case BFLOAT16: return (REAL)from_bfloat16(((const uint16_t *)data)[index]);
    default: return (REAL)from_float16(((const uint16_t *)data)[index]);
  }
}

INLINE void NAME(store)(char *data, int64_t dtype, int64_t index, REAL value) {
  switch (dtype) {
    case FLOAT32: ((float *)data)[index] = (float)value; break;
    case FLOAT64: ((double *)data)[index] = (double)value; break;
    case BFLOAT16: ((uint16_t *)data)[index] = to_bfloat16((float)value); break;
    default: ((uint16_t *)data)[index] = to_float16((float)value);
  }
}

/* ---- one chunk of one tile ---- */

typedef REAL NAME(rows)[CHUNK + 1][LANES]; /* one row more, since arrays 4096 bytes apart contend for cache lines */

typedef struct {
  int64_t b, k, group, first, count; /* channels first .. first + count - 1 */
  int64_t steps, pixels[CHUNK];
  NAME(rows) u, dt, dtu, y ALIGNED;
  /* backward only */
  NAME(rows) g, dy, z, slope, through_x, through_a, a, h, product ALIGNED; /* h[s]: before step s */
  REAL *B, *C, *dB, *dC;   /* (N, CHUNK) */
  REAL *A, *A2;            /* (N, LANES): A and A*log2(e) */
  REAL *state, *carry, *dA; /* (N, LANES) */
  REAL D[LANES], bias[LANES], dD[LANES], dbias[LANES] ALIGNED;
} NAME(tile);

/* Where the tile's first channel is at pixel 0. */
INLINE int64_t NAME(origin)(const tensor *x, const NAME(tile) *t) {
  return t->b * x->batch + t->k * x->route + t->first * x->lane;
}

/* Gathers the chunk's rows of an activation, zeros in the lanes beyond the tile's channels. */
INLINE void NAME(load_rows)(NAME(rows) rows, const tensor *x, const NAME(tile) *t) {
  const char *data = x->data;
  const REAL *reals = (const REAL *)data;
  const uint16_t *halves = (const uint16_t *)data;
  const int64_t steps = t->steps, count = t->count, step = x->step, lane = x->lane, dtype = x->dtype;
  const int64_t origin = NAME(origin)(x, t);
  if (dtype == REAL_DTYPE && lane == 1 && count == LANES) {
    for (int64_t s = 0; s < steps; s++) memcpy(rows[s], reals + origin + t->pixels[s] * step, LANES * sizeof(REAL));
  } else if (dtype == BFLOAT16 && lane == 1 && count == LANES) {
    for (int64_t s = 0; s < steps; s++)
      for (int i = 0; i < LANES; i++) rows[s][i] = (REAL)from_bfloat16(halves[origin + t->pixels[s] * step + i]);
  } else if (dtype == FLOAT16 && lane == 1 && count == LANES) {
    for (int64_t s = 0; s < steps; s++)
      for (int i = 0; i < LANES; i++) rows[s][i] = (REAL)from_float16(halves[origin + t->pixels[s] * step + i]);
  } else {
    for (int64_t i = 0; i < count; i++) /* strided channels: time is likely the contiguous axis, so it goes innermost */
      for (int64_t s = 0; s < steps; s++) {
        int64_t index = origin + t->pixels[s] * step + i * lane;
        rows[s][i] = dtype == REAL_DTYPE ? reals[index] : NAME(load)(data, dtype, index);
      }
    for (int64_t s = 0; s < steps; s++)
      for (int64_t i = count; i < LANES; i++) rows[s][i] = 0;
  }
}

/* Stores the chunk's rows; or adds them to what the routes before have stored, in the arithmetic type. */
INLINE void NAME(store_rows)(NAME(rows) rows, const tensor *x, const NAME(tile) *t, int add) {
  char *data = x->data;
  REAL *reals = (REAL *)data;
  uint16_t *halves = (uint16_t *)data;
  const int64_t steps = t->steps, count = t->count, step = x->step, dtype = x->dtype, origin = NAME(origin)(x, t);
  if (dtype == REAL_DTYPE && count == LANES && !add) {
    for (int64_t s = 0; s < steps; s++) memcpy(reals + origin + t->pixels[s] * step, rows[s], LANES * sizeof(REAL));
  } else if (add && count == LANES) {
    for (int64_t s = 0; s < steps; s++)
      for (int i = 0; i < LANES; i++) reals[origin + t->pixels[s] * step + i] += rows[s][i];
  } else if (dtype == BFLOAT16 && count == LANES) {
    for (int64_t s = 0; s < steps; s++)
      for (int i = 0; i < LANES; i++) halves[origin + t->pixels[s] * step + i] = to_bfloat16((float)rows[s][i]);
  } else if (dtype == FLOAT16 && count == LANES) {
    for (int64_t s = 0; s < steps; s++)
      for (int i = 0; i < LANES; i++) halves[origin + t->pixels[s] * step + i] = to_float16((float)rows[s][i]);
  } else {
    for (int64_t s = 0; s < steps; s++)
      for (int64_t i = 0; i < count; i++) {
        int64_t index = origin + t->pixels[s] * step + i;
        NAME(store)(data, dtype, index, rows[s][i] + (add ? reals[index] : 0));
      }
  }
}

/* B or C of the chunk, (N, CHUNK). */
INLINE void NAME(load_weights)(REAL *restrict weights, const tensor *x, const NAME(tile) *t, int64_t states) {
  const char *data = x->data;
  const int64_t steps = t->steps, step = x->step, lane = x->lane, dtype = x->dtype;
  const int64_t origin = t->b * x->batch + t->k * x->route + t->group * x->group;
  for (int64_t n = 0; n < states; n++)
    for (int64_t s = 0; s < steps; s++) {
      int64_t index = origin + t->pixels[s] * step + n * lane;
      weights[n * CHUNK + s] = dtype == REAL_DTYPE ? ((const REAL *)data)[index] : NAME(load)(data, dtype, index);
    }
}

INLINE REAL NAME(sigmoid)(REAL x) {
  REAL e = NAME(exp_minus)(x);
  return (x < 0 ? e : (REAL)1) / (1 + e);
}

/* What both sweeps read: u, dt, dt*u, B, C; for the backward, d(dt)/d(delta) too. */
INLINE void NAME(load_chunk)(const problem *p, NAME(tile) *t, int64_t start, int slopes) {
  t->steps = smaller(CHUNK, p->length - start);
  visit(p, p->codes[t->k], start, t->steps, t->pixels);
  NAME(load_rows)(t->u, &p->u, t);
  NAME(load_rows)(t->dt, &p->delta, t);
  NAME(load_weights)(t->B, &p->B, t, p->states);
  NAME(load_weights)(t->C, &p->C, t, p->states);
  for (int64_t s = 0; s < t->steps; s++) {
    REAL *dt = t->dt[s], *u = t->u[s], *dtu = t->dtu[s], *slope = t->slope[s];
    if (!p->softplus) {
      for (int i = 0; i < LANES; i++) dt[i] += t->bias[i];
    } else {
      for (int i = 0; i < LANES; i++) {
        REAL x = dt[i] + t->bias[i];
        REAL e = NAME(exp_minus)(x), rectified = x < 0 ? 0 : x;
        int identity = REAL_DTYPE == FLOAT64 && x > 20; /* in float, softplus(x) rounds to x there */
        dt[i] = identity ? x : rectified + NAME(log1p)(e);
        if (slopes) slope[i] = identity ? (REAL)1 : (x < 0 ? e : (REAL)1) / (1 + e);
      }
    }
    for (int i = 0; i < LANES; i++) dtu[i] = dt[i] * u[i];
  }
}

/* A, D, delta_bias of a route's tile. */
INLINE void NAME(enter_route)(const problem *p, NAME(tile) *t) {
  int64_t N = p->states, first = t->k * p->channels + t->first;
  const REAL *A = p->A, *D = p->D, *bias = p->delta_bias;
  for (int i = 0; i < LANES; i++) {
    t->D[i] = D && i < t->count ? D[first + i] : 0;
    t->bias[i] = bias && i < t->count ? bias[first + i] : 0;
    for (int64_t n = 0; n < N; n++) {
      REAL a = i < t->count ? A[(first + i) * N + n] : 0;
      t->A[n * LANES + i] = a;
      t->A2[n * LANES + i] = a * (REAL)1.4426950408889634;
    }
  }
}

/* Steps of one state index; y += C*h. */
INLINE void NAME(forward_state)(NAME(tile) *t, int64_t n, int first) {
  const REAL *restrict A2 = t->A2 + n * LANES, *restrict B = t->B + n * CHUNK, *restrict C = t->C + n * CHUNK;
  REAL *restrict state = t->state + n * LANES;
  REAL h[LANES], a2[LANES];
  memcpy(h, state, sizeof h);
  memcpy(a2, A2, sizeof a2);
  for (int64_t s = 0; s < t->steps; s++) {
    REAL b = B[s], c = C[s];
    for (int i = 0; i < LANES; i++) {
      h[i] = NAME(exp2)(t->dt[s][i] * a2[i]) * h[i] + t->dtu[s][i] * b;
      t->y[s][i] = (first ? t->D[i] * t->u[s][i] : t->y[s][i]) + c * h[i];
    }
  }
  memcpy(state, h, sizeof h);
}

INLINE REAL *NAME(checkpoint)(const problem *p, const NAME(tile) *t, int64_t chunk) {
  int64_t chunks = round_up_division(p->length, CHUNK);
  int64_t index = (t->b * p->routes + t->k) * chunks + chunk;
  return (REAL *)p->checkpoints + index * p->states * p->channels + t->first;
}

INLINE void NAME(copy_lanes)(REAL *target, int64_t target_stride, const REAL *source, int64_t source_stride,
                             int64_t rows, int64_t count) {
  for (int64_t n = 0; n < rows; n++)
    memcpy(target + n * target_stride, source + n * source_stride, (size_t)count * sizeof(REAL));
}

INLINE void NAME(forward_chunk)(const problem *p, NAME(tile) *t, int64_t chunk) {
  if (p->checkpoints)
    NAME(copy_lanes)(NAME(checkpoint)(p, t, chunk), p->channels, t->state, LANES, p->states, t->count);
  NAME(load_chunk)(p, t, chunk * CHUNK, 0);
  NAME(forward_state)(t, 0, 1);
  for (int64_t n = 1; n < p->states; n++) NAME(forward_state)(t, n, 0);
  if (p->z.data) {
    NAME(load_rows)(t->u, &p->z, t);
    for (int64_t s = 0; s < t->steps; s++)
      for (int i = 0; i < LANES; i++) t->y[s][i] *= t->u[s][i] * NAME(sigmoid)(t->u[s][i]);
  }
  NAME(store_rows)(t->y, &p->y, t, p->y.route == 0 && t->k > 0);
}

/* All routes of a tile. */
NAME(CLONES) void NAME(forward_tile)(const problem *p, NAME(tile) *t) {
  int64_t N = p->states, chunks = round_up_division(p->length, CHUNK);
  for (t->k = 0; t->k < p->routes; t->k++) {
    NAME(enter_route)(p, t);
    for (int64_t i = 0; i < N * LANES; i++) t->state[i] = isnan(t->A[i]) ? t->A[i] : 0; /* exp2 may lose A's NaN */
    for (int64_t c = 0; c < chunks; c++) NAME(forward_chunk)(p, t, c);
    REAL *last = (REAL *)p->last_state + ((t->b * p->routes + t->k) * p->channels + t->first) * N;
    for (int64_t i = 0; i < t->count; i++)
      for (int64_t n = 0; n < N; n++) last[i * N + n] = t->state[n * LANES + i];
  }
}

/* ---- backward ---- */

/* Everything that state n contributes over the chunk: forward from the checkpoint, then in reverse. */
INLINE void NAME(backward_state)(NAME(tile) *t, int64_t n, int gated) {
  const REAL *restrict A = t->A + n * LANES, *restrict A2 = t->A2 + n * LANES;
  const REAL *restrict B = t->B + n * CHUNK, *restrict C = t->C + n * CHUNK;
  REAL *restrict state = t->state + n * LANES, *restrict carry = t->carry + n * LANES, *restrict dA = t->dA + n * LANES;
  REAL *restrict dB = t->dB + n * CHUNK, *restrict dC = t->dC + n * CHUNK;
  int64_t steps = t->steps;
  REAL a1[LANES], a2[LANES], h[LANES], mu[LANES], da[LANES] = {0}; /* mu: dL/dh through later steps */
  memcpy(a1, A, sizeof a1);
  memcpy(a2, A2, sizeof a2);
  memcpy(h, state, sizeof h);
  memcpy(mu, carry, sizeof mu);
  memcpy(t->h[0], state, sizeof h);
  for (int64_t s = 0; s < steps; s++) {
    REAL b = B[s];
    for (int i = 0; i < LANES; i++) {
      REAL a = NAME(exp2)(t->dt[s][i] * a2[i]);
      h[i] = a * h[i] + t->dtu[s][i] * b;
      t->a[s][i] = a;
      t->h[s + 1][i] = h[i];
    }
  }
  for (int64_t s = 0; s < steps; s++) {
    REAL sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < LANES; i++) sum += t->g[s][i] * t->h[s + 1][i];
    dC[s] = sum;
  }
  if (gated)
    for (int64_t s = 0; s < steps; s++)
      for (int i = 0; i < LANES; i++) t->y[s][i] += C[s] * t->h[s + 1][i];
  for (int64_t s = steps - 1; s >= 0; s--) {
    REAL b = B[s], c = C[s];
    for (int i = 0; i < LANES; i++) {
      REAL lambda = t->g[s][i] * c + mu[i]; /* dL/dh */
      t->through_x[s][i] += lambda * b;
      t->product[s][i] = lambda * t->dtu[s][i];
      mu[i] = t->a[s][i] * lambda;
      REAL flow = mu[i] * t->h[s][i]; /* dL/d(dt*A) */
      t->through_a[s][i] += a1[i] * flow;
      da[i] += t->dt[s][i] * flow;
    }
  }
  memcpy(carry, mu, sizeof mu);
  for (int i = 0; i < LANES; i++) dA[i] += da[i];
  for (int64_t s = 0; s < steps; s++) {
    REAL sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < LANES; i++) sum += t->product[s][i];
    dB[s] = sum;
  }
}

/* dL/dy through the gate into t->g; t->z becomes silu'(z). */
INLINE void NAME(load_gradient)(const problem *p, NAME(tile) *t) {
  if (!p->z.data) {
    NAME(load_rows)(t->g, &p->dy, t);
    return;
  }
  NAME(load_rows)(t->dy, &p->dy, t);
  NAME(load_rows)(t->z, &p->z, t);
  for (int64_t s = 0; s < t->steps; s++)
    for (int i = 0; i < LANES; i++) {
      REAL z = t->z[s][i], sigmoid = NAME(sigmoid)(z);
      t->g[s][i] = t->dy[s][i] * z * sigmoid;
      t->z[s][i] = sigmoid * (1 + z * (1 - sigmoid));
      t->y[s][i] = t->D[i] * t->u[s][i];
    }
}

/* Gradients of a chunk's rows from the sums over the states; leaves du in through_x, ddelta in through_a. */
INLINE void NAME(finish_rows)(const problem *p, NAME(tile) *t) {
  REAL dD[LANES] = {0}, dbias[LANES] = {0};
  for (int64_t s = 0; s < t->steps; s++)
    for (int i = 0; i < LANES; i++) {
      REAL through_x = t->through_x[s][i], u = t->u[s][i], g = t->g[s][i];
      REAL ddelta = through_x * u + t->through_a[s][i];
      if (p->softplus) ddelta *= t->slope[s][i];
      t->through_a[s][i] = ddelta;
      t->through_x[s][i] = through_x * t->dt[s][i] + t->D[i] * g;
      dbias[i] += ddelta;
      dD[i] += g * u;
    }
  for (int i = 0; i < LANES; i++) {
    t->dD[i] += dD[i];
    t->dbias[i] += dbias[i];
  }
}

/* Stores or adds the chunk's (N, CHUNK) dB or dC in this slice's partial. */
INLINE void NAME(store_weights)(const problem *p, const NAME(tile) *t, REAL *partial, const REAL *weights,
                                int64_t slice, int add) {
  for (int64_t s = 0; s < t->steps; s++) {
    int64_t row = (slice * p->batch + t->b) * p->length + t->pixels[s];
    REAL *target = partial + ((row * p->routes + t->k) * p->groups + t->group) * p->states;
    for (int64_t n = 0; n < p->states; n++) target[n] = weights[n * CHUNK + s] + (add ? target[n] : 0);
  }
}

INLINE void NAME(backward_chunk)(const problem *p, NAME(tile) *t, int64_t chunk, int64_t slice, int add) {
  int gated = p->z.data != NULL;
  NAME(load_chunk)(p, t, chunk * CHUNK, 1);
  NAME(load_gradient)(p, t);
  NAME(copy_lanes)(t->state, LANES, NAME(checkpoint)(p, t, chunk), p->channels, p->states, t->count);
  memset(t->through_x, 0, sizeof t->through_x);
  memset(t->through_a, 0, sizeof t->through_a);
  for (int64_t n = 0; n < p->states; n++) NAME(backward_state)(t, n, gated);
  NAME(finish_rows)(p, t);
  NAME(store_rows)(t->through_x, &p->du, t, p->du.route == 0 && t->k > 0);
  NAME(store_rows)(t->through_a, &p->ddelta, t, 0);
  NAME(store_weights)(p, t, p->dB, t->dB, slice, add);
  NAME(store_weights)(p, t, p->dC, t->dC, slice, add);
  if (gated) {
    for (int64_t s = 0; s < t->steps; s++)
      for (int i = 0; i < LANES; i++) t->y[s][i] *= t->dy[s][i] * t->z[s][i];
    NAME(store_rows)(t->y, &p->dz, t, t->k > 0);
  }
}

NAME(CLONES) void NAME(backward_tile)(const problem *p, NAME(tile) *t, int64_t slice, int add) {
  int64_t N = p->states, chunks = round_up_division(p->length, CHUNK);
  for (t->k = 0; t->k < p->routes; t->k++) {
    int64_t first = (t->b * p->routes + t->k) * p->channels + t->first;
    const REAL *dlast = p->dlast_state;
    NAME(enter_route)(p, t);
    memset(t->state, 0, (size_t)(N * LANES) * sizeof(REAL));
    memset(t->dA, 0, (size_t)(N * LANES) * sizeof(REAL));
    memset(t->dD, 0, sizeof t->dD);
    memset(t->dbias, 0, sizeof t->dbias);
    for (int64_t n = 0; n < N; n++)
      for (int64_t i = 0; i < LANES; i++)
        t->carry[n * LANES + i] = dlast && i < t->count ? dlast[(first + i) * N + n] : 0;
    for (int64_t c = chunks - 1; c >= 0; c--) NAME(backward_chunk)(p, t, c, slice, add);
    for (int64_t i = 0; i < t->count; i++) {
      for (int64_t n = 0; n < N; n++) ((REAL *)p->dA)[(first + i) * N + n] = t->dA[n * LANES + i];
      if (p->dD) ((REAL *)p->dD)[first + i] = t->dD[i];
      if (p->ddelta_bias) ((REAL *)p->ddelta_bias)[first + i] = t->dbias[i];
    }
  }
}

/* ---- units of work, shared by threads ---- */

static NAME(tile) *NAME(new_tile)(const problem *p) {
  size_t lanes = (size_t)p->states * LANES, weights = (size_t)p->states * CHUNK;
  size_t bytes = sizeof(NAME(tile)) + (5 * lanes + 4 * weights) * sizeof(REAL);
  NAME(tile) *t = aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (!t) return NULL;
  REAL *next = (REAL *)(t + 1);
  REAL **arrays[] = {&t->A, &t->A2, &t->state, &t->carry, &t->dA};
  for (int i = 0; i < 5; i++, next += lanes) *arrays[i] = next;
  REAL **chunks[] = {&t->B, &t->C, &t->dB, &t->dC};
  for (int i = 0; i < 4; i++, next += weights) *chunks[i] = next;
  return t;
}

static void NAME(place_tile)(const problem *p, NAME(tile) *t, int64_t tile_of_group) {
  int64_t per_group = p->channels / p->groups, start = tile_of_group * LANES;
  t->first = t->group * per_group + start;
  t->count = smaller(LANES, per_group - start);
}

/* Both return 0, or 1 if memory ran out. */
int NAME(scan_forward)(const problem *p) {
  int64_t tiles = round_up_division(p->channels / p->groups, LANES), units = p->batch * p->groups * tiles;
  int failed = 0;
#pragma omp parallel num_threads((int)larger(1, smaller(p->threads, units))) reduction(| : failed)
  {
    NAME(tile) *t = NAME(new_tile)(p);
    failed |= t == NULL;
#pragma omp for schedule(dynamic)
    for (int64_t unit = 0; unit < units; unit++) {
      if (!t) continue;
      t->b = unit / tiles / p->groups;
      t->group = unit / tiles % p->groups;
      NAME(place_tile)(p, t, unit % tiles);
      NAME(forward_tile)(p, t);
    }
    free(t);
  }
  return failed;
}

int NAME(scan_backward)(const problem *p) {
  int64_t tiles = round_up_division(p->channels / p->groups, LANES), units = p->batch * p->groups * p->slices;
  int failed = 0;
#pragma omp parallel num_threads((int)larger(1, smaller(p->threads, units))) reduction(| : failed)
  {
    NAME(tile) *t = NAME(new_tile)(p);
    failed |= t == NULL;
#pragma omp for schedule(dynamic)
    for (int64_t unit = 0; unit < units; unit++) {
      if (!t) continue;
      int64_t slice = unit % p->slices, first = slice * tiles / p->slices, end = (slice + 1) * tiles / p->slices;
      t->b = unit / p->slices / p->groups;
      t->group = unit / p->slices % p->groups;
      for (int64_t tile = first; tile < end; tile++) {
        NAME(place_tile)(p, t, tile);
        NAME(backward_tile)(p, t, slice, tile > first);
      }
    }
    free(t);
  }
  return failed;
}

/* target[i] = sum over parts of source[part, i], in the order of the parts. */
void NAME(scan_reduce)(const REAL *source, char *target, int64_t dtype, int64_t parts, int64_t count, int64_t threads) {
  enum { BLOCK = 256 };
  int64_t blocks = round_up_division(count, BLOCK);
#pragma omp parallel for num_threads((int)threads)
  for (int64_t block = 0; block < blocks; block++) {
    REAL sums[BLOCK] = {0};
    int64_t first = block * BLOCK, size = smaller(BLOCK, count - first);
    for (int64_t part = 0; part < parts; part++)
      for (int64_t i = 0; i < size; i++) sums[i] += source[part * count + first + i];
    for (int64_t i = 0; i < size; i++) NAME(store)(target, dtype, first + i, sums[i]);
  }
}
#endif
