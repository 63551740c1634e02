"""Trains `syslog-linear-ssc`: the next byte of a log stream.

    collect_logs.sh logs                      # makes logs/corpus, see there
    python syslog.py logs/corpus ../syslog-linear-ssc
    python syslog.py --aggregation none logs/corpus none    # the same without checkpoints
    python syslog.py --evaluate ../syslog-linear-ssc --evaluate none --heldout logs/corpus FILE...

A GRU reads the bytes, and a block of linear memory with sparse selective caching sits on it. Linear memory
alone does not see order: within a segment its read is a function of the set of tokens written. The GRU puts
a token's recent past into its key and value.

Every block restarts at a segment's end, so all segments of a window run side by side: `forward` below is the
streaming model of the design's section 3 for `linear` and `gru` under `restart`, computed at once. Parameters have the
names and shapes of `model.safetensors`.
"""
import argparse
import json
import math
import pathlib
import random
import re
import subprocess
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

CAPACITY = 64


def config(aggregation="ssc", width=128, segment=256, heads=2, top_k=4, mlp=512, blocks=1, name="syslog-linear-ssc"):
    clock = {"segmentation": {"kind": "constant", "size": segment}, "init": "restart"}
    caching = {"aggregation": aggregation, **clock}
    if aggregation == "ssc":
        caching = {"aggregation": "ssc", "top_k": top_k, "query": "u", "context": "mean", "temperature": 1.0 / 16, **clock}
    linear = {"norm": "layer_norm", "residual": True, "num_heads": heads, "normalize_qk": True,
              "memory": {"kind": "linear"}, "caching": caching, "mlp": {"width": mlp}}
    gru = {"norm": "layer_norm", "residual": True, "num_heads": heads, "memory": {"kind": "gru"},
           "caching": {"aggregation": "none", **clock}}
    return {"format": "mcedge/1", "name": name, "input": {"kind": "tokens", "vocab_size": 256}, "d_model": width,
            "blocks": [gru] + [linear] * blocks, "final_norm": True, "head": {"kind": "logits", "size": 256}}


