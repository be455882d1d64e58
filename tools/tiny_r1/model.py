"""tiny-r1's layer graph in PyTorch: DeepSeek-V3's architecture, small, with its multi-token prediction layer.

Master weights, residual stream, norms, softmax, router and loss are float32; matrix products run in `compute` (bfloat16
in training). All experts of a layer are one wide gated MLP whose hidden [T, 33, 128] is multiplied by the routing
weight (0 where not chosen, 1 for the shared expert): eight times the needed products and still fast, no gather, no
dropped token.
"""
import math

import torch
import torch.nn.functional as F
from torch import nn

CONFIG = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "vocab_size": 448, "hidden_size": 256,
    "intermediate_size": 256, "moe_intermediate_size": 128, "num_hidden_layers": 5, "num_nextn_predict_layers": 1,
    "num_attention_heads": 4, "num_key_value_heads": 4, "n_shared_experts": 1, "n_routed_experts": 32, "ep_size": 1,
    "routed_scaling_factor": 2.5, "kv_lora_rank": 128, "q_lora_rank": 128, "qk_rope_head_dim": 32, "v_head_dim": 32,
    "qk_nope_head_dim": 32, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 4, "moe_layer_freq": 1,
    "first_k_dense_replace": 2, "norm_topk_prob": True, "scoring_func": "sigmoid", "topk_method": "noaux_tc",
    "hidden_act": "silu", "max_position_embeddings": 4096, "initializer_range": 0.02, "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0, "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024,
                                            "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0},
    "attention_bias": False, "attention_dropout": 0.0, "tie_word_embeddings": False, "use_cache": True,
    "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "bfloat16",
    "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                            "weight_block_size": [128, 128]},
}
H, HEADS, NOPE, ROPE, V, LORA, Q_LORA = 256, 4, 32, 32, 32, 128, 128
EXPERTS, WIDTH, GROUPS, TOP_GROUPS, TOP_K, SCALING = 32, 128, 4, 2, 4, 2.5
LAYERS, DENSE = CONFIG["num_hidden_layers"], CONFIG["first_k_dense_replace"]
EPS = 1e-6


