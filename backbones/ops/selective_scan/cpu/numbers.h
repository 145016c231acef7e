/* 16-bit floats, exponentials and logarithms in plain arithmetic: no branches, no tables, no library calls, so that the
 * compiler can turn a loop over them into vector instructions of any set. Included by problem.h alone.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

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
