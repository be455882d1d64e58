#!/usr/bin/env python3
"""Answers tiny-r1's evaluation questions with Hugging Face transformers and compares them with ours.

    proa eval --model-path models/tiny-r1 --output ours.jsonl
    python3 tools/check_tiny_r1_hf.py --model models/tiny-r1 --ours ours.jsonl

Needs torch and transformers (a GPU makes it a matter of a minute). Loads the folder as it is, weights dequantised, and
continues each question greedily in --dtype. `ours` is JSON lines with id and output, as `proa eval --output` writes
them. Prints the share of questions whose answers and whose whole outputs agree; exit status 1 under --least.
"""
import argparse
import json
import os
import sys
import time


def generate(options, questions):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, FineGrainedFP8Config

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    tokenizer.padding_side = "left"
    model = AutoModelForCausalLM.from_pretrained(
        options.model, dtype=getattr(torch, options.dtype), attn_implementation="eager",
        quantization_config=FineGrainedFP8Config(dequantize=True), device_map=options.device)
    model.eval()
    outputs = []
    started = time.time()
    for at in range(0, len(questions), options.batch):
        texts = [tokenizer.apply_chat_template([{"role": "user", "content": q["question"]}], tokenize=False,
                                               add_generation_prompt=True) for q in questions[at:at + options.batch]]
        batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(model.device)
        batch.pop("token_type_ids", None)
        with torch.no_grad():
            ids = model.generate(**batch, max_new_tokens=400, do_sample=False, temperature=None, top_p=None)
        for row in ids[:, batch["input_ids"].shape[1]:].tolist():
            row = row[:row.index(1)] if 1 in row else row
            outputs.append(tokenizer.decode(row, skip_special_tokens=False))
        print(f"{len(outputs)} of {len(questions)}  {time.time() - started:.0f} s", file=sys.stderr, flush=True)
    return outputs


def answer_of(output):
    return output.split("</think>")[-1].strip() if "</think>" in output else ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/tiny-r1")
    parser.add_argument("--ours", help="JSON lines with id and output")
    parser.add_argument("--save", help="write transformers' outputs as JSON lines")
    parser.add_argument("--theirs", help="read them from there instead of computing them")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--questions", type=int, default=0, help="the first N only (0: all)")
    parser.add_argument("--least", type=float, default=99.0, help="percent of answers that must agree")
    options = parser.parse_args()
    with open(os.path.join(options.model, "eval.jsonl"), encoding="utf-8") as f:
        questions = [json.loads(line) for line in f]
    questions = questions[:options.questions or len(questions)]
    if options.theirs:
        with open(options.theirs, encoding="utf-8") as f:
            theirs = [json.loads(line)["output"] for line in f][:len(questions)]
    else:
        theirs = generate(options, questions)
    if options.save:
        with open(options.save, "w", encoding="utf-8") as f:
            for i, text in enumerate(theirs):
                f.write(json.dumps({"id": i, "output": text}, ensure_ascii=False) + "\n")
    right = sum(answer_of(t) == q["answer"] for t, q in zip(theirs, questions))
    print(f"transformers, {options.dtype}: {right} of {len(questions)} right")
    if not options.ours:
        return 0
    with open(options.ours, encoding="utf-8") as f:
        ours = {row["id"]: row["output"] for row in map(json.loads, f)}
    same = sum(answer_of(t) == answer_of(ours.get(i, "")) for i, t in enumerate(theirs))
    whole = sum(t == ours.get(i) for i, t in enumerate(theirs))
    print(f"same answers: {same} of {len(theirs)}; same outputs to the last character: {whole}")
    return 0 if 100 * same >= options.least * len(theirs) else 1


if __name__ == "__main__":
    sys.exit(main())
