"""Runs our backends and their peers side by side and writes what a token costs on each: see `run`, which calls this.

Every peer is a process that has filled its memory and waits. They share one CPU and run in turn, a round each, so that
what slows the machine slows all of them; a ratio is the median of the rounds' ratios.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
CONTEXT = 16_384
"""Tokens that 64 checkpoints of 256 stand for: what a Transformer has to keep of them."""
TOLERANCE = 1e-3
"""The largest error, relative to the largest output expected, between peers that compute one function."""
PACKAGES = ("torch", "onnxruntime", "memory-caching", "onnx", "numpy", "safetensors")
BIG = str(1 << 30)
MALLOC = {"MALLOC_MMAP_THRESHOLD_": BIG, "MALLOC_TRIM_THRESHOLD_": BIG}
"""What peers allocate at every step stays theirs: else glibc gives it back, and the kernel clears it anew."""
FORMS = {
    "plain bodies in tract, an Einsum over the cache": ("einsum", "tract-plain"),
    "plain bodies in tract, memories summed first": ("sum-first", "tract-plain"),
    "plain bodies in ort, memories summed first": ("sum-first", "ort-plain"),
}
"""Other forms of the linear memory's plain body: see forms.py."""
OURS = {
    "ours on tract": "tract",
    "ours on ort": "ort",
    "plain bodies in tract": "tract-plain",
    "plain bodies in ort": "ort-plain",
}


@dataclass
class Peer:
    name: str
    command: list[str]
    same: bool
    """Whether it computes what ours does."""
    rounds_us: list[float] = field(default_factory=list)
    told: dict = field(default_factory=dict)
    process: subprocess.Popen | None = None

    def start(self, log: pathlib.Path) -> None:
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        self.told = self.answer(log)

    def ask(self, question: str, expected: str, log: pathlib.Path) -> Any:
        """What it answers under the name that is expected."""
        assert self.process and self.process.stdin
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        return self.answer(log, expected)[expected]

    def answer(self, log: pathlib.Path, *expected: str) -> dict:
        assert self.process and self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"it ended and said: {last_line(log.read_text())}")
        try:
            said = json.loads(line)
        except json.JSONDecodeError:
            said = None
        if not isinstance(said, dict) or not said.keys() >= set(expected):
            raise RuntimeError(f"it said `{line.strip()}`, where {' and '.join(expected) or 'an object'} is expected")
        return said

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()


@dataclass
class Group:
    """Peers that are compared with each other; the first is ours."""

    name: str
    peers: list[Peer]


