#!/usr/bin/env python3
"""Trains tiny-r1, the small reasoning model that Proa bundles, and writes its checkpoint and model card.

    python3 tools/train_tiny_r1.py --output models/tiny-r1

Needs PyTorch, numpy and safetensors, and a GPU (about 9 minutes on an H200, 8 GB of its memory). Seeded: data, initial
weights and the number of steps are fixed. Makes the questions, the tokenizer, the model with its MTP layer, the
block-FP8 checkpoint, the 1,000 held-out questions (eval.jsonl) and README.md with the scores.
"""
import argparse
import json
import os
import sys
import time

import torch
import torch.nn.functional as F

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from tiny_r1 import checkpoint, data, evaluate, tasks, tokenizer as tok  # noqa: E402
from tiny_r1.card import model_card  # noqa: E402
from tiny_r1.model import Layer, TinyR1, document_mask, document_positions, rms_norm  # noqa: E402
from tiny_r1.optimise import Adam, Muon  # noqa: E402

MTP_WEIGHT = 0.2
BIAS_SPEED = 1e-3
MUON_LR, ADAM_LR = 0.01, 3e-3


def loss_of(model, batch, run):
    """Losses and choices of one batch [rows, 3, ROW]."""
    tokens, document, trained = batch[:, 0], batch[:, 1], batch[:, 2].float()
    positions, mask = document_positions(document), document_mask(document)
    x, choices = model.main(tokens, positions, mask, run)
    hidden = rms_norm(x, model.norm)
    main = masked_loss(model.logits(x, model.norm), tokens, trained, 1)
    y, chosen = run(model.mtp, model.mtp_input(hidden, tokens.roll(-1, 1)), model.cos[positions], model.sin[positions], mask)
    mtp = masked_loss(model.logits(y, model.mtp_norm), tokens, trained, 2)
    return main, mtp, [*choices, chosen], document > 0


def masked_loss(logits, tokens, trained, ahead):
    """Mean loss of predicting the token `ahead` positions on, where that one is trained. The trained tokens of a document
    are its end, so a target in the next document is never trained from this one: its own prompt comes first."""
    loss = F.cross_entropy(logits[:, :-ahead].flatten(0, 1), tokens[:, ahead:].flatten(), reduction="none")
    weight = trained[:, ahead:].flatten()
    return (loss * weight).sum() / weight.sum()


@torch.no_grad()
def balance(model, choices, used, speed):
    """The bias of an expert that has more than its share falls, of one that has less rises; kept centred, since only
    differences matter."""
    layers = [layer for layer in [*model.layers, model.mtp] if layer.moe]
    for layer, chosen in zip(layers, choices):
        load = (chosen & used.unsqueeze(-1)).float().sum((0, 1))
        layer.bias.add_(speed * torch.sign(load.mean() - load))
        layer.bias.sub_(layer.bias.mean())


def schedule(step, steps):
    """Factor of the learning rates: up over 200 steps, constant to 30 %, then down to 0."""
    rise = min(1.0, (step + 1) / 200)
    fall = min(1.0, (steps - step) / (0.7 * steps))
    return min(rise, fall)


class Trainer:
    def __init__(self, model, batch_rows, compiled):
        self.model = model
        device = model.embed.device
        matrices = [p for n, p in model.named_parameters()
                    if p.dim() >= 2 and not n.endswith("router") and n not in ("embed", "head")]
        chosen = {id(p) for p in matrices}
        self.muon = Muon(matrices)
        self.adam = Adam(p for p in model.parameters() if id(p) not in chosen)
        self.run = torch.compile(Layer.forward) if compiled else Layer.__call__
        self.batch = torch.zeros(batch_rows, 3, data.ROW, dtype=torch.long, device=device)
        self.lr = torch.zeros((), device=device)
        self.speed = torch.zeros((), device=device)
        self.losses = torch.zeros(2, device=device)
        self.graph = None

    def step_eager(self):
        main, mtp, choices, used = loss_of(self.model, self.batch, self.run)
        (main + MTP_WEIGHT * mtp).backward()
        with torch.no_grad():
            self.muon.step(self.lr * MUON_LR)
            self.adam.step(self.lr * ADAM_LR)
            self.losses.copy_(torch.stack([main, mtp]))
        balance(self.model, choices, used, self.speed)
        if not self.capturing():
            self.model.zero_grad(set_to_none=True)

    def capturing(self):
        return self.batch.is_cuda and torch.cuda.is_current_stream_capturing()

    def capture(self):
        """The whole step, optimisers included, as one CUDA graph; called after a few eager steps."""
        torch.cuda.synchronize()
        self.model.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.step_eager()

    def step(self, rows, lr, speed):
        self.batch.copy_(torch.from_numpy(rows).to(self.batch.dtype), non_blocking=True)
        self.lr.fill_(lr)
        self.speed.fill_(speed)
        if self.graph is not None:
            self.graph.replay()
        else:
            self.step_eager()


