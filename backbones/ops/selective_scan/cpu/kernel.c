/* The selective scan on a CPU: forward and backward of the canonical problem that problem.py states.
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

#include "problem.h"

/* One function body per instruction set, chosen when the library is loaded. Needs ifuncs (glibc), hence the conditions;
 * elsewhere the compiler's default instruction set has to do, which on ARM includes NEON. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 11
#define CLONES_float __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES_float
#endif
#define CLONES_double

#if defined(__GNUC__)
#define ALIGNED __attribute__((aligned(64)))
#else
#define ALIGNED
#endif

#define REAL float
#define REAL_DTYPE FLOAT32
#define NAME(name) name##_float
#include "kernel.c"
#undef REAL
#undef REAL_DTYPE
#undef NAME
#define REAL double
#define REAL_DTYPE FLOAT64
#define NAME(name) name##_double
#include "kernel.c"

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

/* ---- sums over lanes ---- */

/* Sums over the lanes, for eight steps at once: fold a row of LANES values to eight, then interleave and add pairs of
 * rows, three times. The compiler's own reduction would add the last eight one by one. */
#if defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 12)
typedef REAL NAME(octet) __attribute__((vector_size(8 * sizeof(REAL))));

INLINE void NAME(fold_row)(NAME(octet) *folded, const REAL *row) {
  NAME(octet) part[LANES / 8];
  memcpy(part, row, sizeof part);
  *folded = (part[0] + part[1]) + (part[2] + part[3]);
}

