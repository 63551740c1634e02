"""Cases for tests/oracle.rs: the equations a second time, in PyTorch, with autograd for the gradients.

Each case is a model directory with `golden.safetensors` beside it. Written from the equations alone, for the
options that the PyPI package `memory-caching` lacks; float64 throughout.

    pip install torch safetensors numpy && python make.py
"""

import json
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.set_default_dtype(torch.float64)

HERE = pathlib.Path(__file__).parent
D, H, T, CHANNELS, OUTPUTS = 8, 2, 23, 3, 4
DH = D // H
CELLS = {"gru": torch.nn.GRUCell, "lstm": torch.nn.LSTMCell}


def normal(*shape, scale=1.0):
    """Numbers that f32 holds exactly."""
    return (torch.randn(*shape) * scale).float().double()


class Memory:
    """One head's memory: `start`, `write` and `read` over a dictionary of tensors."""

    def __init__(self, config, weights, head):
        self.config, self.weights, self.head = config, weights, head
        self.deep = config["kind"] in ("dla", "titans")

    def start(self):
        state = {k.split("init.")[1]: v[self.head] for k, v in self.weights.items() if "memory.init." in k}
        if self.deep:
            return state, {k: torch.zeros_like(v) for k, v in state.items()}
        if self.config["kind"] == "attention":
            return dict(k=torch.zeros(0, DH), v=torch.zeros(0, DH)), None
        if self.config["kind"] in CELLS:
            return dict(h=torch.zeros(D)), torch.zeros(D)
        return dict({"m": torch.zeros(DH, DH)}, **state, z=torch.zeros(DH)), (torch.zeros(DH), torch.zeros(DH))

    def coefficient(self, key, name, x):
        value = self.config.get(key, 1.0)
        if value != "input":
            return value
        w, b = (self.weights[f"blocks.0.memory.{name}.{part}"][self.head] for part in ("weight", "bias"))
        return torch.sigmoid(w @ x + b)

    def phi(self, x):
        maps = {"identity": lambda x: x, "elu1": lambda x: F.elu(x) + 1, "relu": F.relu}
        return maps[self.config.get("feature_map", "identity")](x)

    def network(self, state, x):
        y = x
        for j in range(1, self.config["depth"] + 1):
            y = F.linear(F.gelu(y) if j > 1 else y, state[f"w{j}"], state.get(f"b{j}"))
        return y + x if self.config.get("skip") else y

    def write(self, state, carried, x, k, v):
        if self.config["kind"] == "linear":
            return dict(m=state["m"] + torch.outer(v, self.phi(k)), z=state["z"] + self.phi(k)), carried
        if self.config["kind"] == "swla":
            alpha, beta, lam = (self.coefficient(name, name, x) for name in ("alpha", "beta", "lambda"))
            m = alpha * state["m"] + beta * torch.outer(carried[1], carried[0]) + lam * torch.outer(v, k)
            return dict(state, m=m), (k, v)
        if self.config["kind"] == "gated_delta":
            alpha, beta = (self.coefficient(name, name, x) for name in ("alpha", "beta"))
            erase = torch.eye(DH) - beta * torch.outer(k, k) if self.config.get("correction", True) else torch.eye(DH)
            return dict(state, m=alpha * state["m"] @ erase + beta * torch.outer(v, k)), carried
        if self.config["kind"] == "attention":
            push = lambda window, token: torch.cat([window, token[None]])[-self.config["window"]:]
            return dict(k=push(state["k"], k), v=push(state["v"], v)), carried
        if self.config["kind"] in CELLS:
            return self.recur(state["h"], carried, x)
        return self.descend(state, carried, x, k, v)

    def recur(self, h, c, x):
        """The whole block's cell: a head reads its part of h."""
        cell = CELLS[self.config["kind"]](D, D)
        cell.load_state_dict({n: self.weights[f"blocks.0.memory.{n}"] for n in cell.state_dict()})
        with torch.no_grad():
            step = cell(x[None], h[None]) if self.config["kind"] == "gru" else cell(x[None], (h[None], c[None]))
        return (dict(h=step[0]), c) if self.config["kind"] == "gru" else (dict(h=step[0][0]), step[1][0])

    def loss(self, state, k, v):
        y = self.read(state, k)
        return -(y @ v) if self.config.get("objective") == "dot" else ((y - v) ** 2).sum()

    def descend(self, state, momentum, x, k, v):
        leaves = {name: p.clone().requires_grad_(True) for name, p in state.items()}
        y = self.network(leaves, k)
        loss = ((y - v) ** 2).sum() if self.config["objective"] == "l2" else -(y * v).sum()
        gradient = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()))))
        dla = self.config["kind"] == "dla"
        step = self.coefficient("step_size", "eta" if dla else "theta", x)
        alpha, mu = self.coefficient("retention", "alpha", x), self.config.get("momentum", 0.0)
        s = {n: mu * momentum[n] + (step if dla else -step) * g for n, g in gradient.items()}
        sign = -1 if dla or self.config.get("sign") == "paper" else 1
        return {n: (alpha * p + sign * s[n]).detach() for n, p in state.items()}, {n: p.detach() for n, p in s.items()}

    def read(self, state, q):
        if self.deep:
            return self.network(state, q)
        if self.config["kind"] in CELLS:
            return state["h"].view(H, DH)[self.head]
        if self.config["kind"] == "attention":
            return F.scaled_dot_product_attention(q[None], state["k"], state["v"])[0]
        y = state["m"] @ self.phi(q)
        return y / (state["z"] @ self.phi(q)).clamp(min=1e-6) if self.config.get("normalized") else y


