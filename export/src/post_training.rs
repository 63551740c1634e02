//! Memory caching for a model that was trained without it.

use mcedge_models::spec::{Aggregation, Init, Memory, Segmentation, Spec};

use crate::error::Error;

/// The model with a cache that its training knew nothing of: the mean of the online memory's read and of checkpoints
/// taken every `size` tokens, with no parameters of its own (arXiv 2602.24281, section 4.3). The weights stay as they
/// are.
///
/// Every block is cut so, and goes on from segment to segment; blocks of attention have no checkpoints.
///
/// # Errors
///
/// [`Error::AlreadyCached`] when a block reads checkpoints already, [`Error::NothingToCache`] when none could, and
/// [`Error::Spec`] when `size` is no segment's.
pub fn with_post_training_mean(spec: &Spec, size: usize) -> Result<Spec, Error> {
    let mut spec = spec.clone();
    let mut changed = false;
    for (i, block) in spec.blocks.iter_mut().enumerate() {
        let caching = &mut block.caching;
        if caching.aggregation != Aggregation::None {
            return Err(Error::AlreadyCached { block: i, aggregation: caching.aggregation });
        }
        if !matches!(block.memory, Memory::Attention { .. }) {
            caching.aggregation = Aggregation::Mean;
            changed = true;
        }
        caching.segmentation = Segmentation::Constant { size };
        caching.init = Init::Continue;
    }
    if !changed {
        return Err(Error::NothingToCache);
    }
    spec.check()?;
    Ok(spec)
}
