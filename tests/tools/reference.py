"""The DeepSeek-V3 architecture in numpy, written from the paper and the published configuration: what `proa logits` is
compared with for shapes that no published reference covers. Exact arithmetic: weights dequantised, activations neither
rounded nor quantised, attention always expanded (per-head keys and values).

    python3 tests/tools/reference.py DIR       compares with DIR/expected.safetensors, written by another reference
"""

import json
import math
import os
import sys

import numpy as np

import tensors as st


def rope_settings(config):
    """(inverse frequencies, what cos and sin are multiplied by, what the softmax scale is multiplied by)"""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = rope.get("rope_theta") or config.get("rope_theta") or 10000.0
    dim = config["qk_rope_head_dim"]
    inverse = theta ** -(np.arange(0, dim, 2) / dim)
    if (rope.get("rope_type") or rope.get("type") or "default") == "default":
        return inverse, 1.0, 1.0
    original = rope.get("original_max_position_embeddings") or config["max_position_embeddings"]
    factor = rope.get("factor") or config["max_position_embeddings"] / original

    def magnitude(s):
        return 0.1 * s * math.log(factor) + 1 if factor > 1 else 1.0

    def dimension(turns):
        return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(dimension(rope.get("beta_fast") or 32)), 0)
    high = min(math.ceil(dimension(rope.get("beta_slow") or 1)), dim - 1)
    ramp = np.clip((np.arange(dim // 2) - low) / (high - low if high != low else 0.001), 0, 1)
    inverse = inverse / factor * ramp + inverse * (1 - ramp)
    mscale, all_dim = rope.get("mscale"), rope.get("mscale_all_dim")
    amplitude = rope.get("attention_factor")
    if amplitude is None:
        amplitude = magnitude(mscale) / magnitude(all_dim) if mscale and all_dim else magnitude(1)
    return inverse, amplitude, magnitude(all_dim) ** 2 if all_dim else 1.0


class Model:
    def __init__(self, directory, dtype=np.float64):
        self.config = json.load(open(os.path.join(directory, "config.json")))
        self.dtype = dtype
        self.stored = {}
        for name in sorted(os.listdir(directory)):
            if name.startswith("model") and name.endswith(".safetensors"):
                self.stored.update(st.read(os.path.join(directory, name)))
        self.weights = {}
        self.router_gap = math.inf  # the closest that any choice of experts was
        self.inverse, self.amplitude, softmax = rope_settings(self.config)
        head = self.config["qk_nope_head_dim"] + self.config["qk_rope_head_dim"]
        self.scale = head**-0.5 * softmax

    def weight(self, name):
        if name not in self.weights:
            value = self.stored[name]
            w = st.to_float(value, self.dtype)
            scale = self.stored.get(name + "_scale_inv")
            if scale is not None:
                quantisation = self.config["quantization_config"]
                block_n, block_k = quantisation.get("weight_block_size", [128, 128])
                full = np.repeat(np.repeat(st.to_float(scale, self.dtype), block_n, 0), block_k, 1)
                w = w * full[: w.shape[0], : w.shape[1]]
            self.weights[name] = w
        return self.weights[name]

    def linear(self, name, x):
        return x @ self.weight(name + ".weight").T

    def norm(self, name, x, eps):
        return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + eps) * self.weight(name + ".weight")

    def rope(self, x, first):
        """x [tokens, heads, dim], pairs (2i, 2i + 1)."""
        angle = (np.arange(first, first + len(x))[:, None] * self.inverse[None, :])[:, None, :]
        cos, sin = (np.cos(angle) * self.amplitude).astype(self.dtype), (np.sin(angle) * self.amplitude).astype(self.dtype)
        even, odd = x[..., 0::2], x[..., 1::2]
        out = np.empty_like(x)
        out[..., 0::2], out[..., 1::2] = even * cos - odd * sin, odd * cos + even * sin
        return out

    def attention(self, name, x, cache):
        c, tokens = self.config, len(x)
        heads, nope, v = c["num_attention_heads"], c["qk_nope_head_dim"], c["v_head_dim"]
        if c.get("q_lora_rank"):
            q = self.linear(name + ".q_b_proj", self.norm(name + ".q_a_layernorm", self.linear(name + ".q_a_proj", x), 1e-6))
        else:
            q = self.linear(name + ".q_proj", x)
        first = len(cache[0]) if cache else 0
        q = q.reshape(tokens, heads, -1)
        q = np.concatenate([q[..., :nope], self.rope(q[..., nope:], first)], -1)
        latent = self.linear(name + ".kv_a_proj_with_mqa", x)
        rank = c["kv_lora_rank"]
        kv = self.linear(name + ".kv_b_proj", self.norm(name + ".kv_a_layernorm", latent[:, :rank], 1e-6))
        kv = kv.reshape(tokens, heads, nope + v)
        k_pe = self.rope(latent[:, None, rank:], first)
        k = np.concatenate([kv[..., :nope], np.broadcast_to(k_pe, (tokens, heads, k_pe.shape[-1]))], -1)
        values = kv[..., nope:]
        if cache:
            k, values = np.concatenate([cache[0], k]), np.concatenate([cache[1], values])
        cache[:] = [k, values]
        score = np.einsum("qhd,khd->hqk", q, k) * self.dtype(self.scale)
        hidden = np.arange(len(k))[None, :] > np.arange(first, first + tokens)[:, None]
        score = np.where(hidden, -np.inf, score)
        p = np.exp(score - score.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        return self.linear(name + ".o_proj", np.einsum("hqk,khd->qhd", p, values).reshape(tokens, -1))

    def mlp(self, name, x):
        gate = self.linear(name + ".gate_proj", x)
        return self.linear(name + ".down_proj", gate / (1 + np.exp(-gate)) * self.linear(name + ".up_proj", x))

    def choose(self, biased):
        """Ids of the chosen experts in descending order of biased score; notes how close the choice was."""
        c = self.config
        groups, keep, top = c.get("n_group") or 1, c.get("topk_group") or 1, c["num_experts_per_tok"]
        order = np.arange(len(biased))
        if groups > 1:
            members = biased.reshape(groups, -1)
            score = np.sort(members, -1)[:, -2:].sum(-1)
            ranked = np.argsort(-score, kind="stable")
            if keep < groups:
                self.router_gap = min(self.router_gap, score[ranked[keep - 1]] - score[ranked[keep]])
            order = np.flatnonzero(np.isin(order // members.shape[1], ranked[:keep]))
        ranked = order[np.argsort(-biased[order], kind="stable")]
        if top < len(ranked):
            self.router_gap = min(self.router_gap, biased[ranked[top - 1]] - biased[ranked[top]])
        return ranked[:top]

    def experts(self, name, x):
        c = self.config
        score = 1 / (1 + np.exp(-self.linear(name + ".gate", x)))
        biased = score + self.weight(name + ".gate.e_score_correction_bias")
        out = np.zeros_like(x)
        chosen = np.array([self.choose(row) for row in biased])
        weight = np.take_along_axis(score, chosen, -1)
        if c.get("norm_topk_prob", True):
            weight = weight / (weight.sum(-1, keepdims=True) + 1e-20)
        weight = weight * c["routed_scaling_factor"]
        for expert in np.unique(chosen):
            rows, slots = np.nonzero(chosen == expert)
            out[rows] += weight[rows, slots, None] * self.mlp(f"{name}.experts.{expert}", x[rows])
        if c.get("n_shared_experts"):
            out += self.mlp(name + ".shared_experts", x)
        return out

    def forward(self, ids, caches=None):
        """Logits [tokens, vocab] and the hidden states of one sequence's next tokens."""
        c = self.config
        caches = caches if caches is not None else [[] for _ in range(c["num_hidden_layers"])]
        eps = c.get("rms_norm_eps", 1e-6)
        x = self.weight("model.embed_tokens.weight")[ids]
        hidden = [x]
        for i in range(c["num_hidden_layers"]):
            name = f"model.layers.{i}"
            x = x + self.attention(name + ".self_attn", self.norm(name + ".input_layernorm", x, eps), caches[i])
            moe = c.get("n_routed_experts") and i >= c["first_k_dense_replace"] and i % c.get("moe_layer_freq", 1) == 0
            y = self.norm(name + ".post_attention_layernorm", x, eps)
            x = x + (self.experts if moe else self.mlp)(name + ".mlp", y)
            hidden.append(x)
        hidden[-1] = x = self.norm("model.norm", x, eps)
        head = "model.embed_tokens" if c.get("tie_word_embeddings") else "lm_head"
        return self.linear(head, x), hidden

    def greedy(self, prefix, steps):
        caches = [[] for _ in range(self.config["num_hidden_layers"])]
        ids, margins, feed = list(prefix), [], list(prefix)
        for _ in range(steps):
            logits = self.forward(np.array(feed), caches)[0][-1]
            best = np.argsort(-logits, kind="stable")[:2]
            margins.append(logits[best[0]] - logits[best[1]])
            ids.append(int(best[0]))
            feed = [int(best[0])]
        return ids, margins


def compute(model, input_ids, prefix, steps):
    """What expected.safetensors holds."""
    runs = [model.forward(row) for row in input_ids]
    out = {"input_ids": input_ids.astype(np.int32), "logits": np.stack([run[0] for run in runs]).astype(np.float32)}
    for i in range(model.config["num_hidden_layers"] + 1):
        out[f"hidden.{i}"] = np.stack([run[1][i] for run in runs]).astype(np.float32)
    if steps:
        continued = [model.greedy(row[:prefix], steps) for row in input_ids]
        out["greedy_ids"] = np.array([ids for ids, _ in continued], np.int32)
        out["greedy_margin"] = np.array([margins for _, margins in continued], np.float32)
    return out


def main():
    directory = sys.argv[1]
    expected = st.read(os.path.join(directory, "expected.safetensors"))
    steps = expected["greedy_margin"].shape[1] if "greedy_margin" in expected else 0
    prefix = expected["greedy_ids"].shape[1] - steps if steps else 0
    for dtype in (np.float32, np.float64):
        found = compute(Model(directory, dtype), expected["input_ids"], prefix, steps)
        print(np.dtype(dtype).name)
        for name in sorted(found):
            if name in ("input_ids", "greedy_margin"):
                continue
            difference = np.abs(found[name].astype(np.float64) - expected[name])
            if name == "greedy_ids":
                print(f"  {name}: {int((difference != 0).any(-1).sum())} of {len(difference)} sequences differ")
            else:
                print(f"  {name}: max |difference| {difference.max():.3g}, of values up to {np.abs(expected[name]).max():.3g}")


if __name__ == "__main__":
    main()