def read(memory, caching, live, q, u):
    """`live` holds (state, context) of the checkpoints and of the online memory, last."""
    kind = caching["aggregation"]
    if kind in ("none", "residual", "mean"):
        reads = [memory.read(state, q) for state, _ in live]
        return reads[-1] if kind == "none" else sum(reads) / (len(reads) if kind == "mean" else 1)
    if kind == "sigmoid":
        *cached, h = [state["h"] for state, _ in live]
        w, b = (memory.weights[f"blocks.0.memory.gate.{part}"] for part in ("weight", "bias"))
        y = h + sum(torch.sigmoid(w @ torch.cat([h, h_i]) + b) * h_i for h_i in cached)
        return y.view(H, DH)[memory.head]
    scores = [u @ context / caching.get("temperature", 1.0) for _, context in live]
    if kind == "ssc":
        best = sorted(range(len(live) - 1), key=lambda i: -scores[i])[: caching["top_k"]] + [len(live) - 1]
        live, scores = [live[i] for i in best], [scores[i] for i in best]
    gates = torch.softmax(torch.stack(scores), 0)
    if kind != "soup":
        return sum(gate * memory.read(state, q) for gate, (state, _) in zip(gates, live))
    return memory.read({n: sum(g * s[n] for g, (s, _) in zip(gates, live)) for n in live[0][0]}, q)


