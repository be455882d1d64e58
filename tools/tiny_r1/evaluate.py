"""Greedy answers to the held-out questions, accuracy of the MTP layer, and the load of the experts."""
import numpy as np
import torch

from . import data
from .model import EXPERTS, LAYERS, LORA, ROPE, Layer, document_mask, document_positions, rms_norm

LONGEST = 512


@torch.no_grad()
def generate(model, prompts, temperature=0.0, seed=0):
    """Continues every prompt to its end token, one position at a time for all (they share positions from 0): token ids
    after each prompt."""
    device, n = model.embed.device, len(prompts)
    lengths = torch.tensor([len(p) for p in prompts], device=device)
    tokens = torch.full((n, LONGEST + 1), 2, dtype=torch.long, device=device)
    for i, p in enumerate(prompts):
        tokens[i, :len(p)] = torch.tensor(p)
    latent = torch.zeros(LAYERS, n, LONGEST, LORA, device=device)
    k_pe = torch.zeros(LAYERS, n, LONGEST, ROPE, device=device)
    done = torch.zeros(n, dtype=torch.bool, device=device)
    random = torch.Generator(device).manual_seed(seed)
    for t in range(LONGEST):
        logits = one_position(model, tokens[:, t:t + 1], t, latent, k_pe)
        if temperature > 0:
            p = torch.softmax(logits / temperature, -1)
            chosen = torch.multinomial(p, 1, generator=random)[:, 0]
        else:
            chosen = logits.argmax(-1)
        writes = t + 1 >= lengths
        tokens[:, t + 1] = torch.where(writes & ~done, chosen, tokens[:, t + 1])
        done |= writes & (tokens[:, t + 1] == 1)
        if t % 16 == 15 and bool(done.all()):
            break
    out = []
    for row, p in zip(tokens.tolist(), prompts):
        tail = row[len(p):]
        out.append(tail[:tail.index(1)] if 1 in tail else tail)
    return out


def one_position(model, token, t, latent, k_pe):
    """Logits [n, vocab] after the token at position t; appends to the caches."""
    n = token.shape[0]
    positions = torch.full((n, 1), t, device=token.device)
    cos, sin = model.cos[positions], model.sin[positions]
    x = model.embed[token]
    span = (t // 64 + 1) * 64
    mask = torch.zeros(1, 1, 1, span, device=token.device)
    mask[..., t + 1:] = -torch.inf
    for i, layer in enumerate(model.layers):
        q, row, pe = layer.project(rms_norm(x, layer.input_layernorm), cos, sin)
        latent[i, :, t], k_pe[i, :, t] = row[:, 0], pe[:, 0]
        x = x + layer.attend(q, latent[i, :, :span], k_pe[i, :, :span], mask)
        x = x + layer.mlp(rms_norm(x, layer.post_attention_layernorm))[0]
    return model.logits(x[:, 0], model.norm)


def answers(model, tokenizer, items, **options):
    """(text, answer, right) of each item; the prompt ends in <think> and a new line, as the chat template's does."""
    head = [tokenizer.added["<think>"], *tokenizer.encode("\n")]
    prompts = [data.prompt(tokenizer, item.question) + head for item in items]
    out = []
    for ids, item in zip(generate(model, prompts, **options), items):
        text = tokenizer.decode(ids)
        answer = text.split("</think>")[-1].strip() if "</think>" in text else ""
        out.append((text, answer, answer == item.answer))
    return out


def by_task(items, results):
    table = {}
    for item, (_, _, right) in zip(items, results):
        good, count = table.get(item.task, (0, 0))
        table[item.task] = (good + right, count + 1)
    return table


@torch.no_grad()
def forced(model, tokenizer, items):
    """Over the held-out completions, tokens given: accuracy of the next token, of the MTP layer's next-next token, and
    each MoE layer's load (times its mean) per expert."""
    device, right, total, mtp_right, mtp_total = model.embed.device, 0, 0, 0, 0
    loads = [torch.zeros(EXPERTS, device=device) for _ in range(LAYERS)]
    for at in range(0, len(items), 64):
        rows = [data.pack([(data.prompt(tokenizer, i.question), data.completion(tokenizer, i))]) for i in items[at:at + 64]]
        batch = torch.tensor(np.stack(rows), device=device).long()
        tokens, document, trained = batch[:, 0], batch[:, 1], batch[:, 2].bool()
        positions, mask = document_positions(document), document_mask(document)
        x, choices = model.main(tokens, positions, mask)
        hidden = rms_norm(x, model.norm)
        guess = model.logits(x, model.norm).argmax(-1)
        right += int(((guess[:, :-1] == tokens[:, 1:]) & trained[:, 1:]).sum())
        total += int(trained[:, 1:].sum())
        for load, chosen in zip(loads, choices):
            load += chosen[trained].sum(0)
        following = tokens.roll(-1, 1)
        y, chosen = Layer.__call__(model.mtp, model.mtp_input(hidden, following), model.cos[positions],
                                   model.sin[positions], mask)
        loads[-1] += chosen[trained].sum(0)
        guess = model.logits(y, model.mtp_norm).argmax(-1)
        mtp_right += int(((guess[:, :-2] == tokens[:, 2:]) & trained[:, 2:]).sum())
        mtp_total += int(trained[:, 2:].sum())
    used = [load / load.mean() for load in loads if load.sum() > 0]
    return right / total, mtp_right / mtp_total, [u.tolist() for u in used]