class Bench:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.out = args, args.out
        (self.out / "bundles").mkdir(parents=True, exist_ok=True)
        self.log = self.out / "peer.log"
        self.skipped: dict[str, str] = {}

    def python(self, script: str, *words: str) -> list[str]:
        return [sys.executable, str(HERE / script), *words]

    def bundle(self, source: str, fill: int) -> str:
        path = self.out / "bundles" / f"{pathlib.Path(source).stem}-{fill}"
        subprocess.run([self.args.ours, "export", source, str(path), str(fill)], check=True)
        return str(path)

    def ours(self, bundle: str, fill: int, names: tuple[str, ...]) -> list[Peer]:
        return [Peer(name, [self.args.ours, "serve", OURS[name], bundle, str(fill)], True) for name in names]

    def groups(self) -> Iterator[Group]:
        for shape in self.args.shapes:
            for fill in self.args.fill:
                bundle = self.bundle(shape, fill)
                peers = self.ours(bundle, fill, tuple(OURS))
                command = self.python("bundle.py", bundle, str(fill))
                peers.append(Peer("the bundle in Python's onnxruntime", command, True))
                if shape == "linear":
                    peers.extend(self.forms(bundle, fill))
                if (shape, fill) == ("linear", 64):
                    peers.extend(self.usual())
                yield Group(f"{shape}, {fill} checkpoints", peers)
        package = self.package(64)
        if package:
            yield package

    def forms(self, bundle: str, fill: int) -> list[Peer]:
        peers = []
        for name, (form, runner) in FORMS.items():
            path = f"{bundle}-{form}"
            made = subprocess.run(self.python("forms.py", form, bundle, path), capture_output=True, text=True)
            if made.returncode == 0:
                peers.append(Peer(name, [self.args.ours, "serve", runner, path, str(fill)], True))
            else:
                self.skip(name, last_line(made.stderr))
        return peers

    def usual(self) -> list[Peer]:
        names = {
            f"Transformer, KV cache of {CONTEXT:,} tokens in place": "in-place",
            f"Transformer, KV cache of {CONTEXT:,} tokens concatenated": "concat",
            "torch.nn.GRU": "gru",
        }
        made = str(self.out / "bundles")
        return [
            Peer(f"{name}, in onnxruntime", self.python("usual.py", kind, made, str(CONTEXT)), False)
            for name, kind in names.items()
        ]

    def package(self, fill: int) -> Group | None:
        checkpoint = str(self.out / "bundles" / "package.pt")
        made = subprocess.run(self.python("package.py", "make", checkpoint), capture_output=True, text=True)
        name = "PyPI memory-caching in PyTorch"
        if made.returncode != 0:
            return self.skip(name, last_line(made.stderr))
        try:
            bundle = self.bundle(checkpoint, fill)
        except subprocess.CalledProcessError as error:
            return self.skip(name, f"its checkpoint could not be exported: {error}")
        peers = self.ours(bundle, fill, ("ours on tract", "ours on ort"))
        peers.append(Peer(name, self.python("package.py", "serve", checkpoint, str(fill)), True))
        return Group(f"a checkpoint of memory-caching (linear, one layer), {fill} checkpoints", peers)

    def skip(self, name: str, reason: str) -> None:
        self.skipped[name] = reason
        print(f"left out {name}: {reason}", file=sys.stderr)

    def run(self, group: Group) -> list[dict]:
        """The rows of the group's peers; one that ends or says something else is left out, from whatever round on."""
        running: list[Peer] = []
        expected: list[float] = []
        try:
            for peer in group.peers:
                outputs = self.attempt(group, peer, self.ready)
                if outputs is None:
                    continue
                expected = expected or outputs
                if peer.same:
                    check(peer, outputs, expected)
                running.append(peer)
            for _ in range(self.args.rounds):
                running = [peer for peer in running if self.attempt(group, peer, self.round)]
        finally:
            for peer in group.peers:
                peer.stop()
        return [row(group, peer, running) for peer in running]

    def attempt(self, group: Group, peer: Peer, action: Callable[[Peer], list[float]]) -> list[float] | None:
        """What the action gives, or none of a peer that failed; the group's first has to succeed: it is the reference."""
        try:
            return action(peer)
        except (RuntimeError, OSError) as error:
            peer.stop()
            if peer is group.peers[0]:
                sys.exit(f"{peer.name} ({group.name}), to which others are compared: {error}")
            self.skip(f"{peer.name} ({group.name})", str(error))
            return None

    def ready(self, peer: Peer) -> list[float]:
        """The outputs of a peer that has started and run a round."""
        peer.start(self.log)
        outputs = peer.ask("check", "outputs", self.log)
        peer.ask("round", "median_us", self.log)
        return outputs

    def round(self, peer: Peer) -> list[float]:
        peer.rounds_us.append(peer.ask("round", "median_us", self.log))
        return peer.rounds_us


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["nothing"])[-1]


def check(peer: Peer, found: list[float], expected: list[float]) -> None:
    largest = max(abs(e) for e in expected)
    error = max(abs(f - e) for f, e in zip(found, expected, strict=True)) / largest
    if not error <= TOLERANCE:
        sys.exit(f"{peer.name} computes something else: its error is {error:.1e}, at most {TOLERANCE:.0e} is expected")
    peer.told["error"] = error


