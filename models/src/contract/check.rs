//! What a contract must be before anything relies on it: sizes in bounds, and its lists in agreement with each other.

use super::{
    BlockFunction, CacheTensor, Contract, ContractError, Dtype, Input, MemoryFunction, MemoryTensor, Reset,
    Scale, StateTensor,
};
use crate::spec::{Caching, Context, Init, Memory};

/// The largest number of elements of one tensor that a contract may declare: 2 GiB of f32.
const MAX_ELEMENTS: usize = 1 << 29;
/// The most tensors of a state, and of a cache: more than any `config.json` comes to, and few enough that each may be
/// looked for among all.
const MAX_TENSORS: usize = 1 << 14;
/// The most streams of a batch: each costs a runtime a little, even where the contract has no tensor for it.
const MAX_BATCH: usize = 1 << 12;

/// The largest number of elements of state and cache together: 4 GiB of f32.
const MAX_TOTAL: usize = 1 << 30;

impl Contract {
    pub(super) fn check(&self) -> Result<(), ContractError> {
        if !(1..=MAX_BATCH).contains(&self.batch) {
            return Err(value("batch", self.batch, format!("1 to {MAX_BATCH}")));
        }
        positive("capacity", self.capacity)?;
        positive("chunk", self.chunk)?;
        positive("input.size", self.input.size())?;
        shape("output", &[self.batch, self.output.size])?;
        if let Input::Features { size, .. } = self.input {
            shape("input", &[self.batch, size])?;
        }
        self.segmentation.check("segmentation")?;
        self.check_lists()?;
        self.check_size()?;
        self.state.iter().try_for_each(|state| self.check_state(state))?;
        self.cache.iter().try_for_each(|cache| self.check_cache(cache))?;
        self.check_blocks()
    }

    /// All that a stream remembers fits a machine.
    fn check_size(&self) -> Result<(), ContractError> {
        let shapes =
            self.state.iter().map(|state| &state.shape).chain(self.cache.iter().map(|cache| &cache.shape));
        let total = shapes.fold(0usize, |total, shape| {
            let elements = shape.iter().fold(1usize, |product, &size| product.saturating_mul(size));
            total.saturating_add(elements)
        });
        if total > MAX_TOTAL {
            let expected = format!("at most {MAX_TOTAL} elements");
            return Err(value("state and cache", format!("{total} elements"), expected));
        }
        Ok(())
    }

    /// The largest capacity that would pass for a contract like this one in all else, 1 at least.
    pub fn largest_capacity(&self) -> usize {
        let elements = |shape: &[usize]| shape.iter().product::<usize>();
        let state: usize = self.state.iter().map(|state| elements(&state.shape)).sum();
        let of_a_slot = self.cache.iter().map(|cache| elements(&cache.shape) / self.capacity);
        let all = (MAX_TOTAL - state).checked_div(of_a_slot.clone().sum());
        let one = of_a_slot.max().and_then(|largest| MAX_ELEMENTS.checked_div(largest));
        all.into_iter().chain(one).min().unwrap_or(MAX_ELEMENTS).max(1)
    }

