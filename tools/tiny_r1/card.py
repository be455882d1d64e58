"""The model card, written from the scores."""


def model_card(options, scores, accuracy, mtp, loads, items, results, seconds):
    tasks = list(next(iter(scores.values())))
    lines = [
        "# tiny-r1", "",
        "A very small model of DeepSeek-V3's architecture that reasons in `<think>…</think>` and answers questions whose",
        "answers can be checked. It is bundled with Proa so that `proa serve` has something true to say, and so that every",
        "feature can be checked end to end: accuracy must not move. It is a demonstration, not an assistant.", "",
        "| | |", "|---|---|",
        "| parameters | 14.8 million with the MTP layer; 5 layers (2 dense, 3 with 32 experts + 1 shared), hidden 256 |",
        "| attention | MLA: q_lora 128, kv_lora 128, 4 heads, YaRN 4 x 1,024 positions |",
        "| router | sigmoid, 4 groups, 2 kept, top 4, float32 correction bias (centred) |",
        "| format | block-FP8 (128 x 128) in two safetensors shards; 1 MTP layer; vocabulary 448, ids as in V3 |",
        f"| made by | tools/train_tiny_r1.py --seed {options.seed} --steps {options.steps}, "
        f"{options.steps * options.rows * 512 / 1e6:.0f} M tokens, {seconds:.0f} s of training on one GPU |",
        "| license | Apache-2.0, as Proa; trained on questions that the script made itself |", "",
        "## Scores", "",
        f"{len(items)} held-out questions of eval.jsonl (none of them, in any wording, occurs in training; small talk is held "
        "out only as exact sentences). Greedy unless said otherwise, computed by the training",
        "script in PyTorch.", "",
        "| arithmetic | all | " + " | ".join(tasks) + " |",
        "|---|---|" + "---|" * len(tasks),
    ]
    for label, table in scores.items():
        right, count = sum(g for g, _ in table.values()), sum(n for _, n in table.values())
        lines.append(f"| {label} | {100 * right / count:.1f} % | " + " | ".join(f"{g}/{n}" for g, n in table.values()) + " |")
    lines += [
        "", f"Next token on the held-out completions (forced): {100 * accuracy:.3f} %. "
        f"MTP layer, next-next token: {100 * mtp:.3f} %.", "",
        "Load of the experts over the same tokens, times the mean:", "",
        "| layer | least | most |", "|---|---|---|",
    ]
    for i, load in enumerate(loads):
        name = f"MoE layer {i + 1}" if i + 1 < len(loads) else "MTP layer"
        lines.append(f"| {name} | {min(load):.2f} | {max(load):.2f} |")
    lines += ["", "## Limits", "",
              "Outside its tasks (numbers of more than four digits, expressions of several operations, general knowledge) it",
              "answers wrongly without saying so, or says that it does not know.", "", "## Examples", ""]
    shown = set()
    for item, (text, _, right) in zip(items, results):
        if item.task not in shown and right and len(text) < 400:
            shown.add(item.task)
            lines += [f"**{item.question}**", "", "```", "<think>", text.replace("</think>", "</think>"), "```", ""]
    return "\n".join(lines) + "\n"
