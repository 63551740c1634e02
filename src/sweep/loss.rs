//! A model's own score on an input: what each token's output cost, and whether one run costs less than another.

use mcedge_models::contract::{Contract, Input, OutputKind};
use mcedge_runtime::bits;

use super::input::{Sequence, Values};

/// Stretches that an input is cut into, to see how far its parts agree.
const STRETCHES: usize = 20;
/// Standard errors that a gain must be more than, and the stretches that must tell them: of a few nobody knows the spread.
const CERTAIN: f64 = 2.0;
const CERTAIN_STRETCHES: usize = 8;

/// What an input asks of a model.
#[derive(Clone, Debug, PartialEq)]
pub enum Task {
    /// The next sample; `[O]` is what each channel's error is measured in.
    Forecast(Vec<f64>),
    /// The next token.
    NextToken,
    /// The answers that come with the input.
    Answers,
    /// Nothing that could be right or wrong.
    Nothing,
}

impl Task {
    /// What these sequences ask of a model with this contract.
    pub fn of(contract: &Contract, sequences: &[Sequence]) -> Self {
        let output = &contract.output;
        match (output.kind, &contract.input) {
            _ if sequences.iter().any(|sequence| !sequence.answers.is_empty()) => Task::Answers,
            (OutputKind::Logits, Input::Tokens { vocab_size }) if *vocab_size <= output.size => {
                Task::NextToken
            }
            (OutputKind::Regression, Input::Features { size, .. }) if *size == output.size => {
                let unit = |std: Option<&f32>| std.copied().filter(|std| *std > 0.0).map_or(1.0, f64::from);
                Task::Forecast((0..*size).map(|channel| unit(output.std.get(channel))).collect())
            }
            _ => Task::Nothing,
        }
    }

    /// What the loss is called in a table and in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Task::Forecast(_) => "mse",
            Task::NextToken => "bits",
            Task::Answers => "errors",
            Task::Nothing => "none",
        }
    }

    /// What the loss is.
    pub fn meaning(&self) -> &'static str {
        match self {
            Task::Forecast(_) => {
                "the forecast's mean squared error, each channel's in units of the model's standard deviation of it"
            }
            Task::NextToken => "bits per token",
            Task::Answers => "the part of the answers that are not the largest logit",
            Task::Nothing => "none: the input does not say what the output should be",
        }
    }

    /// Outputs of `sequences` that have a loss.
    pub fn scored(&self, contract: &Contract, sequences: &[Sequence]) -> usize {
        let scored = |sequence: &Sequence| match self {
            Task::Forecast(_) | Task::NextToken => sequence.tokens(contract) - 1,
            Task::Answers => sequence.answers.iter().flatten().count(),
            Task::Nothing => 0,
        };
        sequences.iter().map(scored).sum()
    }

    /// The loss of token `token`'s output, `[O]`, where it has one.
    pub fn loss(&self, sequence: &Sequence, token: usize, output: &[f32]) -> Option<f64> {
        match (self, &sequence.values) {
            (Task::Forecast(units), Values::Features(features)) => {
                let next = features.chunks_exact(units.len()).nth(token + 1)?;
                let errors = next.iter().zip(output).zip(units);
                let squares = errors.map(|((x, y), unit)| ((f64::from(*x) - f64::from(*y)) / unit).powi(2));
                Some(squares.sum::<f64>() / units.len() as f64)
            }
            (Task::NextToken, Values::Tokens(tokens)) => {
                let next = usize::try_from(*tokens.get(token + 1)?).ok()?;
                Some(bits(output, next))
            }
            (Task::Answers, _) => {
                let answer = (*sequence.answers.get(token)?)?;
                Some(if largest(output) == answer { 0.0 } else { 1.0 })
            }
            _ => None,
        }
    }
}

/// The index of the largest, the first of several.
fn largest(output: &[f32]) -> usize {
    let larger =
        |best: usize, (index, value): (usize, &f32)| if *value > output[best] { index } else { best };
    output.iter().enumerate().fold(0, larger)
}

