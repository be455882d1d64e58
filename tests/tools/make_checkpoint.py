"""Makes small random checkpoints of the DeepSeek-V3 architecture in the published format, with expected.safetensors
computed by reference.py.

    python3 tests/tools/make_checkpoint.py OUT                          every variant, each in a folder of OUT
    python3 tests/tools/make_checkpoint.py OUT --variant ue8m0          one
    python3 tests/tools/make_checkpoint.py OUT --set hidden_size=192 --set q_lora_rank=null    the base, changed

What a variant changes is a patch of config.json; keys that begin with an underscore are about the files:
_scale ("F8_E8M0": how scales are stored), _unquantised (parts of the names of matrices that stay bf16), _dtype ("F32": of what
is not FP8), _single (one file), _mtp (tensors of the MTP layer).
"""

import argparse
import json
import os

import numpy as np

import reference
import tensors as st

BASE = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "vocab_size": 256, "hidden_size": 128,
    "intermediate_size": 192, "moe_intermediate_size": 64, "num_hidden_layers": 3, "num_nextn_predict_layers": 0,
    "num_attention_heads": 4, "num_key_value_heads": 4, "n_shared_experts": 1, "n_routed_experts": 16,
    "routed_scaling_factor": 2.5, "kv_lora_rank": 64, "q_lora_rank": 96, "qk_rope_head_dim": 16, "v_head_dim": 32,
    "qk_nope_head_dim": 32, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 4, "moe_layer_freq": 1,
    "first_k_dense_replace": 1, "norm_topk_prob": True, "scoring_func": "sigmoid", "topk_method": "noaux_tc",
    "hidden_act": "silu", "max_position_embeddings": 1024, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    "rope_scaling": {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 128, "beta_fast": 32,
                     "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0},
    "attention_bias": False, "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 1,
    "torch_dtype": "bfloat16",
}


def fp8(**more):
    return {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128], **more}


VARIANTS = {
    "no-q-lora": {"q_lora_rank": None, "n_group": 1, "topk_group": 1, "n_shared_experts": 2, "rope_scaling": None},
    "partial-blocks": {"quantization_config": fp8(), "hidden_size": 200, "intermediate_size": 300,
                       "moe_intermediate_size": 72, "kv_lora_rank": 136, "q_lora_rank": 40, "num_attention_heads": 3,
                       "num_key_value_heads": 3, "qk_nope_head_dim": 24, "v_head_dim": 40, "vocab_size": 203},
    "ue8m0": {"quantization_config": fp8(scale_fmt="ue8m0"), "hidden_size": 256, "n_shared_experts": 2},
    "ue8m0-bytes": {"quantization_config": fp8(scale_fmt="ue8m0", weight_block_size=[64, 128]), "hidden_size": 192,
                    "_scale": "F8_E8M0", "_unquantised": ("layers.1.self_attn",)},
    "tied": {"tie_word_embeddings": True, "rope_scaling": None, "rope_theta": None, "_single": True,
             "rope_parameters": {"rope_type": "yarn", "rope_theta": 50000.0, "factor": 4.0, "mscale": 0.707,
                                 "original_max_position_embeddings": 256}},
    "dense": {"n_routed_experts": None, "n_group": None, "topk_group": None, "num_experts_per_tok": None,
              "n_shared_experts": None, "_dtype": "F32", "rope_scaling": {"rope_type": "default"}},
    "kimi": {"model_type": "kimi_k2", "n_group": 1, "topk_group": 1, "n_routed_experts": 24, "num_experts_per_tok": 6,
             "routed_scaling_factor": 2.827, "eos_token_id": [5, 9], "rope_theta": 50000.0, "num_attention_heads": 2,
             "num_key_value_heads": 2, "quantization_config": fp8(), "hidden_size": 256, "moe_intermediate_size": 128,
             "rope_scaling": {"type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "beta_fast": 1,
                              "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0},
             "max_position_embeddings": 131072},
    "no-shared": {"n_shared_experts": None, "norm_topk_prob": False, "routed_scaling_factor": 1.0,
                  "rms_norm_eps": 1e-3, "first_k_dense_replace": 0, "num_experts_per_tok": 1, "n_group": 8,
                  "topk_group": 3, "num_nextn_predict_layers": 1, "_mtp": True,
                  "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 64,
                                   "mscale_all_dim": 0.8}},
    "mixed": {"quantization_config": fp8(), "hidden_size": 192, "_unquantised": ("kv_a_proj", "up_proj")},
    "one-head": {"num_attention_heads": 1, "num_key_value_heads": 1, "hidden_size": 40, "intermediate_size": 24,
                 "moe_intermediate_size": 12, "kv_lora_rank": 20, "q_lora_rank": 12, "qk_rope_head_dim": 2,
                 "qk_nope_head_dim": 6, "v_head_dim": 10, "n_routed_experts": 4, "n_group": 2, "topk_group": 1,
                 "num_experts_per_tok": 2, "num_hidden_layers": 2, "vocab_size": 50},
}


