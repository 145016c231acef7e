/* The problem that launch.py hands to the kernel, and the routes over its pixels. Included by kernel.c alone. */
#include <stddef.h>

#include "numbers.h"

#define CHUNK 32
#define LANES 32

#if defined(__GNUC__)
#define PREFETCH(address, writing) __builtin_prefetch(address, writing)
#else
#define PREFETCH(address, writing) (void)(address)
#endif

enum dtype { FLOAT32, FLOAT64, BFLOAT16, FLOAT16 };
enum route { ROWS, ROWS_REVERSED, COLUMNS, COLUMNS_REVERSED };

/* An activation; strides in elements. lane is the stride of the channels, of B and C that of the states. */
typedef struct {
  char *data;
  int64_t dtype, batch, step, route, group, lane;
} tensor;

/* Absent tensors have data == NULL. Sizes as in problem.py; E/G channels in each of the G groups. launch.py fills this in
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

_Static_assert(sizeof(void *) == 8 && sizeof(problem) == (12 + 6 * 7 + 4 + 4 * 7 + 7) * 8, "as launch.py fills it in");

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
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

/* A tile's rows of an activation. They are copied out of `tensor` before a loop that stores: the compiler would have to
 * read the fields anew at each step, for all it knows they are what is stored. */
typedef struct {
  const char *first;
  int64_t step, size;
} row_bytes;

/* Asks for a row's cache lines. The processor does not foresee them: a tile's rows are not neighbours. */
INLINE void prefetch_row(row_bytes rows, int64_t pixel, int writing) {
  const char *row = rows.first + pixel * rows.step;
  PREFETCH(row, writing);
  PREFETCH(row + rows.size - 1, writing);
}
