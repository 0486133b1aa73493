"""The transformer: a nanochat-style GPT with value embeddings, residual scalars, windows and, optionally, experts.

RMSNorm without parameters after the embedding, before attention, before the MLP and before the head; queries and keys
are normalised after rotary embedding; squared ReLU; no biases; untied head; logits softly capped at 15.

A layer is the unit of compilation. It takes what it needs as arguments and does not know its number, so that layers of
the same kind share one compiled graph.

Legend: B rows, T positions, N = B T tokens, D width, H heads, K head_dim, V padded vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanochat.config import ModelConfig, PrecisionConfig, TrainConfig
from nanochat.kernels import rotary, rows, totals
from nanochat.kernels.capped_loss import head_loss
from nanochat.model.attention import attend, rotary_tables, rotate
from nanochat.model.fp8 import QuackLinears, project
from nanochat.model.kernel_choice import PLAIN, Kernels
from nanochat.model.moe import Experts, MoE, Router, RouterLosses, stat_names
from nanochat.model.roles import Constant, Normal, Uniform, role_of
from nanochat.sizes import GATE_INPUTS, is_moe_layer

LOGIT_CAP = 15.0


def norm(x: Tensor) -> Tensor:
    """RMSNorm over the last dimension, without parameters."""
    return F.rms_norm(x, (x.shape[-1],))


def _embedding(num_entries: int, width: int) -> nn.Embedding:
    """A table (V, D) without values: torch's own first ones would import its whole compiler on the meta device."""
    return nn.Embedding(num_entries, width, _weight=torch.empty(num_entries, width))


def _look_up(table: nn.Embedding, ids: Tensor, total: Tensor | None, sorted_ids: totals.SortedIds | None) -> Tensor:
    if total is None or sorted_ids is None:
        return table(ids)
    return totals.look_up(table.weight, ids, total, sorted_ids)


