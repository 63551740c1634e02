"""A bundle in Python's onnxruntime, by its contract alone: bundle.py DIR FILL."""

import json
import pathlib
import sys

import numpy as np
from safetensors.numpy import load_file

from serve import SEGMENT, Bound, Clock, serve, session, token


class Client:
    """One stream. Of two sets of its state a run reads one and writes the other; then they change places."""

    def __init__(self, bundle: pathlib.Path) -> None:
        graphs = {name: session(str(bundle / f"{name}.onnx")) for name in ("step", "chunk")}
        metadata = graphs["step"].get_modelmeta().custom_metadata_map
        self.contract = json.loads(metadata["mcedge.contract"])
        self.initial = load_file(str(bundle / "initial_state.safetensors"))
        self.cache = {entry["name"]: np.zeros(entry["shape"], np.float32) for entry in self.contract["cache"]}
        self.lengths = {name: np.zeros(1, np.int64) for name in ("segment.length", "cache.length")}
        self.tokens = {name: np.zeros((1, n), np.int64) for name, n in (("step", 1), ("chunk", SEGMENT))}
        states = [{e["past"]: self.initial[e["past"]].copy() for e in self.contract["state"]} for _ in range(2)]
        # By graph, the run that reads the first set, then the run that reads the second.
        self.runs = {name: [self.bind(name, graphs[name], *pair) for pair in (states, states[::-1])] for name in graphs}
        self.states, self.pushed = states, 0

    def bind(self, name: str, graph: object, past: dict, present: dict) -> Bound:
        written = {entry["present"]: present[entry["past"]] for entry in self.contract["state"]}
        return Bound(graph, {"input": self.tokens[name], **self.cache, **self.lengths, **past, **written})

    def run(self, graph: str, tokens: list[int]) -> np.ndarray:
        """The logits of the tokens, which are within one segment."""
        self.tokens[graph][:] = tokens
        run = self.runs[graph][0]
        run.run()
        self.states.reverse()
        for runs in self.runs.values():
            runs.reverse()
        self.lengths["segment.length"] += len(tokens)
        if self.lengths["segment.length"] == self.contract["segmentation"]["size"]:
            self.end_segment(run)
        return run.output("output")

    def end_segment(self, run: Bound) -> None:
        slot = self.pushed % self.contract["capacity"]
        for entry in self.contract["cache"]:
            scale = self.lengths["segment.length"] if entry["scale"] == "mean" else 1
            np.moveaxis(self.cache[entry["name"]], entry["slot_axis"], 0)[slot] = run.output(entry["from"]) / scale
        for entry in self.contract["state"]:
            if entry["reset"] != "never":
                self.states[0][entry["past"]][:] = self.initial[entry["past"]]
        self.pushed += 1
        self.lengths["cache.length"][:] = min(self.pushed, self.contract["capacity"])
        self.lengths["segment.length"][:] = 0


def main() -> None:
    client, fill = Client(pathlib.Path(sys.argv[1])), int(sys.argv[2])
    for segment in range(fill):
        client.run("chunk", [token(segment * SEGMENT + t) for t in range(SEGMENT)])
    Clock.tokens = fill * SEGMENT
    kept = sum(x.nbytes for arrays in (client.cache, client.states[0]) for x in arrays.values())
    checkpoints = int(client.lengths["cache.length"][0])
    serve(lambda token: client.run("step", [token]), checkpoints=checkpoints, state_bytes=kept)


if __name__ == "__main__":
    main()
