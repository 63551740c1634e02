"""What the Python peers share: the stream of tokens, one thread, and answers to lines of stdin as benches/peers/ours.rs gives."""

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


def serve(step: Callable[[int], np.ndarray], **told: int | str) -> None:
    """Says that the peer is ready and what else is `told`; then checks and runs rounds. `step` takes a token, gives its logits."""
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