def make_weights(memory, caching, norm, start):
    at = "blocks.0."
    w = {"input.weight": normal(D, CHANNELS), "input.bias": normal(D, scale=0.1)}
    w[at + "norm.weight"] = (1 + normal(D, scale=0.1)).float().double()
    if norm == "layer_norm":
        w[at + "norm.bias"] = normal(D, scale=0.1)
    gated = caching["aggregation"] in ("grm", "soup", "ssc")
    own_u = "u" if gated and caching.get("query", "u") == "u" else ""
    cell = memory["kind"] in CELLS
    for p in ("k" + own_u if gated else "") + "o" if cell else "qkv" + own_u + "o":
        w[at + f"mix.{p}.weight"] = normal(D, D, scale=0.7 / D**0.5)
    if cell:
        for name, tensor in CELLS[memory["kind"]](D, D).state_dict().items():
            w[at + f"memory.{name}"] = normal(*tensor.shape, scale=0.5)
    if caching["aggregation"] == "sigmoid":
        w[at + "memory.gate.weight"], w[at + "memory.gate.bias"] = normal(D, 2 * D, scale=0.5), normal(D, scale=0.5)
    names = {"swla": [(n, n) for n in ("alpha", "beta", "lambda")], "linear": [],
             "gated_delta": [(n, n) for n in ("alpha", "beta")]}
    for key, name in names.get(memory["kind"], [("step_size", {"dla": "eta"}.get(memory["kind"], "theta")), ("retention", "alpha")]):
        if memory.get(key) == "input":
            w[at + f"memory.{name}.weight"] = normal(H, D, scale=0.5)
            w[at + f"memory.{name}.bias"] = normal(H, scale=0.5) - (3 if key == "step_size" else 0)
    if memory["kind"] in ("linear", "swla", "gated_delta"):
        if start:
            w[at + "memory.init.m"] = normal(H, DH, DH, scale=0.3)
    elif memory["kind"] in ("dla", "titans"):
        sizes = [DH] + [memory["width"]] * (memory["depth"] - 1) + [DH]
        for j, (i, o) in enumerate(zip(sizes, sizes[1:]), 1):
            w[at + f"memory.init.w{j}"] = normal(H, o, i, scale=0.6 / i**0.5)
            if memory.get("bias"):
                w[at + f"memory.init.b{j}"] = normal(H, o, scale=0.2)
    w["head.weight"] = normal(OUTPUTS, D, scale=0.5)
    return {name: tensor.float().double() for name, tensor in w.items()}


def run(w, memory, caching, norm, normalize_qk, samples):
    heads = [Memory(memory, w, h) for h in range(H)]
    states, checkpoints, sums, length, outputs = [m.start() for m in heads], [], torch.zeros(H, DH), 0, []
    keys, ends, losses, segments = [], [], [], []
    mean = caching.get("context", "mean") == "mean"
    pooled = lambda: sums / length if mean else sums
    for sample in samples:
        stream = w["input.weight"] @ sample + w["input.bias"]
        if norm == "layer_norm":
            x = F.layer_norm(stream, (D,), w["blocks.0.norm.weight"], w["blocks.0.norm.bias"], 1e-5)
        else:
            x = stream * torch.rsqrt((stream**2).mean() + 1e-6) * w["blocks.0.norm.weight"]
        mix = {p: (w[f"blocks.0.mix.{p}.weight"] @ x).view(H, DH) for p in "qkvu" if f"blocks.0.mix.{p}.weight" in w}
        if memory["kind"] in CELLS:
            mix = {p: mix.get(p, torch.zeros(H, DH)) for p in "qkvu"}
        if normalize_qk:
            mix.update({p: mix[p] / mix[p].norm(dim=-1, keepdim=True).clamp(min=1e-6) for p in "qk"})
        u = mix["q"] if caching.get("query") == "q" else mix.get("u", mix["q"])
        if caching["segmentation"]["kind"] == "surprise":
            losses.append(sum(m.loss(states[h][0], mix["k"][h], mix["v"][h]) for h, m in enumerate(heads)) / H)
        states = [m.write(*s, x, mix["k"][h], mix["v"][h]) for h, (m, s) in enumerate(zip(heads, states))]
        sums, length = sums + mix["k"], length + 1
        online = [(states[h][0], pooled()[h]) for h in range(H)]
        y = [read(m, caching, [c[h] for c in checkpoints] + [online[h]], mix["q"][h], u[h]) for h, m in enumerate(heads)]
        outputs.append(w["head.weight"] @ (stream + w["blocks.0.mix.o.weight"] @ torch.cat(y)))
        keys, ends = keys + [mix["k"]], ends + [[state for state, _ in states]]
        if is_last(caching["segmentation"], length, losses):
            checkpoints, sums, segments, length = checkpoints + [online], torch.zeros(H, DH), segments + [length], 0
            if caching["segmentation"]["kind"] == "logarithmic":
                checkpoints = [piece(ends, keys, *bounds, mean, caching["init"]) for bounds in expansion(len(keys))]
            if caching["init"] == "restart" and memory["kind"] != "attention":
                states = [m.start() for m in heads]
    return torch.stack(outputs), segments


