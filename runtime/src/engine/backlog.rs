//! Catching up: many tokens at once, in as few runs as segments and the contract's chunk allow.

use mcedge_models::contract::Input;

use super::graph::Graph;
use super::{Engine, Sample, kind};
use crate::Error;
use crate::backend::Backend;

/// What B streams have been given and have not run yet, as many tokens each; row-major.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Backlog<'a> {
    /// `[B, T, input.size]`, in the units of the model's card.
    Features(&'a [f32]),
    /// `[B, T]`, each `0..vocab_size`.
    Tokens(&'a [i64]),
}

impl<B: Backend> Engine<B> {
    /// Runs T tokens of every stream, and appends their outputs to `output`: `[T, B, output.size]`, token by token, so
    /// that what is there is what has been committed. It does what T calls of [`Engine::push_batch`] do, faster.
    ///
    /// Tokens run together where [`Engine::with_chunks`] has given a graph for it, but for what ends a segment of any
    /// stream in between, and never more of them than the contract's chunk. Where segments end by surprise, it may run
    /// tokens in vain: those after one that ends a segment are run again. With [`EngineOptions::max_norm`](crate::EngineOptions)
    /// every token is a step.
    ///
    /// # Errors
    ///
    /// [`Error::Kind`] and [`Error::Backlog`], when it is not a backlog for this model; no stream has then changed. Else
    /// as [`Engine::push_batch`]: tokens before the one at fault have been committed and their outputs are in `output`,
    /// those from it on have not. A backend that fails does so for all tokens of a run.
    pub fn catch_up(&mut self, backlog: Backlog<'_>, output: &mut Vec<f32>) -> Result<(), Error> {
        (0..self.contract.batch).for_each(|stream| self.streams.set_active(stream, true));
        self.catch_up_active(backlog, output)
    }

    /// As [`Engine::catch_up`], for the streams that `who`, `[B]`, says. Another stays exactly as it was: its part of the
    /// backlog is not looked at, and its rows of the output mean nothing.
    ///
    /// # Errors
    ///
    /// As [`Engine::catch_up`]; [`Error::Batch`] when `who` is not `[B]`.
    pub fn catch_up_some(
        &mut self,
        who: &[bool],
        backlog: Backlog<'_>,
        output: &mut Vec<f32>,
    ) -> Result<(), Error> {
        if who.len() != self.contract.batch {
            return Err(Error::Batch { found: who.len(), expected: self.contract.batch });
        }
        who.iter().enumerate().for_each(|(stream, &is_active)| self.streams.set_active(stream, is_active));
        if !who.contains(&true) {
            return Ok(());
        }
        self.catch_up_active(backlog, output)
    }

    fn catch_up_active(&mut self, backlog: Backlog<'_>, output: &mut Vec<f32>) -> Result<(), Error> {
        let tokens = self.backlog_tokens(backlog)?;
        let fault = (0..tokens).find_map(|token| Some((token, self.fault(backlog, token)?)));
        let sound = fault.as_ref().map_or(tokens, |(token, _)| *token);
        output.reserve(sound * self.contract.batch * self.contract.output.size);
        let mut done = 0;
        while done < sound {
            done += self.run_piece(backlog, done, sound - done, output)?;
        }
        fault.map_or(Ok(()), |(_, error)| Err(error))
    }

    /// T of a backlog.
    fn backlog_tokens(&self, backlog: Backlog<'_>) -> Result<usize, Error> {
        let (found, size) = match (backlog, &self.contract.input) {
            (Backlog::Features(features), Input::Features { size, .. }) => (features.len(), *size),
            (Backlog::Tokens(tokens), Input::Tokens { .. }) => (tokens.len(), 1),
            (Backlog::Features(_), Input::Tokens { .. }) => return Err(kind("samples", "tokens")),
            (Backlog::Tokens(_), Input::Features { .. }) => return Err(kind("tokens", "samples")),
        };
        let multiple = self.contract.batch * size;
        if !found.is_multiple_of(multiple) {
            return Err(Error::Backlog { found, multiple });
        }
        Ok(found / multiple)
    }

    /// What is wrong with token `token` of any active stream's backlog.
    fn fault(&self, backlog: Backlog<'_>, token: usize) -> Option<Error> {
        let Backlog::Tokens(tokens) = backlog else { return None };
        let count = tokens.len() / self.contract.batch;
        (0..self.contract.batch)
            .filter(|&stream| self.streams.active()[stream])
            .find_map(|stream| self.check(stream, Sample::Token(tokens[stream * count + token])).err())
    }

    /// Commits the next tokens of every active stream, from `start` on, 1 to `most` of them; how many.
    fn run_piece(
        &mut self,
        backlog: Backlog<'_>,
        start: usize,
        most: usize,
        output: &mut Vec<f32>,
    ) -> Result<usize, Error> {
        let batch = self.contract.batch;
        let mut tokens =
            most.min(self.contract.chunk).min(self.streams.room()).min(self.streams.most_tokens());
        let is_whole = self.max_norm.is_none();
        while let Some(chunk) = self.chunk.as_mut().filter(|_| tokens > 1 && is_whole) {
            chunk.fit(&self.contract, tokens)?;
            chunk.feed_backlog(backlog, start, self.streams.active());
            chunk.run(&mut self.streams)?;
            if chunk.outputs.diverges(self.streams.active(), self.max_norm).is_some() {
                // Steps find the token, if it is one of this piece at all: it may be past a segment's end.
                (start..start + tokens).try_for_each(|token| self.step_at(backlog, token, output))?;
                return Ok(tokens);
            }
            match self.streams.first_end(&chunk.outputs, tokens) {
                Some(end) if end + 1 < tokens => tokens = end + 1,
                _ => {
                    self.streams.commit(&mut chunk.outputs, tokens);
                    append(chunk, tokens, batch, output);
                    return Ok(tokens);
                }
            }
        }
        self.step_at(backlog, start, output)?;
        Ok(1)
    }

    /// Runs one token of every active stream through the step graph.
    fn step_at(&mut self, backlog: Backlog<'_>, token: usize, output: &mut Vec<f32>) -> Result<(), Error> {
        self.step.feed_backlog(backlog, token, self.streams.active());
        self.run_step()?;
        append(&self.step, 1, self.contract.batch, output);
        Ok(())
    }
}

/// Appends a run's output `[B, T, O]` as `[T, B, O]`.
fn append<B: Backend>(graph: &Graph<B>, tokens: usize, batch: usize, output: &mut Vec<f32>) {
    let rows = graph.outputs.output();
    let size = rows.len() / batch / tokens;
    for token in 0..tokens {
        for stream in 0..batch {
            let start = (stream * tokens + token) * size;
            output.extend_from_slice(&rows[start..start + size]);
        }
    }
}
