"""Trains and measures `recall-AGGREGATION`: multi-query associative recall, a task that needs the past.

    python recall.py --test-set                 # writes ../recall-grm/test.jsonl
    python recall.py --aggregation grm          # trains, saves and measures ../recall-grm
    python recall.py --measure ../recall-*      # measures models that are there
    python recall.py --aggregation ssc --weights ../recall-grm --out ssc    # another read-out of trained weights

The task is MQAR (Arora et al. 2023, "Zoology: Measuring and Improving Recall in Efficient Language Models"). A
stream shows pairs, a key and the value after it, and asks: a key seen before is a query, and the output there is to
be its value. A key is shown once and asked once at most, so that what a query needs lies just where its token was
last seen. The value does not follow a query; the next pair or query does.

Which keys a sequence uses, their order and their values are drawn anew for every sequence: nothing of an answer is in
the weights. Training never sees a sequence twice, so its accuracy is one over sequences not seen before.
"""
import argparse
import bisect
import json
import math
import pathlib
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import mc

MODELS = pathlib.Path(__file__).resolve().parents[1]
TEST_SET = MODELS / "recall-grm" / "test.jsonl"
AGGREGATIONS = ("none", "residual", "grm", "soup", "ssc")
KEYS, VALUES = 256, 64  # tokens 0.. are keys, those after them values
LENGTH, SEGMENT = 512, 16  # tokens of a sequence and of a segment
QUERIES = 0.4  # the share of queries among pairs and queries
TEST_SEED, TEST_SEQUENCES = 2602, 100
NOTHING = -100  # no answer is asked here: what cross_entropy ignores
BUCKETS = (2, 16, 32, 64, 128, 256, 512)  # where ranges of distances begin; the last is an end


# ---------------------------------------------------------------------------------------------------------- data


def sequence(rng, length):
    """Tokens and answers [length]; where nothing is asked the answer is NOTHING.

    Of the pairs not asked yet, every other query (by a coin) asks any, and the others the one that is nearest to a
    distance drawn log-uniformly from 2 to the whole past. So short and long distances both occur.
    """
    tokens, answers = np.zeros(length + 1, np.int64), np.full(length, NOTHING)  # one more: a last pair may be cut
    fresh, waiting, at = list(rng.permutation(KEYS)), [], 0  # waiting: where keys stand that were not asked yet
    while at < length:
        if waiting and (not fresh or rng.random() < QUERIES):
            if rng.random() < 0.5:
                asked = int(rng.integers(len(waiting)))
            else:
                asked = nearest(waiting, at - math.exp(rng.uniform(math.log(2), math.log(at))))
            shown = waiting.pop(asked)
            tokens[at], answers[at] = tokens[shown], tokens[shown + 1]
            at += 1
        else:
            tokens[at:at + 2] = fresh.pop(), KEYS + rng.integers(VALUES)
            waiting.append(at)
            at += 2
    return tokens[:length], answers


def nearest(places, place):
    """The index of the one of these, in rising order, that is nearest."""
    right = min(bisect.bisect(places, place), len(places) - 1)
    return right - (right > 0 and place - places[right - 1] < places[right] - place)


def batch(rng, rows, length):
    """Tokens and answers [rows, length]."""
    return [torch.from_numpy(np.stack(a)) for a in zip(*(sequence(rng, length) for _ in range(rows)))]


def write_test_set(path):
    """A line a sequence, each a stream of its own: tokens, and at every token its answer or null."""
    rng = np.random.default_rng(TEST_SEED)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        for _ in range(TEST_SEQUENCES):
            tokens, answers = sequence(rng, LENGTH)
            line = {"tokens": tokens.tolist(), "answers": [None if a == NOTHING else a for a in answers.tolist()]}
            file.write(json.dumps(line, separators=(",", ":")) + "\n")