def is_last(segmentation, length, losses):
    """Whether a segment ends with its token number `length`, the last of the stream's `losses`."""
    if segmentation["kind"] != "surprise":
        return segmentation["kind"] == "logarithmic" or length == segmentation["size"]
    before = losses[:-1][-segmentation["window"]:]
    z = torch.tensor(0.0)
    if len(before) > 1:
        deviation, mean = torch.std_mean(torch.stack(before), correction=0)
        z = (losses[-1] - mean) / deviation.clamp(min=1e-6)
    assert (z - segmentation["threshold"]).abs() > 0.02, "a rounding could end this segment"
    surprised = length >= segmentation["min_size"] and z > segmentation["threshold"]
    return surprised or length == segmentation["max_size"]


def expansion(tokens):
    """The binary expansion of `tokens`, largest piece first: 37 is (0, 32), (32, 36), (36, 37)."""
    starts = [tokens >> bit << bit for bit in range(tokens.bit_length(), -1, -1)]
    return [(a, b) for a, b in zip(starts, starts[1:]) if a < b]


def piece(ends, keys, a, b, mean, init):
    """The checkpoint of tokens a to b, from the states that each token ended with."""
    context = torch.stack(keys[a:b]).sum(0) / (b - a if mean else 1)
    if init == "continue":
        return [(ends[b - 1][h], context[h]) for h in range(H)]
    added = [{name: sum(end[h][name] for end in ends[a:b]) for name in ends[a][h]} for h in range(H)]
    return [(added[h], context[h]) for h in range(H)]


def case(name, memory, aggregation, size=5, init="continue", norm="layer_norm", normalize_qk=False, start=True,
         **caching):
    """`size` is of constant segments, or a whole segmentation; without `start` a matrix begins at zero."""
    torch.manual_seed(sum(map(ord, name)))
    segmentation = size if isinstance(size, dict) else {"kind": "constant", "size": size}
    caching = dict(aggregation=aggregation, segmentation=segmentation, init=init, **caching)
    w, samples = make_weights(memory, caching, norm, start), normal(T, CHANNELS)
    output, segments = run(w, memory, caching, norm, normalize_qk, samples)
    if segmentation["kind"] == "surprise":
        surprised = [n for n in segments if n < segmentation["max_size"]]
        assert len(surprised) > 1 and len(surprised) < len(segments), f"{name}: {segments} show one way to end alone"
    assert output.isfinite().all() and output.abs().max() < 100, name
    block = dict(norm=norm, num_heads=H, normalize_qk=normalize_qk, memory=memory, caching=caching)
    config = dict(format="mcedge/1", name=name, input={"kind": "features", "size": CHANNELS}, d_model=D, blocks=[block],
                  head={"kind": "regression", "size": OUTPUTS})
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file({k: v.float().contiguous() for k, v in w.items()}, folder / "model.safetensors")
    save_file({"input": samples.float(), "output": output.float()}, folder / "golden.safetensors")


ELU = dict(kind="linear", feature_map="elu1", normalized=True)
case("elu-normalized-grm", ELU, "grm", normalize_qk=True)
case("elu-normalized-soup-restart", ELU, "soup", init="restart", query="q", normalize_qk=True)
case("relu-ssc", dict(kind="linear", feature_map="relu"), "ssc", 4, norm="rms_norm", top_k=2, temperature=0.5)
case("identity-mean", dict(kind="linear"), "mean", normalize_qk=True)
case("swla-from-input-grm", {"kind": "swla", "alpha": "input", "beta": "input", "lambda": "input"}, "grm")
case("swla-mean-restart", {"kind": "swla", "alpha": "input", "beta": 0.5, "lambda": 1.0}, "mean", init="restart")
DELTA = {"kind": "gated_delta", "alpha": "input", "beta": "input"}
case("gated-delta-grm", DELTA, "grm", normalize_qk=True)
case("gated-delta-soup-restart", dict(DELTA, alpha=0.9375), "soup", init="restart", normalize_qk=True)
case("gated-delta-plain-ssc", dict(DELTA, beta=0.75, correction=False), "ssc", 4, norm="rms_norm", top_k=2)
case("attention-window", dict(kind="attention", window=4), "none", 3, init="restart", normalize_qk=True)
case("titans-from-input-soup", dict(kind="titans", depth=3, width=5, skip=True, objective="l2", step_size="input",
                                    retention="input", momentum=0.5), "soup", normalize_qk=True)
