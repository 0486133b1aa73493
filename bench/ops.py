# pyright: basic
# Many of torch's operators are typed in part only.
"""How long each operation of a layer takes beside its floor and beside other ways to do it, on one GPU.

    python -m bench.ops [--only WORD ...] [--out FILE]

Sizes are those of the recipe d12_moe. An operation is first compared with float64 on a smaller problem with ragged,
empty and full groups, and then timed: ten calls in one CUDA graph, the median of twenty replays. Times are of this card
in this minute; compare lines of one table. The floor is the larger of two times: arithmetic at the card's dense peak
and bytes at its measured copy bandwidth.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.op_experts import experts
from bench.op_timing import (
    BF16,
    FP8,
    HEAD_DIM,
    HEADS,
    Bench,
    D,
    E,
    H,
    N,
    R,
    T,
    V,
    attempt,
    grad_of,
    quack_interface,
    say_checked,
    sqnr_db,
)
from nanochat.kernels import capped_loss


def attention(bench: Bench) -> None:
    """FlashAttention-2 of torch and FlashAttention-4, full and in a window."""
    from nanochat.kernels.flash4 import attend_flash4
    from nanochat.model.attention import attend_flash

    def exact(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        distance = torch.arange(q.shape[1], device=q.device)[:, None] - torch.arange(q.shape[1], device=q.device)
        scores = torch.einsum("bihk,bjhk->bhij", q, k) / HEAD_DIM**0.5
        scores = scores.masked_fill((distance < 0) | (distance > window), -math.inf)
        return torch.einsum("bhij,bjhk->bihk", scores.softmax(-1), v)

    def check(window: int, seq_len: int) -> None:
        wide = torch.randn(2, seq_len, 3 * 3 * HEAD_DIM, device="cuda").to(BF16)  # q, k, v as one product leaves them
        inputs = [t.view(2, seq_len, 3, HEAD_DIM).detach().requires_grad_() for t in wide.chunk(3, dim=-1)]
        doubles = [t.detach().double().requires_grad_() for t in inputs]
        ours, theirs = attend_flash4(*inputs, window=window), exact(*doubles, window=window)
        above = torch.randn_like(ours)
        ours.backward(above)
        theirs.backward(above.double())
        pairs = {"out": (ours.detach(), theirs.detach())}
        for name, a, b in zip("qkv", inputs, doubles, strict=True):
            pairs["d" + name] = (grad_of(a), grad_of(b))
        say_checked(f"flash4 window {window} of {seq_len}", pairs)

    for window, seq_len in ((512, 512), (1, 512), (128, 512), (511, 512), (100, 300), (64, 64)):
        attempt(f"flash4 {window}", lambda w=window, t=seq_len: check(w, t))
    q, k, v = (torch.randn(N // T, T, HEADS, HEAD_DIM, device="cuda").to(BF16).requires_grad_() for _ in range(3))
    above = torch.randn_like(q)
    for window in (T, T // 2):
        pairs = T * window - window * window / 2
        flops = 4 * pairs * D * (N / T)
        for name, attend in (("torch flash 2", attend_flash), ("flash 4", attend_flash4)):
            bench.time(f"attention {name} window {window} fwd", lambda a=attend, w=window: a(q, k, v, w), flops=flops)
            bench.time(
                f"attention {name} window {window} fwd+bwd",
                lambda a=attend, w=window: torch.autograd.grad(a(q, k, v, w), (q, k, v), above),
                flops=3.5 * flops,
            )


def _check_loss() -> None:
    for vocab, padded in ((V, V), (1000, 1024)):
        x = torch.randn(300, 64, device="cuda").to(BF16).requires_grad_()
        w = (torch.randn(padded, 64, device="cuda") * 2).to(BF16).requires_grad_()
        t = torch.randint(-1, vocab, (300,), device="cuda")
        x64, w64 = (p.detach().double().requires_grad_() for p in (x, w))
        capped = 15 * torch.tanh((x64 @ w64.t())[:, :vocab] / 15)
        theirs = F.cross_entropy(capped, t, ignore_index=-1, reduction="none")
        mine = capped_loss.head_loss(x, w, t, vocab, 15.0, True)
        above = torch.rand(300, device="cuda")
        mine.backward(above)
        theirs.backward(above.double())
        pairs = {
            "loss": (mine.detach(), theirs.detach()),
            "dx": (grad_of(x), grad_of(x64)),
            "dw": (grad_of(w), grad_of(w64)),
        }
        say_checked(f"capped loss, vocabulary {vocab}", pairs)


def head(bench: Bench) -> None:
    """Unembedding, soft cap and cross-entropy, whole and in parts."""

    def reference(x: Tensor, w: Tensor, t: Tensor) -> Tensor:
        return capped_loss.capped_loss_reference(x @ w.t(), t, V, 15.0).mean()

    def ours(x: Tensor, w: Tensor, t: Tensor) -> Tensor:
        return capped_loss.head_loss(x, w, t, V, 15.0, True).mean()

    attempt("capped loss", _check_loss)
    x = torch.randn(N, D, device="cuda").to(BF16).requires_grad_()
    w = (torch.randn(V, D, device="cuda") * 0.02).to(BF16).requires_grad_()
    t = torch.randint(0, V, (N,), device="cuda")
    logits = (x @ w.t()).detach()
    product: dict[str, Any] = {"flops": 2 * N * D * V}
    compiled = torch.compile(reference, dynamic=False)
    bench.time("head by inductor, fwd+bwd", lambda: torch.autograd.grad(compiled(x, w, t), (x, w)), flops=6 * N * D * V)
    for block, warps in ((2048, 4), (4096, 8), (8192, 8), (8192, 16), (16384, 16), (32768, 32)):
        capped_loss._BLOCK, capped_loss._NUM_WARPS = block, warps
        bench.time(
            f"soft cap and loss, block {block} x {warps} warps",
            lambda: capped_loss.capped_loss_(logits, t, V, 15.0, True),
            num_bytes=2 * logits.nbytes,
        )
    capped_loss._BLOCK, capped_loss._NUM_WARPS = 4096, 8
    bench.time("head by our kernel, fwd+bwd", lambda: torch.autograd.grad(ours(x, w, t), (x, w)), flops=6 * N * D * V)
    with torch.no_grad():
        bench.time("head product bf16 cuBLAS", lambda: x @ w.t(), **product)
        bench.time("head dx bf16 cuBLAS", lambda: logits @ w, **product)
        bench.time("head dw bf16 cuBLAS", lambda: logits.t() @ x, **product)
        x8, w8, one = x.to(FP8), w.to(FP8), torch.ones((), device="cuda")
        scaled = torch.ops.aten._scaled_mm
        bench.time(
            "head product fp8 cuBLAS",
            lambda: scaled(x8, w8.t(), one, one, out_dtype=BF16, use_fast_accum=True),
            **product,
            fp8=True,
        )
        q = quack_interface()
        bench.time(
            "head product fp8 QuACK", lambda: q.gemm(x8, w8.t(), out_dtype=BF16, tuned=False), **product, fp8=True
        )
        bench.time("head product bf16 QuACK", lambda: q.gemm(x, w.t(), tuned=False), **product)
        bench.time("head dx bf16 QuACK", lambda: q.gemm(logits, w, tuned=False), **product)
        bench.time("head dw bf16 QuACK", lambda: q.gemm(logits.t(), x, tuned=False), **product)


def linears(bench: Bench) -> None:
    """Queries, keys and values as three products or one, in bf16 and FP8."""
    x = torch.randn(N, D, device="cuda").to(BF16)
    one, per_row, alpha = (torch.ones(*size, device="cuda") for size in ((), (N, 1), (1,)))
    scaled, q = torch.ops.aten._scaled_mm, quack_interface()
    kind: dict[str, Any] = {"out_dtype": BF16, "use_fast_accum": True}
    for name, outer in (("one of three", D), ("three in one", 3 * D)):
        w, dy = torch.randn(outer, D, device="cuda").to(BF16), torch.randn(N, outer, device="cuda").to(BF16)
        flops = 2 * N * D * outer
        bench.time(f"q, k, v {name} forward", lambda w=w: x @ w.t(), flops=flops)
        bench.time(f"q, k, v {name} dx", lambda w=w, dy=dy: dy @ w, flops=flops)
        bench.time(f"q, k, v {name} dw", lambda dy=dy: dy.t() @ x, flops=flops)
        grad = torch.zeros(outer, D, device="cuda", dtype=BF16)
        bench.time(f"q, k, v {name} dw added", lambda g=grad, dy=dy: torch.addmm(g, dy.t(), x, out=g), flops=flops)
        x8, w8, dy8 = x.to(FP8), w.to(FP8), dy.to(FP8)
        per_column = torch.ones(1, outer, device="cuda")
        wt8 = w8.t().contiguous()
        in_fp8: dict[str, Callable[[], object]] = {
            "forward fp8 tensorwise": lambda w=w8, x=x8: scaled(x, w.t(), one, one, **kind),
            "forward fp8 rowwise": lambda w=w8, x=x8, c=per_column: scaled(x, w.t(), per_row, c, **kind),
            "dx fp8 tensorwise": lambda w=wt8, dy=dy8: scaled(dy, w.t(), one, one, **kind),
            "forward fp8 QuACK": lambda w=w8, x=x8: q.gemm(x, w.t(), out_dtype=BF16, tuned=False, alpha=alpha),
        }
        for what, product in in_fp8.items():
            bench.time(f"q, k, v {name} {what}", product, flops=flops, fp8=True)


def routing(bench: Bench) -> None:
    """The router's product and the sort."""
    from nanochat.kernels.thin import thin_grads, thin_product

    def check() -> None:
        for num_experts in (8, 4, 64):
            x = torch.randn(1000, 256, device="cuda").to(BF16)
            w = torch.randn(num_experts, 256, device="cuda") * 0.1
            dy = torch.randn(1000, num_experts, device="cuda") * 1e-4
            dx, dw = thin_grads(dy, x, w)
            pairs = {"y": (thin_product(x, w), x.double() @ w.double().t()), "dx": (dx, dy.double() @ w.double())}
            pairs["dw"] = (dw, dy.double().t() @ x.double())
            say_checked(f"thin product, {num_experts} experts", pairs)

    attempt("thin product", check)
    x, w = torch.randn(N, D, device="cuda").to(BF16), torch.randn(E, D, device="cuda")
    dy = torch.randn(N, E, device="cuda")
    bench.time("router product fp32", lambda: x.float() @ w.t(), num_bytes=x.nbytes)
    bench.time("router product ours", lambda: thin_product(x, w), num_bytes=x.nbytes)
    bench.time("router gradients fp32", lambda: (dy @ w, dy.t() @ x.float()), num_bytes=2 * x.nbytes)
    bench.time("router gradients ours", lambda: thin_grads(dy, x, w), num_bytes=2 * x.nbytes)
    chosen = torch.randint(0, E, (R,), device="cuda")
    weights = torch.rand(R, device="cuda")
    key = (chosen << 32) | (0x7FFFFFFF - weights.view(torch.int32).long())
    short = ((chosen << 29) | (0x3F800000 - weights.view(torch.int32).long() >> 1)).to(torch.int32)
    small = chosen.to(torch.uint8)
    bench.time("sort int64 keys, as is", lambda: torch.argsort(key, stable=True), num_bytes=key.nbytes * 2)
    bench.time("sort int32 keys", lambda: torch.sort(short, stable=True), num_bytes=key.nbytes * 2)
    bench.time("sort uint8 keys", lambda: torch.sort(small, stable=True), num_bytes=key.nbytes * 2)


