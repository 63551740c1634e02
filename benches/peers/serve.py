"""What the Python peers share: the stream of tokens, one thread, and answers to lines of stdin as ours.rs has them."""

import json
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import onnxruntime as ort

SEGMENT = 8
"""Tokens in a segment of our models and the package's."""
CHECKED = 8
"""Tokens whose outputs are compared."""
ROUND_S = 0.04
FEWEST, MOST = 24, 512
"""A round is steps of ROUND_S, but no fewer and no more than these."""


def token(t: int) -> int:
    """Token `t` of the stream that every peer runs."""
    return t * 31 % 256


def session(path: str) -> ort.InferenceSession:
    """One thread, on the CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class Bound:
    """A graph over arrays that stay where they are: a run reads those of its inputs and writes those of its outputs.

    Of an output without an array ONNX Runtime has its own. Bound once, a run takes 80 µs less than where Python gives
    it arrays each time.
    """

    def __init__(self, graph: ort.InferenceSession, arrays: dict[str, np.ndarray]) -> None:
        self.graph, self.arrays, self.binding = graph, arrays, graph.io_binding()
        for x in graph.get_inputs():
            self.binding.bind_ortvalue_input(x.name, ort.OrtValue.ortvalue_from_numpy(arrays[x.name]))
        self.names = [x.name for x in graph.get_outputs()]
        for name in self.names:
            if name in arrays:
                self.binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(arrays[name]))
            else:
                self.binding.bind_output(name)

    def run(self) -> None:
        self.graph.run_with_iobinding(self.binding)

    def output(self, name: str) -> np.ndarray:
        return self.arrays[name] if name in self.arrays else self.binding.get_outputs()[self.names.index(name)].numpy()


def serve(step: Callable[[int], np.ndarray], **told: int | str) -> None:
    """Says that the peer is ready, and what else is `told`; then checks and runs rounds.

    `step` takes a token and gives its logits.
    """
    print(json.dumps(told), flush=True)
    for line in sys.stdin:
        match line.strip():
            case "check":
                said = {"outputs": [float(x) for _ in range(CHECKED) for x in np.ravel(step_next(step))]}
            case "round":
                said = run_round(step)
            case other:
                sys.exit(f"`{other}` is neither check nor round")
        print(json.dumps(said), flush=True)


class Clock:
    """Tokens so far."""

    tokens = 0


def step_next(step: Callable[[int], np.ndarray]) -> np.ndarray:
    logits = step(token(Clock.tokens))
    Clock.tokens += 1
    return logits


def run_round(step: Callable[[int], np.ndarray]) -> dict[str, float]:
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < FEWEST or (len(times) < MOST and time.perf_counter() - start < ROUND_S):
        before = time.perf_counter_ns()
        step_next(step)
        times.append((time.perf_counter_ns() - before) / 1e3)
    return {"median_us": statistics.median(times), "steps": len(times)}