/// The losses of a run, by the stretch of the input that they come from.
///
/// # Invariants
///
/// `stretches` are at most [`STRETCHES`], each of as many losses as any other, give or take one.
#[derive(Clone, Debug, PartialEq)]
pub struct Losses {
    stretches: Vec<Stretch>,
    /// Losses taken.
    taken: usize,
    /// Losses that there will be.
    all: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Stretch {
    sum: f64,
    losses: usize,
}

/// By how much one run's mean loss is below another's on the same input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gain {
    pub mean: f64,
    /// Its standard error, as far as the stretches of the input tell; infinite when there is but one.
    pub error: f64,
    /// How many those are.
    pub stretches: usize,
}

/// The part of one run's gain that another keeps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kept {
    pub part: f64,
    /// Its standard error, as [`Gain::error`].
    pub error: f64,
}

impl Losses {
    /// Of a run that will have `all` of them.
    pub fn new(all: usize) -> Self {
        Self { stretches: vec![Stretch::default(); all.min(STRETCHES)], taken: 0, all }
    }

    /// Takes the next loss.
    pub fn add(&mut self, loss: f64) {
        let stretch = &mut self.stretches[self.taken * STRETCHES.min(self.all) / self.all];
        stretch.sum += loss;
        stretch.losses += 1;
        self.taken += 1;
    }

    /// Their mean; none when there are none.
    pub fn mean(&self) -> Option<f64> {
        let sum: f64 = self.stretches.iter().map(|stretch| stretch.sum).sum();
        (self.taken > 0).then(|| sum / self.taken as f64)
    }

    /// What these losses are below those of `other`; none when there are none.
    pub fn gain_over(&self, other: &Self) -> Option<Gain> {
        let mean = other.mean()? - self.mean()?;
        let gains: Vec<f64> = self.gains_over(other).collect();
        Some(Gain { mean, error: standard_error(&gains), stretches: gains.len() })
    }

    /// The part that these losses keep of the gain of `all` over `without`; none when there is no gain.
    ///
    /// Both gains are of the same stretches, and vary together: its error is that of what the stretches' gains differ from
    /// their part of the whole gain.
    pub fn kept(&self, all: &Self, without: &Self) -> Option<Kept> {
        let whole = all.gain_over(without)?.mean;
        let part = self.gain_over(without)?.mean / whole;
        let pairs = self.gains_over(without).zip(all.gains_over(without));
        let rests: Vec<f64> = pairs.map(|(own, all)| own - part * all).collect();
        (whole != 0.0).then(|| Kept { part, error: standard_error(&rests) / whole.abs() })
    }

    /// By how much the mean of each stretch is below that of `other`.
    fn gains_over(&self, other: &Self) -> impl Iterator<Item = f64> {
        self.stretches.iter().zip(&other.stretches).map(|(own, other)| other.mean() - own.mean())
    }
}

/// Of the mean of `values`; infinite when there is but one.
fn standard_error(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let middle = values.iter().sum::<f64>() / count;
    let spread = values.iter().map(|value| (value - middle).powi(2)).sum::<f64>();
    if values.len() > 1 { (spread / (count - 1.0) / count).sqrt() } else { f64::INFINITY }
}

impl Stretch {
    fn mean(self) -> f64 {
        self.sum / self.losses as f64
    }
}

impl Gain {
    /// Whether it is more than noise.
    pub fn is_certain(self) -> bool {
        self.can_be_certain() && self.mean > CERTAIN * self.error && self.mean > 0.0
    }