def yarn_frequencies():
    """The inverse frequencies of the ROPE / 2 pairs (YaRN is on from the first training step)."""
    scaling, theta = CONFIG["rope_scaling"], CONFIG["rope_theta"]

    def dim(turns):
        return ROPE * math.log(scaling["original_max_position_embeddings"] / (2 * math.pi * turns)) / (2 * math.log(theta))
    low = max(0, math.floor(dim(scaling["beta_fast"])))
    high = min(ROPE - 1, math.ceil(dim(scaling["beta_slow"])))
    out = []
    for i in range(ROPE // 2):
        f = theta ** (-2 * i / ROPE)
        ramp = min(1.0, max(0.0, (i - low) / (high - low)))
        out.append(f / scaling["factor"] * ramp + f * (1 - ramp))
    return torch.tensor(out, dtype=torch.float64)


SOFTMAX_SCALE = (NOPE + ROPE) ** -0.5 * (0.1 * math.log(CONFIG["rope_scaling"]["factor"]) + 1) ** 2


def rotate(x, cos, sin):
    """Interleaved pairs; x [..., ROPE], cos and sin broadcast to [..., ROPE / 2]."""
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


def rms_norm(x, w):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * w


def quantise_rows(x):
    """What FP8 activations do to x: 128 consecutive channels share a scale."""
    groups = x.float().unflatten(-1, (-1, 128)) if x.shape[-1] % 128 == 0 else x.float().unsqueeze(-2)
    scale = groups.abs().amax(-1, keepdim=True).clamp(min=1e-4) / 448
    return ((groups / scale).to(torch.float8_e4m3fn).float() * scale).flatten(-2)


class Layer(nn.Module):
    def __init__(self, moe):
        super().__init__()
        self.moe = moe
        self.compute, self.fp8_rows = torch.bfloat16, False

        def matrix(*shape, gain=1.0):
            return nn.Parameter(torch.randn(*shape) * gain * shape[-1] ** -0.5)
        out_gain = (2 * LAYERS) ** -0.5
        self.input_layernorm = nn.Parameter(torch.ones(H))
        self.post_attention_layernorm = nn.Parameter(torch.ones(H))
        self.q_a_layernorm = nn.Parameter(torch.ones(Q_LORA))
        self.kv_a_layernorm = nn.Parameter(torch.ones(LORA))
        self.q_a = matrix(Q_LORA, H)
        self.q_b = matrix(HEADS * (NOPE + ROPE), Q_LORA)
        self.kv_a = matrix(LORA + ROPE, H)
        self.kv_b = matrix(HEADS * (NOPE + V), LORA)
        self.o = matrix(H, HEADS * V, gain=out_gain)
        if moe:
            self.router = matrix(EXPERTS, H, gain=0.5)
            self.register_buffer("bias", torch.zeros(EXPERTS))
            self.gate = matrix(EXPERTS + 1, WIDTH, H)
            self.up = matrix(EXPERTS + 1, WIDTH, H)
            self.down = matrix(EXPERTS + 1, H, WIDTH, gain=out_gain)
        else:
            width = CONFIG["intermediate_size"]
            self.gate, self.up = matrix(width, H), matrix(width, H)
            self.down = matrix(H, width, gain=out_gain)

    def linear(self, x, w):
        if self.fp8_rows:
            x = quantise_rows(x)
        return F.linear(x.to(self.compute), w.to(self.compute)).float()

    def project(self, x, cos, sin):
        """q [B, T, HEADS, NOPE + ROPE], the latent row [B, T, LORA] and k_pe [B, T, ROPE]."""
        q = self.linear(rms_norm(self.linear(x, self.q_a), self.q_a_layernorm), self.q_b)
        q = q.unflatten(-1, (HEADS, NOPE + ROPE))
        q = torch.cat([q[..., :NOPE], rotate(q[..., NOPE:], cos.unsqueeze(-2), sin.unsqueeze(-2))], -1)
        latent = self.linear(x, self.kv_a)
        return q, rms_norm(latent[..., :LORA], self.kv_a_layernorm), rotate(latent[..., LORA:], cos, sin)

    def attend(self, q, latent, k_pe, mask):
        """q [B, T, HEADS, .] over keys [B, S, .]; mask [B, 1, T, S] is 0 or -inf."""
        kv = self.linear(latent, self.kv_b).unflatten(-1, (HEADS, NOPE + V))
        k = torch.cat([kv[..., :NOPE], k_pe.unsqueeze(-2).expand(-1, -1, HEADS, -1)], -1)
        scores = torch.einsum("bthd,bshd->bhts", q.to(self.compute), k.to(self.compute)).float()
        p = torch.softmax(scores * SOFTMAX_SCALE + mask, -1)
        out = torch.einsum("bhts,bshd->bthd", p.to(self.compute), kv[..., NOPE:].to(self.compute)).float()
        return self.linear(out.flatten(-2), self.o)

    def route(self, x):
        """Routing weights [T, EXPERTS]; top-k by counting larger entries, ties to the lower index."""
        s = torch.sigmoid(F.linear(x, self.router))
        choice = (s + self.bias).detach()
        by_group = choice.unflatten(-1, (GROUPS, EXPERTS // GROUPS))
        best = by_group.amax(-1)
        second = by_group.masked_fill(rank(by_group) == 0, -torch.inf).amax(-1)
        keep = rank(best + second) < TOP_GROUPS
        choice = by_group.masked_fill(~keep.unsqueeze(-1), -torch.inf).flatten(-2)
        chosen = rank(choice) < TOP_K
        weights = s * chosen
        return weights / (weights.sum(-1, keepdim=True) + 1e-20) * SCALING, chosen

    def mlp(self, x):
        """[B, T, H] and which experts were chosen [B, T, EXPERTS] (None in dense layers)."""
        if not self.moe:
            return self.linear(F.silu(self.linear(x, self.gate)) * self.linear(x, self.up), self.down), None
        weights, chosen = self.route(x)
        weights = torch.cat([weights, torch.ones_like(weights[..., :1])], -1)
        h = F.silu(self.linear(x, self.gate.flatten(0, 1))) * self.linear(x, self.up.flatten(0, 1))
        if self.fp8_rows:
            h = quantise_rows(h)
        h = (h.unflatten(-1, (EXPERTS + 1, WIDTH)) * weights.unsqueeze(-1)).flatten(-2)
        down = self.down.permute(1, 0, 2).flatten(1)
        return F.linear(h.to(self.compute), down.to(self.compute)).float(), chosen

    def forward(self, x, cos, sin, mask):
        q, latent, k_pe = self.project(rms_norm(x, self.input_layernorm), cos, sin)
        x = x + self.attend(q, latent, k_pe, mask)
        y, chosen = self.mlp(rms_norm(x, self.post_attention_layernorm))
        return x + y, chosen


def rank(x):
    """How many entries of the last dimension are larger, or equal and earlier."""
    n = x.shape[-1]
    a, b = x.unsqueeze(-1), x.unsqueeze(-2)
    earlier = torch.ones(n, n, dtype=torch.bool, device=x.device).tril(-1)
    return ((b > a) | ((b == a) & earlier)).sum(-1)


class TinyR1(nn.Module):
    def __init__(self):
        super().__init__()
        vocab = CONFIG["vocab_size"]
        self.embed = nn.Parameter(torch.randn(vocab, H) * 0.5)
        self.head = nn.Parameter(torch.randn(vocab, H) * 0.5 * H**-0.5)
        self.norm = nn.Parameter(torch.ones(H))
        self.layers = nn.ModuleList([Layer(i >= DENSE) for i in range(LAYERS)])
        self.mtp = Layer(True)
        self.enorm, self.hnorm = nn.Parameter(torch.ones(H)), nn.Parameter(torch.ones(H))
        self.mtp_norm = nn.Parameter(torch.ones(H))
        self.eh_proj = nn.Parameter(torch.randn(H, 2 * H) * (2 * H) ** -0.5)
        angles = torch.arange(CONFIG["max_position_embeddings"], dtype=torch.float64)[:, None] * yarn_frequencies()
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def set_compute(self, dtype, fp8_rows=False):
        for layer in [*self.layers, self.mtp]:
            layer.compute, layer.fp8_rows = dtype, fp8_rows

    def logits(self, h, norm):
        compute = self.layers[0].compute
        return F.linear(rms_norm(h, norm).to(compute), self.head.to(compute)).float()

    def mtp_input(self, hidden, next_tokens):
        """hidden: after the main model's last norm (as SGLang and vLLM feed it); embedding first."""
        compute = self.layers[0].compute
        both = torch.cat([rms_norm(self.embed[next_tokens], self.enorm), rms_norm(hidden, self.hnorm)], -1)
        return F.linear(both.to(compute), self.eh_proj.to(compute)).float()

    def main(self, tokens, positions, mask, run=None):
        """Hidden [B, T, H] before the last norm, and the choices of each MoE layer."""
        cos, sin = self.cos[positions], self.sin[positions]
        x, choices = self.embed[tokens], []
        for layer in self.layers:
            x, chosen = (run or Layer.__call__)(layer, x, cos, sin, mask)
            if chosen is not None:
                choices.append(chosen)
        return x, choices


def document_mask(document):
    """[B, 1, T, T]: causal, within one document."""
    t = document.shape[-1]
    same = document.unsqueeze(-1) == document.unsqueeze(-2)
    causal = torch.ones(t, t, dtype=torch.bool, device=document.device).tril()
    return torch.zeros((), device=document.device).masked_fill(~(same & causal), -torch.inf).unsqueeze(1)


def document_positions(document):
    """Positions that restart at 0 in each document."""
    t = torch.arange(document.shape[-1], device=document.device).expand_as(document)
    starts = torch.zeros_like(document, dtype=torch.bool)
    starts[:, 1:] = document[:, 1:] != document[:, :-1]
    return t - torch.where(starts, t, 0).cummax(-1).values
