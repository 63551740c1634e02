"""Trains and measures `host-telemetry-MEMORY-AGGREGATION`: a machine's own load, one sample ahead.

Data: `recording.csv` beside the model, which this project recorded. Training sees the rounds before `--held-out`.
Run: python telemetry.py
"""
import argparse
import csv
import pathlib
import sys

import torch

import forecast
import mc

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
UNITS = {
    "cpu_user": "share of CPU time", "cpu_system": "share of CPU time", "cpu_iowait": "share of CPU time",
    "load1": "tasks", "memory_used": "share of memory", "disk_read": "log10(1 + KiB/s)",
    "disk_write": "log10(1 + KiB/s)", "net_received": "log10(1 + KiB/s)", "net_sent": "log10(1 + KiB/s)",
    "context_switches": "log10(1 + 1/s)",
}
HELD_OUT_FROM_S = 690.0
CAPACITY = 64


def read(path):
    """Channel names, times in seconds [T] and samples [T, C]."""
    with open(path, newline="") as file:
        names, *rows = csv.reader(file)
    table = torch.tensor([[float(v) for v in row] for row in rows], dtype=torch.float64)
    return names[1:], table[:, 0], table[:, 1:].float()


def config_of(names, series, memory, aggregation):
    mean, std = forecast.describe(series)
    deep = {"depth": 2, "width": 16, "bias": False, "skip": False, "objective": "l2", "step_size": 0.02}
    memories = {
        "titans": {"kind": "titans", **deep, "momentum": 0.8, "retention": 0.98, "sign": "descent"},
        "dla": {"kind": "dla", **deep, "momentum": 0.8, "retention": 0.98},
        "linear": {"kind": "linear"},
    }
    caching = {"aggregation": aggregation, "query": "u", "context": "mean", "temperature": 0.25,
               "segmentation": {"kind": "constant", "size": 8},
               "init": "restart" if memory == "linear" else "continue"}
    if aggregation == "ssc":
        caching["top_k"] = 4
    return {
        "format": "mcedge/1",
        "name": f"host-telemetry-{memory}-{aggregation}",
        "input": {"kind": "features", "size": len(names), "mean": mean, "std": std, "names": names,
                  "units": [UNITS[name] for name in names], "rate_hz": 10.0},
        "d_model": 32,
        "blocks": [{"norm": "layer_norm", "residual": True, "num_heads": 4, "normalize_qk": True,
                    "memory": memories[memory], "caching": caching, "mlp": {"width": 64}}],
        "final_norm": False,
        "head": {"kind": "regression", "size": len(names), "mean": mean, "std": std},
    }


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--memory", choices=["titans", "dla", "linear"], default="linear")
    options.add_argument("--aggregation", choices=["grm", "ssc", "residual", "soup", "mean"], default="ssc")
    options.add_argument("--recording", type=pathlib.Path, help="default: recording.csv in --out")
    options.add_argument("--out", type=pathlib.Path)
    options.add_argument("--steps", type=int, default=500)
    options.add_argument("--more-steps", type=int, default=200, help="with the cache, after --steps without")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--twin", type=pathlib.Path, help="where to keep the model without a cache, too")
    options.add_argument("--measure", action="store_true", help="train nothing; measure --out (and --twin)")
    options = options.parse_args()
    torch.set_num_threads(1)
    name = f"host-telemetry-{options.memory}-{options.aggregation}"
    out = options.out or REPOSITORY / "models" / name
    names, times_s, series = read(options.recording or out / "recording.csv")
    held_out = int((times_s < HELD_OUT_FROM_S).sum())
    if options.measure:
        models = {name: mc.load(out)}
        models |= {"no cache": mc.load(options.twin)} if options.twin else {}
    else:
        config = config_of(names, series[:held_out], options.memory, options.aggregation)
        known, validation_from = series[:held_out], int(held_out * 0.8)
        # As in pump.py: the memory is learned without a cache first; then the model and its twin go on from there.
        first = forecast.train(forecast.without_cache(config), known, validation_from, seed=options.seed,
                               steps=options.steps, rate=6e-3, wander=1.0, every=50)
        cached, alone = forecast.train_pair(config, known, validation_from, seed=options.seed + 1,
                                            steps=options.more_steps, rate=2e-3, wander=1.0, every=50,
                                            start=first.state_dict())
        mc.save(out, config, cached)
        if options.twin:
            mc.save(options.twin, alone.config, alone)
        models = {name: cached, "no cache": alone}
    print(f"\n{mc.parameters(models[name])} parameters, torch {torch.__version__}, "
          f"{len(series) - held_out} samples held out\n")
    print(forecast.report(series, held_out, models, names, CAPACITY))
    return 0


if __name__ == "__main__":
    sys.exit(main())
