//! A stream in a snapshot.

use mcedge_models::contract::Contract;

use super::{MOST_BACK, Streams, f32s, f32s_mut, part, part_mut};
use crate::backend::Buffer;
use crate::cache::SavedCheckpoints;
use crate::clock::Clock;
use crate::snapshot::{Draft, Section, SnapshotError, read_cells};

/// One stream as a snapshot has it; all of it has been checked.
pub(in crate::engine) struct SavedStream<'a> {
    clock: Clock,
    /// One a state tensor.
    past: Vec<&'a [u8]>,
    /// One a state tensor: what to go back to.
    good: Vec<&'a [u8]>,
    times_back: u32,
    checkpoints: SavedCheckpoints<'a>,
    /// One a gated block.
    gates: Vec<&'a [u8]>,
}

impl<T: Buffer> Streams<T> {
    /// Writes all that stream `stream` remembers, for [`Streams::read`].
    pub(in crate::engine) fn save(&self, stream: usize, draft: &mut Draft) {
        let batch = self.clocks.len();
        self.clocks[stream].save(draft);
        self.past.iter().for_each(|past| draft.f32s(part(f32s(past), stream, batch)));
        self.good.iter().for_each(|good| draft.f32s(part(good, stream, batch)));
        draft.u32(self.times_back[stream]);
        self.cache.save(stream, draft);
        self.gates.iter().for_each(|gates| draft.f32s(gates.of(stream, batch).weights));
    }

    /// What [`Streams::save`] has written of a stream of the same model. Nothing changes.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Content`] when it cannot be.
    pub(in crate::engine) fn read<'a>(
        &self,
        contract: &Contract,
        stream: usize,
        mut saved: Section<'a>,
    ) -> Result<SavedStream<'a>, SnapshotError> {
        let batch = self.clocks.len();
        let clock = Clock::read(contract, &mut saved)?;
        let mut state = || {
            let tensors = contract.state.iter().zip(&self.past);
            let tensors =
                tensors.map(|(state, past)| saved.cells::<f32>(&state.past, past.cells().len() / batch));
            tensors.collect::<Result<_, _>>()
        };
        let (past, good) = (state()?, state()?);
        let times_back = saved.u32("times gone back")?;
        if times_back > MOST_BACK {
            return Err(saved.wrong(format!("{times_back} times gone back"), &format!("{MOST_BACK} at most")));
        }
        let checkpoints = self.cache.read(stream, clock.tokens(), &mut saved)?;
        let weights = |stream| self.gates.iter().map(move |gates| gates.of(stream, batch).weights.len());
        let gates = weights(stream).map(|weights| saved.cells::<f32>("gates", weights));
        let gates = gates.collect::<Result<_, _>>()?;
        saved.end()?;
        Ok(SavedStream { clock, past, good, times_back, checkpoints, gates })
    }

    /// Takes streams over, `[B]`, in the place of these.
    pub(in crate::engine) fn take_over(&mut self, saved: Vec<SavedStream<'_>>) {
        let batch = self.clocks.len();
        for (stream, saved) in saved.into_iter().enumerate() {
            self.clocks[stream] = saved.clock;
            for (past, bytes) in self.past.iter_mut().zip(saved.past) {
                read_cells(part_mut(f32s_mut(past), stream, batch), bytes);
            }
            for (good, bytes) in self.good.iter_mut().zip(saved.good) {
                read_cells(part_mut(good, stream, batch), bytes);
            }
            self.times_back[stream] = saved.times_back;
            self.cache.restore(stream, saved.checkpoints);
            for (gates, bytes) in self.gates.iter_mut().zip(saved.gates) {
                read_cells(gates.weights_mut(stream, batch), bytes);
            }
        }
        self.publish();
    }
}
