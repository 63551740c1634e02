"""Trains and measures `pump-titans-grm`: a water pump's eight sensors, one sample ahead. Run: python pump.py

Data: SKAB (github.com/waico/SKAB). Training sees the first 80 % of `anomaly-free/anomaly-free.csv`; forecasts are
measured on the rest of it; detection on `valve1/`, with a threshold from that rest alone.
"""
import argparse
import csv
import functools
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch

import forecast
import mc
import score

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
UNITS = ["g", "g", "A", "bar", "°C", "°C", "V", "l/min"]
CAPACITY = 64
TRAINED_CAPACITY = 16
SMOOTHED_OVER = 60


def read(path):
    """Column names, samples [T, 8] and anomaly labels [T] (zeros where the file has none)."""
    with open(path, newline="") as file:
        names, *rows = csv.reader(file, delimiter=";")
    samples = torch.tensor([[float(v) for v in row[1:9]] for row in rows])
    labels = [float(row[names.index("anomaly")]) if "anomaly" in names else 0.0 for row in rows]
    return names[1:9], samples, np.array(labels) > 0.5


def config_of(names, series):
    mean, std = forecast.describe(series)
    return {
        "format": "mcedge/1",
        "name": "pump-titans-grm",
        "input": {"kind": "features", "size": 8, "mean": mean, "std": std, "names": names, "units": UNITS,
                  "rate_hz": 1.0},
        "d_model": 32,
        "blocks": [{
            "norm": "layer_norm",
            "residual": True,
            "num_heads": 4,
            "normalize_qk": True,
            "memory": {"kind": "titans", "depth": 2, "width": 16, "bias": False, "skip": False, "objective": "l2",
                       "step_size": 0.1, "momentum": 0.3, "retention": 0.95, "sign": "descent"},
            "caching": {"aggregation": "grm", "query": "u", "context": "mean", "temperature": 0.25,
                        "segmentation": {"kind": "constant", "size": 32}, "init": "continue"},
            "mlp": {"width": 64},
        }],
        "final_norm": False,
        "head": {"kind": "regression", "size": 8, "mean": mean, "std": std},
    }


class LastValue:
    """The baseline that forecasts no change."""

    def __init__(self, std):
        self.std = std

    def __call__(self, x, state, capacity):
        return x, None


def scored(model, samples):
    return score.scores(samples.numpy(), mc.stream(model, samples, CAPACITY).numpy(), model.std.numpy())


def scored_by_program(program, directory, names, samples):
    """The column `score` of the program's own run over the samples, as [T, 1]; the first, which has none, is 0."""
    with tempfile.TemporaryDirectory() as scratch:
        source, result = pathlib.Path(scratch) / "samples.csv", pathlib.Path(scratch) / "result.csv"
        with open(source, "w", newline="") as file:
            csv.writer(file).writerows([names, *samples.tolist()])
        subprocess.run([program, "run", directory, "--capacity", str(CAPACITY), "--input", source,
                        "--output", result, "--quiet"], check=True)
        with open(result, newline="") as file:
            return np.array([[float(row["score"] or 0.0)] for row in csv.DictReader(file)])


ALARMS = {
    "score": lambda s: s[:, 0],
    f"score, smoothed over {SMOOTHED_OVER}": lambda s: score.smooth(s[:, 0], SMOOTHED_OVER),
    f"drift over {score.DRIFT_OVER}": lambda s: s[:, 1],
}


def detection(title, scored, quiet, files, alarms=ALARMS):
    """Rows of F1, false alarm rate and missed alarm rate, over all samples of all files.

    `scored` makes scores (and drifts) of samples. The threshold is exceeded by one sample in a hundred of `quiet`,
    which holds no anomaly.
    """
    true = np.concatenate([labels for _, _, labels in files])
    calm, streams = scored(quiet), [scored(samples) for _, samples, _ in files]
    rows = []
    for name in alarms:
        alarm = ALARMS[name]
        threshold = np.quantile(alarm(calm), 0.99)
        found = np.concatenate([alarm(s) > threshold for s in streams])
        hit, false, missed = (found & true).sum(), (found & ~true).sum(), (~found & true).sum()
        f1 = 2 * hit / (2 * hit + false + missed)
        rows.append(f"| {title}: {name} | {threshold:.4f} | {hit} | {false} | {missed} | {f1:.4f} "
                    f"| {false / (~true).sum():.4f} | {missed / true.sum():.4f} |")
    return rows


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", type=pathlib.Path, default=REPOSITORY.parent / "shared" / "data" / "skab")
    options.add_argument("--out", type=pathlib.Path, default=REPOSITORY / "models" / "pump-titans-grm")
    options.add_argument("--steps", type=int, default=700)
    options.add_argument("--more-steps", type=int, default=120, help="with the cache, after --steps without")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--twin", type=pathlib.Path, help="where to keep the model without a cache, too")
    options.add_argument("--program", type=pathlib.Path, help="`mcedge`, to measure detection by its score, too")
    options.add_argument("--measure", action="store_true", help="train nothing; measure --out (and --twin)")
    options = options.parse_args()
    if not options.data.is_dir():
        print(f"skipped: no SKAB data in {options.data}")
        return 0
    torch.set_num_threads(1)
    names, series, _ = read(options.data / "anomaly-free" / "anomaly-free.csv")
    held_out = int(len(series) * 0.8)
    if options.measure:
        models = {"titans-grm": mc.load(options.out)}
        models |= {"titans, no cache": mc.load(options.twin)} if options.twin else {}
    else:
        config = config_of(names, series[:held_out])
        known, validation_from = series[:held_out], int(held_out * 0.85)
        # The memory is learned without a cache first; then the model and its twin both go on from there.
        first = forecast.train(forecast.without_cache(config), known, validation_from, seed=options.seed,
                               steps=options.steps, rate=5e-3, capacity=TRAINED_CAPACITY, every=50)
        cached, alone = forecast.train_pair(config, known, validation_from, seed=options.seed + 1,
                                            steps=options.more_steps, rate=2e-3, capacity=TRAINED_CAPACITY,
                                            start=first.state_dict(), every=40)
        mc.save(options.out, config, cached)
        if options.twin:
            mc.save(options.twin, alone.config, alone)
        models = {"titans-grm": cached, "titans, no cache": alone}
    print(f"\n{mc.parameters(models['titans-grm'])} parameters, torch {torch.__version__}, "
          f"{len(series) - held_out} samples held out\n")
    print(forecast.report(series, held_out, models, names, CAPACITY))
    files = [read(path) for path in sorted((options.data / "valve1").glob("*.csv"))]
    print(f"\n{sum(len(labels) for *_, labels in files)} samples in {len(files)} files, "
          f"{sum(labels.sum() for *_, labels in files)} of them anomalies\n")
    print("| alarm on | threshold | hits | false alarms | missed | F1 | false alarm rate | missed rate |")
    print("|---|---|---|---|---|---|---|---|")
    for title, model in [*models.items(), ("last value", LastValue(models["titans-grm"].std))]:
        print("\n".join(detection(title, functools.partial(scored, model), series[held_out:], files)))
    if options.program:
        run = functools.partial(scored_by_program, options.program, options.out, names)
        print("\n".join(detection("mcedge run", run, series[held_out:], files, list(ALARMS)[:2])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