def embeddings(bench: Bench) -> None:
    """The gradient of one table."""
    ids, dy = torch.randint(0, V, (N,), device="cuda"), torch.randn(N, D, device="cuda").to(BF16)
    grad = torch.zeros(V, D, device="cuda", dtype=BF16)
    dense = torch.ops.aten.embedding_dense_backward
    bench.time(
        "embedding gradient, a dense table", lambda: dense(dy, ids, V, -1, False), num_bytes=grad.nbytes + dy.nbytes
    )
    bench.time("and added", lambda: grad.add_(dense(dy, ids, V, -1, False)), num_bytes=3 * dy.nbytes)
    bench.time("touched rows, atomics", lambda: grad.index_add_(0, ids, dy), num_bytes=3 * dy.nbytes)

    def sorted_rows() -> None:
        order = torch.argsort(ids.to(torch.int16), stable=True)
        grad.index_put_((ids[order],), dy[order], accumulate=True)

    bench.time("touched rows, sorted", sorted_rows, num_bytes=3 * dy.nbytes)


def weights(bench: Bench) -> None:
    """Quantising a layer's expert weights; orthogonal factors of the Muon groups."""
    from nanochat.kernels.fp8_weights import Fp8Weight
    from nanochat.kernels.quantizing import QuantizedWeight
    from nanochat.optimizer.updates import orthogonal_factor

    w = torch.randn(E, H, D, device="cuda").to(BF16)
    quantized = QuantizedWeight(w, "tensorwise")
    bench.time("FP8 copies of one expert weight, eager", lambda: quantized.refresh(w), num_bytes=3 * w.nbytes)
    compiled = torch.compile(quantized.refresh, dynamic=False)
    bench.time("FP8 copies of one expert weight, compiled", lambda: compiled(w), num_bytes=3 * w.nbytes)
    ours = Fp8Weight([w], transposed=True)
    bench.time("FP8 copies of one expert weight, ours", lambda: ours.refresh([w]), num_bytes=3 * w.nbytes)
    q = quack_interface()
    for count, rows, cols in ((48, 768, 768), (48, 1536, 768), (48, 768, 1536)):
        y = torch.randn(count, rows, cols, device="cuda").to(BF16)
        y = y / y.float().norm(dim=(1, 2), keepdim=True).to(BF16)
        small, large = min(rows, cols), max(rows, cols)
        flops = count * 5 * (4 * small * small * large + 2 * small**3)
        bench.time(f"orthogonal factor {count} x {rows} x {cols}", lambda y=y: orthogonal_factor(y), flops=flops)
        db = sqnr_db(orthogonal_factor(y, by_half=True), orthogonal_factor(y.double()))
        print(f"  whole {sqnr_db(orthogonal_factor(y), orthogonal_factor(y.double())):.1f} dB", flush=True)
        bench.time("  by half", lambda y=y: orthogonal_factor(y, by_half=True), flops=flops, db=db)
        tall = rows > cols
        bench.time(
            f"gram {count} x {rows} x {cols} cuBLAS",
            lambda y=y, t=tall: y.mT @ y if t else y @ y.mT,
            flops=2 * count * small * small * large,
        )
        bench.time(
            f"gram {count} x {rows} x {cols} QuACK symmetric",
            lambda y=y, t=tall: q.gemm_symmetric(y.mT, y) if t else q.gemm_symmetric(y, y.mT),
            flops=2 * count * small * small * large,
        )


SECTIONS: dict[str, Callable[[Bench], None]] = {
    "attention": attention,
    "embeddings": embeddings,
    "experts": experts,
    "head": head,
    "linears": linears,
    "routing": routing,
    "weights": weights,
}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--out", type=Path, default=None, help="the lines as JSON")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("bench.ops times GPU kernels and torch sees no GPU here")
    torch.manual_seed(0)
    bench = Bench(args.only)
    print(f"{torch.cuda.get_device_name()} | torch {torch.__version__} | copy {bench.bytes_per_s / 1e12:.2f} TB/s")
    for name, section in SECTIONS.items():
        if bench.wants(name):
            attempt(f"section {name}", lambda s=section: s(bench))
    if args.out:
        args.out.write_text("".join(json.dumps(vars(line)) + "\n" for line in bench.lines))


if __name__ == "__main__":
    main()
