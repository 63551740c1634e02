//! Races: what several engines take for the same tokens, round by round in turn, so that what slows the machine slows all.

use std::time::Instant;

use mcedge_export::Options;
use mcedge_models::Weights;
use mcedge_models::spec::Spec;
use mcedge_runtime::{Backend, Backlog, Engine, EngineOptions, Model};

use crate::common::{Error, median};

/// Rounds of a race.
pub const ROUNDS: usize = 7;
/// The largest error of outputs that are the same, relative to the largest of them.
const TOLERANCE: f32 = 1e-3;

/// A unit of work, which leaves the output of its last token.
type Unit<'a> = Box<dyn FnMut(&mut Vec<f32>) -> Result<(), Error> + 'a>;

/// One that runs: a unit of its work is timed, many a round.
pub struct Runner<'a> {
    /// What it is called.
    pub name: String,
    /// Tokens of a stream in a unit, by which its time is divided.
    tokens: usize,
    /// Units in a round.
    units: usize,
    unit: Unit<'a>,
    /// What the last unit gave: the output of its last token.
    output: Vec<f32>,
    /// The place in its race of the one whose outputs it has to give, where they are compared.
    like: Option<usize>,
}

/// The model of a configuration, with made-up weights.
pub fn model(config: &str, options: Options) -> Result<Model, Error> {
    let spec = Spec::parse(config.as_bytes())?;
    let bundle = mcedge_export::bundle(&spec, &Weights::made_up(&spec), options)?;
    Ok(Model::from_bytes(bundle.step, bundle.chunk, &bundle.initial_state)?)
}

/// An engine with `fill` live checkpoints, at the start of a segment of `segment` tokens.
pub fn engine<B: Backend>(
    model: &Model,
    backend: B,
    chunks: Option<B>,
    fill: usize,
    segment: usize,
) -> Result<Engine<B>, Error> {
    let mut engine = Engine::new(model, backend, EngineOptions::default())?;
    if let Some(chunks) = chunks {
        engine = engine.with_chunks(chunks)?;
    }
    for token in 0..fill * segment {
        engine.push_token(token_at(token as u64))?;
    }
    assert_eq!(engine.cache().len(), fill, "live checkpoints");
    Ok(engine)
}

/// The stream that every engine of one stream runs.
pub fn token_at(index: u64) -> i64 {
    (index * 31 % 256) as i64
}

impl<'a> Runner<'a> {
    /// Times `unit`, `units` times a round; it leaves the output of its last token. A unit is `tokens` tokens of a stream.
    pub fn new(
        name: &str,
        tokens: usize,
        units: usize,
        unit: impl FnMut(&mut Vec<f32>) -> Result<(), Error> + 'a,
    ) -> Self {
        Self { name: name.into(), tokens, units, unit: Box::new(unit), output: Vec::new(), like: Some(0) }
    }

    /// Compared with the runner at this place in the race, or with none, rather than with the first.
    pub fn like(self, like: Option<usize>) -> Self {
        Self { like, ..self }
    }

    /// Steps, one by one.
    pub fn steps<B: Backend + 'a>(name: &str, mut engine: Engine<B>, units: usize) -> Self {
        Self::new(name, 1, units, move |output| {
            let token = token_at(engine.tokens());
            output.clear();
            output.extend_from_slice(engine.push_token(token)?);
            Ok(())
        })
    }

    /// `tokens` tokens at once: a chunk, where the engine has a graph for it.
    pub fn chunks<B: Backend + 'a>(name: &str, mut engine: Engine<B>, tokens: usize, units: usize) -> Self {
        let mut piece = vec![0; tokens];
        Self::new(name, tokens, units, move |output| {
            for (index, token) in piece.iter_mut().enumerate() {
                *token = token_at(engine.tokens() + index as u64);
            }
            output.clear();
            engine.catch_up(Backlog::Tokens(&piece), output)?;
            output.drain(..output.len() - engine.contract().output.size);
            Ok(())
        })
    }

    /// The median of a round's units, µs a token.
    fn round(&mut self) -> Result<f64, Error> {
        let mut times = Vec::with_capacity(self.units);
        for _ in 0..self.units {
            let start = Instant::now();
            (self.unit)(&mut self.output)?;
            times.push(start.elapsed());
        }
        Ok(median(&mut times).as_secs_f64() * 1e6 / self.tokens as f64)
    }
}

/// Runs the rounds; each runner's median over them, µs a token. What a runner last gave is within [`TOLERANCE`] of what the one
/// gave that it is like, or the race is void.
pub fn race(runners: &mut [Runner<'_>]) -> Result<Vec<f64>, Error> {
    let mut rounds = vec![Vec::new(); runners.len()];
    for _ in 0..ROUNDS {
        for (runner, rounds) in runners.iter_mut().zip(&mut rounds) {
            rounds.push(runner.round()?);
        }
    }
    for runner in &*runners {
        if let Some(like) = runner.like {
            compare(&runner.name, &runner.output, &runners[like].output);
        }
    }
    Ok(rounds.into_iter().map(|mut rounds| median(&mut rounds)).collect())
}

/// Ends the bench where outputs are not those that are expected. Errors are relative to the largest of these: outputs of weights
/// that nobody trained are small, and near zero a sum's order decides.
pub fn compare(name: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "outputs of {name}");
    let largest = expected.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    assert!(largest > 0.0 && largest.is_finite(), "{name} is compared with outputs up to {largest}");
    for (found, expected) in found.iter().zip(expected) {
        let error = (found - expected).abs() / largest;
        assert!(
            error <= TOLERANCE,
            "{name} computes {found}, {expected} is expected: an error of {error:.1e}"
        );
    }
}
