"""The anomaly score of a stream with a forecast, the same as the runtime's. All in f64.

Per channel a centre m and a scale s follow the residual (sample less the forecast made for it one sample before),
as running means over at most 600 samples; outliers are clipped at three scales before they are learned. The score
is the root mean square over channels of the residual's distance from its centre, in scales. A scale counts as no
less than a thousandth of the channel's standard deviation. A residual that is not finite scores infinity and
teaches nothing.

A forecast one sample ahead follows a slow fault, and no single residual is large. The drift is made for those: a
running mean of each channel's distance, clipped at three scales, whose root mean square is about 1 by chance alone
and grows when residuals lean one way.
"""
import numpy as np

WARM_UP = 30  # samples scored as 0 and learned unclipped
MEMORY = 600  # samples the centre and the scale average over
CLIP = 3.0  # scales
FLOOR = 1e-3  # the least scale, in standard deviations of the channel
DRIFT_OVER = 60  # samples the drift averages over
ABSOLUTE_TO_STD = 1.2533  # √(π/2): a Gaussian's standard deviation over its mean absolute value


class Score:
    def __init__(self, std=None, channels=None):
        """`std` is the head's, [C]; without one, give the number of channels."""
        std = np.ones(channels) if std is None else np.asarray(std, np.float64)
        self.floor = FLOOR * np.where((std > 0) & np.isfinite(std), std, 1.0)
        self.centre, self.scale = np.zeros_like(self.floor), np.zeros_like(self.floor)
        self.lean = np.zeros_like(self.floor)
        self.samples = 0

    def push(self, sample, forecast):
        """The score of one sample, whose forecast was made one sample before."""
        # In f32, as the runtime has it: the residual is rounded before it is scored.
        residual = np.asarray(sample, np.float32) - np.asarray(forecast, np.float32)
        if not np.isfinite(residual).all():
            return float("inf")
        self.samples += 1
        warm = self.samples > WARM_UP
        rate = max(1.0 / self.samples, 1.0 / MEMORY)
        scale = np.maximum(self.scale, self.floor)
        e = residual.astype(np.float64) - self.centre
        z = e / scale
        if warm:
            e = np.clip(e, -CLIP * scale, CLIP * scale)
            self.lean += (np.clip(z, -CLIP, CLIP) - self.lean) / DRIFT_OVER
        self.centre += rate * e
        self.scale += rate * (ABSOLUTE_TO_STD * np.abs(e) - self.scale)
        return float(np.sqrt(np.mean(z * z))) if warm else 0.0

    def drift(self):
        """How far the last residuals lean one way, 0 at first."""
        return float(np.sqrt(np.mean(self.lean**2) * (2 * DRIFT_OVER - 1)))


def scores(samples, outputs, std):
    """Scores and drifts [T, 2] of a stream [T, C] with its outputs [T, C]; output t forecasts sample t + 1."""
    score = Score(std, samples.shape[1])
    pairs = [(score.push(x, y), score.drift()) for x, y in zip(samples[1:], outputs[:-1])]
    return np.array([(0.0, 0.0), *pairs])


def smooth(values, over):
    """Exponential mean with weight 1/over, started at 0."""
    out, mean = np.empty(len(values)), 0.0
    for i, value in enumerate(values):
        mean += (value - mean) / over
        out[i] = mean
    return out