class Gru(nn.Module):
    """h_t = GRU(x_t, h_{t-1}), from zero in every segment. Parameters are named as in the weights file."""

    def __init__(self, block, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.memory = nn.Module()
        bound = width**-0.5
        for name, shape in (("weight_ih", (3 * width, width)), ("weight_hh", (3 * width, width)),
                            ("bias_ih", (3 * width,)), ("bias_hh", (3 * width,))):
            setattr(self.memory, name, nn.Parameter(torch.empty(shape).uniform_(-bound, bound)))
        self.size = block["caching"]["segmentation"]["size"]
        self.delay()

    @torch.no_grad()
    def delay(self):
        """Starts the upper half of the units as a copy of the lower half one token ago.

        A memory that is to continue what it has seen must store the byte under the context before it. A token's
        key sees that context only if the GRU carries it along; learned from nothing, that takes most of a run.
        """
        m, width = self.memory, self.norm.weight.shape[0]
        half = width // 2
        for gate, bias in enumerate((3.0, -3.0, 0.0)):  # r open, z (keep the old) shut, n
            rows = slice(gate * width + half, (gate + 1) * width)
            for p in (m.weight_ih, m.weight_hh, m.bias_ih, m.bias_hh):
                p[rows] = 0.0
            m.bias_ih[rows] = bias
        m.weight_hh[2 * width + half:, :half] = torch.eye(half)

    def forward(self, x, window=None):
        B, T, D = x.shape
        segments = self.norm(x).reshape(-1, self.size, D)  # [B·S, C, D]
        m = self.memory
        start = segments.new_zeros(1, segments.shape[0], D)
        h, _ = torch._VF.gru(segments, start, [m.weight_ih, m.weight_hh, m.bias_ih, m.bias_hh],
                             True, 1, 0.0, self.training, False, True)
        return x + h.reshape(B, T, D)


class Linear(nn.Module):
    """Linear memory, started at zero in every segment; `ssc` or `none` over the segments before."""

    def __init__(self, block, width):
        super().__init__()
        caching = block["caching"]
        self.heads, self.size = block["num_heads"], caching["segmentation"]["size"]
        self.top_k = caching.get("top_k")
        self.temperature = caching.get("temperature", 1.0)
        self.norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.mlp = nn.Module(), nn.Module()
        for name in "qkvuo" if self.top_k else "qkvo":
            setattr(self.mix, name, nn.Linear(width, width, bias=False))
        # Keys start as the context before a token, queries as the context with it, in the same terms: see `Gru.delay`.
        # The embedding starts in the other quarters, so that neither sees the token itself.
        quarter, half = width // 4, width // 2
        with torch.no_grad():
            terms = torch.randn(width, quarter) / quarter**0.5
            for name, first in (("k", half), ("q", 0), ("u", 0)):
                if hasattr(self.mix, name):
                    weight = getattr(self.mix, name).weight
                    weight.zero_()[:, first:first + quarter] = terms
        self.mlp.up, self.mlp.down = nn.Linear(width, block["mlp"]["width"]), nn.Linear(block["mlp"]["width"], width)

    def forward(self, x, window=None):
        """`window` is how many checkpoints a token may read, the latest; all before it when None."""
        B, T, D = x.shape
        n = self.norm(x)

        def split(name):  # [B, H, S, C, dh]
            return getattr(self.mix, name)(n).reshape(B, T // self.size, self.size, self.heads, -1).permute(0, 3, 1, 2, 4)

        unit = lambda a: a / a.norm(dim=-1, keepdim=True).clamp_min(1e-6)
        q, k, v = unit(split("q")), unit(split("k")), split("v")
        y = self.online(q, k, v)
        if self.top_k:
            y = self.select(y, q, k, v, split("u"), window)
        x = x + self.mix.o(y.permute(0, 2, 3, 1, 4).reshape(B, T, D))
        return x + self.mlp.down(F.gelu(self.mlp.up(self.mlp_norm(x))))

    def online(self, q, k, v, piece=256):
        """Every token's read of what tokens up to it wrote in its segment: [B, H, S, C, dh]."""
        if self.size <= piece:
            return (q @ k.transpose(-1, -2)).tril() @ v
        q, k, v = (a.unflatten(3, (-1, piece)) for a in (q, k, v))  # a long segment goes piece by piece
        m = v.transpose(-1, -2) @ k
        before = m.cumsum(3) - m
        return ((q @ k.transpose(-1, -2)).tril() @ v + q @ before.transpose(-1, -2)).flatten(3, 4)

    def select(self, online, q, k, v, u, window):
        B, H, S, C, dh = q.shape
        m = v.transpose(-1, -2) @ k  # [B, H, S, dh, dh]: the checkpoint each segment leaves
        count = torch.arange(1, C + 1, device=q.device, dtype=q.dtype)[:, None]
        running = k.cumsum(3) / count  # [B, H, S, C, dh]: mean of the keys so far
        own = (u * running).sum(-1, keepdim=True) / self.temperature
        contexts = running[:, :, :, -1]  # [B, H, S, dh]
        out = []
        step = S if window is None else 32  # in a long stream, 32 segments at a time with the window before them
        for at in range(0, S, step):
            low = 0 if window is None else max(0, at - window)
            rows = slice(at, min(at + step, S))
            j, s = torch.arange(low, rows.stop, device=q.device), torch.arange(at, rows.stop, device=q.device)
            live = j[None, :] < s[:, None]
            if window is not None:
                live &= j[None, :] >= s[:, None] - window
            scores = (u[:, :, rows] @ contexts[:, :, None, low:rows.stop].transpose(-1, -2)) / self.temperature
            scores = scores.masked_fill(~live[:, None, :], float("-inf"))  # [B, H, s, C, n]
            if scores.shape[-1] > self.top_k:
                bar = scores.detach().topk(self.top_k, -1).values[..., -1:]
                scores = scores.masked_fill(scores < bar, float("-inf"))
            gates = torch.cat([scores, own[:, :, rows]], -1).softmax(-1)
            # Σ_i γ_i M_i q as one product: [γ_1 q, γ_2 q, …] with the stacked memories.
            spread = (gates[..., :-1, None] * q[:, :, rows, :, None, :]).flatten(2, 3).flatten(3)
            stacked = m[:, :, low:rows.stop].transpose(-1, -2).flatten(2, 3)
            out.append((spread @ stacked).unflatten(2, (-1, C)) + gates[..., -1:] * online[:, :, rows])
        return torch.cat(out, 2)


class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        width = config["d_model"]
        self.size = config["blocks"][0]["caching"]["segmentation"]["size"]
        self.embed = nn.Embedding(256, width)
        kinds = {"gru": Gru, "linear": Linear}
        self.blocks = nn.ModuleList(kinds[b["memory"]["kind"]](b, width) for b in config["blocks"])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 256)
        for name, p in self.named_parameters():
            if name.endswith(("mix.o.weight", "mlp.down.weight")):
                nn.init.zeros_(p)
        nn.init.normal_(self.embed.weight, std=0.5)
        with torch.no_grad():
            self.embed.weight.unflatten(1, (4, -1))[:, 0::2] = 0.0

    def forward(self, x, window=None):
        """Logits [B, T, 256] of the byte after each of x [B, T]; T is a multiple of the segment."""
        h = self.embed(x)
        for block in self.blocks:
            h = block(h, window)
        return self.head(self.norm(h))


# ---------------------------------------------------------------------------------------------------------- data


class Corpus:
    """The sources' lines; the last tenth of each is held out."""

    def __init__(self, directory):
        self.train, self.heldout = {}, {}
        for path in sorted(pathlib.Path(directory).glob("*.log")):
            lines = path.read_bytes().splitlines(keepends=True)
            cut = len(lines) - len(lines) // 10
            self.train[path.stem], self.heldout[path.stem] = b"".join(lines[:cut]), b"".join(lines[cut:])
        # A source of four times the bytes is seen twice as often: the small ones carry the variety.
        self.weights = [len(text)**0.5 for text in self.train.values()]
        words = {}
        for text in self.train.values():
            for word in re.findall(rb"[A-Za-z]{4,12}", text[:200_000]):
                words[word] = words.get(word, 0) + 1
        self.words = [w for w, n in sorted(words.items(), key=lambda wn: (-wn[1], wn[0]))[:4000]]

    def window(self, rng, length):
        """`length` + 1 bytes of one source; at times it changes to another source, or is written as elsewhere."""
        text = self.stretch(rng, 2 * length)
        if rng.random() < 0.1:
            text = text[:text.rfind(b"\n", 0, rng.randrange(256, length)) + 1] + self.stretch(rng, 2 * length)
        if rng.random() < 0.35:
            text = self.strange(rng, text)
        return text[:length + 1].ljust(length + 1, b"\n")

    def stretch(self, rng, length):
        text = rng.choices(list(self.train.values()), self.weights)[0]
        at = rng.randrange(max(1, len(text) - length))
        return text[at:at + length]

    def strange(self, rng, text):
        """Other words, digits, separators or line ends, the same throughout: only what was read helps here."""
        kind = rng.randrange(8)
        if kind < 5:
            chosen = {}
            share = rng.choice([0.3, 0.6, 1.0])

            def other(match):
                word = match.group()
                if word not in chosen:
                    chosen[word] = rng.choice(self.words) if rng.random() < share else word
                return chosen[word]

            text = re.sub(rb"[A-Za-z]{3,}", other, text)
        if kind in (3, 4, 5):
            digits = list(b"0123456789")
            rng.shuffle(digits)
            text = text.translate(bytes.maketrans(b"0123456789", bytes(digits)))
        if kind in (4, 6):
            marks = list(b"[]():|,;=/-. ")
            shuffled = marks[:]
            rng.shuffle(shuffled)
            text = text.translate(bytes.maketrans(bytes(marks), bytes(shuffled)))
        if kind in (2, 4, 6, 7):
            text = text.replace(b"\n", b"\r\n")
        return text


# ------------------------------------------------------------------------------------------------------ training


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix updates are orthogonalised by a Newton-Schulz iteration (Jordan et al., 2024).

    A GRU's three stacked gates are three matrices.
    """

    def __init__(self, params, lr, momentum=0.95):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                blend = p.grad.lerp(buffer, group["momentum"])
                parts = 3 if p.shape[0] == 3 * p.shape[1] else 1
                for part, g in zip(p.chunk(parts), blend.chunk(parts)):
                    scale = max(1.0, part.shape[0] / part.shape[1])**0.5
                    part.add_(self.orthogonal(g), alpha=-group["lr"] * scale)

    @staticmethod
    def orthogonal(g):
        tall = g.shape[0] > g.shape[1]
        x = (g.T if tall else g) / (g.norm() + 1e-7)
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        return x.T if tall else x


def window_length(part):
    """Short windows while bytes and words are learned, then ones that cover many segments."""
    return 512 if part < 0.5 else 1024 if part < 0.7 else 2048 if part < 0.85 else 4096


def train(corpus, config, args):
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    model = Model(config)
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and n.startswith("blocks")]
    rest = [p for n, p in model.named_parameters() if not (p.dim() == 2 and n.startswith("blocks"))]
    optimisers = [Muon(matrices, args.lr), torch.optim.AdamW(rest, lr=args.lr * 0.2, betas=(0.9, 0.98), weight_decay=0.0)]
    base = [o.param_groups[0]["lr"] for o in optimisers]
    began, cpu, total = time.time(), time.process_time(), 0.0
    for step in range(args.steps):
        part = step / args.steps
        scale = min(1.0, (step + 1) / 20) * (1.0 if part < 0.3 else max(0.02, (1 - part) / 0.7))
        for o, lr in zip(optimisers, base):
            o.param_groups[0]["lr"] = lr * scale
        length = window_length(part)
        rows = args.tokens // length
        data = np.stack([np.frombuffer(corpus.window(rng, length), np.uint8) for _ in range(rows)]).astype(np.int64)
        x = torch.from_numpy(data)
        loss = F.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())
        for o in optimisers:
            o.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in optimisers:
            o.step()
        total += loss.item()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1:5d}  {total / 100 / math.log(2):.4f} bits/byte  {time.time() - began:.0f} s  "
                  f"{time.process_time() - cpu:.0f} CPU s", flush=True)
            total = 0.0
    return model.eval()


def save(directory, config, model):
    """Weights are stored as f16; what is evaluated is what was stored."""
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tensors = {name: p.detach().half().contiguous() for name, p in model.state_dict().items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def load(directory):
    directory = pathlib.Path(directory)
    config = json.loads((directory / "config.json").read_text())
    model = Model(config)
    model.load_state_dict({n: p.float() for n, p in load_file(directory / "model.safetensors").items()})
    return config, model.eval()


# ---------------------------------------------------------------------------------------------------- evaluation


@torch.no_grad()
def bits(model, text, capacity=CAPACITY):
    """Bits of every byte of one stream from its start, the `capacity` latest checkpoints read at most.

    The first byte has nothing before it and counts as 8 bits.
    """
    size, data = model.size, np.frombuffer(text, np.uint8).astype(np.int64)
    padded = np.concatenate([data, np.zeros(-len(data) % size, np.int64)])
    x, out, span = torch.from_numpy(padded)[None], [], 256 * size
    # Restarting blocks see the past through checkpoints alone, and block b's checkpoints see `capacity`
    # segments of block b-1's: so many segments before a span give it its exact past.
    history = capacity * (len(model.blocks) - 1) * size
    for at in range(0, x.shape[1], span):
        low = max(0, at - history)
        logp = model(x[:, low:at + span], capacity)[0, at - low:].log_softmax(-1)
        target = data[at + 1:at + span + 1]
        out.append(-logp[torch.arange(len(target)), torch.from_numpy(target)].numpy() / math.log(2))
    return np.concatenate([[8.0]] + out)


def compressed(command, text):
    return 8 * len(subprocess.run(command, input=text, capture_output=True, check=True).stdout) / len(text)


def table(models, texts):
    """Bits a byte of every text, as rows of Markdown: each model, gzip -9, zstd -19; then the mean by bytes."""
    columns = {directory: (lambda text, m=load(directory)[1]: bits(m, text).mean()) for directory in models}
    columns["gzip -9"] = lambda text: compressed(["gzip", "-9n"], text)
    columns["zstd -19"] = lambda text: compressed(["zstd", "-19", "-c", "-q"], text)
    print("| file | bytes | " + " | ".join(columns) + " |\n" + "|---|---:|" + "---:|" * len(columns))
    sums, total = dict.fromkeys(columns, 0.0), sum(map(len, texts.values()))
    for name, text in texts.items():
        row = {column: f(text) for column, f in columns.items()}
        sums = {c: sums[c] + row[c] * len(text) for c in columns}
        print(f"| {name} | {len(text)} | " + " | ".join(f"{v:.4f}" for v in row.values()) + " |", flush=True)
    print(f"| all | {total} | " + " | ".join(f"{v / total:.4f}" for v in sums.values()) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", help="CORPUS OUT, or files to evaluate on")
    parser.add_argument("--evaluate", metavar="MODEL", action="append")
    parser.add_argument("--heldout", metavar="CORPUS", help="with --evaluate: what is held out of this corpus")
    parser.add_argument("--bytes", type=int, help="of each file and held-out source, from its start; all when left out")
    parser.add_argument("--aggregation", default="ssc", choices=["ssc", "none"])
    parser.add_argument("--segment", type=int, default=256)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--tokens", type=int, default=4096, help="tokens a step")
    parser.add_argument("--lr", type=float, default=0.03)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.evaluate:
        texts = {pathlib.Path(p).name: pathlib.Path(p).read_bytes() for p in args.paths}
        if args.heldout:
            texts.update(Corpus(args.heldout).heldout)
        table(args.evaluate, {name: text[:args.bytes] for name, text in texts.items()})
        return
    corpus = Corpus(args.paths[0])
    spec = config(args.aggregation, segment=args.segment, heads=args.heads, blocks=args.blocks)
    model = train(corpus, spec, args)
    print(sum(p.numel() for p in model.parameters()), "parameters")
    save(args.paths[1], spec, model)


if __name__ == "__main__":
    main()
