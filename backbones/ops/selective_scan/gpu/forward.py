"""Triton kernels of the selective scan's forward, and of the sequence split that forward and backward share.

The recurrence runs step by step with its states in registers. While a group of UNROLL steps is computed, the rows of
the next one are on their way from memory.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .device import (
    INTEGERS,
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
    spread_values,
    step_size,
    store_row,
)


@triton.jit
def _advance(
    h, A, D, bias, rows, tiles, y, y_l, pixels, mask, MASKED: tl.constexpr, count, PARTIAL: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, UNROLL: tl.constexpr, SOFTPLUS: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    """Computes a group of steps, of which the first ``count`` exist if it is PARTIAL; returns the state after them."""
    B = tiles[0].to(tl.float32)
    C = tiles[1].to(tl.float32)
    for i in tl.static_range(UNROLL):
        x = rows[i][0].to(tl.float32)
        dt = step_size(biased(rows[i][1], bias), SOFTPLUS, PTX)
        if PARTIAL:
            dt = tl.where(i < count, dt, 0.0)  # leaves the state as it is
        dtx = dt * x
        h = h * tl.exp2(A * dt[None, :]) + spread_values(B, i, BLOCK_N, BLOCK_E, UNROLL) * dtx[None, :]
        out = tl.sum(h * spread_values(C, i, BLOCK_N, BLOCK_E, UNROLL), axis=0)
        if D is not None:
            out += D * x
        if len(rows[i]) == 3:
            gate = rows[i][2].to(tl.float32)
            out *= gate * sigmoid(gate, PTX)
        store_row(at_pixel(y, pixels[i], y_l), out, mask, MASKED, i < count, PARTIAL)
    return h


@triton.jit(do_not_specialize=INTEGERS, do_not_specialize_on_alignment=POINTERS)
def forward_kernel(
    u_ptr,
    delta_ptr,
    A_ptr,  # (K, N, E)
    B_ptr,
    C_ptr,
    D_ptr,
    z_ptr,
    bias_ptr,
    start_ptr,  # (B, K, segments, N, E) states before each segment, or None
    y_ptr,
    last_state_ptr,  # (B, K, E, N)
    checkpoints_ptr,  # (B, K, chunks, N, E)
    u_b,
    u_l,
    u_k,
    delta_b,
    delta_l,
    delta_k,
    z_b,
    z_l,
    y_b,
    y_l,
    y_k,
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
    group_size,
    blocks_per_group,
    blocks,
    segments,
    segment,
    ROUTES: tl.constexpr,
    COLUMNS: tl.constexpr,
    N: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr,
    UNROLL: tl.constexpr,
    CHUNK: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    SAVE: tl.constexpr,
    MASKED: tl.constexpr,
    PTX: tl.constexpr,
):
    """y, the last state and the checkpoints. Strides are in bytes."""
    b, part, k, block = program_coordinates(blocks, segments, ROUTES)
    group, e, mask = block_channels(block, group_size, blocks_per_group, BLOCK_E)
    n = tl.arange(0, BLOCK_N)
    state_mask = (n < N)[:, None] & mask[None, :]
    STATE_MASKED: tl.constexpr = MASKED or BLOCK_N != N
    state_offset = n[:, None] * E + e[None, :]
    bk = b * len(ROUTES) + k
    u = byte_offset(u_ptr + e, b * u_b + k * u_k)
    delta = byte_offset(delta_ptr + e, b * delta_b + k * delta_k)
    y = byte_offset(y_ptr + e, b * y_b + k * y_k)
    rows = (u, delta)
    row_strides = (u_l, delta_l)
    if z_ptr is not None:
        rows += (byte_offset(z_ptr + e, b * z_b),)
        row_strides += (z_l,)
    tile_step, tile_state, tile_mask = lane_values(N, BLOCK_N, UNROLL)
    B = byte_offset(B_ptr + tile_state, b * B_b + k * B_k + group * B_g)
    C = byte_offset(C_ptr + tile_state, b * C_b + k * C_k + group * C_g)
    bias = None
    if bias_ptr is not None:
        bias = load(bias_ptr + k * E + e, mask, MASKED)
    D = None
    if D_ptr is not None:
        D = load(D_ptr + k * E + e, mask, MASKED)
    A = load(A_ptr + k * N * E + state_offset, state_mask, STATE_MASKED) * LOG2E
    if start_ptr is not None:
        h = load(start_ptr + (bk * segments + part) * N * E + state_offset, state_mask, STATE_MASKED)
    else:
        h = tl.zeros([BLOCK_N, BLOCK_E], dtype=tl.float32)

    begin = part * segment
    steps = tl.minimum(segment, L - begin)
    walk = first_pixel(begin, route_code(k, ROUTES), L, H, W)
    group_rows, pixels, _tile_pixels, tiles, walk = fetch_group(
        rows, row_strides, mask, MASKED, (B, C), (B_l, C_l), tile_step, tile_mask, walk, L, H, COLUMNS, UNROLL
    )
    full = steps // UNROLL * UNROLL
    for chunk in range(0, tl.cdiv(steps, CHUNK)):
        if SAVE:
            state_row = checkpoints_ptr + (bk * tl.cdiv(L, CHUNK) + begin // CHUNK + chunk) * N * E + e
            tl.store(state_row[None, :] + (n * E)[:, None], h, mask=state_mask)
        for _ in range(chunk * CHUNK, tl.minimum(full, (chunk + 1) * CHUNK), UNROLL):
            next_rows, next_pixels, _tile_pixels, next_tiles, walk = fetch_group(
                rows, row_strides, mask, MASKED, (B, C), (B_l, C_l), tile_step, tile_mask, walk, L, H, COLUMNS, UNROLL
            )
            h = _advance(
                h,
                A,
                D,
                bias,
                group_rows,
                tiles,
                y,
                y_l,
                pixels,
                mask,
                MASKED,
                UNROLL,
                False,
                BLOCK_N,
                BLOCK_E,
                UNROLL,
                SOFTPLUS,
                PTX,
            )
            group_rows = next_rows
            pixels = next_pixels
            tiles = next_tiles
    if UNROLL > 1 and full < steps:
        h = _advance(
            h,
            A,
            D,
            bias,
            group_rows,
            tiles,
            y,
            y_l,
            pixels,
            mask,
            MASKED,
            steps - full,
            True,
            BLOCK_N,
            BLOCK_E,
            UNROLL,
            SOFTPLUS,
            PTX,
        )
    if begin + steps == L:
        tl.store(last_state_ptr + (bk * E + e[None, :]) * N + n[:, None], h, mask=state_mask)


@triton.jit(do_not_specialize=INTEGERS, do_not_specialize_on_alignment=POINTERS)
def segment_kernel(
    u_ptr,  # forwards the input; backwards dy
    delta_ptr,
    A_ptr,  # (K, N, E)
    B_ptr,  # forwards B; backwards C
    z_ptr,  # the gate of dy, or None
    bias_ptr,
    state_ptr,  # (B, K, segments, N, E)
    sum_ptr,  # (B, K, segments, E)
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
    L,
    H,
    W,
    E,
    group_size,
    blocks_per_group,
    blocks,
    segments,
    segment,
    ROUTES: tl.constexpr,
    COLUMNS: tl.constexpr,
    N: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr,
    UNROLL: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    BACKWARDS: tl.constexpr,
    MASKED: tl.constexpr,
    PTX: tl.constexpr,
):
    """What each segment makes of a zero state, and its Σ dt, from which its decay follows.

    Forwards h_s = a_s·h_{s-1} + dt·u·B up to the segment's end; backwards μ_s = a_s·(μ_{s+1} + g·C) down to its begin.
    """
    b, part, k, block = program_coordinates(blocks, segments, ROUTES)
    group, e, mask = block_channels(block, group_size, blocks_per_group, BLOCK_E)
    n = tl.arange(0, BLOCK_N)
    state_mask = (n < N)[:, None] & mask[None, :]
    state_offset = n[:, None] * E + e[None, :]
    rows = (
        byte_offset(u_ptr + e, b * u_b + k * u_k),
        byte_offset(delta_ptr + e, b * delta_b + k * delta_k),
    )
    row_strides = (u_l, delta_l)
    if z_ptr is not None:
        rows += (byte_offset(z_ptr + e, b * z_b),)
        row_strides += (z_l,)
    tile_step, tile_state, tile_mask = lane_values(N, BLOCK_N, UNROLL)
    B = byte_offset(B_ptr + tile_state, b * B_b + k * B_k + group * B_g)
    bias = None
    if bias_ptr is not None:
        bias = load(bias_ptr + k * E + e, mask, MASKED)
    A = load(A_ptr + k * N * E + state_offset, state_mask, MASKED or BLOCK_N != N) * LOG2E
    state = tl.zeros([BLOCK_N, BLOCK_E], dtype=tl.float32)
    total = tl.zeros([BLOCK_E], dtype=tl.float32)

    begin = part * segment
    steps = tl.minimum(segment, L - begin)
    code = route_code(k, ROUTES)
    if BACKWARDS:
        walk = first_pixel(L - begin - steps, code ^ 1, L, H, W)
    else:
        walk = first_pixel(begin, code, L, H, W)
    group_rows, _pixels, _tile_pixels, tiles, walk = fetch_group(
        rows, row_strides, mask, MASKED, (B,), (B_l,), tile_step, tile_mask, walk, L, H, COLUMNS, UNROLL
    )
    for first in range(0, steps, UNROLL):
        next_rows, _pixels, _tile_pixels, next_tiles, walk = fetch_group(
            rows, row_strides, mask, MASKED, (B,), (B_l,), tile_step, tile_mask, walk, L, H, COLUMNS, UNROLL
        )
        tile = tiles[0].to(tl.float32)
        for i in tl.static_range(UNROLL):
            exists = first + i < steps
            x = tl.where(exists, group_rows[i][0].to(tl.float32), 0.0)
            dt = tl.where(exists, step_size(biased(group_rows[i][1], bias), SOFTPLUS, PTX), 0.0)
            decay = tl.exp2(A * dt[None, :])
            values = spread_values(tile, i, BLOCK_N, BLOCK_E, UNROLL)
            if BACKWARDS:
                if z_ptr is not None:
                    gate = group_rows[i][2].to(tl.float32)
                    x *= gate * sigmoid(gate, PTX)
                state = decay * (state + values * x[None, :])
            else:
                state = decay * state + values * (dt * x)[None, :]
            total += dt
        group_rows = next_rows
        tiles = next_tiles
    bks = (b * len(ROUTES) + k) * segments + part
    tl.store(state_ptr + bks * N * E + state_offset, state, mask=state_mask)
    tl.store(sum_ptr + bks * E + e, total, mask=mask)


@triton.jit(do_not_specialize=INTEGERS, do_not_specialize_on_alignment=POINTERS)
def carry_kernel(
    A_ptr,  # (K, N, E)
    sum_ptr,  # (B, K, segments, E)
    first_ptr,  # (B, K, E, N) state before the first segment, or None
    state_ptr,  # (B, K, segments, N, E)
    E,
    segments,
    blocks,
    K: tl.constexpr,
    N: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BACKWARDS: tl.constexpr,
):
    """Replaces what each segment makes of a zero state by the state that enters it. Backwards from the last segment."""
    block = tl.program_id(0) % blocks
    bk = (tl.program_id(0) // blocks).to(tl.int64)
    e = block * BLOCK_E + tl.arange(0, BLOCK_E)
    n = tl.arange(0, BLOCK_N)
    mask = (n < N)[:, None] & (e < E)[None, :]
    state_offset = n[:, None] * E + e[None, :]
    A = tl.load(A_ptr + (bk % K) * N * E + state_offset, mask=mask, other=0.0) * LOG2E
    if first_ptr is not None:
        carry = tl.load(first_ptr + (bk * E + e[None, :]) * N + n[:, None], mask=mask, other=0.0)
    else:
        carry = tl.zeros([BLOCK_N, BLOCK_E], dtype=tl.float32)
    for i in range(0, segments):
        part = i
        if BACKWARDS:
            part = segments - 1 - i
        state = state_ptr + (bk * segments + part) * N * E + state_offset
        made = tl.load(state, mask=mask, other=0.0)
        total = tl.load(sum_ptr + (bk * segments + part) * E + e, mask=e < E, other=0.0)
        tl.store(state, carry, mask=mask)
        carry = tl.exp2(A * total[None, :]) * carry + made