def row(group: Group, peer: Peer, running: list[Peer]) -> dict:
    """Ratios are to ours: above 1 ours is faster."""

    def ratio(name: str) -> float | None:
        ours = [other.rounds_us for other in running if other.name == name]
        return statistics.median(own / our for own, our in zip(peer.rounds_us, ours[0], strict=True)) if ours else None

    return {
        "group": group.name,
        "peer": peer.name,
        "median_us": statistics.median(peer.rounds_us),
        "rounds_us": peer.rounds_us,
        "ratio_to_tract": ratio("ours on tract"),
        "ratio_to_ort": ratio("ours on ort"),
        "same_function": peer.same,
        **peer.told,
    }


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def said_by(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=HERE, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def conditions(cpu: int) -> dict:
    """The machine, what runs on it, and when."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "Model"))]
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "processor": models[0] if models else platform.processor(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "cpu": cpu,
        "kernel": platform.release(),
        "load": os.getloadavg(),
        "environment": MALLOC,
        "commit": said_by("git", "describe", "--always", "--dirty"),
        "rustc": said_by("rustc", "--version"),
        "python": platform.python_version(),
        "packages": {package: version(package) for package in PACKAGES},
    }


def pin(cpu: int | None) -> int:
    """This process and all that it starts on one CPU: the last that it may use, unless told."""
    cpu = max(os.sched_getaffinity(0)) if cpu is None else cpu
    os.sched_setaffinity(0, {cpu})
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ.update(MALLOC)
    return cpu


def size(count: int | None) -> str:
    if count is None:
        return ""
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def table(rows: list[dict]) -> str:
    lines = ["| | a token, µs | to ours on tract | to ours on ort | kept |", "|---|---|---|---|---|"]
    group = None
    for row in rows:
        if row["group"] != group:
            group = row["group"]
            lines.append(f"| **{group}** | | | | |")
        ratios = [f"{row[key]:.2f}×" if row[key] else "" for key in ("ratio_to_tract", "ratio_to_ort")]
        lines.append(
            f"| {row['peer']} | {row['median_us']:.1f} | {' | '.join(ratios)} | {size(row.get('state_bytes'))} |"
        )
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    numbers = lambda text: [int(word) for word in text.split(",")]  # noqa: E731
    parser = argparse.ArgumentParser(prog="benches/peers/run", description=__doc__)
    parser.add_argument("out", type=pathlib.Path, metavar="OUT_DIR", help="for peers.json, peers.md and the bundles")
    parser.add_argument("--rounds", type=int, default=5, help="of every peer, in turn")
    parser.add_argument("--fill", type=numbers, default=[0, 64, 256], metavar="N,…", help="live checkpoints")
    parser.add_argument("--shapes", type=lambda text: text.split(","), default=["linear", "titans"], metavar="SHAPE,…")
    parser.add_argument(
        "--quick", action="store_true", help="linear memory at 64 checkpoints alone, and what is compared with it"
    )
    parser.add_argument("--cpu", type=int, help="the one to run on")
    parser.add_argument("--ours", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--caller", type=pathlib.Path, default=pathlib.Path(), help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out = args.caller / args.out
    if args.quick:
        args.shapes, args.fill = ["linear"], [64]
    return args


def main() -> None:
    args = arguments()
    machine = conditions(pin(args.cpu))
    bench = Bench(args)
    rows = [row for group in bench.groups() for row in bench.run(group)]
    record = {"conditions": machine, "rounds": args.rounds, "skipped": bench.skipped, "rows": rows}
    (args.out / "peers.json").write_text(json.dumps(record, indent=1) + "\n")
    where = f"One thread, pinned, of {machine['processor']}"
    heading = f"{where}; medians of {args.rounds} rounds in turn, {machine['date']}.\n\n"
    text = heading + table(rows) + "".join(f"\n\nLeft out: {name}: {why}" for name, why in bench.skipped.items())
    (args.out / "peers.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