case("titans-paper-residual", dict(kind="titans", depth=2, width=5, bias=True, objective="dot", step_size=0.0078125,
                                   retention=0.96875, momentum=0.5, sign="paper"), "residual", init="restart")
case("dla-from-input-ssc", dict(kind="dla", depth=2, width=7, objective="dot", step_size="input", retention=0.9375),
     "ssc", 4, top_k=3, query="q", context="sum", normalize_qk=True)
case("dla-mean-restart", dict(kind="dla", depth=4, width=4, bias=True, skip=True, objective="l2", step_size=0.015625,
                              retention="input", momentum=0.25), "mean", init="restart")

# One matrix that is never reset: a case for whoever keeps no checkpoints of such a block.
case("collapsed-elu-residual-restart", dict(kind="linear", feature_map="elu1"), "residual", 3, init="restart",
     normalize_qk=True, start=False)

LOG = {"kind": "logarithmic"}
case("logarithmic-titans-grm", dict(kind="titans", depth=2, width=5, objective="l2", step_size=0.0625, retention=0.96875,
                                    momentum=0.5), "grm", LOG, normalize_qk=True)
case("logarithmic-elu-normalized-soup-restart", ELU, "soup", LOG, init="restart", context="sum", normalize_qk=True,
     start=False)
case("logarithmic-relu-residual-restart", dict(kind="linear", feature_map="relu"), "residual", LOG, init="restart",
     start=False)
case("logarithmic-gated-delta-ssc", DELTA, "ssc", LOG, top_k=2, query="q", normalize_qk=True)
case("logarithmic-lstm-mean", dict(kind="lstm"), "mean", LOG)

SURPRISE = dict(kind="surprise", window=6, threshold=0.75, min_size=2, max_size=5)
case("surprise-titans-dot-grm", dict(kind="titans", depth=2, width=5, objective="dot", step_size=0.0625,
                                     retention=0.9375), "grm", SURPRISE, normalize_qk=True)
case("surprise-dla-l2-mean-restart", dict(kind="dla", depth=2, width=5, bias=True, skip=True, objective="l2",
                                          step_size=0.03125), "mean", SURPRISE, init="restart", normalize_qk=True)
case("surprise-elu-normalized-residual", ELU, "residual", SURPRISE, normalize_qk=True)
case("surprise-gated-delta-soup", DELTA, "soup", dict(SURPRISE, threshold=1.0), normalize_qk=True)
case("surprise-swla-ssc", {"kind": "swla", "alpha": 0.75, "beta": 0.25, "lambda": "input"}, "ssc", SURPRISE, top_k=2)

GRU, LSTM = dict(kind="gru"), dict(kind="lstm")
case("gru-grm", GRU, "grm")
case("gru-soup-restart", GRU, "soup", init="restart", context="sum")
case("gru-ssc", GRU, "ssc", 4, top_k=2, normalize_qk=True)
case("gru-mean", GRU, "mean", norm="rms_norm")
case("gru-residual-restart", GRU, "residual", init="restart")
case("gru-sigmoid", GRU, "sigmoid")
case("lstm-grm-restart", LSTM, "grm", init="restart", temperature=0.5)
case("lstm-soup", LSTM, "soup")
case("lstm-ssc", LSTM, "ssc", 4, top_k=2, context="sum")
case("lstm-mean-restart", LSTM, "mean", init="restart")
case("lstm-residual", LSTM, "residual")
case("lstm-sigmoid-restart", LSTM, "sigmoid", init="restart", norm="rms_norm")
