"""Other plain forms of a linear memory's read under `grm`: forms.py sum-first|einsum BUNDLE OUT.

What the exporter writes asks every memory, drops the answers of slots that are not live, and then weighs the rest.
`einsum` does the same without a reshape of the cache, which is a copy in tract. `sum-first` weighs the memories
themselves, in one product with the cache, and asks their sum; it is not the exporter's form because a slot that is not
live would have to hold numbers, and no NaN.
"""

import json
import pathlib
import shutil
import sys

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper


class Tail:
    """The nodes that take the place of what makes y."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []

    def op(self, op: str, *inputs: str, count: int = 1, **attributes: int | str) -> list[str]:
        outputs = [f"form.{len(self.nodes)}.{i}" for i in range(count)]
        self.nodes.append(helper.make_node(op, inputs, outputs, name=outputs[0], **attributes))
        return outputs

    def ints(self, *xs: int) -> str:
        name = f"form.{len(self.nodes)}"
        value = numpy_helper.from_array(np.array(xs, np.int64))
        self.nodes.append(helper.make_node("Constant", [], [name], name=name, value=value))
        return name

    def reshape(self, x: str, *shape: int) -> str:
        return self.op("Reshape", x, self.ints(*shape))[0]


def sum_first(tail: Tail, heads: int, slots: int, width: int) -> str:
    cached, own = tail.op("Split", "weights", tail.ints(slots, 1), count=2, axis=-1)
    rows = tail.reshape("cache.m", 1, heads, slots, width * width)
    (total,) = tail.op("MatMul", cached, rows)
    (online,) = tail.op("Mul", "present.m", own)
    (total,) = tail.op("Add", tail.reshape(total, 1, heads, width, width), online)
    return tail.op("MatMul", total, "q.column")[0]


def einsum(tail: Tail, heads: int, slots: int, width: int) -> str:
    query = tail.reshape("q.column", 1, heads, width)
    (answers,) = tail.op("Einsum", "cache.m", query, equation="bhnij,bhj->bhni")
    zero = numpy_helper.from_array(np.zeros((), np.float32))
    tail.nodes.append(helper.make_node("Constant", [], ["form.zero"], name="form.zero", value=zero))
    (answers,) = tail.op("Where", "live", answers, "form.zero")
    online = tail.reshape(tail.op("MatMul", "present.m", "q.column")[0], 1, heads, 1, width)
    (answers,) = tail.op("Concat", answers, online, axis=2)
    return tail.op("MatMul", "weights", answers)[0]


def needed(nodes: list[NodeProto], wanted: set[str]) -> list[NodeProto]:
    """The nodes that `wanted` needs: ONNX Runtime would run what only the old y needed."""
    kept = []
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    return kept[::-1]


def main() -> None:
    form = {"sum-first": sum_first, "einsum": einsum}[sys.argv[1]]
    source, target = pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
    model = onnx.load(str(source / "step.onnx"))
    contract = json.loads(next(x.value for x in model.metadata_props if x.key == "mcedge.contract"))
    _, heads, slots, _, width = next(x["shape"] for x in contract["cache"] if x["name"] == "cache.0.m")
    for function in model.functions:
        made = {name for node in function.node for name in node.output}
        missing = {"weights", "present.m", "q.column", "live", "y"} - made
        if missing:
            sys.exit(f"{function.name} has no {sorted(missing)}: it is of another form than is rewritten here")
        tail = Tail()
        answer = form(tail, heads, slots, width)
        shape = tail.ints(1, 1, heads * width)
        tail.nodes.append(helper.make_node("Reshape", [answer, shape], ["y"], name="y"))
        place = next(i for i, node in enumerate(function.node) if "y" in node.output)
        nodes = [*function.node[:place], *tail.nodes, *function.node[place + 1 :]]
        nodes = needed(nodes, set(function.output))
        del function.node[:]
        function.node.extend(nodes)
    shutil.copytree(source, target, dirs_exist_ok=True)
    onnx.save(model, str(target / "step.onnx"))


if __name__ == "__main__":
    main()