def read_test_set(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    answers = [[NOTHING if a is None else a for a in line["answers"]] for line in lines]
    return torch.tensor([line["tokens"] for line in lines]), torch.tensor(answers)


def distances(tokens):
    """How many tokens ago each token was last seen [N, T]; 0 where never."""
    out = torch.zeros_like(tokens)
    for row, distance in zip(tokens.tolist(), out):
        last = {}
        for t, token in enumerate(row):
            distance[t] = t - last.get(token, t)
            last[token] = t
    return out


# --------------------------------------------------------------------------------------------------------- model


def config_of(aggregation):
    """Block 1 puts the key before it beside a value; block 2 keeps pairs, and reads them."""
    clock = {"segmentation": {"kind": "constant", "size": SEGMENT}, "init": "restart"}
    caching = {"aggregation": aggregation, **clock}
    if aggregation in mc.GATED:
        caching |= {"query": "u", "context": "mean", "temperature": 0.1}
    if aggregation == "ssc":
        caching["top_k"] = 2
    common = {"norm": "layer_norm", "residual": True, "num_heads": 2}
    return {
        "format": "mcedge/1",
        "name": f"recall-{aggregation}",
        "input": {"kind": "tokens", "vocab_size": KEYS + VALUES},
        "d_model": 64,
        "blocks": [
            {**common, "memory": {"kind": "attention", "window": 2}, "caching": {"aggregation": "none", **clock}},
            {**common, "normalize_qk": True, "memory": {"kind": "linear"}, "caching": caching, "mlp": {"width": 128}},
        ],
        "final_norm": True,
        "head": {"kind": "logits", "size": KEYS + VALUES},
    }


def at_once(model, tokens):
    """What `model(tokens)` gives of whole segments from a stream's start, all side by side: logits [B, T, V].

    Linear memories that restart at zero, M_i = Σ_j v_j k_jᵀ over segment i, make the read one masked product:
    Σ_i γ_i M_i q = Σ_j γ(segment of j) ⟨q, k_j⟩ v_j.
    """
    h = model.embed(tokens)
    for block in model.blocks:
        x, q, k, v, u = block.project(h)
        if block.config["memory"]["kind"] == "attention":
            reads, _, _ = block.memory.write(block.memory.start(len(tokens)), k, v, q, x)
        else:
            alone = block.caching["aggregation"] == "none"
            reads = gated_reads(q, k, v, gates_of(block, k, u), block.size, alone)
        h = block.finish(h, reads)
    return model.head(model.norm(h))


def gated_reads(q, k, v, gates, size, alone):
    """Every token's read [B, H, T, dh], for four segments at a time: they look back no further than they have to."""
    reads = []
    for at in range(0, q.shape[2], 4 * size):
        to, back = min(at + 4 * size, q.shape[2]), at if alone else 0
        products = (q[:, :, at:to] @ k[:, :, back:to].transpose(-1, -2)).unflatten(-1, (-1, size))  # [B, H, ·, n, S]
        weights = (products * gates[..., at:to, back // size:to // size].unsqueeze(-1)).flatten(-2)
        reads.append(weights.tril(at - back) @ v[:, :, back:to])
    return torch.cat(reads, 2)


def gates_of(block, k, u):
    """What each segment weighs in each token's read [B, H, T, n]; nothing is said of segments to come.

    `soup` weighs as `grm` does: with linear memory both are Σ γ_i M_i q.
    """
    size, caching, tokens = block.size, block.caching, k.shape[2]
    here, segments = torch.arange(tokens)[:, None] // size, torch.arange(tokens // size)
    if caching["aggregation"] == "none":
        return (here == segments).float()
    if caching["aggregation"] == "residual":
        return torch.ones(tokens, len(segments))
    running = k.unflatten(2, (-1, size)).cumsum(3) / torch.arange(1, size + 1)[:, None]  # means: [B, H, n, S, dh]
    contexts, running = running[:, :, :, -1], running.flatten(2, 3)
    scores = (u @ contexts.transpose(-1, -2)).masked_fill(segments >= here, float("-inf"))
    if caching["aggregation"] == "ssc" and len(segments) > caching["top_k"]:
        bar = scores.detach().topk(caching["top_k"], -1).values[..., -1:]
        scores = scores.masked_fill(scores < bar, float("-inf"))
    scores = torch.where(here == segments, (u * running).sum(-1, keepdim=True), scores)
    return (scores / caching["temperature"]).softmax(-1)


# ------------------------------------------------------------------------------------------------------ training


def length_at(part):
    """Short sequences while binding and looking up are learned, then whole ones."""
    return 64 if part < 0.1 else 128 if part < 0.25 else 256 if part < 0.4 else LENGTH


def train(config, *, seed, steps, rate, tokens, out):
    """Returns the model after the last step; it is saved in `out` on the way, too."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = mc.Model(config)
    # `at_once` takes memories that start at zero.
    for block in model.blocks:
        if hasattr(block.memory, "init"):
            block.memory.init.m.requires_grad_(False)
    learned = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learned, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.1)
    began, right, asked, every = time.time(), 0, 0, 100
    for step in range(1, steps + 1):
        length = length_at(step / steps)
        x, answers = batch(rng, tokens // length, length)
        there = answers != NOTHING
        logits, answers = at_once(model, x)[there], answers[there]
        loss = F.cross_entropy(logits, answers)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.step()
        schedule.step()
        right, asked = right + (logits.argmax(-1) == answers).sum().item(), asked + len(answers)
        if step % every == 0 or step == steps:
            print(f"step {step:5d}  length {length:3d}  loss {loss.item():.3f}  accuracy {right / asked:.4f}  "
                  f"{time.time() - began:.0f} s, {time.process_time():.0f} s of CPU", flush=True)
            right = asked = 0
            mc.save(out, config, model)
    return model.eval()


def reread(config, source):
    """The model of this config with weights that another read-out was trained with; `u` is left out where unused."""
    model = mc.Model(config)
    names = model.state_dict().keys()
    model.load_state_dict({name: p for name, p in source.state_dict().items() if name in names})
    return model.eval()


# ----------------------------------------------------------------------------------------------------- measuring


@torch.no_grad()
def hits(model, tokens, answers, capacity=None):
    """Whether each answer is the argmax, by the streaming model: [answers]."""
    logits = torch.cat([model(rows, capacity=capacity)[0] for rows in tokens.split(10)])
    there = answers != NOTHING
    return logits[there].argmax(-1) == answers[there]


def table(models, capacity=None):
    """The share of right answers in the test set as rows of Markdown: over all, then by distance."""
    tokens, answers = read_test_set(TEST_SET)
    distance = distances(tokens)[answers != NOTHING]
    groups = [(distance >= low) & (distance < high) for low, high in zip(BUCKETS, BUCKETS[1:])]
    titles = [f"{low}–{high - 1}" for low, high in zip(BUCKETS, BUCKETS[1:])]
    lines = ["| | all | " + " | ".join(titles) + " |", "|---|" + "---:|" * (len(groups) + 1),
             f"| answers | {len(distance)} | " + " | ".join(f"{group.sum()}" for group in groups) + " |"]
    for name, model in models.items():
        right = hits(model, tokens, answers, capacity).double()
        shares = [right] + [right[group] for group in groups]
        lines.append(f"| {name} | " + " | ".join(f"{share.mean():.4f}" for share in shares) + " |")
    return "\n".join(lines)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--test-set", action="store_true", help="write the test set, and no more")
    options.add_argument("--measure", type=pathlib.Path, nargs="+", metavar="MODEL", help="train nothing")
    options.add_argument("--capacity", type=int, help="checkpoints read at most, in measuring; all when left out")
    options.add_argument("--aggregation", choices=AGGREGATIONS, default="grm")
    options.add_argument("--weights", type=pathlib.Path, metavar="MODEL", help="train nothing; read these weights")
    options.add_argument("--out", type=pathlib.Path)
    options.add_argument("--steps", type=int, default=2000)
    options.add_argument("--tokens", type=int, default=8192, help="of a step")
    options.add_argument("--rate", type=float, default=3e-3)
    options.add_argument("--seed", type=int, default=1)
    options = options.parse_args()
    torch.set_num_threads(1)
    if options.test_set:
        write_test_set(TEST_SET)
        return 0
    if options.measure:
        models = {path.name: mc.load(path) for path in options.measure}
    else:
        config = config_of(options.aggregation)
        out = options.out or MODELS / config["name"]
        if options.weights:
            model = reread(config, mc.load(options.weights))
            mc.save(out, config, model)
        else:
            model = train(config, seed=options.seed, steps=options.steps, rate=options.rate, tokens=options.tokens,
                          out=out)
        print(f"{mc.parameters(model)} parameters, torch {torch.__version__}")
        models = {config["name"]: model}
    print(table(models, options.capacity))
    return 0


if __name__ == "__main__":
    sys.exit(main())
