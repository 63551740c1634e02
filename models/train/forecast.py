"""Training and measuring models that forecast the next sample of a stream.

Training runs many streams side by side through the recording, a window at a time, and carries state and cache
from window to window as the deployed model does (without gradient across windows): the model is trained with
caches as full as those it will meet. All streams start anew together after an episode of random length.
"""
import copy
import time

import numpy as np
import torch

import mc


def loss_of(y, target):
    """Mean over channels of the log mean square error: every channel counts by its relative error."""
    return (y - target).square().mean((0, 1)).add(1e-9).log().mean()


def lag1_of(series):
    """Autocorrelation of every channel at one sample, [C]: near 1 where levels wander, near 0 for noise."""
    z = series - series.mean(0)
    return ((z[1:] * z[:-1]).mean(0) / z.square().mean(0).clamp_min(1e-12)).clamp(0, 1)


def linear_path(model, lag1):
    """Starts input and head so that the residual path alone forecasts each channel's x · lag1."""
    with torch.no_grad():
        basis = torch.linalg.qr(torch.randn(model.input.weight.shape)).Q  # [D, F], orthonormal columns
        model.input.weight.copy_(basis)
        model.head.weight.copy_(basis.T * lag1.unsqueeze(1))
        model.input.bias.zero_()
        model.head.bias.zero_()
        for block in model.blocks:
            block.mix.o.weight.mul_(0.1)
            if hasattr(block, "mlp"):
                block.mlp.down.weight.mul_(0.1)


def errors(model, series, start, capacity=64):
    """Standardised errors [T - start, C] of the forecasts for samples `start`.., the whole series streamed."""
    y = mc.stream(model, series, capacity)
    return ((y[:-1] - series[1:]) / model.std)[start - 1:].numpy().astype(np.float64)


def log_error(e):
    """What training minimises, of standardised errors [T, C]."""
    return float(np.log(np.square(e).mean(0) + 1e-9).mean())


def train(config, series, validation_from, *, seed, steps, window=64, streams=32, rate=4e-3, decay=0.02,
          capacity=64, episodes=(1, 2, 4, 8, 16), wander=1.5, start=None, every=100,
          log=print):
    """Returns the model with the lowest validation loss, which is over `series[validation_from:]`, streamed.

    `start` holds weights to go on from; what it lacks starts afresh.
    """
    torch.manual_seed(seed)
    pick = np.random.default_rng(seed)
    model = mc.Model(config)
    known = series[:validation_from]
    lag1 = lag1_of(known)
    linear_path(model, lag1)
    model.load_state_dict(start or {}, strict=False)
    heavy = [p for n, p in model.named_parameters() if p.dim() > 1 and ".memory." not in n]
    light = [p for n, p in model.named_parameters() if p.dim() <= 1 or ".memory." in n]
    optimiser = torch.optim.AdamW([{"params": heavy, "weight_decay": decay}, {"params": light, "weight_decay": 0.0}],
                                  lr=rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.1)
    best, chosen, left, began = float("inf"), None, 0, time.time()
    for step in range(1, steps + 1):
        if left == 0:
            left, state = int(pick.choice(episodes)), None
            offset = torch.randn(streams, 1, known.shape[1]) * wander * lag1 * model.std
            at = torch.from_numpy(pick.integers(0, len(known) - left * window, streams))
        x = known[at[:, None] + torch.arange(window + 1)] + offset
        y, state = model(x[:, :-1], state, capacity, standard=True)
        loss = loss_of(y, ((x[:, 1:] - model.mean) / model.std))
        optimiser.zero_grad()
        loss.backward()
        # A deep memory pushed past its stable rate overflows; such a step teaches nothing, and the streams restart.
        sane = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).isfinite()
        left = left if sane else 1
        if sane:
            optimiser.step()
        schedule.step()
        state, at, left = mc.detached(state), at + window, left - 1
        if step % every == 0 or step == steps:
            e = errors(model, series, validation_from, capacity)
            held = log_error(e)
            log(f"step {step:5d}  train {loss.item():.4f}  validation {held:.4f}  "
                f"rmse {np.sqrt(np.square(e).mean()):.4f}  {time.time() - began:.0f} s")
            if held < best:
                best, chosen = held, copy.deepcopy(model.state_dict())
    model.load_state_dict(chosen)
    return model.eval()


def without_cache(config):
    """The same model that reads its online memory alone."""
    config = copy.deepcopy(config)
    for block in config["blocks"]:
        block["caching"]["aggregation"] = "none"
    return config


def train_pair(config, series, validation_from, **options):
    """The model and its twin without a cache, trained by the same recipe, one after the other."""
    pair = {"cached": config, "none": without_cache(config)}
    return [train(c, series, validation_from, log=lambda line: print(f"{name:8s} {line}", flush=True), **options)
            for name, c in pair.items()]


def describe(series):
    """Mean and standard deviation of every channel, with as many digits as a reader can use."""
    rounded = lambda values: [float(f"{value:.6g}") for value in values.tolist()]
    return rounded(series.mean(0)), rounded(series.std(0))


def autoregression(series, known, order=4, ridge=100.0):
    """Held-out outputs of a ridge regression of the next step on the last samples: what a linear model gets."""
    past = np.concatenate([series[order - 1 - i:len(series) - 1 - i] for i in range(order)], 1)
    past = np.concatenate([past, np.ones((len(past), 1))], 1)
    change = series[order:] - series[order - 1:-1]
    a, b = past[:known - order], change[:known - order]
    weights = np.linalg.solve(a.T @ a + ridge * np.eye(a.shape[1]), a.T @ b)
    return (past @ weights + series[order - 1:-1])[known - order:]


def report(series, start, models, names, capacity=64):
    """A Markdown table of standardised errors over `series[start:]`. `models` maps a title to a model."""
    some = next(iter(models.values()))
    z = ((series - some.mean) / some.std).numpy().astype(np.float64)
    table = {title: errors(model, series, start, capacity) for title, model in models.items()}
    table["last value"] = z[start - 1:-1] - z[start:]
    table["linear, 4 samples"] = autoregression(z, start) - z[start:]
    rmse = lambda e, axis=None: np.sqrt(np.square(e).mean(axis))
    lines = ["| | " + " | ".join(table) + " |", "|---|" + "---|" * len(table)]
    for c, name in enumerate(names):
        lines.append(f"| {name} | " + " | ".join(f"{rmse(e[:, c]):.4f}" for e in table.values()) + " |")
    lines.append("| all, RMSE | " + " | ".join(f"{rmse(e):.4f}" for e in table.values()) + " |")
    lines.append("| all, MAE | " + " | ".join(f"{np.abs(e).mean():.4f}" for e in table.values()) + " |")
    geometric = lambda e: np.exp(np.log(rmse(e, 0)).mean())
    lines.append("| geometric mean of RMSE | " + " | ".join(f"{geometric(e):.4f}" for e in table.values()) + " |")
    return "\n".join(lines)