INLINE void NAME(sum_octets)(REAL *sums, NAME(octet) *x) {
  for (int j = 0; j < 8; j += 2)
    x[j] = __builtin_shufflevector(x[j], x[j + 1], 0, 8, 1, 9, 4, 12, 5, 13) +
           __builtin_shufflevector(x[j], x[j + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  for (int j = 0; j < 8; j += 4)
    x[j] = __builtin_shufflevector(x[j], x[j + 2], 0, 1, 8, 9, 4, 5, 12, 13) +
           __builtin_shufflevector(x[j], x[j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
  x[0] = __builtin_shufflevector(x[0], x[4], 0, 1, 2, 3, 8, 9, 10, 11) +
         __builtin_shufflevector(x[0], x[4], 4, 5, 6, 7, 12, 13, 14, 15);
  memcpy(sums, x, sizeof x[0]);
}
#else
typedef struct {
  REAL sum;
} NAME(octet);

INLINE void NAME(fold_row)(NAME(octet) *folded, const REAL *row) {
  folded->sum = 0;
  for (int i = 0; i < LANES; i++) folded->sum += row[i];
}

INLINE void NAME(sum_octets)(REAL *sums, NAME(octet) *x) {
  for (int j = 0; j < 8; j++) sums[j] = x[j].sum;
}
#endif

/* ---- one chunk of one tile ---- */

typedef REAL NAME(rows)[CHUNK][LANES];

typedef struct {
  int64_t b, k, group, first, count; /* channels first .. first + count - 1 */
  int64_t steps, pixels[CHUNK], ahead[CHUNK]; /* ahead: pixels of the chunk that comes next */
  /* What the loops over the states only read lies half a page away from what they write: a load that follows a store to
   * the same place in another page waits for it. */
  NAME(rows) u, dt, dtu, g, dy, z, slope ALIGNED; /* those from g on: backward only */
  REAL half_a_page[CHUNK / 2][LANES];
  NAME(rows) y, through_x, through_a, a; /* those after y: backward only */
  REAL h[CHUNK + 1][LANES];              /* h[s]: before step s */
  NAME(octet) dB_sums[CHUNK], dC_sums[CHUNK]; /* folded rows */
  REAL *B, *C, *dB, *dC;    /* (CHUNK, N) */
  REAL *A, *A2;             /* (N, LANES): A and A*log2(e) */
  REAL *state, *carry, *dA; /* (N, LANES) */
  REAL D[LANES], bias[LANES], dD[LANES], dbias[LANES] ALIGNED;
} NAME(tile);

/* Where the tile's first channel is at pixel 0. */
INLINE int64_t NAME(origin)(const tensor *x, const NAME(tile) *t) {
  return t->b * x->batch + t->k * x->route + t->first * x->lane;
}

/* For every step and lane of a full tile with neighbouring channels; `index` is where the value is in the tensor. */
#define EACH(statement)                                                                  \
  for (int64_t s = 0; s < steps; s++)                                                    \
    for (int64_t i = 0, index = origin + t->pixels[s] * step; i < LANES; i++, index++) { \
      statement;                                                                         \
    }

/* Gathers the chunk's rows of an activation, zeros in the lanes beyond the tile's channels. */
INLINE void NAME(load_rows)(NAME(rows) rows, const tensor *x, const NAME(tile) *t) {
  const REAL *reals = (const REAL *)x->data;
  const uint16_t *halves = (const uint16_t *)x->data;
  const int64_t steps = t->steps, step = x->step, lane = x->lane, dtype = x->dtype, origin = NAME(origin)(x, t);
  const int full = lane == 1 && t->count == LANES;
  if (full && dtype == REAL_DTYPE) {
    EACH(rows[s][i] = reals[index])
  } else if (full && dtype == BFLOAT16) {
    EACH(rows[s][i] = (REAL)from_bfloat16(halves[index]))
  } else if (full && dtype == FLOAT16) {
    EACH(rows[s][i] = (REAL)from_float16(halves[index]))
  } else {
    for (int64_t i = 0; i < LANES; i++) /* strided channels: time is likely the contiguous axis, so it goes innermost */
      for (int64_t s = 0; s < steps; s++) {
        int64_t index = origin + t->pixels[s] * step + i * lane;
        rows[s][i] = i < t->count ? NAME(load)(x->data, dtype, index) : 0;
      }
  }
}

/* Stores the chunk's rows; or adds them to what the routes before have stored, in the arithmetic type. */
INLINE void NAME(store_rows)(NAME(rows) rows, const tensor *x, const NAME(tile) *t, int add) {
  REAL *reals = (REAL *)x->data;
  uint16_t *halves = (uint16_t *)x->data;
  const int64_t steps = t->steps, step = x->step, dtype = x->dtype, origin = NAME(origin)(x, t);
  const int full = t->count == LANES;
  if (full && add) {
    EACH(reals[index] += rows[s][i])
  } else if (full && dtype == REAL_DTYPE) {
    EACH(reals[index] = rows[s][i])
  } else if (full && dtype == BFLOAT16) {
    EACH(halves[index] = to_bfloat16((float)rows[s][i]))
  } else if (full && dtype == FLOAT16) {
    EACH(halves[index] = to_float16((float)rows[s][i]))
  } else {
    for (int64_t s = 0; s < steps; s++)
      for (int64_t i = 0; i < t->count; i++) {
        int64_t index = origin + t->pixels[s] * step + i;
        NAME(store)(x->data, dtype, index, rows[s][i] + (add ? reals[index] : 0));
      }
  }
}
#undef EACH

/* B or C of the chunk, (CHUNK, N). */
INLINE void NAME(load_weights)(REAL *restrict weights, const tensor *x, const NAME(tile) *t, int64_t states) {
  const REAL *reals = (const REAL *)x->data;
  const int64_t steps = t->steps, step = x->step, lane = x->lane, dtype = x->dtype;
  const int64_t origin = t->b * x->batch + t->k * x->route + t->group * x->group;
  if (states % 8 == 0 && lane == 1 && dtype == REAL_DTYPE) {
    for (int64_t s = 0; s < steps; s++)
      for (int64_t n = 0; n < states; n += 8)
        memcpy(weights + s * states + n, reals + origin + t->pixels[s] * step + n, 8 * sizeof(REAL));
    return;
  }
  for (int64_t n = 0; n < states; n++)
    for (int64_t s = 0; s < steps; s++) {
      int64_t index = origin + t->pixels[s] * step + n * lane;
      weights[s * states + n] = dtype == REAL_DTYPE ? reals[index] : NAME(load)(x->data, dtype, index);
    }
}

INLINE row_bytes NAME(locate_rows)(const tensor *x, const NAME(tile) *t) {
  const int64_t size = x->dtype == FLOAT64 ? 8 : x->dtype == FLOAT32 ? 4 : 2;
  row_bytes rows = {x->data + NAME(origin)(x, t) * size, x->step * size, LANES * size};
  return rows;
}

INLINE REAL NAME(sigmoid)(REAL x) {
  REAL e = NAME(exp_minus)(x);
  return (x < 0 ? e : (REAL)1) / (1 + e);
}

/* What both sweeps read: u, dt, dt*u, B, C; for the backward, d(dt)/d(delta) too. */
INLINE void NAME(load_chunk)(const problem *p, NAME(tile) *t, int64_t start, int backward) {
  t->steps = smaller(CHUNK, p->length - start);
  visit(p, p->codes[t->k], start, t->steps, t->pixels);
  int64_t next = backward ? start - CHUNK : start + CHUNK;
  int64_t foreseen = next < 0 ? 0 : smaller(t->steps, p->length - next);
  visit(p, p->codes[t->k], next, foreseen, t->ahead);
  NAME(load_rows)(t->u, &p->u, t);
  NAME(load_rows)(t->dt, &p->delta, t);
  NAME(load_weights)(t->B, &p->B, t, p->states);
  NAME(load_weights)(t->C, &p->C, t, p->states);
  const row_bytes u_rows = NAME(locate_rows)(&p->u, t), delta_rows = NAME(locate_rows)(&p->delta, t);
  const row_bytes y_rows = NAME(locate_rows)(&p->y, t), dy_rows = NAME(locate_rows)(&p->dy, t);
  const row_bytes du_rows = NAME(locate_rows)(&p->du, t), ddelta_rows = NAME(locate_rows)(&p->ddelta, t);
  for (int64_t s = 0; s < t->steps; s++) {
    REAL *dt = t->dt[s], *u = t->u[s], *dtu = t->dtu[s], *slope = t->slope[s];
    if (s < foreseen) {
      prefetch_row(u_rows, t->ahead[s], 0);
      prefetch_row(delta_rows, t->ahead[s], 0);
      if (backward) {
        prefetch_row(dy_rows, t->ahead[s], 0);
        prefetch_row(du_rows, t->ahead[s], 1);
        prefetch_row(ddelta_rows, t->ahead[s], 1);
      } else {
        prefetch_row(y_rows, t->ahead[s], 1);
      }
    }
    if (!p->softplus) {
      for (int i = 0; i < LANES; i++) dt[i] += t->bias[i];
    } else {
      for (int i = 0; i < LANES; i++) {
        REAL x = dt[i] + t->bias[i];
        REAL e = NAME(exp_minus)(x), rectified = x < 0 ? 0 : x;
        int identity = REAL_DTYPE == FLOAT64 && x > 20; /* in float, softplus(x) rounds to x there */
        dt[i] = identity ? x : rectified + NAME(log1p)(e);
        if (backward) slope[i] = identity ? (REAL)1 : (x < 0 ? e : (REAL)1) / (1 + e);
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
INLINE void NAME(forward_state)(NAME(tile) *t, int64_t states, int64_t n, int first) {
  const REAL *restrict A2 = t->A2 + n * LANES, *restrict B = t->B + n, *restrict C = t->C + n;
  REAL *restrict state = t->state + n * LANES;
  REAL h[LANES], a2[LANES];
  memcpy(h, state, sizeof h);
  memcpy(a2, A2, sizeof a2);
  for (int64_t s = 0; s < t->steps; s++) {
    REAL b = B[s * states], c = C[s * states];
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
  NAME(forward_state)(t, p->states, 0, 1);
  for (int64_t n = 1; n < p->states; n++) NAME(forward_state)(t, p->states, n, 0);
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

/* Sums of the folded rows over their lanes, one per step; beyond the last step they are of stale rows. */
INLINE void NAME(sum_rows)(REAL *sums, int64_t stride, NAME(octet) *folded, int64_t steps) {
  for (int64_t s = 0; s < steps; s += 8) {
    REAL eight[8];
    NAME(sum_octets)(eight, folded + s);
    for (int64_t i = 0; i < 8; i++) sums[(s + i) * stride] = eight[i];
  }
}

/* Everything that state n contributes over the chunk: forward from the checkpoint, then in reverse. */
INLINE void NAME(backward_state)(NAME(tile) *t, int64_t states, int64_t n, int first, int gated) {
  const REAL *restrict A = t->A + n * LANES, *restrict A2 = t->A2 + n * LANES;
  const REAL *restrict B = t->B + n, *restrict C = t->C + n;
  REAL *restrict state = t->state + n * LANES, *restrict carry = t->carry + n * LANES, *restrict dA = t->dA + n * LANES;
  int64_t steps = t->steps;
  REAL a1[LANES], a2[LANES], h[LANES], mu[LANES], da[LANES] = {0}; /* mu: dL/dh through later steps */
  memcpy(a1, A, sizeof a1);
  memcpy(a2, A2, sizeof a2);
  memcpy(h, state, sizeof h);
  memcpy(mu, carry, sizeof mu);
  memcpy(t->h[0], state, sizeof h);
  for (int64_t s = 0; s < steps; s++) {
    REAL b = B[s * states], products[LANES];
    for (int i = 0; i < LANES; i++) {
      REAL a = NAME(exp2)(t->dt[s][i] * a2[i]);
      h[i] = a * h[i] + t->dtu[s][i] * b;
      t->a[s][i] = a;
      t->h[s + 1][i] = h[i];
      products[i] = t->g[s][i] * h[i];
    }
    NAME(fold_row)(&t->dC_sums[s], products);
  }
  NAME(sum_rows)(t->dC + n, states, t->dC_sums, steps);
  if (gated)
    for (int64_t s = 0; s < steps; s++)
      for (int i = 0; i < LANES; i++) t->y[s][i] += C[s * states] * t->h[s + 1][i];
  for (int64_t s = steps - 1; s >= 0; s--) {
    REAL b = B[s * states], c = C[s * states], products[LANES];
    for (int i = 0; i < LANES; i++) {
      REAL lambda = t->g[s][i] * c + mu[i]; /* dL/dh */
      t->through_x[s][i] = (first ? 0 : t->through_x[s][i]) + lambda * b;
      products[i] = lambda * t->dtu[s][i];
      mu[i] = t->a[s][i] * lambda;
      REAL flow = mu[i] * t->h[s][i]; /* dL/d(dt*A) */
      t->through_a[s][i] = (first ? 0 : t->through_a[s][i]) + a1[i] * flow;
      da[i] += t->dt[s][i] * flow;
    }
    NAME(fold_row)(&t->dB_sums[s], products);
  }
  memcpy(carry, mu, sizeof mu);
  for (int i = 0; i < LANES; i++) dA[i] += da[i];
  NAME(sum_rows)(t->dB + n, states, t->dB_sums, steps);
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

/* Stores or adds the chunk's (CHUNK, N) dB or dC in this slice's partial. */
INLINE void NAME(store_weights)(const problem *p, const NAME(tile) *t, REAL *restrict partial,
                                const REAL *restrict weights, int64_t slice, int add) {
  const int64_t N = p->states, step = p->routes * p->groups * N;
  partial += (slice * p->batch + t->b) * p->length * step + (t->k * p->groups + t->group) * N;
  if (N % 8 == 0) {
    for (int64_t s = 0; s < t->steps; s++)
      for (int64_t n = 0; n < N; n += 8)
        for (int64_t i = n; i < n + 8; i++) {
          REAL *target = partial + t->pixels[s] * step + i;
          *target = weights[s * N + i] + (add ? *target : 0);
        }
    return;
  }
  for (int64_t n = 0; n < N; n++)
    for (int64_t s = 0; s < t->steps; s++) {
      REAL *target = partial + t->pixels[s] * step + n;
      *target = weights[s * N + n] + (add ? *target : 0);
    }
}

INLINE void NAME(backward_chunk)(const problem *p, NAME(tile) *t, int64_t chunk, int64_t slice, int add) {
  int gated = p->z.data != NULL;
  NAME(load_chunk)(p, t, chunk * CHUNK, 1);
  NAME(load_gradient)(p, t);
  NAME(copy_lanes)(t->state, LANES, NAME(checkpoint)(p, t, chunk), p->channels, p->states, t->count);
  NAME(backward_state)(t, p->states, 0, 1, gated);
  for (int64_t n = 1; n < p->states; n++) NAME(backward_state)(t, p->states, n, 0, gated);
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

/* A unit is one batch element, group and slice of the group's tiles; the forward has a slice per tile. Returns 1 if
 * memory ran out, else 0. */
INLINE int NAME(share_units)(const problem *p, int backward) {
  int64_t per_group = p->channels / p->groups, tiles = round_up_division(per_group, LANES);
  int64_t slices = backward ? p->slices : tiles, units = p->batch * p->groups * slices;
  int threads = (int)smaller(p->threads, units), failed = 0;
  if (units == 0) return 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
  {
    NAME(tile) *t = NAME(new_tile)(p);
    failed |= t == NULL;
#pragma omp for schedule(dynamic)
    for (int64_t unit = 0; unit < units; unit++) {
      int64_t slice = unit % slices, first = slice * tiles / slices, end = (slice + 1) * tiles / slices;
      for (int64_t tile = first; t && tile < end; tile++) {
        t->b = unit / slices / p->groups;
        t->group = unit / slices % p->groups;
        t->first = t->group * per_group + tile * LANES;
        t->count = smaller(LANES, per_group - tile * LANES);
        if (backward)
          NAME(backward_tile)(p, t, slice, tile > first);
        else
          NAME(forward_tile)(p, t);
      }
    }
    free(t);
  }
  return failed;
}

int NAME(scan_forward)(const problem *p) { return NAME(share_units)(p, 0); }
int NAME(scan_backward)(const problem *p) { return NAME(share_units)(p, 1); }

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