    /// Whether there are enough stretches to tell.
    pub fn can_be_certain(self) -> bool {
        self.stretches >= CERTAIN_STRETCHES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn losses(values: &[f64]) -> Losses {
        let mut losses = Losses::new(values.len());
        values.iter().for_each(|&loss| losses.add(loss));
        losses
    }

    #[test]
    fn a_gain_is_certain_when_the_stretches_agree() {
        let check = |own: &[f64], other: &[f64], mean: f64, is_certain: bool| {
            let gain = losses(own).gain_over(&losses(other)).unwrap();
            assert!((gain.mean - mean).abs() < 1e-12, "{gain:?}");
            assert_eq!(gain.is_certain(), is_certain, "{gain:?}");
        };
        let rising: Vec<f64> = (0..100).map(f64::from).collect();
        let above: Vec<f64> = rising.iter().map(|loss| loss + 0.5).collect();
        check(&rising, &above, 0.5, true);
        check(&above, &rising, -0.5, false);
        check(&rising, &rising, 0.0, false);
        // One stretch alone gains, and all of it.
        let mut once = vec![0.0; 100];
        once[50..55].fill(100.0);
        check(&[0.0; 100], &once, 5.0, false);
        // A few losses that agree by chance, and one alone, of which nobody knows how it would vary.
        check(&[1.0; 8], &[2.0; 8], 1.0, true);
        check(&[1.0; 7], &[2.0; 7], 1.0, false);
        check(&[1.0], &[2.0], 1.0, false);
        assert_eq!(losses(&[]).gain_over(&losses(&[])), None);
    }

    #[test]
    fn what_is_kept_is_as_certain_as_the_stretches_agree_on_it() {
        // Each stretch gains another amount, of which a half is kept: all agree.
        let without: Vec<f64> = (0..20).map(|i| 10.0 + f64::from(i % 5)).collect();
        let half: Vec<f64> = without.iter().map(|loss| loss - (loss - 8.0) / 2.0).collect();
        let kept = |own: &[f64]| losses(own).kept(&losses(&[8.0; 20]), &losses(&without)).unwrap();
        let Kept { part, error } = kept(&half);
        assert!((part - 0.5).abs() < 1e-12 && error < 1e-12, "{part} ± {error}");
        // All of it in one half of the stretches and nothing in the others: the deviations are ±2 and more of a gain of 4.
        let turns: Vec<f64> = (0..20).map(|i| if i % 2 == 0 { 8.0 } else { 12.0 }).collect();
        let kept = losses(&turns).kept(&losses(&[8.0; 20]), &losses(&[12.0; 20])).unwrap();
        assert_eq!(kept.part, 0.5);
        assert!((kept.error - (20.0 * 4.0 / 19.0 / 20.0f64).sqrt() / 4.0).abs() < 1e-12, "{kept:?}");
        assert_eq!(losses(&[1.0]).kept(&losses(&[1.0]), &losses(&[1.0])), None);
    }

    #[test]
    fn stretches_share_the_losses() {
        for count in [1, 7, 20, 21, 399, 1000] {
            let losses = losses(&vec![2.0; count]);
            let sizes = losses.stretches.iter().map(|stretch| stretch.losses);
            let (least, most) = (sizes.clone().min().unwrap(), sizes.clone().max().unwrap());
            assert!(most - least <= 1, "{count}: {least} to {most}");
            assert_eq!(sizes.sum::<usize>(), count);
            assert_eq!(losses.mean(), Some(2.0));
        }
    }

    #[test]
    fn an_answer_is_the_largest_logit() {
        assert_eq!(largest(&[0.0, 3.0, 3.0, -1.0]), 1);
        let sequence = Sequence { values: Values::Tokens(vec![5, 5]), answers: vec![None, Some(2)] };
        let loss = |token, output: &[f32]| Task::Answers.loss(&sequence, token, output);
        assert_eq!(loss(0, &[1.0, 2.0, 3.0]), None);
        assert_eq!((loss(1, &[1.0, 2.0, 3.0]), loss(1, &[4.0, 2.0, 3.0])), (Some(0.0), Some(1.0)));
        assert_eq!(loss(2, &[1.0, 2.0, 3.0]), None);
    }

    #[test]
    fn a_forecast_is_of_the_next_sample_in_standard_deviations() {
        let sequence = Sequence { values: Values::Features(vec![0.0, 0.0, 3.0, 10.0]), answers: Vec::new() };
        let task = Task::Forecast(vec![1.0, 10.0]);
        assert_eq!(task.loss(&sequence, 0, &[1.0, 30.0]), Some((4.0 + 4.0) / 2.0));
        assert_eq!(task.loss(&sequence, 1, &[1.0, 30.0]), None);
    }
}
