"""Memory-Caching models in PyTorch, for training. The equations are those of the project's design page.

`Model(config)` takes the dictionary of a `config.json` and has parameters of exactly the names and shapes of
`model.safetensors`, so `state_dict()` is the file. Covered here: memories `linear`, `dla`, `titans`; every
aggregation of those; windowed `attention`, which has none; constant segments. Shapes in comments: B sequences,
T tokens, H heads, D = H·dh model width, S tokens of one segment, n checkpoints, N = B·H.

    model = Model(config)
    y, state = model(x)                       # x [B, T, F] f32 or [B, T] int64, y [B, T, O]
    y, state = model(x, state, capacity=64)   # goes on, reading the 64 latest checkpoints at most

Linear memory is computed a segment at a time. A deep memory has to be written token by token; its gradient is
written out by hand (as in the exported graph), so the outer gradient runs through it as through any code.
"""
import json
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

GATED = ("grm", "soup", "ssc")


class RmsNorm(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.weight


def norm_of(kind, size):
    if kind == "none":
        return None
    return {"layer_norm": lambda d: nn.LayerNorm(d, eps=1e-5), "rms_norm": RmsNorm}[kind](size)


def gate(width, bias):
    """sigmoid(W x + b), one value per head, started at the given b whatever the input."""
    linear = nn.Linear(width, len(bias))
    nn.init.zeros_(linear.weight)
    linear.bias.data.copy_(bias)
    return linear


# ---------------------------------------------------------------------------------------------------- memories
# A memory has `start(B)`, the state at a stream's beginning; `write(state, k, v, q, x)`, which goes through a
# stretch of one segment and returns the online read of every token, the final state, and (for `soup`) the
# cacheable parameters after every token; `cached(state)`, the tensors a checkpoint keeps; and
# `read(params, q)`, which reads stacked checkpoints. `restarts` says whether `init: restart` is for it.


class Attention(nn.Module):
    """Softmax attention over the last `window` tokens, this one included; it goes on through segments' ends.

    State: k and v [B, H, window - 1, dh] of the tokens before, oldest first, and live [window - 1]: whether there
    was one.
    """

    restarts = False

    def __init__(self, config, heads, width):
        super().__init__()
        self.shape, self.window = (heads, config["window"] - 1, width), config["window"]

    def start(self, batch):
        empty = torch.zeros(batch, *self.shape)
        return [empty, empty, torch.zeros(self.window - 1, dtype=torch.bool)]

    def write(self, state, k, v, q, x, every=False):
        before = len(state[2])
        k, v = torch.cat([state[0], k], 2), torch.cat([state[1], v], 2)
        live = torch.cat([state[2], torch.ones(q.shape[2], dtype=torch.bool)])
        windows = lambda a: a.unfold(2, self.window, 1)  # [B, H, S, dh, window]
        scores = (q.unsqueeze(3) @ windows(k)).squeeze(3) / q.shape[-1]**0.5  # [B, H, S, window]
        weights = scores.masked_fill(~live.unfold(0, self.window, 1), float("-inf")).softmax(-1)
        y = (windows(v) @ weights.unsqueeze(-1)).squeeze(-1)
        last = slice(k.shape[2] - before, None)
        return y, [k[:, :, last], v[:, :, last], live[last]], None


class LinearMemory(nn.Module):
    """M ← M + v φ(k)ᵀ, and z ← z + φ(k) when normalized. State: m [B, H, dh, dh], z [B, H, dh]."""

    restarts = True

    def __init__(self, config, heads, width):
        super().__init__()
        self.phi = {"identity": lambda x: x, "elu1": lambda x: F.elu(x) + 1, "relu": F.relu}[
            config.get("feature_map", "identity")]
        self.normalized = config.get("normalized", False)
        self.init = nn.Module()
        self.init.m = nn.Parameter(torch.zeros(heads, width, width))

    def start(self, batch):
        m = self.init.m.expand(batch, -1, -1, -1)
        return [m, torch.zeros_like(m[..., 0])]

    def cached(self, state):
        return state

    def divide(self, y, z, q):
        return y / (z * q).sum(-1, keepdim=True).clamp_min(1e-6) if self.normalized else y

    def write(self, state, k, v, q, x, every=False):
        (m, z), k, q = state, self.phi(k), self.phi(q)
        scores = (q @ k.transpose(-1, -2)).tril()  # [B, H, S, S]: token t reads what tokens ≤ t wrote
        y = self.divide(q @ m.transpose(-1, -2) + scores @ v, z.unsqueeze(2) + k.cumsum(2), q)
        outer = v.unsqueeze(-1) * k.unsqueeze(-2) if every else None  # [B, H, S, dh, dh]
        stages = [m.unsqueeze(2) + outer.cumsum(2), z.unsqueeze(2) + k.cumsum(2)] if every else None
        return y, [m + v.transpose(-1, -2) @ k, z + k.sum(2)], stages

    def read(self, params, q):
        """Every checkpoint [B, H, n, …] at every q [B, H, S, dh]: [B, H, S, n, dh]."""
        (m, z), q = params, self.phi(q)
        y = (q @ m.flatten(2, 3).transpose(-1, -2)).unflatten(-1, m.shape[2:4])
        return self.divide(y, z.unsqueeze(2), q.unsqueeze(3))

    def read_each(self, params, q):
        """One memory per token, [B, H, S, …], at that token's q: [B, H, S, dh]."""
        (m, z), q = params, self.phi(q)
        return self.divide((m @ q.unsqueeze(-1)).squeeze(-1), z, q)


class DeepMemory(nn.Module):
    """An MLP trained as it is used: S ← μ S − step ∇ℓ, M ← α M ± S (`dla`, `titans`).

    State: weights w_j [N, out, in], then biases b_j [N, 1, out], then the momentum of each in the same order.
    """

    restarts = True

    def __init__(self, config, heads, width, model_width):
        super().__init__()
        self.config, self.heads = config, heads
        dims = [width] + [config["width"]] * (config["depth"] - 1) + [width]
        self.depth = config["depth"]
        self.init = nn.Module()
        for j, (i, o) in enumerate(zip(dims, dims[1:]), 1):
            # A memory started at zero has a zero gradient in every weight but the last bias, for ever.
            setattr(self.init, f"w{j}", nn.Parameter(torch.randn(heads, o, i) * (0.7 / i**0.5)))
            if config.get("bias", False):
                setattr(self.init, f"b{j}", nn.Parameter(torch.zeros(heads, o)))
        self.step_name = {"titans": "theta", "dla": "eta"}[config["kind"]]
        # Heads start at different speeds, from a memory of a few tokens to one of hundreds.
        if config["step_size"] == "input":
            setattr(self, self.step_name, gate(model_width, torch.linspace(-4.0, -1.0, heads)))
        if config.get("retention", 1.0) == "input":
            self.alpha = gate(model_width, torch.linspace(5.5, 3.0, heads))

    def names(self):
        kinds = "wb" if self.config.get("bias", False) else "w"
        return [f"{kind}{j}" for kind in kinds for j in range(1, self.depth + 1)]

    def start(self, batch):
        flat = lambda p: p.expand(batch, *p.shape).flatten(0, 1)
        params = [flat(getattr(self.init, name)) for name in self.names()]
        params = [p.unsqueeze(1) if p.dim() == 2 else p for p in params]
        return params + [torch.zeros_like(p) for p in params]

    def cached(self, state):
        """The parameters without momentum, [B, H, …]."""
        return [p.unflatten(0, (-1, self.heads)) for p in state[: len(self.names())]]

    def layers(self, params, x):
        """Outputs of the MLP at x [..., rows, dh], with each layer's input and pre-activation."""
        inputs, pre, biased = [x], [], len(params) > self.depth
        for j in range(self.depth):
            h = inputs[-1] @ params[j].transpose(-1, -2)
            pre.append(h + params[self.depth + j] if biased else h)
            inputs.append(F.gelu(pre[-1]) if j + 1 < self.depth else pre[-1])
        y = inputs.pop()
        return (y + x if self.config.get("skip", False) else y), inputs, pre

    def coefficient(self, key, name, x):
        """A constant, or one value per token and head: [S, N, 1, 1]."""
        value = self.config.get(key, 1.0)
        if value != "input":
            return value
        gate = torch.sigmoid(getattr(self, name)(x))  # [B, S, H]
        return gate.permute(1, 0, 2).flatten(1)[..., None, None]

    def write(self, state, k, v, q, x, every=False):
        batch, tokens = k.shape[0], k.shape[2]
        flat = lambda a: a.permute(2, 0, 1, 3).flatten(1, 2).unsqueeze(2)  # [S, N, 1, dh]
        k, v, q = flat(k), flat(v), flat(q)
        step, keep = self.coefficient("step_size", self.step_name, x), self.coefficient("retention", "alpha", x)
        # Token t's read and token t+1's write see the same weights: one pass through the MLP serves both.
        pairs = torch.cat([q[:-1], k[1:]], 2).unbind(0)
        (k, v), last = (k.unbind(0), v.unbind(0)), q[-1]
        half = len(state) // 2
        params, momentum = state[:half], state[half:]
        out, inputs, pre = self.layers(params, k[0])
        reads, stages = [], []
        for t in range(tokens):
            at = lambda c: c[t] if torch.is_tensor(c) else c
            params, momentum = self.update(params, momentum, out, inputs, pre, v[t], at(step), at(keep))
            if every:
                stages.append(params)
            y, inputs, pre = self.layers(params, pairs[t] if t + 1 < tokens else last)
            reads.append(y[:, :1])
            out, inputs, pre = y[:, 1:], [a[:, 1:] for a in inputs], [a[:, 1:] for a in pre]
        y = torch.cat(reads, 1).unflatten(0, (batch, -1))  # [B, H, S, dh]
        if every:
            stages = [torch.stack(p, 1).unflatten(0, (batch, -1)) for p in zip(*stages)]
        return y, params + momentum, stages

    def update(self, params, momentum, out, inputs, pre, v, step, keep):
        """One token's write. `out`, `inputs`, `pre` come from the forward pass at k: [N, 1, ·]."""
        l2 = self.config["objective"] == "l2"
        mu = self.config.get("momentum", 0.0)
        d, scale = (out - v, 2.0) if l2 else (-v, 1.0)  # ∂ℓ/∂out, less the scale
        gradients = []
        for j in reversed(range(self.depth)):
            gradients.append(d)
            if j:
                d = torch.ops.aten.gelu_backward(d @ params[j], pre[j - 1])
        gradients.reverse()
        if torch.is_tensor(step):
            gradients, rate = [g * step for g in gradients], -scale
        else:
            rate = -scale * step
        fresh = [torch.baddbmm(s, g.transpose(1, 2), a, beta=mu, alpha=rate)
                 for s, g, a in zip(momentum, gradients, inputs)]
        fresh += [mu * s + rate * g for s, g in zip(momentum[self.depth:], gradients)]
        sign = -1.0 if self.config.get("sign") == "paper" else 1.0
        if torch.is_tensor(keep):
            params = [torch.addcmul(sign * s, p, keep) for p, s in zip(params, fresh)]
        else:
            params = [torch.add(p * keep if keep != 1.0 else p, s, alpha=sign) for p, s in zip(params, fresh)]
        return params, fresh

    def read(self, params, q):
        y, _, _ = self.layers(params, q.unsqueeze(2))  # [B, H, n, S, dh]
        return y.transpose(2, 3)

    def read_each(self, params, q):
        return self.layers(params, q.unsqueeze(3))[0].squeeze(3)


# ------------------------------------------------------------------------------------------------------ blocks


class Block(nn.Module):
    def __init__(self, config, model_width):
        super().__init__()
        self.config, self.caching, self.heads = config, config["caching"], config["num_heads"]
        segmentation = self.caching["segmentation"]
        assert segmentation["kind"] == "constant", "training knows constant segments only"
        assert self.caching["init"] in ("continue", "restart")
        self.size = segmentation["size"]
        self.gated = self.caching["aggregation"] in GATED
        self.norm = norm_of(config["norm"], model_width)
        self.mix = nn.Module()
        own_query = self.gated and self.caching.get("query", "u") == "u"
        for name in ("q", "k", "v", "u", "o") if own_query else ("q", "k", "v", "o"):
            setattr(self.mix, name, nn.Linear(model_width, model_width, bias=False))
        memory, width = config["memory"], model_width // self.heads
        if memory["kind"] == "attention":
            assert self.caching["aggregation"] == "none", "attention has no checkpoints"
            self.memory = Attention(memory, self.heads, width)
        elif memory["kind"] == "linear":
            self.memory = LinearMemory(memory, self.heads, width)
        else:
            self.memory = DeepMemory(memory, self.heads, width, model_width)
        if config.get("mlp"):
            self.mlp_norm = norm_of(config["norm"], model_width)
            self.mlp = nn.Module()
            self.mlp.up = nn.Linear(model_width, config["mlp"]["width"])
            self.mlp.down = nn.Linear(config["mlp"]["width"], model_width)

    def start(self, batch):
        online = self.memory.start(batch)
        context = online[0].new_zeros(batch, self.heads, self.mix.q.weight.shape[0] // self.heads)
        return {"online": online, "context": context, "length": 0, "cache": [], "contexts": []}

    def project(self, h):
        """The normed input x [B, T, D], and what it makes of itself: q, k, v, u [B, H, T, dh]."""
        x = self.norm(h) if self.norm else h
        split = lambda name: getattr(self.mix, name)(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        q, k, v = split("q"), split("k"), split("v")  # [B, H, T, dh]
        if self.config.get("normalize_qk", False):
            q, k = (a / a.norm(dim=-1, keepdim=True).clamp_min(1e-6) for a in (q, k))
        return x, q, k, v, split("u") if hasattr(self.mix, "u") else q

    def forward(self, h, state=None, capacity=None, detach=False):
        x, q, k, v, u = self.project(h)
        state = dict(state) if state else self.start(h.shape[0])
        reads, at = [], 0
        while at < h.shape[1]:
            to = min(at + self.size - state["length"], h.shape[1])
            cut = lambda a: a[:, :, at:to]
            reads.append(self.stretch(state, cut(q), cut(k), cut(v), cut(u), x[:, at:to]))
            if state["length"] == self.size:
                self.end_segment(state, capacity, detach)
            at = to
        return self.finish(h, torch.cat(reads, 2)), state

    def finish(self, h, reads):
        """The block's output, from its input [B, T, D] and every token's read [B, H, T, dh]."""
        y = self.mix.o(reads.transpose(1, 2).flatten(2))
        h = h + y if self.config.get("residual", True) else y
        if hasattr(self, "mlp"):
            z = self.mlp_norm(h) if self.mlp_norm else h
            h = h + self.mlp.down(F.gelu(self.mlp.up(z)))
        return h

    def stretch(self, state, q, k, v, u, x):
        """Writes and reads tokens inside one segment; `state` goes on. Returns [B, H, S, dh]."""
        aggregation = self.caching["aggregation"]
        soup = aggregation == "soup"
        online, after, stages = self.memory.write(state["online"], k, v, q, x, every=soup)
        contexts = state["context"].unsqueeze(2) + k.cumsum(2)  # [B, H, S, dh], running sums
        lengths = state["length"] + 1 + torch.arange(k.shape[2], device=k.device)
        state.update(online=after, context=contexts[:, :, -1], length=state["length"] + k.shape[2])
        cache = [torch.stack(p, 2) for p in zip(*state["cache"])] if aggregation != "none" else []
        if aggregation == "none" or not (cache or soup):
            return online
        past = self.memory.read(cache, q) if cache and not soup else None  # [B, H, S, n, dh]
        if aggregation == "residual":
            return online + past.sum(3)
        if aggregation == "mean":
            return (online + past.sum(3)) / (past.shape[3] + 1)
        gates = self.gates(state["contexts"], contexts, lengths, u)
        if soup:
            mixed = []
            for i, stage in enumerate(stages):
                shape, g = stage.shape, gates.reshape(*gates.shape[:3], 1, -1)
                total = gates[..., -1:] * stage.flatten(3)
                if cache:
                    total = total + (g[..., :-1] @ cache[i].flatten(3).unsqueeze(2)).squeeze(3)
                mixed.append(total.reshape(shape))
            return self.memory.read_each(mixed, q)
        return (gates.unsqueeze(-2) @ torch.cat([past, online.unsqueeze(3)], 3)).squeeze(3)

    def gates(self, closed, running, lengths, u):
        """γ [B, H, S, n + 1], online last."""
        if self.caching.get("context", "mean") == "mean":
            running = running / lengths[:, None]
        scores = (u * running).sum(-1, keepdim=True)
        if closed:
            scores = torch.cat([u @ torch.stack(closed, 3), scores], 3)
        scores = scores / self.caching.get("temperature", 1.0)
        past = scores[..., :-1]
        if self.caching["aggregation"] == "ssc" and past.shape[-1] > self.caching["top_k"]:
            best = past.topk(self.caching["top_k"], -1).indices
            kept = torch.full_like(past, float("-inf")).scatter(-1, best, past.gather(-1, best))
            scores = torch.cat([kept, scores[..., -1:]], -1)
        return scores.softmax(-1)

    def end_segment(self, state, capacity, detach):
        mean = self.caching.get("context", "mean") == "mean"
        context = state["context"] / state["length"] if mean else state["context"]
        if self.caching["aggregation"] != "none":
            state["cache"] = state["cache"] + [self.memory.cached(state["online"])]
            state["contexts"] = state["contexts"] + [context]
            if capacity is not None:
                state["cache"], state["contexts"] = state["cache"][-capacity:], state["contexts"][-capacity:]
        if self.caching["init"] == "restart" and self.memory.restarts:
            state["online"] = self.memory.start(context.shape[0])
        elif detach:
            state["online"] = [p.detach() for p in state["online"]]
        state["context"], state["length"] = torch.zeros_like(context), 0


class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        width, source, target = config["d_model"], config["input"], config["head"]
        if source["kind"] == "tokens":
            self.embed = nn.Embedding(source["vocab_size"], width)
        else:
            self.input = nn.Linear(source["size"], width)
            zeros, ones = [0.0] * source["size"], [1.0] * source["size"]
            self.input_mean = torch.tensor(source.get("mean", zeros))
            self.input_std = torch.tensor(source.get("std", ones))
        self.blocks = nn.ModuleList(Block(block, width) for block in config["blocks"])
        if config.get("final_norm", False):
            self.norm = nn.LayerNorm(width, eps=1e-5)
        self.head = nn.Linear(width, target["size"])
        zeros, ones = [0.0] * target["size"], [1.0] * target["size"]
        self.mean, self.std = torch.tensor(target.get("mean", zeros)), torch.tensor(target.get("std", ones))

    def forward(self, x, state=None, capacity=None, detach=False, standard=False):
        """Outputs [B, T, O] and the state to go on from.

        `capacity` bounds the checkpoints read, `detach` cuts the gradient of the online memory at segment ends,
        `standard` leaves the head's own mean and std out.
        """
        h = self.embed(x) if hasattr(self, "embed") else self.input((x - self.input_mean) / self.input_std)
        after = []
        for i, block in enumerate(self.blocks):
            h, s = block(h, state[i] if state else None, capacity, detach)
            after.append(s)
        y = self.head(self.norm(h) if hasattr(self, "norm") else h)
        return (y if standard else y * self.std + self.mean), after


@torch.no_grad()
def stream(model, x, capacity=64, stretch=256):
    """Outputs of one endless stream x [T, F] or [T] from its start, reading `capacity` checkpoints at most."""
    state, out = None, []
    for piece in x.split(stretch):
        y, state = model(piece[None], state, capacity)
        out.append(y[0])
    return torch.cat(out)


def detached(state):
    """The same state with no gradient behind it: the next window goes on from here."""
    cut = lambda a: a.detach() if torch.is_tensor(a) else [cut(b) for b in a] if isinstance(a, list) else a
    return [{name: cut(value) for name, value in block.items()} for block in state]


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def save(directory, config, model):
    """Writes `config.json` and `model.safetensors`."""
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    tensors = {name: p.detach().float().contiguous() for name, p in model.state_dict().items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def load(directory):
    """The model of a directory. Absent initial memories are zeros; any other difference in names is an error."""
    directory = pathlib.Path(directory)
    model = Model(json.loads((directory / "config.json").read_text()))
    tensors = load_file(directory / "model.safetensors")
    for name, p in model.state_dict().items():
        if ".memory.init." in name:
            tensors.setdefault(name, torch.zeros_like(p))
    if "head.bias" not in tensors:
        model.head.bias = None
    model.load_state_dict(tensors)
    return model.eval()
