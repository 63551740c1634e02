"""A bundle in Python's onnxruntime, by its contract alone: bundle.py DIR FILL."""

import json
import pathlib
import sys

import numpy as np
import onnxruntime as ort
from safetensors.numpy import load_file

from serve import SEGMENT, Clock, serve, session, token


class Client:
    """One stream. Graphs read the caches where they lie, and what one step gives is what the next takes."""

    def __init__(self, bundle: pathlib.Path) -> None:
        self.graphs = {name: session(str(bundle / f"{name}.onnx")) for name in ("step", "chunk")}
        metadata = self.graphs["step"].get_modelmeta().custom_metadata_map
        self.contract = json.loads(metadata["mcedge.contract"])
        self.initial = load_file(str(bundle / "initial_state.safetensors"))
        self.state = {entry["past"]: self.start(entry) for entry in self.contract["state"]}
        self.cache = {entry["name"]: np.zeros(entry["shape"], np.float32) for entry in self.contract["cache"]}
        self.cached = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in self.cache.items()}
        self.names = {name: {x.name for x in graph.get_inputs()} for name, graph in self.graphs.items()}
        self.outputs = [x.name for x in self.graphs["step"].get_outputs()]
        self.inside = self.pushed = 0

    def start(self, entry: dict) -> ort.OrtValue:
        return ort.OrtValue.ortvalue_from_numpy(self.initial[entry["past"]].copy())

    def run(self, graph: str, tokens: list[int]) -> np.ndarray:
        """The logits of the last token; the tokens are within one segment."""
        given = {
            "input": [tokens],
            "segment.length": [self.inside],
            "cache.length": [min(self.pushed, self.contract["capacity"])],
        }
        given = {name: ort.OrtValue.ortvalue_from_numpy(np.array(value, np.int64)) for name, value in given.items()}
        feeds = {name: x for name, x in (given | self.state | self.cached).items() if name in self.names[graph]}
        made = dict(zip(self.outputs, self.graphs[graph].run_with_ort_values(self.outputs, feeds), strict=True))
        for entry in self.contract["state"]:
            self.state[entry["past"]] = made[entry["present"]]
        self.inside += len(tokens)
        if self.inside == self.contract["segmentation"]["size"]:
            self.end_segment(made)
        return made["output"].numpy()[0, -1]

    def end_segment(self, made: dict[str, ort.OrtValue]) -> None:
        slot = self.pushed % self.contract["capacity"]
        for entry in self.contract["cache"]:
            scale = self.inside if entry["scale"] == "mean" else 1
            slots = np.moveaxis(self.cache[entry["name"]], entry["slot_axis"], 0)
            slots[slot] = made[entry["from"]].numpy() / scale
        for entry in self.contract["state"]:
            if entry["reset"] != "never":
                self.state[entry["past"]] = self.start(entry)
        self.pushed, self.inside = self.pushed + 1, 0


def main() -> None:
    client, fill = Client(pathlib.Path(sys.argv[1])), int(sys.argv[2])
    for segment in range(fill):
        client.run("chunk", [token(segment * SEGMENT + t) for t in range(SEGMENT)])
    Clock.tokens = fill * SEGMENT
    serve(lambda token: client.run("step", [token]), checkpoints=min(client.pushed, client.contract["capacity"]))


if __name__ == "__main__":
    main()
