//! What a model's streams take of a machine's memory, in bytes.

use mcedge_kernel::{Kernel, Mixer};
use mcedge_models::contract::{BlockFunction, CacheTensor, Contract, Input, StateTensor};
use mcedge_models::spec::Segmentation;

use crate::Model;
use crate::cache::{Slots, cache_bytes};
use crate::clock::Clock;
use crate::policy::Scratch;

/// Bytes of a token, of a length or of an index.
const WORD: usize = 8;
/// Bytes of a number.
const NUMBER: usize = size_of::<f32>();

/// Bytes that an [`Engine`](crate::Engine) and its graphs hold.
///
/// Counted is what this crate allocates and how large it can become: nothing here grows with a stream. Not counted are
/// what tract or ONNX Runtime allocate of their own (values between operations, a packed copy of the weights, their code),
/// names and lists of a few words, and the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// B.
    pub streams: usize,
    /// `past.*` of all streams.
    pub state: usize,
    /// `cache.*` of all streams, for the contract's capacity, with the steps of an i8 cache.
    pub cache: usize,
    /// `step.onnx` and, where it is loaded, `chunk.onnx`: nearly all weights.
    pub weights: usize,
    /// What the engine holds of all streams besides state and cache, for each graph: `present.*`, and `input`, `output`,
    /// gates and losses of its longest run; and for all graphs the state's start, the last that is known to be
    /// good, gates by age, what is noted of each checkpoint, and the losses that surprise looks back on.
    pub buffers: usize,
    /// What streams use after one another, a few at a time: memory to work in of the policy, and of the kernels, one a block and
    /// graph. Where no kernel runs, as on a GPU or over plain bodies, the latter is not there.
    pub shared: usize,
}

impl Footprint {
    /// Of an engine of `model` with its `step.onnx`, and with its `chunk.onnx` when it has one and `catches_up`.
    pub fn new(model: &Model, catches_up: bool) -> Self {
        let contract = model.contract();
        let chunk = model.chunk().filter(|_| catches_up);
        let runs: Vec<usize> = std::iter::once(1).chain(chunk.map(|_| contract.chunk)).collect();
        let kernels = |tokens: usize| kernel_bytes(contract, tokens);
        let of_graphs: usize = runs.iter().map(|&tokens| run_bytes(contract, tokens)).sum();
        Self {
            streams: contract.batch,
            state: contract.state.iter().map(state_bytes).sum(),
            cache: cache_bytes(contract),
            weights: model.step().len() + chunk.map_or(0, <[u8]>::len),
            buffers: of_graphs + engine_bytes(contract),
            shared: runs.iter().copied().map(kernels).sum::<usize>() + policy_bytes(contract),
        }
    }

    /// What is neither state, cache nor weights.
    pub fn scratch(&self) -> usize {
        self.buffers + self.shared
    }

    /// What another stream takes.
    pub fn of_a_stream(&self) -> usize {
        (self.state + self.cache + self.buffers) / self.streams
    }

    /// All of it.
    pub fn total(&self) -> usize {
        self.state + self.cache + self.weights + self.scratch()
    }
}

/// Bytes of one checkpoint of one stream, over all tensors of the cache; 0 when nothing is cached.
pub fn checkpoint_bytes(contract: &Contract) -> usize {
    cache_bytes(contract) / contract.capacity / contract.batch
}

fn state_bytes(state: &StateTensor) -> usize {
    state.shape.iter().product::<usize>() * state.dtype.size()
}

/// What a graph takes and gives in a run of `tokens` tokens, but for state before the run and cache.
fn run_bytes(contract: &Contract, tokens: usize) -> usize {
    let is_state = |cache: &&CacheTensor| contract.state.iter().any(|state| state.present == cache.from);
    let made = contract.cache.iter().filter(|cache| !is_state(cache));
    let made = made.map(|cache| cache.shape.iter().product::<usize>() / contract.capacity);
    let present: usize = contract.state.iter().map(state_bytes).sum();
    let sample = match contract.input {
        Input::Features { size, .. } => size * NUMBER,
        Input::Tokens { .. } => WORD,
    };
    let loss = matches!(contract.segmentation, Segmentation::Surprise { .. });
    let token = sample + (contract.output.size + gates(contract) + usize::from(loss)) * NUMBER;
    present + made.sum::<usize>() * NUMBER + contract.batch * tokens * token
}

/// What an engine holds of all streams whatever its graphs are.
fn engine_bytes(contract: &Contract) -> usize {
    let state: usize = contract.state.iter().map(state_bytes).sum();
    let start_and_good = 2 * state;
    // The lengths of a stream's segment and of its cache.
    let lengths = 2 * WORD;
    start_and_good
        + contract.batch
            * (gates(contract) * NUMBER
                + slots(contract) * Slots::BYTES_A_SLOT
                + lengths
                + Clock::bytes(contract))
}

/// What the kernels of a graph work in, when it has run as many as `tokens` tokens.
fn kernel_bytes(contract: &Contract, tokens: usize) -> usize {
    let of_block = |BlockFunction { memory, .. }: &BlockFunction| {
        let mixer = Mixer::new(memory).map_or(0, |mixer| mixer.scratch_bytes(contract.batch, tokens));
        Kernel::new(memory, contract.capacity).scratch_bytes().saturating_add(mixer)
    };
    contract.blocks.iter().map(of_block).fold(0, usize::saturating_add)
}

fn policy_bytes(contract: &Contract) -> usize {
    let row = |cache: &CacheTensor| cache.shape[cache.slot_axis + 1..].iter().product();
    Scratch::bytes(slots(contract), contract.cache.iter().map(row).max().unwrap_or_default())
}

/// N, where there is a cache.
fn slots(contract: &Contract) -> usize {
    if contract.cache.is_empty() { 0 } else { contract.capacity }
}

/// H · (N + 1), over the blocks that have gates.
fn gates(contract: &Contract) -> usize {
    let gated = contract.blocks.iter().filter(|block| block.memory.has_gates());
    gated.map(|block| block.memory.num_heads * (contract.capacity + 1)).sum()
}
