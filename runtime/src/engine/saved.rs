//! An engine in a snapshot: which model it runs, how it keeps its streams, and they.

use mcedge_models::spec::Segmentation;

use super::Engine;
use crate::backend::Backend;
use crate::cache::cache_bytes;
use crate::snapshot::{Draft, Snapshot, SnapshotError, hex};

/// The most bytes of the numbers that a cache keeps of a slot.
const SLOT_BYTES: usize = 64;
/// The most bytes of a section but for what grows with the model.
const SECTION_BYTES: usize = 256;
/// The section that says what the streams are of.
const ENGINE: &str = "engine";

fn stream_section(stream: usize) -> String {
    format!("stream {stream}")
}

impl<B: Backend> Engine<B> {
    /// Writes all that the streams remember into a snapshot, for [`Engine::restore`].
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Spilled`] when memories lie in a file: they are not to be all in RAM. Nothing is then written.
    pub fn save(&self, draft: &mut Draft) -> Result<(), SnapshotError> {
        self.check_in_ram()?;
        draft.section(ENGINE);
        draft.text(&self.contract.name);
        draft.count(self.contract.batch);
        draft.bytes(&self.digest);
        draft.text(self.streams.cache().policy().name());
        draft.count(self.slots());
        for stream in 0..self.contract.batch {
            draft.section(&stream_section(stream));
            self.streams.save(stream, draft);
        }
        Ok(())
    }

    /// Takes every stream to where it was when the snapshot was made: what follows is bit for bit what followed then,
    /// over the same backend.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Spilled`] when memories of this engine lie in a file; [`SnapshotError::Other`] when the snapshot is of
    /// another model, number of streams, policy or number of slots; [`SnapshotError::Content`] when something in it cannot be.
    /// No stream has then changed.
    pub fn restore(&mut self, snapshot: &Snapshot<'_>) -> Result<(), SnapshotError> {
        self.check_in_ram()?;
        self.check_kind(snapshot)?;
        let streams = (0..self.contract.batch).map(|stream| {
            let section = snapshot.section(&stream_section(stream))?;
            self.streams.read(&self.contract, stream, section)
        });
        let streams = streams.collect::<Result<Vec<_>, _>>()?;

        // Commit. Nothing below this line can fail.
        self.streams.take_over(streams);
        Ok(())
    }

    /// The most bytes that [`Engine::save`] adds to a snapshot.
    pub fn snapshot_bytes(&self) -> usize {
        let contract = &self.contract;
        let state =
            contract.state.iter().map(|state| 2 * state.shape.iter().product::<usize>() * size_of::<f32>());
        let gates = self.streams.gates(0).map(|gates| size_of_val(gates.weights)).sum::<usize>();
        let window = match contract.segmentation {
            Segmentation::Surprise { window, .. } => window * size_of::<f64>(),
            Segmentation::Constant { .. } | Segmentation::Logarithmic {} => 0,
        };
        let stream = gates + window + self.slots() * SLOT_BYTES + SECTION_BYTES;
        let streams = contract.batch * stream + state.sum::<usize>() + cache_bytes(contract);
        streams + contract.name.len() + SECTION_BYTES
    }

    /// Whether the cache's tensors can be asked for what they hold: those that spill are written through their file alone.
    fn check_in_ram(&self) -> Result<(), SnapshotError> {
        if self.streams.cache().is_spilled() { Err(SnapshotError::Spilled) } else { Ok(()) }
    }

    /// Whether the snapshot is of an engine like this one.
    fn check_kind(&self, snapshot: &Snapshot<'_>) -> Result<(), SnapshotError> {
        let mut saved = snapshot.section(ENGINE)?;
        let (name, batch) = (saved.text("the model's name")?, saved.u64("streams")?);
        let digest = saved.bytes("the model's digest", self.digest.len())?;
        let (policy, slots) = (saved.text("the policy")?, saved.u64("slots")?);
        saved.end()?;
        let model = |name: &str, digest: &[u8]| format!("model `{name}` (its files: {}…)", hex(digest));
        let streams = |batch: u64| format!("{batch} stream{}", if batch == 1 { "" } else { "s" });
        let slots_of = |slots: u64| format!("a cache of {slots} checkpoints");
        let policy_of = |name: &str| format!("policy `{name}`");
        let (own_batch, own_slots) = (self.contract.batch as u64, self.slots() as u64);
        let own_policy = self.streams.cache().policy().name();
        let pairs = [
            (name != self.contract.name, model(name, digest), model(&self.contract.name, &self.digest)),
            (batch != own_batch, streams(batch), streams(own_batch)),
            (digest != self.digest, model(name, digest), model(&self.contract.name, &self.digest)),
            (policy != own_policy, policy_of(policy), policy_of(own_policy)),
            (slots != own_slots, slots_of(slots), slots_of(own_slots)),
        ];
        match pairs.into_iter().find(|(differs, ..)| *differs) {
            Some((_, found, expected)) => Err(SnapshotError::Other { found, expected }),
            None => Ok(()),
        }
    }

    /// The most checkpoints of a stream.
    fn slots(&self) -> usize {
        self.streams.cache().stream(0).capacity()
    }
}
