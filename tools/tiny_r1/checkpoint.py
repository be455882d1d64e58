"""The published format: block-FP8 weights in two safetensors shards with an index, configs, tokenizer."""
import json
import os

import torch
from safetensors.torch import save_file

from . import tokenizer as tok
from .model import CONFIG, EXPERTS, LAYERS

TEMPLATE = (
    "{{- bos_token -}}{%- for m in messages if m['role'] == 'system' -%}{{- m['content'] -}}{%- endfor -%}"
    "{%- for m in messages -%}{%- if m['role'] == 'user' -%}{{- '<｜User｜>' + m['content'] -}}"
    "{%- elif m['role'] == 'assistant' -%}{{- '<｜Assistant｜>' + m['content'].split('</think>')[-1].strip() + eos_token -}}"
    "{%- endif -%}{%- endfor -%}{%- if add_generation_prompt -%}{{- '<｜Assistant｜><think>\\n' -}}{%- endif -%}")


def quantise(w):
    """e4m3 bytes and multipliers of 128 x 128 blocks (scale = amax / 448)."""
    n, k = w.shape
    rows, cols = (n + 127) // 128, (k + 127) // 128
    padded = torch.zeros(rows * 128, cols * 128, device=w.device)
    padded[:n, :k] = w
    blocks = padded.view(rows, 128, cols, 128)
    scale = blocks.abs().amax((1, 3)).clamp(min=1e-12) / 448
    q = (blocks / scale[:, None, :, None]).view(rows * 128, cols * 128)[:n, :k]
    return q.to(torch.float8_e4m3fn).contiguous(), scale.contiguous()


def dequantise(q, scale):
    wide = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)
    return q.float() * wide[:q.shape[0], :q.shape[1]]


def matrices(layer):
    """(published name, tensor) of a layer's FP8 matrices; tensors are views into the parameters."""
    yield from (("self_attn.q_a_proj", layer.q_a), ("self_attn.q_b_proj", layer.q_b), ("self_attn.o_proj", layer.o),
                ("self_attn.kv_a_proj_with_mqa", layer.kv_a), ("self_attn.kv_b_proj", layer.kv_b))
    if not layer.moe:
        yield from (("mlp.gate_proj", layer.gate), ("mlp.up_proj", layer.up), ("mlp.down_proj", layer.down))
        return
    for e in range(EXPERTS + 1):
        name = f"mlp.experts.{e}" if e < EXPERTS else "mlp.shared_experts"
        yield from ((f"{name}.gate_proj", layer.gate[e]), (f"{name}.up_proj", layer.up[e]),
                    (f"{name}.down_proj", layer.down[e]))


def round_trip(model):
    """Replaces every stored weight by what the checkpoint will hold: FP8 blocks, bf16 for the rest."""
    with torch.no_grad():
        for layer in [*model.layers, model.mtp]:
            for _, w in matrices(layer):
                w.copy_(dequantise(*quantise(w)))
            for name, p in layer.named_parameters():
                if p.dim() == 1 or name == "router":
                    p.copy_(p.bfloat16().float())
        for p in (model.embed, model.head, model.norm, model.enorm, model.hnorm, model.mtp_norm, model.eh_proj):
            p.copy_(p.bfloat16().float())


def layer_tensors(prefix, layer):
    out = {}
    for name, w in matrices(layer):
        out[f"{prefix}{name}.weight"], out[f"{prefix}{name}.weight_scale_inv"] = quantise(w)
    for name, w in (("input_layernorm", layer.input_layernorm), ("post_attention_layernorm", layer.post_attention_layernorm),
                    ("self_attn.q_a_layernorm", layer.q_a_layernorm), ("self_attn.kv_a_layernorm", layer.kv_a_layernorm)):
        out[f"{prefix}{name}.weight"] = w.bfloat16()
    if layer.moe:
        out[prefix + "mlp.gate.weight"] = layer.router.bfloat16()
        out[prefix + "mlp.gate.e_score_correction_bias"] = layer.bias.float()
    return out


def tensors(model):
    out = {"model.embed_tokens.weight": model.embed.bfloat16()}
    for i, layer in enumerate(model.layers):
        out.update(layer_tensors(f"model.layers.{i}.", layer))
    out["model.norm.weight"] = model.norm.bfloat16()
    out["lm_head.weight"] = model.head.bfloat16()
    prefix = f"model.layers.{LAYERS}."
    out.update(layer_tensors(prefix, model.mtp))
    out[prefix + "embed_tokens.weight"] = model.embed.bfloat16()
    out[prefix + "enorm.weight"] = model.enorm.bfloat16()
    out[prefix + "hnorm.weight"] = model.hnorm.bfloat16()
    out[prefix + "eh_proj.weight"] = model.eh_proj.bfloat16()
    out[prefix + "shared_head.norm.weight"] = model.mtp_norm.bfloat16()
    out[prefix + "shared_head.head.weight"] = model.head.bfloat16()
    return {name: t.detach().cpu().contiguous().clone() for name, t in out.items()}


def write_json(path, value, indent=1):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, indent=indent, separators=None if indent else (",", ":"))
        f.write("\n")


def save(model, tokenizer, items, folder):
    os.makedirs(folder, exist_ok=True)
    all_tensors = tensors(model)
    total = sum(t.numel() * t.element_size() for t in all_tensors.values())
    shards, used = [{}, {}], 0
    for name, t in all_tensors.items():
        shards[0 if used < total / 2 else 1][name] = t
        used += t.numel() * t.element_size()
    index = {"metadata": {"total_size": total}, "weight_map": {}}
    for i, shard in enumerate(shards, 1):
        file = f"model-{i:05d}-of-00002.safetensors"
        save_file(shard, os.path.join(folder, file), metadata={"format": "pt"})
        os.chmod(os.path.join(folder, file), 0o644)
        index["weight_map"].update({name: file for name in shard})
    write_json(os.path.join(folder, "model.safetensors.index.json"), index, None)
    write_json(os.path.join(folder, "config.json"), CONFIG)
    write_json(os.path.join(folder, "generation_config.json"),
               {"bos_token_id": 0, "eos_token_id": 1, "do_sample": True, "temperature": 0.6, "top_p": 0.95})
    write_json(os.path.join(folder, "tokenizer_config.json"), {
        "add_bos_token": False, "add_eos_token": False, "bos_token": "<｜begin▁of▁sentence｜>",
        "eos_token": "<｜end▁of▁sentence｜>", "pad_token": "<｜end▁of▁sentence｜>", "clean_up_tokenization_spaces": False,
        "model_max_length": CONFIG["max_position_embeddings"], "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None, "chat_template": TEMPLATE})
    tok.save(tokenizer, os.path.join(folder, "tokenizer.json"))
    with open(os.path.join(folder, "eval.jsonl"), "w", encoding="utf-8") as f:
        for i, item in enumerate(items):
            row = {"id": i, "task": item.task, "question": item.question, "answer": item.answer}
            f.write(json.dumps(row, ensure_ascii=False) + "\n")
