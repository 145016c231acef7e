"""Device functions that the Triton kernels of the selective scan share: routes, rows of memory, lanes, activations.

A kernel's program is one warp over BLOCK_E = 32 or 64 channels, whose states (BLOCK_N, BLOCK_E) stay in registers. It
works off UNROLL steps at a time, a *group*. What differs per step and state but not per channel, B and C and their
gradients, is spread over the warp instead of repeated in every lane: with R = UNROLL·BLOCK_N values in a group, a tile
(max(1, R/32), 32) holds value q = lane·R/32 + row, that is, state q % BLOCK_N of step q // BLOCK_N of the group.
:func:`spread_values` turns that into columns of the state tile, and :func:`sum_channels` is its transpose.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Arguments are not specialised: no recompilation for a new resolution or an unaligned view, and no alignment hint that
# would tempt the compiler to load several neighbouring channels into one lane and shuffle them to where they belong.
POINTERS = (
    *("u_ptr", "delta_ptr", "A_ptr", "B_ptr", "C_ptr", "D_ptr", "z_ptr", "bias_ptr", "start_ptr", "y_ptr"),
    *("last_state_ptr", "checkpoints_ptr", "state_ptr", "sum_ptr", "first_ptr", "dy_ptr", "dlast_state_ptr"),
    *("carry_ptr", "alpha_ptr", "du_ptr", "ddelta_ptr", "dz_ptr", "dB_ptr", "dC_ptr", "dA_ptr", "dD_ptr", "dbias_ptr"),
)
INTEGERS = (
    *("u_b", "u_l", "u_k", "delta_b", "delta_l", "delta_k", "z_b", "z_l", "y_b", "y_l", "y_k", "dy_b", "dy_l", "dy_k"),
    *("B_b", "B_l", "B_k", "B_g", "C_b", "C_l", "C_k", "C_g", "L", "H", "W", "E", "batch"),
    *("groups", "group_size", "blocks_per_group", "blocks", "segments", "segment"),
)
LANES = tl.constexpr(32)
LN2 = tl.constexpr(0.6931471805599453)
LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def program_coordinates(blocks, segments, ROUTES: tl.constexpr):
    """(batch, segment, route, channel block) of this program; neighbours share B and C.

    The factors of strides are int64, as every offset from a tensor's begin.
    """
    program = tl.program_id(0)
    block = program % blocks
    program //= blocks
    route = program % len(ROUTES)
    program //= len(ROUTES)
    return (program // segments).to(tl.int64), program % segments, route.to(tl.int64), block


@triton.jit
def block_channels(block, group_size, blocks_per_group, BLOCK_E: tl.constexpr):
    """The group of B and C, the channels (BLOCK_E,) of a block, and which of them exist: a block stays in its group."""
    group = block // blocks_per_group
    offset = (block % blocks_per_group) * BLOCK_E + tl.arange(0, BLOCK_E)
    return group.to(tl.int64), group * group_size + offset, offset < group_size


@triton.jit
def route_code(route, ROUTES: tl.constexpr):
    """The code of this program's route."""
    code = tl.full([], 0, tl.int32)
    for k in tl.static_range(len(ROUTES)):
        code = tl.where(route == k, ROUTES[k], code)
    return code


