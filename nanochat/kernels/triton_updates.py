"""The optimizer's kernels, written in Triton. `updating` launches them and explains their arguments.

All of them move memory: a value, its gradient and its state are read once and written once.
"""

import triton
import triton.language as tl


@triton.jit
def extents_kernel(grad_ptr, largest_ptr, square_ptr, size, BLOCK: tl.constexpr, LOOPS: tl.constexpr):
    """One part of one item per program: its largest magnitude, infinite where one is NaN, and its sum of squares."""
    item = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1).to(tl.int64)
    start = part * (BLOCK * LOOPS)
    largest = tl.zeros([BLOCK], dtype=tl.float32)
    squares = tl.zeros([BLOCK], dtype=tl.float32)
    for i in tl.static_range(LOOPS):
        place = start + i * BLOCK + tl.arange(0, BLOCK)
        x = tl.load(grad_ptr + item * size + place, mask=place < size, other=0.0).to(tl.float32)
        largest = tl.maximum(largest, tl.where(x == x, tl.abs(x), float("inf")))
        squares += x * x
    to = item * tl.num_programs(1) + part
    tl.store(largest_ptr + to, tl.max(largest, axis=0))
    tl.store(square_ptr + to, tl.sum(squares, axis=0))


@triton.jit
def adamw_kernel(
    value_ptr,
    sent_ptr,
    grad_ptr,
    average_ptr,
    square_ptr,
    factors_ptr,
    size,
    eps,
    SENDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The step of some numbers; factors are those of `updating.adamw_apply`."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    is_active = tl.load(factors_ptr) > 0
    toward_grad = tl.load(factors_ptr + 1)
    toward_square = tl.load(factors_ptr + 2)
    step = tl.load(factors_ptr + 3)
    inverse_bias = tl.load(factors_ptr + 4)
    grad = tl.load(grad_ptr + place, mask=inside, other=0.0).to(tl.float32)
    grad = tl.where(is_active, grad, 0.0)
    average = tl.load(average_ptr + place, mask=inside, other=0.0)
    square = tl.load(square_ptr + place, mask=inside, other=0.0)
    value = tl.load(value_ptr + place, mask=inside, other=0.0).to(tl.float32)
    average += (grad - average) * toward_grad
    square += (grad * grad - square) * toward_square
    value -= step * (average / (tl.sqrt(square * inverse_bias) + eps))
    tl.store(average_ptr + place, average, mask=inside)
    tl.store(square_ptr + place, square, mask=inside)
    tl.store(value_ptr + place, value.to(value_ptr.dtype.element_ty), mask=inside)
    if SENDS:
        tl.store(sent_ptr + place, value.to(sent_ptr.dtype.element_ty), mask=inside)


@triton.jit
def momentum_kernel(grad_ptr, momentum_ptr, square_ptr, active_ptr, beta_ptr, size, BLOCK: tl.constexpr):
    """One part of one matrix per program: moves the momentum, and sums the squares of where Nesterov's points."""
    matrix = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    place = part * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    active = tl.load(active_ptr + matrix)
    beta = tl.load(beta_ptr)
    grad = tl.load(grad_ptr + matrix * size + place, mask=inside, other=0.0).to(tl.float32)
    grad = tl.where(active > 0, grad, 0.0)
    average = tl.load(momentum_ptr + matrix * size + place, mask=inside, other=0.0)
    average += (grad - average) * ((1 - beta) * active)
    tl.store(momentum_ptr + matrix * size + place, average, mask=inside)
    direction = average + (grad - average) * (1 - beta)
    tl.store(square_ptr + matrix * tl.num_programs(1) + part, tl.sum(direction * direction, axis=0))


@triton.jit
def direction_kernel(grad_ptr, momentum_ptr, direction_ptr, scale_ptr, active_ptr, beta_ptr, size, BLOCK: tl.constexpr):
    """Where Nesterov's momentum points, times the matrix' scale."""
    matrix = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    grad = tl.load(grad_ptr + matrix * size + place, mask=inside, other=0.0).to(tl.float32)
    grad = tl.where(tl.load(active_ptr + matrix) > 0, grad, 0.0)
    average = tl.load(momentum_ptr + matrix * size + place, mask=inside, other=0.0)
    direction = (average + (grad - average) * (1 - tl.load(beta_ptr))) * tl.load(scale_ptr + matrix)
    tl.store(direction_ptr + matrix * size + place, direction.to(direction_ptr.dtype.element_ty), mask=inside)


@triton.jit
def row_energy_kernel(update_ptr, energy_ptr, num_rows, C, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """The mean square of each row of all matrices."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    squares = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
    for start in range(0, C, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = (row[:, None] < num_rows) & (column[None, :] < C)
        x = tl.load(update_ptr + row[:, None] * C + column[None, :], mask=inside, other=0.0).to(tl.float32)
        squares += x * x
    tl.store(energy_ptr + row, tl.sum(squares, axis=1) / C, mask=row < num_rows)


@triton.jit
def column_energy_kernel(update_ptr, energy_ptr, R, C, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The mean square of some columns of one matrix."""
    matrix = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    squares = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
    for start in range(0, R, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row[:, None] < R) & (column[None, :] < C)
        at = update_ptr + matrix * R * C + row[:, None] * C + column[None, :]
        x = tl.load(at, mask=inside, other=0.0).to(tl.float32)
        squares += x * x
    tl.store(energy_ptr + matrix * C + column, tl.sum(squares, axis=0) / R, mask=column < C)


@triton.jit
def neuron_factors_kernel(
    energy_ptr, second_moment_ptr, factor_ptr, active_ptr, num_neurons, toward_energy, BLOCK: tl.constexpr
):
    """One matrix per program: moves its neurons' second moment; what evens them out and keeps the matrix' norm."""
    matrix = tl.program_id(0).to(tl.int64)
    neuron = tl.arange(0, BLOCK)
    inside = neuron < num_neurons
    energy = tl.load(energy_ptr + matrix * num_neurons + neuron, mask=inside, other=0.0)
    second = tl.load(second_moment_ptr + matrix * num_neurons + neuron, mask=inside, other=1.0)
    second += (energy - second) * (toward_energy * tl.load(active_ptr + matrix))
    tl.store(second_moment_ptr + matrix * num_neurons + neuron, second, mask=inside)
    inverse = 1.0 / tl.maximum(second, 1e-10)
    total = tl.sum(energy, axis=0)
    evened_total = tl.maximum(tl.sum(energy * inverse, axis=0), 1e-20)
    factor = tl.sqrt(inverse * (total / evened_total))
    tl.store(factor_ptr + matrix * num_neurons + neuron, factor, mask=inside)


@triton.jit
def muon_kernel(
    value_ptr,
    sent_ptr,
    update_ptr,
    factor_ptr,
    rate_ptr,
    decay_ptr,
    size,
    num_neurons,
    C: tl.constexpr,
    BY_ROW: tl.constexpr,
    SENDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The step of some values of one matrix."""
    matrix = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    neuron = place // C if BY_ROW else place % C
    update = tl.load(update_ptr + matrix * size + place, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(value_ptr + matrix * size + place, mask=inside, other=0.0).to(tl.float32)
    update *= tl.load(factor_ptr + matrix * num_neurons + neuron, mask=inside, other=0.0)
    decay = tl.where(update * value >= 0, tl.load(decay_ptr) * value, 0.0)
    value -= tl.load(rate_ptr + matrix) * (update + decay)
    tl.store(value_ptr + matrix * size + place, value.to(value_ptr.dtype.element_ty), mask=inside)
    if SENDS:
        tl.store(sent_ptr + matrix * size + place, value.to(sent_ptr.dtype.element_ty), mask=inside)
