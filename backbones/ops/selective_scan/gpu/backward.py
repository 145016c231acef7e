"""Triton kernel of the selective scan's backward: no stored state but the checkpoints, no atomics.

With g = dL/dy (times silu(z)), x = dt·u·B, λ_s = dL/dh_s = g_s·C_s + μ_s and μ_s = a_{s+1}·λ_{s+1}, the gradients of A
and dt ask for q_s = dL/d(log a_s) = λ_s·a_s·h_{s-1}, whose factors are known from first to last and from last to first.
But q is the flow from inputs before step s to outputs at or after it, and what a step adds to the flow is a difference
of two terms that know only one direction each. Inside a chunk that ends with step E

    q_s = h_E·μ_E + Σ_{r=s..E} (g_r·C_r·a_r·h_{r-1} - μ_r·x_r)

so that a forward sweep leaves one number per step and channel, α = Σ_n A·g·C·a·h, for the reverse sweep:

    Σ_n A·q_s = Σ_n A·h_E·μ_E + Σ_{r=s..E} (α_r - dt_r·u_r·Σ_n A·μ_r·B_r)
    dA        = Σ_s dt_s·q_s = T_E·h_E·μ_E + Σ_r T_r·(g_r·C_r·a_r·h_{r-1} - μ_r·x_r)      T = cumsum(dt)

What a step passes from its own input to its own output, g·C·x, is in neither term: where dt is so large that the state
is forgotten, both vanish instead of cancelling. The cancellation that remains grows with the chunk; at 32 steps it is
within the accuracy of float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .device import (
    INTEGERS,
    LN2,
    LOG2E,
    POINTERS,
    at_pixel,
    biased,
    block_channels,
    byte_offset,
    fetch_group,
    first_pixel,
    lane_values,
    load,
    program_coordinates,
    route_code,
    sigmoid,
    softplus_slope,
    spread_values,
    step_size,
    store_row,
    sum_channels,
)


@triton.jit
def _gated(row, D, x, y, dz, dz_l, pixel, mask, MASKED: tl.constexpr, exists, PARTIAL: tl.constexpr, PTX: tl.constexpr):
    """dL/dy before the gate, from dL/dy after it; stores dL/dz, for which y (before the gate) is needed."""
    dy = row[2].to(tl.float32)
    if len(row) == 4:
        gate = row[3].to(tl.float32)
        s = sigmoid(gate, PTX)
        if y is not None:
            if D is not None:
                y += D * x
            store_row(at_pixel(dz, pixel, dz_l), dy * y * s * (1.0 + gate * (1.0 - s)), mask, MASKED, exists, PARTIAL)
        dy *= gate * s
    return dy


@triton.jit
def _fetch_alphas(alpha, last, BLOCK_E: tl.constexpr, UNROLL: tl.constexpr):
    """α of the UNROLL steps down from ``last``, zero before the chunk's first."""
    values = ()
    for i in tl.static_range(UNROLL):
        values += (tl.load(alpha + (last - i) * BLOCK_E, mask=last >= i, other=0.0),)
    return values