@triton.jit
def first_pixel(step, code, L, H, W):
    """Pixel of a step, and how to go on: see :func:`next_pixel`.

    Returns:
        pixel; steps until the route changes column (never for rows); the distance to the next pixel; what is added to
        it at a change of column. Walking along ``code ^ 1`` from step L-1-s is walking back from step s.
    """
    backwards = (code & 1) == 1
    columns = code >= 2
    position = tl.where(backwards, L - 1 - step, step)
    row = position % H
    pixel = tl.where(columns, row * W + position // H, position)
    left = tl.where(columns, tl.where(backwards, row + 1, H - row), L + 1)
    stride = tl.where(columns, W, 1)
    return pixel, left, tl.where(backwards, -stride, stride), tl.where(backwards, L - 1, 1 - L)


@triton.jit
def next_pixel(pixel, left, stride, jump, H, COLUMNS: tl.constexpr):
    """Goes one step along a route, without a division."""
    pixel += stride
    if COLUMNS:
        left -= 1
        pixel = tl.where(left == 0, pixel + jump, pixel)
        left = tl.where(left == 0, H, left)
    return pixel, left


@triton.jit
def inside(pixel, L):
    """A pixel of the grid as uint32: the prefetch runs past either end, and what it reads there is not used."""
    return tl.minimum(pixel.to(tl.uint32), (L - 1).to(tl.uint32))


@triton.jit
def byte_offset(pointers, offset):
    """``pointers`` moved by ``offset`` bytes; strides are in bytes, so that an address is one multiply-add."""
    return (pointers.to(tl.pointer_type(tl.int8)) + offset).to(pointers.dtype)


@triton.jit
def at_pixel(rows, pixel, stride):
    """Pointers to a pixel (uint32); 64 bits wide, from unsigned 32-bit factors where the stride has only 32 bits."""
    if stride.dtype == tl.int32:
        stride = stride.to(tl.uint32)
    return byte_offset(rows, pixel.to(tl.uint64) * stride.to(tl.uint64))


@triton.jit
def load(pointers, mask, MASKED: tl.constexpr):
    """Loads in the dtype of memory: a conversion here would wait for the load, in the middle of the prefetch."""
    if MASKED:
        value = tl.load(pointers, mask=mask, other=0.0)
    else:
        value = tl.load(pointers)
    return value


@triton.jit
def store_row(pointers, values, mask, MASKED: tl.constexpr, exists, PARTIAL: tl.constexpr):
    """Stores (BLOCK_E,) in the dtype of memory, if its step exists."""
    values = values.to(pointers.dtype.element_ty)
    if MASKED and PARTIAL:
        tl.store(pointers, values, mask=mask & exists)
    elif MASKED:
        tl.store(pointers, values, mask=mask)
    elif PARTIAL:
        tl.store(pointers, values, mask=exists)
    else:
        tl.store(pointers, values)


@triton.jit
def lane_values(N: tl.constexpr, BLOCK_N: tl.constexpr, UNROLL: tl.constexpr):
    """Step of the group and state that each entry of a spread tile holds, and which entries exist, once."""
    R: tl.constexpr = UNROLL * BLOCK_N
    ROWS: tl.constexpr = (R + LANES - 1) // LANES
    lane = tl.broadcast_to(tl.arange(0, LANES)[None, :], [ROWS, LANES])
    value = lane * R // LANES + tl.arange(0, ROWS)[:, None]
    state = value % BLOCK_N
    return value // BLOCK_N, state, (state < N) & (lane * R % LANES == 0)


@triton.jit
def fetch_group(
    rows, strides, mask, MASKED: tl.constexpr, tiles, tile_strides, tile_step, tile_mask, walk, L, H,
    COLUMNS: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Starts the loads of the next UNROLL steps of a route.

    Args:
        rows: pointers (BLOCK_E,) to pixel 0 of what each channel reads, a tuple; ``strides`` in bytes per pixel.
        tiles: pointers to pixel 0 of what is spread over the lanes, a tuple; ``tile_step`` is the entries' step.
        walk: what :func:`first_pixel` returned.

    Returns:
        The values of ``rows``, a tuple per step; the pixel of each step; the pixels of ``tile_step``; the values of
        ``tiles``; and the walk, UNROLL steps on.
    """
    pixel, left, stride, jump = walk
    values = ()
    pixels = ()
    tile_pixel = tl.zeros(tile_step.shape, tl.uint32)
    for i in tl.static_range(UNROLL):
        p = inside(pixel, L)
        loaded = ()
        for j in tl.static_range(len(rows)):
            loaded += (load(at_pixel(rows[j], p, strides[j]), mask, MASKED),)
        values += (loaded,)
        pixels += (p,)
        tile_pixel = tl.where(tile_step == i, p, tile_pixel)
        pixel, left = next_pixel(pixel, left, stride, jump, H, COLUMNS)
    spread = ()
    for j in tl.static_range(len(tiles)):
        spread += (load(at_pixel(tiles[j], tile_pixel, tile_strides[j]), tile_mask, True),)
    return values, pixels, tile_pixel, spread, (pixel, left, stride, jump)


@triton.jit
def spread_values(tile, i: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, UNROLL: tl.constexpr):
    """Column of step i from a spread tile, for every channel: (BLOCK_N, BLOCK_E)."""
    R: tl.constexpr = UNROLL * BLOCK_N
    REPEAT: tl.constexpr = BLOCK_E // LANES
    if R <= LANES:
        source = (i * BLOCK_N + tl.arange(0, BLOCK_N)) * (LANES // R)
        values = tl.gather(
            tl.broadcast_to(tile, [BLOCK_N, LANES]), tl.broadcast_to(source[:, None], [BLOCK_N, LANES]), 1
        )
    else:  # one step, R // LANES rows: state lane·rows + row
        ROWS: tl.constexpr = R // LANES
        source = tl.broadcast_to(tl.arange(0, LANES)[:, None, None], [LANES, ROWS, LANES])
        values = tl.gather(tl.broadcast_to(tile[None, :, :], [LANES, ROWS, LANES]), source, 2)
        values = tl.reshape(values, [BLOCK_N, LANES])
    if REPEAT > 1:
        values = tl.broadcast_to(values[:, None, :], [BLOCK_N, REPEAT, LANES])
        values = tl.reshape(values, [BLOCK_N, BLOCK_E])
    return values


@triton.jit
def _exchange(low, high, BIT: tl.constexpr):
    """Adds pairs of lanes that differ in BIT: the lower one keeps the sum of ``low``, the upper that of ``high``."""
    lane = tl.arange(0, LANES)[None, :]
    upper = (lane & BIT) != 0
    kept = tl.where(upper, high, low)
    sent = tl.where(upper, low, high)
    return kept + tl.gather(sent, tl.broadcast_to(lane ^ BIT, sent.shape), 1)


@triton.jit
def _sum_in_lane(tile, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr):
    """(BLOCK_N, 32 or 64) -> (BLOCK_N, 32): adds the two channels that a lane may hold."""
    if BLOCK_E > LANES:
        low, high = tl.split(tl.permute(tl.reshape(tile, [BLOCK_N, 2, LANES]), [0, 2, 1]))
        tile = low + high
    return tile


@triton.jit
def _fold(values, BIT: tl.constexpr, STEPS: tl.constexpr, STATES: tl.constexpr):
    """One stage of :func:`sum_channels`: a tuple of STEPS tiles, at last one of STATES rows, loses half of its rows."""
    folded = ()
    if STEPS > 1:
        for i in tl.static_range(STEPS // 2):
            folded += (_exchange(values[i], values[i + STEPS // 2], BIT),)
    elif STATES > 1:
        low, high = tl.split(tl.permute(tl.reshape(values[0], [2, STATES // 2, LANES]), [1, 2, 0]))
        folded += (_exchange(low, high, BIT),)
    else:
        lane = tl.arange(0, LANES)[None, :]
        folded += (values[0] + tl.gather(values[0], lane ^ BIT, 1),)
    return folded


@triton.jit
def sum_channels(tiles, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, UNROLL: tl.constexpr):
    """Sums over channels of the UNROLL tiles (BLOCK_N, BLOCK_E) of a group, as a spread tile.

    A butterfly that halves the number of values at each exchange: one shuffle per value, where a sum that ends in
    every lane takes five.
    """
    values = ()
    for i in tl.static_range(UNROLL):
        values += (_sum_in_lane(tiles[i], BLOCK_N, BLOCK_E),)
    for stage in tl.static_range(5):
        values = _fold(values, 16 >> stage, UNROLL >> stage, UNROLL * BLOCK_N >> stage)
    return values[0]


@triton.jit
def _approximate(x, INSTRUCTION: tl.constexpr):
    """One instruction of the GPU's special function unit, good to about 2^-22."""
    return tl.inline_asm_elementwise(INSTRUCTION + " $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)


@triton.jit
def _log2(x, PTX: tl.constexpr):
    """log2; Triton's own is a polynomial of twenty instructions."""
    if PTX:
        y = _approximate(x, "lg2.approx.ftz.f32")
    else:
        y = tl.log2(x)
    return y


@triton.jit
def _reciprocal(x, PTX: tl.constexpr):
    """1/x; Triton's division guards against an overflow that cannot happen here."""
    if PTX:
        y = _approximate(x, "rcp.approx.ftz.f32")
    else:
        y = 1.0 / x
    return y


@triton.jit
def softplus(x, PTX: tl.constexpr):
    """log(1 + e^x) to 3e-6 relative, the identity above 20; log alone loses the small steps dt that Mamba lives on."""
    e = tl.exp2(x * LOG2E)
    series = e * (0.99999987 - e * (0.49995779 - e * (0.33118236 - e * 0.21424098)))  # minimax, 1.4e-7
    y = tl.where(e < 0.1, series, _log2(1.0 + e, PTX) * LN2)
    return tl.where(x > 20.0, x, y)


@triton.jit
def softplus_slope(x, PTX: tl.constexpr):
    """Derivative of :func:`softplus`, from the same exponential."""
    e = tl.exp2(x * LOG2E)
    return tl.where(x > 20.0, 1.0, e * _reciprocal(1.0 + e, PTX))


@triton.jit
def sigmoid(x, PTX: tl.constexpr):
    return _reciprocal(1.0 + tl.exp2(x * -LOG2E), PTX)


@triton.jit
def biased(delta, bias):
    """delta + delta_bias in float32."""
    p = delta.to(tl.float32)
    if bias is not None:
        p += bias
    return p


@triton.jit
def step_size(p, SOFTPLUS: tl.constexpr, PTX: tl.constexpr):
    """dt of p = delta + delta_bias."""
    dt = p
    if SOFTPLUS:
        dt = softplus(p, PTX)
    return dt