    /// Lists are no longer than a model's, those that speak of channels have one entry a channel or none, and no two
    /// tensors share a name.
    fn check_lists(&self) -> Result<(), ContractError> {
        for (key, found) in [("state", self.state.len()), ("cache", self.cache.len())] {
            if found > MAX_TENSORS {
                return Err(value(
                    key,
                    format!("a list of {found}"),
                    format!("at most {MAX_TENSORS} tensors"),
                ));
            }
        }
        if let Input::Features { size, names, units, .. } = &self.input {
            listed("input.names", names.len(), *size)?;
            listed("input.units", units.len(), *size)?;
        }
        listed("output.labels", self.output.labels.len(), self.output.size)?;
        listed("output.std", self.output.std.len(), self.output.size)?;
        let std = &self.output.std;
        if let Some(i) = std.iter().position(|x| !(x.is_finite() && *x > 0.0)) {
            return Err(value(format!("output.std[{i}]"), std[i], "a positive number"));
        }
        let state = self.state.iter().flat_map(|state| [&state.past, &state.present]);
        let caches = self.cache.iter().flat_map(|cache| std::iter::once(&cache.name).chain(&cache.steps));
        let mut names: Vec<&String> = state.chain(caches).collect();
        names.sort();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(value("tensors", format!("`{}` twice", pair[0]), "a name for each")),
            None => Ok(()),
        }
    }

    fn check_state(&self, state: &StateTensor) -> Result<(), ContractError> {
        shape(&state.past, &state.shape)?;
        if state.dtype != Dtype::F32 {
            return Err(value(format!("state {}", state.past), format!("{:?}", state.dtype), "f32"));
        }
        if state.shape.first() != Some(&self.batch) {
            let expected = format!("[{}, …]", self.batch);
            return Err(value(format!("state {}", state.past), format!("{:?}", state.shape), expected));
        }
        Ok(())
    }

    /// A cache tensor has a slot axis of `capacity`, and is otherwise like the state that it is copied from.
    fn check_cache(&self, cache: &CacheTensor) -> Result<(), ContractError> {
        shape(&cache.name, &cache.shape)?;
        let key = format!("cache {}", cache.name);
        let found = format!("{:?}", cache.shape);
        if cache.slot_axis == 0 || cache.shape.get(cache.slot_axis) != Some(&self.capacity) {
            let expected =
                format!("{} slots at axis {}, which is not the batch's", self.capacity, cache.slot_axis);
            return Err(value(format!("{key} shape"), found, expected));
        }
        if cache.shape[0] != self.batch {
            return Err(value(format!("{key} shape"), found, format!("[{}, …]", self.batch)));
        }
        let state = self.state.iter().find(|state| state.present == cache.from);
        let mut source = cache.shape.clone();
        source.remove(cache.slot_axis);
        if let Some(state) = state.filter(|state| state.shape != source) {
            let expected = format!("{:?} with an axis of {} slots", state.shape, self.capacity);
            return Err(value(format!("{key} shape"), found, expected));
        }
        match (cache.dtype, &cache.steps) {
            (Dtype::I8, None) => {
                Err(value(format!("{key} steps"), "absent", "the name of an input, with i8"))
            }
            (Dtype::I8, Some(_)) if cache.slot_axis != 2 => {
                Err(value(format!("{key} slot_axis"), cache.slot_axis, "2, with i8"))
            }
            (Dtype::F32 | Dtype::F16, Some(_)) => {
                Err(value(format!("{key} steps"), "present", "no such key without i8"))
            }
            _ => Ok(()),
        }
    }

    /// Every block's function has its tensors in `state` and `cache`, with the shapes that it implies.
    fn check_blocks(&self) -> Result<(), ContractError> {
        if let Some(pair) = self.blocks.windows(2).find(|pair| pair[0].block >= pair[1].block) {
            let expected = format!("more than {}, the entry's before it", pair[0].block);
            return Err(value("blocks[].block", pair[1].block, expected));
        }
        for block in &self.blocks {
            let i = block.block;
            let at = format!("blocks[{i}]");
            block.memory.memory.check(&format!("{at}.memory"))?;
            block.memory.caching.check(&format!("{at}.caching"), &block.memory.memory)?;
            self.check_clock(&at, &block.memory.caching)?;
            let twin = self.blocks.iter().find(|twin| twin.function == block.function);
            if twin.is_some_and(|twin| twin.memory != block.memory) {
                let expected = "one meaning for each name";
                return Err(value(format!("{at}.function"), &block.function, expected));
            }
            positive(&format!("{at}.num_heads"), block.memory.num_heads)?;
            positive(&format!("{at}.head_size"), block.memory.head_size)?;
            for tensor in block.memory.tensors() {
                self.check_tensor(block, &tensor)?;
            }
        }
        Ok(())
    }

    /// When a tensor of a block's function may go back to its start. A linear memory that reads no checkpoint may be one
    /// whose segments have collapsed into a matrix that is never reset.
    fn resets(&self, function: &MemoryFunction, tensor: &MemoryTensor) -> &'static [Reset] {
        match (&function.memory, self.init) {
            _ if tensor.name == "context" => &[Reset::Segment],
            (Memory::Attention { .. }, _) | (_, Init::Continue) => &[Reset::Never],
            (Memory::Linear { .. }, Init::Restart) if !function.is_cached() => {
                &[Reset::Restart, Reset::Never]
            }
            (_, Init::Restart) => &[Reset::Restart],
        }
    }

    /// A block is cut where the stream is, and starts its segments alike.
    fn check_clock(&self, at: &str, caching: &Caching) -> Result<(), ContractError> {
        if caching.segmentation != self.segmentation {
            let (found, expected) =
                (format!("{:?}", caching.segmentation), format!("{:?}, the contract's", self.segmentation));
            return Err(value(format!("{at}.caching.segmentation"), found, expected));
        }
        if caching.init != self.init {
            let (found, expected) =
                (format!("{:?}", caching.init), format!("{:?}, the contract's", self.init));
            return Err(value(format!("{at}.caching.init"), found, expected));
        }
        Ok(())
    }

    /// A tensor of a block's function is there as state and as cache, exactly where the function has it.
    fn check_tensor(&self, block: &BlockFunction, tensor: &MemoryTensor) -> Result<(), ContractError> {
        let (i, function, name) = (block.block, &block.memory, &tensor.name);
        let past = format!("past.{i}.{name}");
        let expected = [&[self.batch, function.num_heads], &tensor.shape[..]].concat();
        let state = self.state.iter().find(|state| state.past == past);
        let found = state.map(|state| &state.shape);
        if found != tensor.carried.then_some(&expected) {
            let expected = if tensor.carried { format!("{expected:?}") } else { "no such tensor".into() };
            return Err(value(format!("state {past}"), format!("{found:?}"), expected));
        }
        let resets = self.resets(function, tensor);
        if let Some(state) = state.filter(|state| !resets.contains(&state.reset)) {
            let (found, expected) = (format!("{:?}", state.reset), format!("{:?}", resets[0]));
            return Err(value(format!("state {past} reset"), found, expected));
        }
        let cached = format!("cache.{i}.{name}");
        let cache = self.cache.iter().find(|cache| cache.name == cached);
        if tensor.cached != cache.is_some() {
            let found = if tensor.cached { "absent" } else { "present" };
            return Err(value(format!("cache {cached}"), found, "what the block's aggregation reads"));
        }
        let Some(cache) = cache else { return Ok(()) };
        let (from, dtype) = (format!("present.{i}.{name}"), function.dtype(tensor));
        if cache.from != from || cache.slot_axis != 2 || cache.dtype != dtype {
            let found = format!("{:?} from {} at slot axis {}", cache.dtype, cache.from, cache.slot_axis);
            return Err(value(
                format!("cache {cached}"),
                found,
                format!("{dtype:?} from {from} at slot axis 2"),
            ));
        }
        let is_mean = tensor.name == "context" && function.caching.context == Context::Mean;
        let scale = if is_mean { Scale::Mean } else { Scale::None };
        if cache.scale != scale {
            let (found, expected) = (format!("{:?}", cache.scale), format!("{scale:?}"));
            return Err(value(format!("cache {cached} scale"), found, expected));
        }
        let expected = [&[self.batch, function.num_heads, self.capacity], &tensor.shape[..]].concat();
        if cache.shape != expected {
            let found = format!("{:?}", cache.shape);
            return Err(value(format!("cache {cached} shape"), found, format!("{expected:?}")));
        }
        Ok(())
    }
}

fn value(key: impl Into<String>, found: impl ToString, expected: impl Into<String>) -> ContractError {
    ContractError::Value { key: key.into(), found: found.to_string(), expected: expected.into() }
}

fn listed(key: &str, found: usize, channels: usize) -> Result<(), ContractError> {
    if found == 0 || found == channels {
        return Ok(());
    }
    Err(value(key, format!("a list of {found}"), format!("{channels} entries, or none")))
}

fn positive(key: &str, found: usize) -> Result<(), ContractError> {
    if (1..=MAX_ELEMENTS).contains(&found) {
        return Ok(());
    }
    Err(value(key, found, format!("1 to {MAX_ELEMENTS}")))
}

fn shape(name: &str, shape: &[usize]) -> Result<(), ContractError> {
    let elements = shape.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
    match elements {
        Some(1..=MAX_ELEMENTS) => Ok(()),
        _ => Err(value(
            format!("shape of {name}"),
            format!("{shape:?}"),
            format!("1 to {MAX_ELEMENTS} elements"),
        )),
    }
}