class Maker:
    def __init__(self, config, seed):
        self.config = {k: v for k, v in config.items() if not k.startswith("_")}
        self.files = {k: v for k, v in config.items() if k.startswith("_")}
        self.random = np.random.default_rng(seed)
        self.tensors = {}

    def put(self, name, array):
        array = array.astype(np.float32)
        self.tensors[name] = array if self.files.get("_dtype") == "F32" else st.to_bf16(array)

    def matrix(self, name, n, k, gain=1.0):
        w = self.random.standard_normal((n, k)) * gain / np.sqrt(k)
        quantisation = self.config.get("quantization_config")
        if not quantisation or any(part in name for part in self.files.get("_unquantised", ())):
            self.put(name + ".weight", w)
            return
        block_n, block_k = quantisation["weight_block_size"]
        w *= np.exp(self.random.standard_normal((n, 1)) * 0.3)  # so that blocks differ in scale
        rows, cols = -(-n // block_n), -(-k // block_k)
        padded = np.zeros((rows * block_n, cols * block_k))
        padded[:n, :k] = w
        scale = np.abs(padded).reshape(rows, block_n, cols, block_k).max((1, 3)) / 448
        if quantisation.get("scale_fmt") == "ue8m0":
            scale = 2.0 ** np.ceil(np.log2(scale))
        full = np.repeat(np.repeat(scale, block_n, 0), block_k, 1)[:n, :k]
        self.tensors[name + ".weight"] = st.to_e4m3(w / full)
        stored = scale.astype(np.float32)
        if self.files.get("_scale") == "F8_E8M0":
            stored = st.Raw("F8_E8M0", (np.log2(scale) + 127).astype(np.uint8))
        self.tensors[name + ".weight_scale_inv"] = stored

    def table(self, name, n, k, std):
        self.put(name, self.random.standard_normal((n, k)) * std)

    def norm(self, name, size):
        self.put(name + ".weight", 1 + 0.2 * self.random.standard_normal(size))

    def mlp(self, name, width):
        hidden = self.config["hidden_size"]
        self.matrix(name + ".gate_proj", width, hidden, 1.5)
        self.matrix(name + ".up_proj", width, hidden)
        self.matrix(name + ".down_proj", hidden, width)

    def attention(self, name):
        c = self.config
        hidden, heads, rank = c["hidden_size"], c["num_attention_heads"], c["kv_lora_rank"]
        q = heads * (c["qk_nope_head_dim"] + c["qk_rope_head_dim"])
        if c["q_lora_rank"]:
            self.matrix(name + ".q_a_proj", c["q_lora_rank"], hidden)
            self.norm(name + ".q_a_layernorm", c["q_lora_rank"])
            self.matrix(name + ".q_b_proj", q, c["q_lora_rank"], 1.5)
        else:
            self.matrix(name + ".q_proj", q, hidden, 1.5)
        self.matrix(name + ".kv_a_proj_with_mqa", rank + c["qk_rope_head_dim"], hidden)
        self.norm(name + ".kv_a_layernorm", rank)
        self.matrix(name + ".kv_b_proj", heads * (c["qk_nope_head_dim"] + c["v_head_dim"]), rank)
        self.matrix(name + ".o_proj", hidden, heads * c["v_head_dim"])

    def layer(self, index):
        c, name = self.config, f"model.layers.{index}"
        self.norm(name + ".input_layernorm", c["hidden_size"])
        self.norm(name + ".post_attention_layernorm", c["hidden_size"])
        self.attention(name + ".self_attn")
        experts = c["n_routed_experts"] or 0
        if not experts or index < c["first_k_dense_replace"]:
            self.mlp(name + ".mlp", c["intermediate_size"])
            return
        self.table(name + ".mlp.gate.weight", experts, c["hidden_size"], c["hidden_size"] ** -0.5)
        # large and small, of both signs: a group of negative scores must not win over a masked one
        self.tensors[name + ".mlp.gate.e_score_correction_bias"] = (self.random.standard_normal(experts) * 0.4 - 0.5).astype(
            np.float32)
        for expert in range(experts):
            self.mlp(f"{name}.mlp.experts.{expert}", c["moe_intermediate_size"])
        if c["n_shared_experts"]:
            self.mlp(name + ".mlp.shared_experts", c["n_shared_experts"] * c["moe_intermediate_size"])

    def mtp(self, index):
        c, name = self.config, f"model.layers.{index}"
        self.layer(index)
        self.table(name + ".embed_tokens.weight", c["vocab_size"], c["hidden_size"], 1)
        self.table(name + ".shared_head.head.weight", c["vocab_size"], c["hidden_size"], 1)
        self.put(name + ".eh_proj.weight", self.random.standard_normal((c["hidden_size"], 2 * c["hidden_size"])))
        for part in ("enorm", "hnorm", "shared_head.norm"):
            self.norm(f"{name}.{part}", c["hidden_size"])

    def make(self):
        c = self.config
        head = 2 * c["hidden_size"] ** -0.5
        self.table("model.embed_tokens.weight", c["vocab_size"], c["hidden_size"], head if c["tie_word_embeddings"] else 1)
        for index in range(c["num_hidden_layers"]):
            self.layer(index)
        self.norm("model.norm", c["hidden_size"])
        if not c["tie_word_embeddings"]:
            self.table("lm_head.weight", c["vocab_size"], c["hidden_size"], head)
        if self.files.get("_mtp"):
            self.mtp(c["num_hidden_layers"])

    def write(self, directory):
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, "config.json"), "w") as file:
            json.dump(self.config, file, indent=1)
        if self.files.get("_single"):
            st.write(os.path.join(directory, "model.safetensors"), self.tensors)
            return
        names = sorted(self.tensors)
        halves = [names[: len(names) // 2], names[len(names) // 2 :]]
        index = {}
        for number, half in enumerate(halves, 1):
            shard = f"model-{number:05}-of-00002.safetensors"
            st.write(os.path.join(directory, shard), {name: self.tensors[name] for name in half})
            index |= dict.fromkeys(half, shard)
        with open(os.path.join(directory, "model.safetensors.index.json"), "w") as file:
            json.dump({"metadata": {}, "weight_map": index}, file)


def make(directory, config, sequences=2, tokens=40, prefix=16, steps=16):
    """Writes one checkpoint. Draws again until no choice of experts is so close that float32 may turn it over."""
    for seed in range(20):
        maker = Maker(config, seed)
        maker.make()
        maker.write(directory)
        model = reference.Model(directory)
        input_ids = np.random.default_rng(seed).integers(0, config["vocab_size"], (sequences, tokens))
        expected = reference.compute(model, input_ids, prefix, steps)
        if model.router_gap > 1e-5:
            break
    else:
        raise SystemExit(f"{directory}: every draw has experts within 1e-5 of each other")
    st.write(os.path.join(directory, "expected.safetensors"), expected)
    return expected


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--variant", choices=VARIANTS)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=JSON")
    arguments = parser.parse_args()
    patch = {key: json.loads(value) for key, _, value in (item.partition("=") for item in arguments.set)}
    if arguments.variant or patch:
        make(arguments.out, BASE | VARIANTS.get(arguments.variant, {}) | patch)
        return
    for name, variant in VARIANTS.items():
        expected = make(os.path.join(arguments.out, name), BASE | variant)
        print(f"{name}: logits up to {np.abs(expected['logits']).max():.3g}")


if __name__ == "__main__":
    main()
