"""Holds mc.py against cases computed by code that is not ours, the oracle's, and by other code of ours, that of the
reference's tests. Run: python test_mc.py
"""
import json
import pathlib
import sys
import tempfile

import torch
from safetensors.torch import load_file

import mc

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
ORACLE, OWN = REPOSITORY.parent / "shared" / "oracle" / "cases", REPOSITORY / "models" / "tests" / "cases"
KINDS = ("linear", "dla", "titans", "attention")
TOLERANCE = 1e-4


def error(y, expected):
    return ((y - expected).abs() / expected.abs().clamp_min(1.0)).max().item()


def check(case, stretch):
    """Largest error of one case, fed `stretch` tokens at a time."""
    golden = load_file(case / "golden.safetensors")
    y = mc.stream(mc.load(case), golden["input"], capacity=None, stretch=stretch)
    return error(y, golden["output"])


def check_saved(case, scratch):
    """A saved model is the model that was loaded: same names, same bytes of every tensor."""
    model = mc.load(case)
    mc.save(scratch, model.config, model)
    before, after = load_file(case / "model.safetensors"), load_file(scratch / "model.safetensors")
    return set(before) <= set(after) and all(torch.equal(before[n], after[n]) for n in before)


def covered(case):
    """Whether mc.py computes the model of this folder."""
    if not (case / "config.json").is_file():
        return False
    blocks = json.loads((case / "config.json").read_text())["blocks"]
    return all(block["memory"]["kind"] in KINDS and block["caching"]["segmentation"]["kind"] == "constant"
               for block in blocks)


def main():
    torch.set_num_threads(1)
    if not ORACLE.is_dir():
        print("skipped: the oracle's cases (../shared/oracle/cases)")
    failed = seen = 0
    cases = [case for folder in (ORACLE, OWN) if folder.is_dir() for case in sorted(folder.iterdir())]
    for case in filter(covered, cases):
        seen += 1
        worst = max(check(case, stretch) for stretch in (1, 3, 1000))
        with tempfile.TemporaryDirectory() as scratch:
            same = check_saved(case, pathlib.Path(scratch))
        failed += not (worst <= TOLERANCE and same)
        print(f"{case.name:24s} error {worst:.2e} {'saved alike' if same else 'SAVED DIFFERENTLY'}")
    print(f"{seen} cases, {failed} failed")
    return 1 if failed or not seen else 0


if __name__ == "__main__":
    sys.exit(main())