def train(model, feed, options):
    trainer = Trainer(model, options.rows, options.device == "cuda")
    started, recent = time.time(), []
    warm = 8 if options.device == "cuda" else options.steps + 1
    if options.device == "cuda":  # capture wants its warm-up on a side stream
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
    for step in range(options.steps):
        lr = schedule(step, options.steps)
        speed = BIAS_SPEED if step < 0.9 * options.steps else 0.0
        if step < warm and options.device == "cuda":
            with torch.cuda.stream(side):
                trainer.step(feed.next(), lr, speed)
            torch.cuda.current_stream().wait_stream(side)
        else:
            if step == warm:
                trainer.capture()
            trainer.step(feed.next(), lr, speed)
        if step % 20 == 0 or (step + 1) % options.report == 0 or step + 1 == options.steps:
            recent.append(trainer.losses.tolist())
        if (step + 1) % options.report == 0 or step + 1 == options.steps:
            main, mtp = (sum(c) / len(recent) for c in zip(*recent))
            spent = time.time() - started
            print(f"step {step + 1:6d}  {spent:6.0f} s  loss {main:.5f}  mtp {mtp:.5f}  lr x {lr:.2f}", flush=True)
            recent = []
    return time.time() - started


def score(model, tokenizer, items, label, **options):
    started = time.time()
    results = evaluate.answers(model, tokenizer, items, **options)
    table = evaluate.by_task(items, results)
    right = sum(g for g, _ in table.values())
    print(f"{label}: {right} of {len(items)}  " + "  ".join(f"{t} {g}/{n}" for t, (g, n) in table.items())
          + f"  ({time.time() - started:.0f} s)", flush=True)
    return results, table


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="models/tiny-r1", help="folder of the checkpoint")
    parser.add_argument("--steps", type=int, default=20000, help="training steps of 64 rows of 512 tokens")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=max(1, min(14, (os.cpu_count() or 2) - 2)))
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--report", type=int, default=1000, help="steps between lines")
    parser.add_argument("--reference", help="file for the float32 outputs, one JSON line a question")
    parser.add_argument("--questions", type=int, default=0, help="evaluate on the first N only (0: all)")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.backends.cuda.matmul.allow_tf32 = False
    started = time.time()
    tokenizer = tok.train(options.seed)
    items = tasks.evaluation(options.seed + 1000)
    held_out = {key for item in items for key in tasks.keys_of(item)}
    feed = data.Feed(tokenizer, options.seed, held_out, options.rows, options.workers)
    model = TinyR1().to(options.device)
    seconds = train(model, feed, options)
    feed.close()
    asked = items[:options.questions or len(items)]
    scores = {}
    model.set_compute(torch.float32)
    _, scores["master weights, float32"] = score(model, tokenizer, asked, "master weights, float32")
    checkpoint.save(model, tokenizer, items, options.output)
    checkpoint.round_trip(model)
    results, scores["FP8 weights, float32"] = score(model, tokenizer, asked, "FP8 weights, float32")
    _, scores["FP8 weights, sampled at 0.6"] = score(model, tokenizer, asked, "sampled at 0.6", temperature=0.6)
    accuracy, mtp, loads = evaluate.forced(model, tokenizer, asked)
    print(f"next token {accuracy:.5f}  next-next token (MTP) {mtp:.5f}", flush=True)
    model.set_compute(torch.bfloat16, fp8_rows=True)
    _, scores["FP8 weights and activations, bfloat16"] = score(model, tokenizer, asked, "FP8 weights and activations, bf16")
    if options.reference:
        with open(options.reference, "w", encoding="utf-8") as f:
            for i, (text, answer, right) in enumerate(results):
                f.write(json.dumps({"id": i, "answer": answer, "ok": right, "output": text}, ensure_ascii=False) + "\n")
    card = model_card(options, scores, accuracy, mtp, loads, asked, results, seconds)
    with open(os.path.join(options.output, "README.md"), "w", encoding="utf-8") as f:
        f.write(card)
    print(f"done in {time.time() - started:.0f} s: {options.output}", flush=True)


if __name__ == "__main__":
    main()