@triton.jit
def _sweep_forward(
    h, A, dA, elapsed, D, bias, rows, tiles, pixels, dz, dz_l, dC, dC_l, tile_pixels, tile_step, tile_mask, alpha,
    mask, MASKED: tl.constexpr, count, PARTIAL: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, UNROLL: tl.constexpr, SOFTPLUS: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    """A group of the forward sweep: α, dz, dC and the part of dA that needs h. ``elapsed`` is T."""
    B = tiles[0].to(tl.float32)
    C = tiles[1].to(tl.float32)
    summands = ()
    for i in tl.static_range(UNROLL):
        x = rows[i][0].to(tl.float32)
        dt = step_size(biased(rows[i][1], bias), SOFTPLUS, PTX)
        C_i = spread_values(C, i, BLOCK_N, BLOCK_E, UNROLL)
        if PARTIAL:
            dt = tl.where(i < count, dt, 0.0)
        dtx = dt * x
        kept = h * tl.exp2(A * dt[None, :])
        h = kept + spread_values(B, i, BLOCK_N, BLOCK_E, UNROLL) * dtx[None, :]
        elapsed += dt
        y = None
        if len(rows[i]) == 4:
            y = tl.sum(h * C_i, axis=0)
        g = _gated(rows[i], D, x, y, dz, dz_l, pixels[i], mask, MASKED, i < count, PARTIAL, PTX)
        if PARTIAL:
            g = tl.where(i < count, g, 0.0)
        flow = kept * (C_i * g[None, :])
        store_row(alpha + i * BLOCK_E, tl.sum(flow * A, axis=0), mask, False, i < count, PARTIAL)
        dA += flow * elapsed[None, :]
        summands += (h * g[None, :],)
    exists = tile_mask
    if PARTIAL:
        exists = exists & (tile_step < count)
    tl.store(at_pixel(dC, tile_pixels, dC_l), sum_channels(summands, BLOCK_N, BLOCK_E, UNROLL), mask=exists)
    return h, dA, elapsed


@triton.jit
def _sweep_reverse(
    mu, A, dA, elapsed, flow, dD, dbias, D, bias, rows, tiles, pixels, du, du_l, ddelta, ddelta_l, dB, dB_l,
    tile_pixels, tile_step, tile_mask, alphas, mask, MASKED: tl.constexpr, count, PARTIAL: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, UNROLL: tl.constexpr, SOFTPLUS: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    """A group of the reverse sweep. ``mu`` is μ, ``flow`` Σ_n A·q of the later step, with A in units of log2."""
    B = tiles[0].to(tl.float32)
    C = tiles[1].to(tl.float32)
    summands = ()
    for i in tl.static_range(UNROLL):
        x = rows[i][0].to(tl.float32)
        p = biased(rows[i][1], bias)
        dt = step_size(p, SOFTPLUS, PTX)
        g = _gated(rows[i], D, x, None, None, None, None, mask, MASKED, True, False, PTX)
        if PARTIAL:
            dt = tl.where(i < count, dt, 0.0)
            g = tl.where(i < count, g, 0.0)
        dtx = dt * x
        B_i = spread_values(B, i, BLOCK_N, BLOCK_E, UNROLL)
        lam = mu + spread_values(C, i, BLOCK_N, BLOCK_E, UNROLL) * g[None, :]
        summands += (lam * dtx[None, :],)
        through = tl.sum(lam * B_i, axis=0)
        mu_B = mu * B_i
        dA -= mu_B * (dtx * elapsed)[None, :]
        elapsed -= dt
        mu = lam * tl.exp2(A * dt[None, :])

        flow += alphas[i] - dtx * tl.sum(mu_B * A, axis=0)
        dx = through * dt
        if D is not None:
            dx += D * g
            dD += x * g
        store_row(at_pixel(du, pixels[i], du_l), dx, mask, MASKED, i < count, PARTIAL)
        dp = through * x + flow * LN2
        if SOFTPLUS:
            dp *= softplus_slope(p, PTX)
        store_row(at_pixel(ddelta, pixels[i], ddelta_l), dp, mask, MASKED, i < count, PARTIAL)
        if bias is not None:
            if PARTIAL:
                dp = tl.where(i < count, dp, 0.0)
            dbias += dp
    exists = tile_mask
    if PARTIAL:
        exists = exists & (tile_step < count)
    tl.store(at_pixel(dB, tile_pixels, dB_l), sum_channels(summands, BLOCK_N, BLOCK_E, UNROLL), mask=exists)
    return mu, dA, elapsed, flow, dD, dbias


@triton.jit(do_not_specialize=INTEGERS, do_not_specialize_on_alignment=POINTERS)
def backward_kernel(
    dy_ptr,
    dlast_state_ptr,  # (B, K, E, N), or None
    carry_ptr,  # (B, K, segments, N, E): a·λ that enters each segment from behind, or None
    u_ptr,
    delta_ptr,
    A_ptr,  # (K, N, E)
    B_ptr,
    C_ptr,
    D_ptr,
    z_ptr,
    bias_ptr,
    checkpoints_ptr,  # (B, K, chunks, N, E)
    alpha_ptr,  # scratch: (programs, CHUNK, BLOCK_E)
    du_ptr,  # (B, L, K, E), as ddelta and dz
    ddelta_ptr,
    dz_ptr,
    dB_ptr,  # (blocks per group, B, L, K, G, N), as dC
    dC_ptr,
    dA_ptr,  # (B, segments, K, N, E)
    dD_ptr,  # (B, segments, K, E), as dbias
    dbias_ptr,
    dy_b,
    dy_l,
    dy_k,
    u_b,
    u_l,
    u_k,
    delta_b,
    delta_l,
    delta_k,
    z_b,
    z_l,
    B_b,
    B_l,
    B_k,
    B_g,
    C_b,
    C_l,
    C_k,
    C_g,
    L,
    H,
    W,
    E,
    groups,
    group_size,
    blocks_per_group,
    blocks,
    segments,
    segment,
    batch,
    ROUTES: tl.constexpr,
    COLUMNS: tl.constexpr,
    N: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr,
    UNROLL: tl.constexpr,
    CHUNK: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    MASKED: tl.constexpr,
    PTX: tl.constexpr,
):
    """All gradients, those that several programs add to as partial sums. Input strides are in bytes."""
    b, part, k, block = program_coordinates(blocks, segments, ROUTES)
    group, e, mask = block_channels(block, group_size, blocks_per_group, BLOCK_E)
    n = tl.arange(0, BLOCK_N)
    state_mask = (n < N)[:, None] & mask[None, :]
    STATE_MASKED: tl.constexpr = MASKED or BLOCK_N != N
    state_offset = n[:, None] * E + e[None, :]
    K: tl.constexpr = len(ROUTES)
    bk = b * K + k
    rows = (
        byte_offset(u_ptr + e, b * u_b + k * u_k),
        byte_offset(delta_ptr + e, b * delta_b + k * delta_k),
        byte_offset(dy_ptr + e, b * dy_b + k * dy_k),
    )
    row_strides = (u_l, delta_l, dy_l)
    dz = None
    dz_l = None
    out_rows = (b * L * K + k) * E + e
    if z_ptr is not None:
        rows += (byte_offset(z_ptr + e, b * z_b),)
        row_strides += (z_l,)
        dz = dz_ptr + out_rows
        dz_l = K * E * (dz_ptr.dtype.element_ty.primitive_bitwidth // 8)
    du = du_ptr + out_rows
    du_l = K * E * (du_ptr.dtype.element_ty.primitive_bitwidth // 8)
    ddelta = ddelta_ptr + out_rows
    ddelta_l = K * E * (ddelta_ptr.dtype.element_ty.primitive_bitwidth // 8)
    tile_step, tile_state, tile_mask = lane_values(N, BLOCK_N, UNROLL)
    tiles = (
        byte_offset(B_ptr + tile_state, b * B_b + k * B_k + group * B_g),
        byte_offset(C_ptr + tile_state, b * C_b + k * C_k + group * C_g),
    )
    tile_strides = (B_l, C_l)
    out_tile = (((block % blocks_per_group) * batch + b) * L * K + k) * groups * N + group * N + tile_state
    dB = dB_ptr + out_tile
    dC = dC_ptr + out_tile
    tile_l = K * groups * (N * 4)
    bias = None
    if bias_ptr is not None:
        bias = load(bias_ptr + k * E + e, mask, MASKED)
    D = None
    if D_ptr is not None:
        D = load(D_ptr + k * E + e, mask, MASKED)
    A = load(A_ptr + k * N * E + state_offset, state_mask, STATE_MASKED) * LOG2E
    if carry_ptr is not None:
        mu = load(carry_ptr + (bk * segments + part) * N * E + state_offset, state_mask, STATE_MASKED)
    elif dlast_state_ptr is not None:
        mu = load(dlast_state_ptr + (bk * E + e[None, :]) * N + n[:, None], state_mask, STATE_MASKED)
    else:
        mu = tl.zeros([BLOCK_N, BLOCK_E], dtype=tl.float32)
    dA = tl.zeros([BLOCK_N, BLOCK_E], dtype=tl.float32)
    dD = tl.zeros([BLOCK_E], dtype=tl.float32)
    dbias = tl.zeros([BLOCK_E], dtype=tl.float32)
    alpha = alpha_ptr + tl.program_id(0).to(tl.int64) * (CHUNK * BLOCK_E) + tl.arange(0, BLOCK_E)

    begin = part * segment
    chunks = tl.cdiv(tl.minimum(segment, L - begin), CHUNK)
    code = route_code(k, ROUTES)
    for i in range(0, chunks):
        start = begin + (chunks - 1 - i) * CHUNK
        steps = tl.minimum(CHUNK, L - start)
        full = steps // UNROLL * UNROLL
        state_row = checkpoints_ptr + (bk * tl.cdiv(L, CHUNK) + start // CHUNK) * N * E + e
        h = load(state_row[None, :] + (n * E)[:, None], state_mask, STATE_MASKED)

        elapsed = tl.zeros([BLOCK_E], dtype=tl.float32)
        walk = first_pixel(start, code, L, H, W)
        group_rows, pixels, tile_pixels, group_tiles, walk = fetch_group(
            rows, row_strides, mask, MASKED, tiles, tile_strides, tile_step, tile_mask, walk, L, H, COLUMNS, UNROLL
        )
        for first in range(0, full, UNROLL):
            next_rows, next_pixels, next_tile_pixels, next_tiles, walk = fetch_group(
                rows, row_strides, mask, MASKED, tiles, tile_strides, tile_step, tile_mask, walk, L, H, COLUMNS, UNROLL
            )
            h, dA, elapsed = _sweep_forward(
                h, A, dA, elapsed, D, bias, group_rows, group_tiles, pixels, dz, dz_l, dC, tile_l, tile_pixels,
                tile_step, tile_mask, alpha + first * BLOCK_E, mask, MASKED, UNROLL, False,
                BLOCK_N, BLOCK_E, UNROLL, SOFTPLUS, PTX,
            )  # fmt: skip
            group_rows, pixels, tile_pixels, group_tiles = next_rows, next_pixels, next_tile_pixels, next_tiles
        if UNROLL > 1 and full < steps:
            h, dA, elapsed = _sweep_forward(
                h, A, dA, elapsed, D, bias, group_rows, group_tiles, pixels, dz, dz_l, dC, tile_l, tile_pixels,
                tile_step, tile_mask, alpha + full * BLOCK_E, mask, MASKED, steps - full, True,
                BLOCK_N, BLOCK_E, UNROLL, SOFTPLUS, PTX,
            )  # fmt: skip

        across = h * mu
        flow = tl.sum(across * A, axis=0)
        dA += across * elapsed[None, :]
        tl.debug_barrier()  # the reverse sweep reads the α that this one wrote
        walk = first_pixel(L - start - steps, code ^ 1, L, H, W)
        group_rows, pixels, tile_pixels, group_tiles, walk = fetch_group(
            rows, row_strides, mask, MASKED, tiles, tile_strides, tile_step, tile_mask, walk, L, H, COLUMNS, UNROLL
        )
        alphas = _fetch_alphas(alpha, steps - 1, BLOCK_E, UNROLL)
        for first in range(0, full, UNROLL):
            next_rows, next_pixels, next_tile_pixels, next_tiles, walk = fetch_group(
                rows, row_strides, mask, MASKED, tiles, tile_strides, tile_step, tile_mask, walk, L, H, COLUMNS, UNROLL
            )
            next_alphas = _fetch_alphas(alpha, steps - 1 - UNROLL - first, BLOCK_E, UNROLL)
            mu, dA, elapsed, flow, dD, dbias = _sweep_reverse(
                mu, A, dA, elapsed, flow, dD, dbias, D, bias, group_rows, group_tiles, pixels, du, du_l,
                ddelta, ddelta_l, dB, tile_l, tile_pixels, tile_step, tile_mask, alphas, mask, MASKED, UNROLL, False,
                BLOCK_N, BLOCK_E, UNROLL, SOFTPLUS, PTX,
            )  # fmt: skip
            group_rows, pixels, tile_pixels, group_tiles = next_rows, next_pixels, next_tile_pixels, next_tiles
            alphas = next_alphas
        if UNROLL > 1 and full < steps:
            mu, dA, elapsed, flow, dD, dbias = _sweep_reverse(
                mu, A, dA, elapsed, flow, dD, dbias, D, bias, group_rows, group_tiles, pixels, du, du_l,
                ddelta, ddelta_l, dB, tile_l, tile_pixels, tile_step, tile_mask, alphas, mask, MASKED, steps - full,
                True, BLOCK_N, BLOCK_E, UNROLL, SOFTPLUS, PTX,
            )  # fmt: skip
        tl.debug_barrier()  # the next chunk overwrites α

    sums = (b * segments + part) * K + k
    tl.store(dA_ptr + sums * N * E + state_offset, dA, mask=state_mask)
    if D_ptr is not None:
        tl.store(dD_ptr + sums * E + e, dD, mask=mask)
    if bias_ptr is not None:
        tl.store(dbias_ptr + sums * E + e, dbias, mask=mask)
