"""The PyPI package `memory-caching` in PyTorch: package.py make FILE.pt | package.py serve FILE.pt FILL.

The package runs whole sequences. A step here is the body of its loop over tokens, from its own parts and without its
checks of shapes, which is less than it does itself; it is held against its `forward` before anything is timed.
"""

import sys

import numpy as np
import torch
from memory_caching.contracts import SegmentCache
from memory_caching.models import TinyMemoryCachingLM, build_tiny_model_from_spec, load_tiny_model_checkpoint

from serve import SEGMENT, Clock, serve, token

SPEC = {
    "model_family": "tiny_mc_lm",
    "vocab_size": 256,
    "d_model": 128,
    "num_heads": 4,
    "backend": "linear",
    "aggregation": "grm",
    "segment_size": SEGMENT,
    "segmentation": "constant",
    "state_init_mode": "restart",
}


class Stream:
    """One stream that reads its latest `capacity` checkpoints."""

    def __init__(self, model: TinyMemoryCachingLM, capacity: int) -> None:
        self.model, self.capacity = model, capacity
        self.cached: list[SegmentCache] = []
        self.restart()

    def restart(self) -> None:
        config, layer = self.model.mc.config, self.model.mc
        self.state = layer.backend.init_state(
            batch_size=1,
            num_heads=config.num_heads,
            head_dim=layer.head_dim,
            device=torch.device("cpu"),
            dtype=torch.float32,
        )
        self.context = torch.zeros(1, config.num_heads, layer.head_dim)
        self.inside = 0

    def step(self, token: int) -> np.ndarray:
        model, layer = self.model, self.model.mc
        x = model.embed(torch.tensor([[token]]))
        projections = (layer.q_proj, layer.k_proj, layer.v_proj, layer.u_proj)
        q, k, v, u = (layer._split_heads(project(x))[:, 0] for project in projections)
        self.state = layer.backend.update(self.state, k, v)
        self.context = self.context + k
        y = layer._aggregate_token(
            q_t=q, u_t=u, online_state=self.state, cached=self.cached, online_context=self.context
        )
        self.inside += 1
        if self.inside == SEGMENT:
            self.end_segment()
        return model.head(model.norm(layer.o_proj(layer._merge_heads(y[:, None])))).numpy()

    def end_segment(self) -> None:
        layer = self.model.mc
        state, context = layer._snapshot_state(self.state), layer._snapshot_context(self.context)
        self.cached.append(SegmentCache(mem_state=state, seg_context=context, seg_len=SEGMENT))
        self.cached = self.cached[-self.capacity :]
        self.restart()


def make(path: str) -> None:
    torch.manual_seed(0)
    torch.save({"model_spec": SPEC, "model_state": build_tiny_model_from_spec(SPEC).state_dict()}, path)


def check_stepping(model: TinyMemoryCachingLM) -> None:
    """Steps are the package's own forward."""
    tokens = [token(t) for t in range(3 * SEGMENT + 3)]
    stream = Stream(model, len(tokens))
    found = np.concatenate([stream.step(token) for token in tokens], axis=1)
    np.testing.assert_allclose(found, model(torch.tensor([tokens])).numpy(), rtol=1e-4, atol=1e-5)


def main() -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    if sys.argv[1] == "make":
        return make(sys.argv[2])
    model, _ = load_tiny_model_checkpoint(sys.argv[2])
    check_stepping(model)
    stream, fill = Stream(model, int(sys.argv[3])), int(sys.argv[3])
    for t in range(fill * SEGMENT):
        stream.step(token(t))
    Clock.tokens = fill * SEGMENT
    state = sum(x.nbytes for c in stream.cached for x in (c.mem_state, c.seg_context))
    serve(stream.step, checkpoints=len(stream.cached), state_bytes=state + stream.state.nbytes + stream.context.nbytes)


if __name__ == "__main__":
    main()
