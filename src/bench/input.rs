//! What streams are given: made up, the same for every backend, and plausible for the model.

use mcedge_models::Samples;
use mcedge_models::contract::Input;
use mcedge_runtime::{Backlog, Sample};

/// Endless inputs of B streams.
///
/// Features are normally distributed around the mean of the golden run's, as wide as they are; tokens are any of the
/// vocabulary. What a stream gets as its token t depends on the stream and on t alone.
#[derive(Clone, Debug)]
pub struct Inputs {
    batch: usize,
    made: Made,
}

#[derive(Clone, Debug)]
enum Made {
    /// Mean and standard deviation of each channel.
    Features(Vec<(f32, f32)>),
    /// Tokens of the vocabulary.
    Tokens(u64),
}

/// Some tokens of every stream, in a buffer that is used again.
#[derive(Clone, Debug)]
pub enum Given {
    /// `[B, T, F]`.
    Features(Vec<f32>),
    /// `[B, T]`.
    Tokens(Vec<i64>),
}

impl Inputs {
    /// Inputs like those of a recorded run.
    pub fn like(golden: &Samples, input: &Input, batch: usize) -> Self {
        let made = match (input, golden) {
            (Input::Features { .. }, Samples::Features(samples)) => {
                Made::Features(samples.columns().into_iter().map(|channel| moments(channel.iter())).collect())
            }
            (Input::Features { size, .. }, Samples::Tokens(_)) => Made::Features(vec![(0.0, 1.0); *size]),
            (Input::Tokens { vocab_size }, _) => Made::Tokens(*vocab_size as u64),
        };
        Self { batch, made }
    }

    /// An empty buffer for [`Inputs::fill`].
    pub fn buffer(&self) -> Given {
        match self.made {
            Made::Features(_) => Given::Features(Vec::new()),
            Made::Tokens(_) => Given::Tokens(Vec::new()),
        }
    }

    /// Puts the `tokens` tokens of every stream from its token `start` on in place of what is in `given`.
    pub fn fill(&self, given: &mut Given, start: u64, tokens: usize) {
        let places = (0..self.batch as u64)
            .flat_map(|stream| (start..start + tokens as u64).map(move |token| random(stream, token)));
        match (given, &self.made) {
            (Given::Features(values), Made::Features(channels)) => {
                values.clear();
                for seed in places {
                    let value = |(channel, &(mean, std)): (usize, &(f32, f32))| {
                        mean + std * normal(random(seed, channel as u64))
                    };
                    values.extend(channels.iter().enumerate().map(value));
                }
            }
            (Given::Tokens(values), Made::Tokens(vocabulary)) => {
                values.clear();
                values.extend(places.map(|seed| (seed % vocabulary) as i64));
            }
            _ => unreachable!("a buffer of these inputs"),
        }
    }
}

impl Given {
    /// As the engine takes many tokens.
    pub fn backlog(&self) -> Backlog<'_> {
        match self {
            Given::Features(values) => Backlog::Features(values),
            Given::Tokens(values) => Backlog::Tokens(values),
        }
    }

    /// As the engine takes one token of each of `batch` streams.
    pub fn samples(&self, batch: usize) -> Vec<Option<Sample<'_>>> {
        match self {
            Given::Features(values) => {
                values.chunks_exact(values.len() / batch).map(|row| Some(Sample::Features(row))).collect()
            }
            Given::Tokens(values) => values.iter().map(|&token| Some(Sample::Token(token))).collect(),
        }
    }
}

/// Mean and standard deviation.
fn moments<'a>(values: impl Iterator<Item = &'a f32> + Clone) -> (f32, f32) {
    let values = values.map(|&value| f64::from(value));
    let count = values.clone().count().max(1) as f64;
    let mean = values.clone().sum::<f64>() / count;
    let variance = values.map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    (mean as f32, variance.sqrt() as f32)
}

/// 64 bits that look like chance: the finaliser of SplitMix64 over a pair.
fn random(a: u64, b: u64) -> u64 {
    let mut x = a.wrapping_mul(0xd1b5_4a32_d192_ed03) ^ b.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A number of the standard normal distribution, by Box and Muller.
fn normal(bits: u64) -> f32 {
    let part = |bits: u64| ((bits & 0xffff_ffff) as f64 + 0.5) / (1u64 << 32) as f64;
    let (radius, angle) = ((-2.0 * part(bits).ln()).sqrt(), std::f64::consts::TAU * part(bits >> 32));
    (radius * angle.cos()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(inputs: &Inputs, start: u64, tokens: usize) -> Vec<f32> {
        let mut given = inputs.buffer();
        inputs.fill(&mut given, start, tokens);
        match given {
            Given::Features(values) => values,
            Given::Tokens(_) => panic!("features"),
        }
    }

    #[test]
    fn features_have_the_golden_run_s_mean_and_width() {
        let inputs = Inputs { batch: 1, made: Made::Features(vec![(5.0, 0.1), (-200.0, 30.0)]) };
        let values = features(&inputs, 0, 20_000);
        for (channel, (mean, std)) in [(5.0, 0.1), (-200.0, 30.0)].into_iter().enumerate() {
            let channel: Vec<f32> = values.iter().copied().skip(channel).step_by(2).collect();
            let found = channel.iter().sum::<f32>() / 20_000.0;
            assert!((found - mean).abs() < std / 30.0, "{found} for {mean}");
            let outside = channel.iter().filter(|&&x| (x - mean).abs() > std).count() as f32 / 20_000.0;
            assert!((outside - 0.3173).abs() < 0.015, "{outside} further off than one standard deviation");
        }
    }

    #[test]
    fn a_token_depends_on_its_stream_and_place_alone() {
        let inputs = Inputs { batch: 3, made: Made::Features(vec![(0.0, 1.0); 2]) };
        let (all, last) = (features(&inputs, 10, 4), features(&inputs, 13, 1));
        for stream in 0..3 {
            assert_eq!(all[(stream * 4 + 3) * 2..][..2], last[stream * 2..][..2]);
        }
        assert_ne!(last[..2], last[2..4], "streams differ");
    }
}