class Attention(nn.Module):
    """Causal self-attention; on every second layer a gated embedding of the token itself is added to its value."""

    def __init__(self, config: TrainConfig, layer: int, backend: str, kernels: Kernels) -> None:
        super().__init__()
        model, width = config.model, config.model.width
        self.num_heads, self.head_dim = model.num_heads, model.head_dim
        self.window, self.backend = model.window_tokens(layer), backend
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.value_embed: nn.Embedding | None = None
        self.value_gate: nn.Linear | None = None
        if model.has_value_embedding(layer):
            self.value_embed = _embedding(model.padded_vocab_size, width)
            self.value_gate = nn.Linear(GATE_INPUTS, model.num_heads, bias=False)
        self.qkv_fp8 = QuackLinears.wanted("attention.q", config.precision, kernels, normed=True)
        self.out_fp8 = QuackLinears.wanted("attention.out", config.precision, kernels, normed=False)
        self.is_fused = kernels.own and rotary.head_problem(model.head_dim) is None
        self.qkv_total: Tensor | None
        self.out_total: Tensor | None
        self.value_embed_total: Tensor | None
        for name in ("qkv_total", "out_total", "value_embed_total"):
            self.register_buffer(name, None, persistent=False)

    def add_in_products(self) -> None:
        """Has the products add the weights' gradients to where they are added up."""
        if self.is_fused and type(self.q) is nn.Linear:
            self.qkv_total = totals.together(self.q.weight, self.k.weight, self.v.weight)
        if type(self.out) is nn.Linear:
            self.out_total = totals.together(self.out.weight)
        if self.value_embed is not None:
            self.value_embed_total = totals.together(self.value_embed.weight)

    def _qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, D) -> queries, keys and values (B, T, H, K), as one product unless each is converted by itself."""
        heads = (*x.shape[:2], self.num_heads, self.head_dim)
        linears = (self.q, self.k, self.v)
        if self.qkv_fp8 is not None and self.training:
            together = self.qkv_fp8(x, *linears)  # (B, T, 3 D)
        elif self.training and type(self.q) is not nn.Linear:
            q, k, v = (project(linear, x).view(heads) for linear in linears)
            return q, k, v
        else:
            together = F.linear(x, torch.cat([linear.weight for linear in linears]))
        q, k, v = (part.view(heads) for part in together.chunk(3, dim=-1))
        return q, k, v

    def forward(
        self, x: Tensor, ids: Tensor, cos: Tensor, sin: Tensor, sorted_ids: totals.SortedIds | None = None
    ) -> Tensor:
        """x (B, T, D), ids (B, T), tables (1, T, 1, K/2) -> (B, T, D)."""
        if self.is_fused and self.training and type(self.q) is nn.Linear:
            weights = (self.q.weight, self.k.weight, self.v.weight)
            fp8 = None if self.qkv_fp8 is None else self.qkv_fp8.fp8
            q, k, v = rotary.queries_keys_values(x, weights, cos, sin, self.num_heads, fp8, self.qkv_total)
        else:
            q, k, v = self._qkv(x)
            q, k = norm(rotate(q, cos, sin)), norm(rotate(k, cos, sin))
        if self.value_embed is not None and self.value_gate is not None:
            gate = 2 * torch.sigmoid(self.value_gate(x[..., :GATE_INPUTS]))  # (B, T, H)
            embedded = _look_up(self.value_embed, ids, self.value_embed_total, sorted_ids)
            v = v + gate[..., None] * embedded.view(v.shape)
        attended = attend(q, k, v, self.window, self.backend).reshape(x.shape)
        if self.out_fp8 is not None and self.training:
            return self.out_fp8(attended, self.out, total=self.out_total)
        return project(self.out, attended, self.out_total)

    def refresh_fp8(self) -> None:
        """Quantises the weights for the next micro-steps."""
        if self.qkv_fp8 is not None:
            self.qkv_fp8.refresh(self.q, self.k, self.v)
        if self.out_fp8 is not None:
            self.out_fp8.refresh(self.out)


class MLP(nn.Module):
    """D -> 4D -> D with squared ReLU."""

    def __init__(self, width: int, precision: PrecisionConfig, kernels: Kernels = PLAIN) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)
        self.up_fp8 = QuackLinears.wanted("mlp.up", precision, kernels, normed=True)
        self.down_fp8 = QuackLinears.wanted("mlp.down", precision, kernels, normed=False)
        self.up_total: Tensor | None
        self.down_total: Tensor | None
        for name in ("up_total", "down_total"):
            self.register_buffer(name, None, persistent=False)

    def add_in_products(self) -> None:
        """Has the products add the weights' gradients to where they are added up."""
        if type(self.up) is nn.Linear:
            self.up_total, self.down_total = totals.together(self.up.weight), totals.together(self.down.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D), which must have been normed -> (B, T, D)."""
        if self.training and self.up_fp8 is not None and self.down_fp8 is not None:
            hidden = self.up_fp8(x, self.up, total=self.up_total)
            return self.down_fp8(F.relu(hidden).square(), self.down, total=self.down_total)
        return project(self.down, F.relu(project(self.up, x, self.up_total)).square(), self.down_total)

    def refresh_fp8(self) -> None:
        """Quantises the weights for the next micro-steps."""
        if self.up_fp8 is not None and self.down_fp8 is not None:
            self.up_fp8.refresh(self.up)
            self.down_fp8.refresh(self.down)


class Layer(nn.Module):
    """Attention and MLP or experts around the residual stream, which is first remixed with the embedding."""

    def __init__(self, config: TrainConfig, layer: int, backend: str, kernels: Kernels) -> None:
        super().__init__()
        self.residual_scale = nn.Parameter(torch.empty(()))
        self.embedding_scale = nn.Parameter(torch.empty(()))
        self.is_fused = kernels.own
        self.attention = Attention(config, layer, backend, kernels)
        self.num_stats = len(stat_names(config.moe))
        self.mlp: MLP | MoE
        if config.moe is not None and is_moe_layer(config, layer):
            self.mlp = MoE(config.model.width, config.moe, config.precision, kernels)
        else:
            self.mlp = MLP(config.model.width, config.precision, kernels)

    def forward(
        self,
        x: Tensor,
        x0: Tensor,
        ids: Tensor,
        cos: Tensor,
        sin: Tensor,
        capacity: int | None,
        sorted_ids: totals.SortedIds | None = None,
    ) -> tuple[Tensor, RouterLosses, Tensor]:
        """x, x0 (B, T, D), ids (B, T) -> x (B, T, D), the router's losses, its statistics (S,).

        `capacity` is the experts' queue length, None for exact routing (see MoE.capacity). `sorted_ids` are the ids in
        another order, for tables whose gradients are added row by row.
        """
        if self.is_fused and self.training and rows.runs_at_once(x):
            scales = torch.stack((self.residual_scale, self.embedding_scale)).float()
            x, normed = rows.mix_and_norm(x, x0, scales)
            x, normed = rows.mix_and_norm(x, self.attention(normed, ids, cos, sin, sorted_ids))
        else:
            x = self.residual_scale * x + self.embedding_scale * x0
            x = x + self.attention(norm(x), ids, cos, sin, sorted_ids)
            normed = norm(x)
        if isinstance(self.mlp, MoE):
            out, losses, stats = self.mlp(normed, capacity)
        else:
            out = self.mlp(normed)
            losses = RouterLosses(x.new_zeros((), dtype=torch.float32), None)
            stats = x.new_zeros(self.num_stats, dtype=torch.float32)
        return x + out, losses, stats


class Head(nn.Module):
    """From the residual stream to the loss: norm, unembedding, soft cap, cross-entropy."""

    def __init__(self, model: ModelConfig, precision: PrecisionConfig, kernels: Kernels) -> None:
        super().__init__()
        self.lm_head = nn.Linear(model.width, model.padded_vocab_size, bias=False)
        self.vocab_size = model.vocab_size
        self.is_fused = kernels.own
        self.head_fp8 = QuackLinears.wanted("head.lm_head", precision, kernels, normed=True)
        self.total: Tensor | None
        self.register_buffer("total", None, persistent=False)

    def add_in_products(self) -> None:
        """Has the product add the weight's gradient to where it is added up, if the head is fused."""
        if self.is_fused:
            self.total = totals.together(self.lm_head.weight)

    def logits(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, vocab_size) fp32, capped."""
        raw = project(self.lm_head, norm(x))[..., : self.vocab_size].float()
        return LOGIT_CAP * torch.tanh(raw / LOGIT_CAP)

    def forward(self, x: Tensor, targets: Tensor) -> Tensor:
        """(B, T, D), (B, T) -> cross-entropy of each position (B, T) fp32, in nats; 0 where the target is -1."""
        if self.is_fused:
            fp8 = self.head_fp8 if self.training else None
            return head_loss(
                norm(x).view(-1, x.shape[-1]),
                self.lm_head.weight,
                targets.reshape(-1),
                self.vocab_size,
                LOGIT_CAP,
                torch.is_grad_enabled(),
                None if fp8 is None else fp8.fp8,
                self.total,
            ).view(targets.shape)
        logits = self.logits(x)
        flat = F.cross_entropy(logits.view(-1, self.vocab_size), targets.view(-1), ignore_index=-1, reduction="none")
        return flat.view(targets.shape)

    def refresh_fp8(self) -> None:
        """Quantises the weights for the next micro-steps."""
        if self.head_fp8 is not None:
            self.head_fp8.refresh(self.lm_head)


class GPT(nn.Module):
    """The whole model."""

    def __init__(self, config: TrainConfig, attention_backend: str, kernels: Kernels = PLAIN) -> None:
        super().__init__()
        model = config.model
        self.config = config
        self.wte = _embedding(model.padded_vocab_size, model.width)
        self.blocks = nn.ModuleList(Layer(config, layer, attention_backend, kernels) for layer in range(model.depth))
        self.head = Head(model, config.precision, kernels)
        self.cos: Tensor
        self.sin: Tensor
        self.register_buffer("cos", torch.empty(0), persistent=False)
        self.register_buffer("sin", torch.empty(0), persistent=False)
        self.wte_total: Tensor | None
        self.register_buffer("wte_total", None, persistent=False)

    def forward(self, ids: Tensor, targets: Tensor) -> tuple[Tensor, RouterLosses, Tensor]:
        """ids, targets (B, T) -> cross-entropy (B, T), router losses summed over layers, statistics (L, S)."""
        capacities = (block.mlp.capacity(ids.numel()) for block in self.blocks if isinstance(block.mlp, MoE))
        capacity = next(capacities, None)  # of all layers alike
        # Copies: the compiler tells a view from a tensor of its own, and would compile everything again for a batch, or
        # a first layer, that comes the other way.
        ids, targets = ids.clone(), targets.clone()
        sorted_ids = None if self.wte_total is None or not self.training else totals.SortedIds.of(ids)
        x0 = norm(_look_up(self.wte, ids, self.wte_total, sorted_ids))  # (B, T, D)
        x, balances, zs, stats = x0.clone(), [], [], []
        for block in self.blocks:
            x, losses, layer_stats = block(x, x0, ids, self.cos, self.sin, capacity, sorted_ids)
            balances.append(losses.balance)
            zs += [] if losses.z is None else [losses.z]
            stats.append(layer_stats)
        summed = RouterLosses(torch.stack(balances).sum(), torch.stack(zs).sum() if zs else None)
        return self.head(x, targets), summed, torch.stack(stats)

    def residual(self, ids: Tensor) -> Tensor:
        """ids (B, T), T up to the model's context -> the residual stream that `head.logits` reads (B, T, D).

        For a model in evaluation. The layers run uncompiled and route exactly: texts have any length, and none of them
        are to compile a graph.
        """
        num_positions = ids.shape[1]
        cos, sin = self.cos[:, :num_positions], self.sin[:, :num_positions]
        x = x0 = norm(self.wte(ids))  # (B, T, D)
        for block in self.blocks:
            x, _, _ = block.forward(x, x0, ids, cos, sin, None)
        return x

    @torch.no_grad()
    def initialize(self, device: torch.device, dtype: torch.dtype) -> None:
        """Draws all weights in fp32 from torch's global generator, each as its role says, and sets all buffers.

        Rotary tables are in `dtype`. Raises UnknownParameterError.
        """
        bound = 3**0.5 * self.config.model.width**-0.5
        for name, parameter in self.named_parameters():
            match role_of(name).initial:
                case Normal(std):
                    parameter.normal_(0.0, std)
                case Uniform():
                    parameter.uniform_(-bound, bound)
                case Constant(value):
                    parameter.fill_(value)
        for router in self.routers().values():
            for buffer in router.buffers():
                buffer.zero_()
        self.cos, self.sin = rotary_tables(self.config.model.seq_len, self.config.model.head_dim, device, dtype)

    def add_in_products(self) -> None:
        """From now on most weight gradients are added to the parameters' present ones where they are made.

        Autograd gets none of them; it runs its hooks behind what has added them. For GPUs with Triton.
        """
        self.wte_total = totals.together(self.wte.weight)
        for module in self.modules():
            if isinstance(module, Experts | Attention | MLP | Head):
                module.add_in_products()

    def routers(self) -> dict[int, Router]:
        """The routers by layer."""
        return {i: block.mlp.router for i, block in enumerate(self.blocks) if isinstance(block.mlp, MoE)}

    def router_biases(self) -> dict[str, Tensor]:
        """The model's state beside its parameters, under stable names; nothing where routers have no bias."""
        routers = self.routers().items()
        return {f"router_bias.{layer}": router.bias for layer, router in routers if router.bias is not None}

    def refresh_fp8(self) -> None:
        """Quantises the weights of FP8 products; call it after every optimizer step and after loading."""
        for module in self.modules():
            if isinstance(module, Experts | Attention | MLP | Head):
                module.refresh_fp8()
