"""What a user would pick instead, as ONNX graphs that PyTorch exports: usual.py gru|concat|in-place FOLDER CONTEXT.

Same width, vocabulary and number of mixers as our model, and, like it, no MLP; made-up weights. The Transformer has no
positions, which is less work than with them. Each graph is held against PyTorch before it is timed.

`concat` is the usual form of a KV cache: past keys and values go in, and come out longer by one. `in-place` is the
better one: buffers of the whole context, in which the client writes the token's own key and value, and a bias that
masks the rest. They lie `[1, H, dh, T]`, which took ONNX Runtime 0.6 times what `[1, H, T, dh]` did.
"""

import pathlib
import sys
import warnings

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn

from serve import Bound, serve, session

D, HEADS, BLOCKS, VOCABULARY = 128, 4, 2, 256
WIDTH = D // HEADS
MASKED = -1e30


class Attention(nn.Module):
    """One mixer over past keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(D)
        self.q, self.k, self.v, self.o = (nn.Linear(D, D, bias=False) for _ in range(4))

    def project(self, x: Tensor) -> list[Tensor]:
        """q, k and v of one token, `[1, H, 1, dh]`."""
        x = self.norm(x)
        return [f(x).reshape(1, HEADS, 1, WIDTH) for f in (self.q, self.k, self.v)]

    def concat(self, x: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.project(x)
        keys, values = torch.cat([keys, k], 2), torch.cat([values, v], 2)
        weights = (q @ keys.transpose(2, 3) * WIDTH**-0.5).softmax(-1)
        return x + self.o((weights @ values).reshape(1, 1, D)), keys, values

    def in_place(self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.project(x)
        q = q * WIDTH**-0.5
        length = keys.shape[3]
        weights = torch.cat([q @ keys + bias, (q * k).sum(-1, keepdim=True)], 3).softmax(-1)
        past = values @ weights[..., :length].reshape(1, HEADS, length, 1)
        y = past.reshape(1, HEADS, 1, WIDTH) + weights[..., length:] * v
        return x + self.o(y.reshape(1, 1, D)), k, v


class Transformer(nn.Module):
    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.embed, self.norm = nn.Embedding(VOCABULARY, D), nn.LayerNorm(D)
        self.blocks = nn.ModuleList(Attention() for _ in range(BLOCKS))
        self.head = nn.Linear(D, VOCABULARY)

    def forward(self, token: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """`past` is keys and values of each block, and the bias of the buffers."""
        x, present = self.embed(token), []
        for i, block in enumerate(self.blocks):
            pair = past[2 * i : 2 * i + 2]
            x, k, v = block.in_place(x, *pair, past[-1]) if self.in_place else block.concat(x, *pair)
            present += [k, v]
        return self.head(self.norm(x)), *present


class Recurrent(nn.Module):
    """`torch.nn.GRU` of as many layers as our model has blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCABULARY, D), nn.Linear(D, VOCABULARY)
        self.gru = nn.GRU(D, D, BLOCKS, batch_first=True)

    def forward(self, token: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        y, h = self.gru(self.embed(token), h)
        return self.head(y), h


def export(module: nn.Module, past: list[Tensor], path: pathlib.Path, open_axis: bool = False) -> ort.InferenceSession:
    """The module's graph in ONNX Runtime: from `token` and `past_0` … to `output_0`, its logits, and `output_1` …"""
    token = torch.tensor([[65]])
    expected = module(token, *past)
    inputs = ["token", *(f"past_{i}" for i in range(len(past)))]
    axes = {name: {2: "past"} for name in inputs[1:]} if open_axis else {}
    torch.onnx.export(
        module,
        (token, *past),
        str(path),
        input_names=inputs,
        output_names=[f"output_{i}" for i in range(len(expected))],
        dynamic_axes=axes,
        opset_version=17,
        dynamo=False,
    )
    graph = session(str(path))
    feeds = dict(zip(inputs, [token.numpy(), *(x.numpy() for x in past)], strict=True))
    for found, wanted in zip(graph.run(None, feeds), expected, strict=True):
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-3, atol=1e-4)
    return graph


def named(kind: str, arrays: list[np.ndarray], first: int = 0) -> dict[str, np.ndarray]:
    return {f"{kind}_{i}": array for i, array in enumerate(arrays, first)}


def serve_gru(path: pathlib.Path) -> None:
    """Two states, of which a run reads one and writes the other."""
    graph = export(Recurrent().eval(), [torch.zeros(BLOCKS, 1, D)], path)
    token, states = np.zeros((1, 1), np.int64), [np.zeros((BLOCKS, 1, D), np.float32) for _ in range(2)]
    runs = [
        Bound(graph, {"token": token, "past_0": past, "output_1": present}) for past, present in (states, states[::-1])
    ]

    def step(next_token: int) -> np.ndarray:
        token[:] = next_token
        runs[0].run()
        runs.reverse()
        return runs[1].output("output_0")

    serve(step, state_bytes=states[0].nbytes)


def serve_concat(path: pathlib.Path, context: int) -> None:
    """Every step attends to `context` tokens, its own the last: what it gives is longer by one, and dropped."""
    past = [torch.randn(1, HEADS, context - 1, WIDTH) for _ in range(2 * BLOCKS)]
    graph = export(Transformer(in_place=False).eval(), past, path, open_axis=True)
    token, arrays = np.zeros((1, 1), np.int64), [x.numpy() for x in past]
    run = Bound(graph, {"token": token, **named("past", arrays)})

    def step(next_token: int) -> np.ndarray:
        token[:] = next_token
        run.run()
        return run.output("output_0")

    serve(step, state_bytes=sum(x.nbytes for x in arrays))


def serve_in_place(path: pathlib.Path, context: int) -> None:
    """Every step attends to `context` tokens, its own the last, and writes its key and value where they belong."""
    past = [torch.randn(1, HEADS, WIDTH, context) for _ in range(2 * BLOCKS)]
    bias = torch.zeros(1, 1, 1, context)
    bias[..., -1] = MASKED
    graph = export(Transformer(in_place=True).eval(), [*past, bias], path)
    token, buffers = np.zeros((1, 1), np.int64), [x.numpy() for x in past]
    own = [np.zeros((1, HEADS, 1, WIDTH), np.float32) for _ in buffers]
    run = Bound(graph, {"token": token, **named("past", [*buffers, bias.numpy()]), **named("output", own, 1)})

    def step(next_token: int) -> np.ndarray:
        token[:] = next_token
        run.run()
        for buffer, column in zip(buffers, own, strict=True):
            buffer[..., -1] = column[:, :, 0]
        return run.output("output_0")

    serve(step, state_bytes=sum(x.nbytes for x in buffers))


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    kind, path, context = sys.argv[1], pathlib.Path(sys.argv[2]) / f"{sys.argv[1]}.onnx", int(sys.argv[3])
    match kind:
        case "gru":
            serve_gru(path)
        case "concat":
            serve_concat(path, context)
        case "in-place":
            serve_in_place(path, context)


if __name__ == "__main__":
    main()
