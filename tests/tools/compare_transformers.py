"""Compares DIR/expected.safetensors, made by make_checkpoint.py, with Hugging Face transformers in float32: the check of
reference.py itself. Needs torch and transformers, which nothing else here does.

    python3 tests/tools/compare_transformers.py DIR...
"""

import json
import os
import sys
import tempfile

import numpy as np
import torch
from transformers import AutoModelForCausalLM

import reference
import tensors as st


def dequantised(directory, out):
    """The checkpoint as plain float32, which transformers reads without kernels."""
    model = reference.Model(directory, np.float32)
    config = {k: v for k, v in model.config.items() if k != "quantization_config"} | {"dtype": "float32"}
    if config["model_type"] == "kimi_k2":
        config["model_type"] = "deepseek_v3"  # the same code; transformers has no class of that name
    if not config.get("n_routed_experts"):  # transformers has no dense form: all layers before the first with experts
        config |= {"n_routed_experts": 8, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 1,
                   "n_shared_experts": 1, "first_k_dense_replace": config["num_hidden_layers"]}
    kept = f"model.layers.{config['num_hidden_layers']}."
    weights = {name: model.weight(name) for name in model.stored
               if not name.endswith("_scale_inv") and not name.startswith(kept)}
    if not config.get("n_shared_experts"):  # nor one without a shared expert: a shared expert of zeros
        config["n_shared_experts"] = 1
        width, hidden = config["moe_intermediate_size"], config["hidden_size"]
        for i in range(config["first_k_dense_replace"], config["num_hidden_layers"]):
            name = f"model.layers.{i}.mlp.shared_experts."
            for part, shape in (("gate", (width, hidden)), ("up", (width, hidden)), ("down", (hidden, width))):
                weights[f"{name}{part}_proj.weight"] = np.zeros(shape, np.float32)
    json.dump(config, open(os.path.join(out, "config.json"), "w"))
    st.write(os.path.join(out, "model.safetensors"), weights)


for directory in sys.argv[1:]:
    expected = st.read(os.path.join(directory, "expected.safetensors"))
    with tempfile.TemporaryDirectory() as out:
        dequantised(directory, out)
        model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        logits = model(torch.tensor(expected["input_ids"]).long(), use_cache=False).logits.numpy()
    print(f"{directory}: max |difference of logits| {np.abs(logits - expected['logits']).max():.3g}")
