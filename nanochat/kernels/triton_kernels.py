"""Kernels written in Triton, which comes with torch for GPUs. Imported at their first launch; each is launched, and its
arguments are explained, in the module that is named with it.

On a CPU Triton interprets them if the environment says TRITON_INTERPRET=1 before the import; so the tests run them.
"""

import triton
import triton.language as tl


def cdiv(number: int, divisor: int) -> int:
    """number / divisor, rounded up."""
    return -(-number // divisor)


def next_power_of_2(number: int) -> int:
    """The smallest power of two that is no smaller than `number`, which is positive."""
    return 1 << (number - 1).bit_length()


@triton.jit
def in_range(x):
    """The nearest number in e4m3's range."""
    return tl.minimum(tl.maximum(x, -448.0), 448.0)


# capped_loss.py


@triton.jit
def tanh_of(x, APPROXIMATE: tl.constexpr):
    """By the GPU's own instruction, to 11 bits, which is finer than a logit in bf16; else exactly."""
    if APPROXIMATE:
        return tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    return 1 - 2 / (tl.exp(2 * x) + 1)


@triton.jit
def capped_loss_kernel(
    logits_ptr,
    targets_ptr,
    losses_ptr,
    row_stride,
    vocab_size,
    num_columns,
    cap,
    WRITE_GRAD: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One row per program."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    logits_ptr += row * row_stride
    inverse_cap = 1 / cap
    target = tl.load(targets_ptr + row)
    sums = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, vocab_size, BLOCK):
        column = start + columns
        raw = tl.load(logits_ptr + column, mask=column < vocab_size, other=0.0).to(tl.float32)
        sums += tl.where(column < vocab_size, tl.exp(cap * tanh_of(raw * inverse_cap, APPROXIMATE)), 0.0)
    total = tl.sum(sums, axis=0)
    is_counted = target >= 0
    raw_of_target = tl.load(logits_ptr + tl.where(is_counted, target, 0)).to(tl.float32)
    loss = tl.log(total) - cap * tanh_of(raw_of_target * inverse_cap, APPROXIMATE)
    tl.store(losses_ptr + row, tl.where(is_counted, loss, 0.0))
    if WRITE_GRAD:
        tl.debug_barrier()  # the target's logit has been read by all before it is replaced
        scale = tl.where(is_counted, 1 / total, 0.0)
        hit = tl.where(is_counted, 1.0, 0.0)
        for start in range(0, num_columns, BLOCK):
            column = start + columns
            raw = tl.load(logits_ptr + column, mask=column < vocab_size, other=0.0).to(tl.float32)
            tanh = tanh_of(raw * inverse_cap, APPROXIMATE)
            grad = tl.exp(cap * tanh) * scale - tl.where(column == target, hit, 0.0)
            grad = tl.where(column < vocab_size, grad * (1 - tanh * tanh), 0.0)
            tl.store(logits_ptr + column, grad.to(logits_ptr.dtype.element_ty), mask=column < num_columns)


# fp8_weights.py


@triton.jit
def extremes_kernel(weight_ptr, extremes_ptr, num_rows, K, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Raises extremes (2,): the largest magnitude, and the largest sum of a row's squares."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    largest = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
    squares = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
    for start in range(0, K, BLOCK):
        columns = start + tl.arange(0, BLOCK)[None, :]
        inside = (rows < num_rows) & (columns < K)
        x = tl.load(weight_ptr + rows.to(tl.int64) * K + columns, mask=inside, other=0.0).to(tl.float32)
        largest = tl.maximum(largest, tl.abs(x))
        squares += x * x
    tl.atomic_max(extremes_ptr, tl.max(largest))
    tl.atomic_max(extremes_ptr + 1, tl.max(tl.sum(squares, axis=1)))


@triton.jit
def copies_kernel(
    weight_ptr,
    q_ptr,
    qt_ptr,
    extremes_ptr,
    first_row,
    M,
    K,
    rows_of_copy,
    HAS_TRANSPOSED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Writes rows first_row ... of the copies of each expert."""
    expert = tl.program_id(2).to(tl.int64)
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    inside = (m[:, None] < M) & (k[None, :] < K)
    x = tl.load(weight_ptr + expert * M * K + m[:, None] * K + k[None, :], mask=inside, other=0.0).to(tl.float32)
    scale = 448.0 / tl.maximum(tl.load(extremes_ptr), 1e-12)
    q = in_range(x * scale)
    row = first_row + m
    tl.store(
        q_ptr + expert * rows_of_copy * K + row[:, None] * K + k[None, :],
        q.to(q_ptr.dtype.element_ty),
        mask=inside,
    )
    if HAS_TRANSPOSED:
        tl.store(
            qt_ptr + expert * rows_of_copy * K + k[:, None] * rows_of_copy + row[None, :],
            tl.trans(q).to(qt_ptr.dtype.element_ty),
            mask=(k[:, None] < K) & (row[None, :] < first_row + M),
        )


# rotary.py


@triton.jit
def rotate_and_norm_kernel(
    qkv_ptr,
    cos_ptr,
    sin_ptr,
    q_ptr,
    k_ptr,
    rstd_ptr,
    T,
    row_stride,
    eps,
    H: tl.constexpr,
    HALF: tl.constexpr,
    HEADS: tl.constexpr,
):
    """One token per program: its queries' heads, then its keys'."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, HEADS)[:, None]
    channel = tl.arange(0, HALF)[None, :]
    inside = head < 2 * H
    source = qkv_ptr + token * row_stride + head * (2 * HALF) + channel
    first = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(source + HALF, mask=inside, other=0.0).to(tl.float32)
    cos = tl.load(cos_ptr + (token % T) * HALF + channel).to(tl.float32)
    sin = tl.load(sin_ptr + (token % T) * HALF + channel).to(tl.float32)
    turned1 = first * cos + second * sin
    turned2 = second * cos - first * sin
    rstd = tl.rsqrt(tl.sum(turned1 * turned1 + turned2 * turned2, axis=1) / (2 * HALF) + eps)
    turned1 *= rstd[:, None]
    turned2 *= rstd[:, None]
    flat_head = tl.arange(0, HEADS)
    tl.store(rstd_ptr + token * (2 * H) + flat_head, rstd, mask=flat_head < 2 * H)
    to_q = q_ptr + token * (H * 2 * HALF) + head * (2 * HALF) + channel
    is_q = head < H
    tl.store(to_q, turned1.to(q_ptr.dtype.element_ty), mask=is_q)
    tl.store(to_q + HALF, turned2.to(q_ptr.dtype.element_ty), mask=is_q)
    to_k = k_ptr + token * (H * 2 * HALF) + (head - H) * (2 * HALF) + channel
    is_k = (head >= H) & inside
    tl.store(to_k, turned1.to(k_ptr.dtype.element_ty), mask=is_k)
    tl.store(to_k + HALF, turned2.to(k_ptr.dtype.element_ty), mask=is_k)


@triton.jit
def rotate_and_norm_backward_kernel(
    dq_ptr,
    dk_ptr,
    dv_ptr,
    q_ptr,
    k_ptr,
    rstd_ptr,
    cos_ptr,
    sin_ptr,
    out_ptr,
    out8_ptr,
    scale_ptr,
    T,
    H: tl.constexpr,
    HALF: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK_V: tl.constexpr,
    IN_FP8: tl.constexpr,
):
    """One token per program: the gradients of its queries, keys and values before the turn, side by side."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, HEADS)[:, None]
    channel = tl.arange(0, HALF)[None, :]
    is_q = head < H
    is_k = (head >= H) & (head < 2 * H)
    of_q = token * (H * 2 * HALF) + head * (2 * HALF) + channel
    of_k = of_q - H * (2 * HALF)
    d1 = tl.load(dq_ptr + of_q, mask=is_q, other=0.0).to(tl.float32)
    d1 += tl.load(dk_ptr + of_k, mask=is_k, other=0.0).to(tl.float32)
    d2 = tl.load(dq_ptr + of_q + HALF, mask=is_q, other=0.0).to(tl.float32)
    d2 += tl.load(dk_ptr + of_k + HALF, mask=is_k, other=0.0).to(tl.float32)
    y1 = tl.load(q_ptr + of_q, mask=is_q, other=0.0).to(tl.float32)
    y1 += tl.load(k_ptr + of_k, mask=is_k, other=0.0).to(tl.float32)
    y2 = tl.load(q_ptr + of_q + HALF, mask=is_q, other=0.0).to(tl.float32)
    y2 += tl.load(k_ptr + of_k + HALF, mask=is_k, other=0.0).to(tl.float32)
    flat_head = tl.arange(0, HEADS)
    rstd = tl.load(rstd_ptr + token * (2 * H) + flat_head, mask=flat_head < 2 * H, other=0.0)
    along = (tl.sum(d1 * y1 + d2 * y2, axis=1) / (2 * HALF))[:, None]
    d1, d2 = (d1 - y1 * along) * rstd[:, None], (d2 - y2 * along) * rstd[:, None]
    cos = tl.load(cos_ptr + (token % T) * HALF + channel).to(tl.float32)
    sin = tl.load(sin_ptr + (token % T) * HALF + channel).to(tl.float32)
    first, second = d1 * cos - d2 * sin, d1 * sin + d2 * cos
    column = tl.arange(0, BLOCK_V)
    in_v = column < H * 2 * HALF
    dv = tl.load(dv_ptr + token * (H * 2 * HALF) + column, mask=in_v, other=0.0).to(tl.float32)
    inside = is_q | is_k
    to = token * (3 * H * 2 * HALF) + head * (2 * HALF) + channel
    to_v = token * (3 * H * 2 * HALF) + 2 * H * 2 * HALF + column
    tl.store(out_ptr + to, first.to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(out_ptr + to + HALF, second.to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(out_ptr + to_v, dv.to(out_ptr.dtype.element_ty), mask=in_v)
    if IN_FP8:
        largest = tl.maximum(tl.max(tl.maximum(tl.abs(first), tl.abs(second))), tl.max(tl.abs(dv)))
        scale = tl.maximum(largest, 1e-30) / 448.0
        tl.store(scale_ptr + token, scale)
        inverse = 1.0 / scale
        tl.store(out8_ptr + to, in_range(first * inverse).to(out8_ptr.dtype.element_ty), mask=inside)
        tl.store(out8_ptr + to + HALF, in_range(second * inverse).to(out8_ptr.dtype.element_ty), mask=inside)
        tl.store(out8_ptr + to_v, in_range(dv * inverse).to(out8_ptr.dtype.element_ty), mask=in_v)


# combining.py


@triton.jit
def combine_backward_kernel(
    out_grad_ptr,
    y_ptr,
    weight_ptr,
    token_ptr,
    dy_ptr,
    dy8_ptr,
    scale_ptr,
    dot_ptr,
    N,
    D,
    BLOCK: tl.constexpr,
    IN_FP8: tl.constexpr,
):
    """One row per program."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    token = tl.load(token_ptr + row)
    inside = (column < D) & (token < N)
    grad = tl.load(out_grad_ptr + token * D + column, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(y_ptr + row * D + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(dot_ptr + row, tl.sum(grad * y))
    dy = grad * tl.load(weight_ptr + row)
    tl.store(dy_ptr + row * D + column, dy.to(dy_ptr.dtype.element_ty), mask=column < D)
    if IN_FP8:
        scale = tl.maximum(tl.max(tl.abs(dy)), 1e-30) / 448.0
        tl.store(scale_ptr + row, scale)
        dy8 = in_range(dy * (1.0 / scale)).to(dy8_ptr.dtype.element_ty)
        tl.store(dy8_ptr + row * D + column, dy8, mask=column < D)


# totals.py


@triton.jit
def add_runs_kernel(
    total_ptr,
    grad_ptr,
    ids_ptr,
    token_ptr,
    ends_ptr,
    N,
    D,
    CHUNK: tl.constexpr,
    COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A chunk of sorted ids per program: adds up each id's rows, those of one id by one row of a product with ones."""
    chunk = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    place = chunk * CHUNK + tl.arange(0, CHUNK)
    run = tl.arange(0, CHUNK)
    ids = tl.load(ids_ptr + place, mask=place < N, other=-1)
    before = tl.load(ids_ptr + place - 1, mask=(place > 0) & (place < N), other=-2)
    token = tl.load(token_ptr + place, mask=place < N, other=0)
    is_first = (ids != before) & (run > 0)
    run_of_place = tl.cumsum(is_first.to(tl.int32), axis=0)
    is_member = run_of_place[None, :] == run[:, None]
    inside = (place < N)[:, None] & (column < D)[None, :]
    x = tl.load(grad_ptr + token[:, None] * D + column[None, :], mask=inside, other=0.0).to(tl.float32)
    sums = tl.dot(is_member.to(tl.float32), x, input_precision=PRECISION)
    id_of_run = tl.max(tl.where(is_member, ids[None, :], -1), axis=1)
    last_run = tl.max(run_of_place, axis=0)
    behind = chunk * CHUNK + CHUNK
    id_before = tl.load(ids_ptr + chunk * CHUNK - 1, mask=chunk > 0, other=-2)
    id_behind = tl.load(ids_ptr + behind, mask=behind < N, other=-2)
    began_before = (run == 0) & (id_of_run == id_before)
    continues = (run == last_run) & (id_of_run == id_behind)
    is_whole = (id_of_run >= 0) & (began_before == 0) & (continues == 0)
    in_width = (column < D)[None, :]
    to = total_ptr + id_of_run.to(tl.int64)[:, None] * D + column[None, :]
    old = tl.load(to, mask=is_whole[:, None] & in_width, other=0.0).to(tl.float32)
    tl.store(to, (old + sums).to(total_ptr.dtype.element_ty), mask=is_whole[:, None] & in_width)
    end = ends_ptr + chunk * 2 * D + tl.zeros([CHUNK], tl.int64)[:, None] + column[None, :]
    tl.store(end, sums, mask=began_before[:, None] & in_width)
    tl.store(end + D, sums, mask=(continues & (began_before == 0))[:, None] & in_width)


@triton.jit
def add_long_runs_kernel(
    total_ptr,
    ids_ptr,
    ends_ptr,
    N,
    D,
    CHUNK: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The id, if any, that begins in this program's chunk and continues behind it."""
    chunk = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    in_width = column < D
    behind = (chunk + 1) * CHUNK
    if behind < N:
        this = tl.load(ids_ptr + behind - 1)
        before = tl.load(ids_ptr + chunk * CHUNK - 1, mask=chunk > 0, other=-2)
        if (this == tl.load(ids_ptr + behind)) & (this != before):
            total = tl.load(ends_ptr + (chunk * 2 + 1) * D + column, mask=in_width, other=0.0)
            while tl.load(ids_ptr + behind, mask=behind < N, other=-2) == this:
                total += tl.load(ends_ptr + (behind // CHUNK) * 2 * D + column, mask=in_width, other=0.0)
                behind += CHUNK
            to = total_ptr + this.to(tl.int64) * D + column
            old = tl.load(to, mask=in_width, other=0.0).to(tl.float32)
            tl.store(to, (old + total).to(total_ptr.dtype.element_ty), mask=in_width)


# rows.py


@triton.jit
def gather_sum_kernel(
    y_ptr, rows_ptr, weights_ptr, out_ptr, R, D, K: tl.constexpr, HAS_WEIGHTS: tl.constexpr, BLOCK: tl.constexpr
):
    """One result row per program."""
    n = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for j in tl.static_range(K):
        row = tl.load(rows_ptr + n * K + j)
        y = tl.load(y_ptr + row * D + column, mask=(column < D) & (row < R), other=0.0).to(tl.float32)
        total += y * tl.load(weights_ptr + n * K + j).to(tl.float32) if HAS_WEIGHTS else y
    tl.store(out_ptr + n * D + column, total.to(out_ptr.dtype.element_ty), mask=column < D)


@triton.jit
def mix_and_norm_kernel(
    x_ptr,
    other_ptr,
    scales_ptr,
    mixed_ptr,
    normed_ptr,
    rstd_ptr,
    D,
    eps,
    HAS_SCALES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One row per program."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < D
    x = tl.load(x_ptr + row * D + column, mask=inside, other=0.0).to(tl.float32)
    other = tl.load(other_ptr + row * D + column, mask=inside, other=0.0).to(tl.float32)
    if HAS_SCALES:
        x *= tl.load(scales_ptr)
        other *= tl.load(scales_ptr + 1)
    mixed = (x + other).to(mixed_ptr.dtype.element_ty)
    tl.store(mixed_ptr + row * D + column, mixed, mask=inside)
    exact = mixed.to(tl.float32)
    rstd = tl.rsqrt(tl.sum(exact * exact) / D + eps)
    tl.store(rstd_ptr + row, rstd)
    tl.store(normed_ptr + row * D + column, (exact * rstd).to(normed_ptr.dtype.element_ty), mask=inside)


@triton.jit
def mix_and_norm_backward_kernel(
    dmixed_ptr,
    dnormed_ptr,
    mixed_ptr,
    rstd_ptr,
    x_ptr,
    other_ptr,
    scales_ptr,
    dx_ptr,
    dother_ptr,
    dots_ptr,
    D,
    HAS_SCALES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One row per program; without scales both gradients are one, which is written once."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < D
    rstd = tl.load(rstd_ptr + row)
    normed = tl.load(mixed_ptr + row * D + column, mask=inside, other=0.0).to(tl.float32) * rstd
    dnormed = tl.load(dnormed_ptr + row * D + column, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(dmixed_ptr + row * D + column, mask=inside, other=0.0).to(tl.float32)
    grad += (dnormed - normed * (tl.sum(dnormed * normed) / D)) * rstd
    if HAS_SCALES:
        x = tl.load(x_ptr + row * D + column, mask=inside, other=0.0).to(tl.float32)
        other = tl.load(other_ptr + row * D + column, mask=inside, other=0.0).to(tl.float32)
        tl.store(dots_ptr + row * 2, tl.sum(grad * x))
        tl.store(dots_ptr + row * 2 + 1, tl.sum(grad * other))
        dother = grad * tl.load(scales_ptr + 1)
        tl.store(dother_ptr + row * D + column, dother.to(dother_ptr.dtype.element_ty), mask=inside)
        grad *= tl.load(scales_ptr)
    tl.store(dx_ptr + row * D + column, grad.to(dx_ptr.dtype.element_ty), mask=inside)
