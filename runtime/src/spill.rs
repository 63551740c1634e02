//! Memories of checkpoints in a file that is mapped into memory, where RAM has no room for all of them.
//!
//! A tensor keeps its address, and the pages behind it become the file's: backends and kernels see no difference. What
//! they touch is in RAM until it is given back, which [`Spilled::touch`] does before it is too much.

use std::path::PathBuf;

use mcedge_models::Policy;
use mcedge_models::contract::{BlockFunction, CacheTensor, Contract};
use mcedge_models::spec::{Aggregation, Segmentation};

use crate::Error;
use crate::backend::{Buffer, CellsMut};

/// Where memories go that RAM has no room for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spill {
    /// A file that is not there yet. It has no name for longer than it takes to map it, and is gone with the engine.
    pub path: PathBuf,
    /// The most bytes of the cache in RAM: contexts, steps of an i8 cache, and of memories what has been touched lately.
    pub resident_bytes: usize,
}

/// The most checkpoints that the making of one touches: two that become one, and two that move.
const TOUCHED: usize = 4;
/// As many become one at once under logarithmic segments, at most: their tokens double.
const TOUCHED_TWINS: usize = 64;
/// What a run may touch is this part of the budget, so that several of them share what they read.
const RUNS: usize = 4;
/// Linux maps up to so many bytes around a page that is missed, where the file's are in its cache.
const AROUND: usize = 1 << 16;

/// The cache tensors that lie in a file.
///
/// # Invariants
///
/// - Every part is the whole memory of a tensor that lives as long, does not move, and is written through its part alone.
/// - Between calls at most `most` bytes of the parts' mapped pages are resident.
pub(crate) struct Spilled {
    /// One a cache tensor; `None` for one that stays in RAM.
    parts: Vec<Option<Part>>,
    /// An upper bound of the mapped bytes that are resident.
    resident: usize,
    most: usize,
    /// An upper bound of what a token touches.
    token: usize,
    /// An upper bound of what a new checkpoint touches.
    checkpoint: usize,
}

/// The memory of one tensor: whole pages of it lie in the file.
struct Part {
    kind: Kind,
    elements: usize,
    pages: pages::Pages,
    start: *mut u8,
}

/// The element type of a part.
#[derive(Clone, Copy)]
enum Kind {
    F32,
    F16,
    I8,
}

/// Whether a cache tensor is read only where it is selected, so that it may lie in a file; contexts are read at every token.
pub(crate) fn is_spilled(contract: &Contract, cache: &CacheTensor) -> bool {
    !contract.is_context(cache)
}

/// Bytes of a cache tensor, and of its steps, that stay in RAM.
fn bytes_in_ram(contract: &Contract, cache: &CacheTensor) -> usize {
    let elements = if is_spilled(contract, cache) { 0 } else { cache.shape.iter().product() };
    let steps = cache.steps.as_ref().map_or(0, |_| cache.shape[..=cache.slot_axis].iter().product());
    elements * cache.dtype.size() + steps * size_of::<f32>()
}

/// The most checkpoints whose part of a cache tensor a token reads, of each head.
fn most_read(contract: &Contract, cache: &CacheTensor) -> usize {
    let is_its = |block: &&BlockFunction| cache.name.starts_with(&format!("cache.{}.", block.block));
    let block = contract.blocks.iter().find(is_its);
    let top_k = block.and_then(|block| block.memory.caching.top_k);
    top_k.map_or(contract.capacity, |top_k| top_k.min(contract.capacity))
}

/// Whether memories that are not selected are left alone at every token of this model.
///
/// # Errors
///
/// [`Error::Spill`] when they are not, or when there is no cache.
pub(crate) fn check(contract: &Contract, policy: Policy) -> Result<(), Error> {
    if policy == Policy::Merge {
        return Err(failed(
            "policy `merge` compares all memories, expected one that does not read them".into(),
        ));
    }
    let cached = || contract.blocks.iter().filter(|block| block.memory.is_cached());
    let other = cached().find(|block| block.memory.caching.aggregation != Aggregation::Ssc);
    match other {
        _ if contract.cache.is_empty() => Err(failed("the model has no cache".into())),
        Some(block) => Err(failed(format!(
            "block {} reads every checkpoint for every token, expected `ssc`, which reads those that it selects",
            block.block
        ))),
        None => Ok(()),
    }
}

impl Spilled {
    /// Moves the memories among a cache's tensors, one a cache tensor of the contract and of its shape, into a file; what
    /// they held is lost, zeros take its place.
    ///
    /// # Errors
    ///
    /// [`Error::Spill`] when the file cannot be made, when the disk has no room for it, or when the budget does not hold
    /// what one token touches.
    ///
    /// # Safety
    ///
    /// The tensors outlive what is made here, are not moved in memory, and are not asked for their
    /// [`cells_mut`](Buffer::cells_mut) while it lives.
    pub(crate) unsafe fn new<T: Buffer>(
        contract: &Contract,
        tensors: &mut [T],
        spill: &Spill,
    ) -> Result<Self, Error> {
        let in_ram = contract.cache.iter().map(|cache| bytes_in_ram(contract, cache)).sum();
        let most = spill.resident_bytes.saturating_sub(in_ram);
        let most_made = match contract.segmentation {
            Segmentation::Logarithmic {} => TOUCHED + TOUCHED_TWINS,
            Segmentation::Constant { .. } | Segmentation::Surprise { .. } => TOUCHED,
        };
        let (mut token, mut checkpoint, mut all) = (0, 0, 0);
        for cache in contract.cache.iter().filter(|cache| is_spilled(contract, cache)) {
            let inner = cache.shape[cache.slot_axis + 1..].iter().product::<usize>() * cache.dtype.size();
            let rows: usize = cache.shape[..cache.slot_axis].iter().product();
            let memory = inner + 2 * AROUND;
            token += rows * memory * most_read(contract, cache);
            checkpoint += rows * memory * most_made;
            all += rows * contract.capacity * inner;
        }
        if all <= most {
            // There is room for everything.
            (token, checkpoint) = (0, 0);
        }
        let needed = token + checkpoint;
        if needed > most {
            return Err(failed(format!(
                "a budget of {} bytes, expected {} at least: {in_ram} for contexts and {needed} for what a token and a new \
                 checkpoint touch",
                spill.resident_bytes,
                in_ram + needed,
            )));
        }
        let mut file = pages::File::create(&spill.path)
            .map_err(|error| failed(format!("cannot make {}: {error}", spill.path.display())))?;
        let mut parts = Vec::with_capacity(tensors.len());
        for (cache, tensor) in contract.cache.iter().zip(tensors) {
            // SAFETY: by the caller's promises.
            let part =
                is_spilled(contract, cache).then(|| unsafe { Part::new(tensor, &mut file) }).transpose();
            parts.push(part.map_err(|error| failed(format!("{}: {error}", spill.path.display())))?);
        }
        Ok(Self { parts, resident: 0, most, token, checkpoint })
    }

    /// The elements of every cache tensor, where it lies in the file.
    pub(crate) fn all_cells_mut(&mut self) -> impl Iterator<Item = Option<CellsMut<'_>>> {
        self.parts.iter_mut().map(|part| part.as_mut().map(Part::cells_mut))
    }

    /// The most tokens, 1 at least, of one run.
    pub(crate) fn most_tokens(&self) -> usize {
        ((self.most - self.checkpoint) / RUNS / self.token.max(1)).max(1)
    }

    /// Counts what a run of `tokens` tokens has touched and, when it `made` checkpoints, their making; gives back what has
    /// been touched so far when another might be too much.
    pub(crate) fn touch(&mut self, tokens: usize, made: bool) {
        self.resident += tokens * self.token + if made { self.checkpoint } else { 0 };
        if self.resident + self.most_tokens() * self.token + self.checkpoint > self.most {
            self.parts.iter().flatten().for_each(|part| part.pages.give_back());
            self.resident = 0;
        }
    }
}

impl Part {
    /// # Safety
    ///
    /// As [`Spilled::new`].
    unsafe fn new<T: Buffer>(tensor: &mut T, file: &mut pages::File) -> std::io::Result<Self> {
        let (kind, start, elements, bytes) = match tensor.cells_mut() {
            CellsMut::F32(cells) => {
                (Kind::F32, cells.as_mut_ptr().cast::<u8>(), cells.len(), size_of_val(cells))
            }
            CellsMut::F16(cells) => {
                (Kind::F16, cells.as_mut_ptr().cast::<u8>(), cells.len(), size_of_val(cells))
            }
            CellsMut::I8(cells) => {
                (Kind::I8, cells.as_mut_ptr().cast::<u8>(), cells.len(), size_of_val(cells))
            }
            CellsMut::I64(_) => unreachable!("no cache is of integers: Contract::parse knows none"),
        };
        // SAFETY: the memory is the tensor's own, which lives on by the caller's promise.
        let pages = unsafe { pages::Pages::new(start, bytes, file)? };
        Ok(Self { kind, elements, pages, start })
    }

    fn cells_mut(&mut self) -> CellsMut<'_> {
        // SAFETY: the tensor lives and its memory has so many elements of this type, aligned; it is not asked for its own
        // `cells_mut`, by the promise to `Spilled::new`, and whoever reads it does so between calls of this.
        unsafe {
            match self.kind {
                Kind::F32 => CellsMut::F32(std::slice::from_raw_parts_mut(self.start.cast(), self.elements)),
                Kind::F16 => CellsMut::F16(std::slice::from_raw_parts_mut(self.start.cast(), self.elements)),
                Kind::I8 => CellsMut::I8(std::slice::from_raw_parts_mut(self.start.cast(), self.elements)),
            }
        }
    }
}

fn failed(message: String) -> Error {
    Error::Spill { message }
}

/// Pages of memory that are a file's.
#[cfg(target_os = "linux")]
mod pages {
    use std::fs;
    use std::io;
    use std::os::fd::AsRawFd;
    use std::path::Path;
    use std::ptr;

    /// The file, which has no name any more.
    pub struct File {
        file: fs::File,
        len: usize,
    }

    impl File {
        pub fn create(path: &Path) -> io::Result<Self> {
            let file = fs::File::options().read(true).write(true).create_new(true).open(path)?;
            // Whatever ends the process, the file is gone with it.
            fs::remove_file(path)?;
            Ok(Self { file, len: 0 })
        }
    }

    /// Whole pages of a piece of memory.
    pub struct Pages {
        start: *mut u8,
        len: usize,
    }

    impl Pages {
        /// Puts pages of the file, which are zeros, in place of those that lie in the `bytes` bytes from `start` on; the
        /// rest of these bytes becomes zeros.
        ///
        /// # Safety
        ///
        /// The memory is the caller's to write, and is not freed before this is dropped.
        pub unsafe fn new(start: *mut u8, bytes: usize, file: &mut File) -> io::Result<Self> {
            let page = page_bytes();
            let before = start.align_offset(page).min(bytes);
            let len = (bytes - before) / page * page;
            // SAFETY: both ends are inside of the caller's memory.
            let pages = unsafe {
                ptr::write_bytes(start, 0, before);
                ptr::write_bytes(start.add(before + len), 0, bytes - before - len);
                Self { start: start.add(before), len }
            };
            let offset = file.len;
            file.len += len;
            if len > 0 {
                // A page without room on the disk would end the process when it is written.
                // SAFETY: the descriptor is open.
                let full = unsafe { libc::posix_fallocate(file.file.as_raw_fd(), offset as _, len as _) };
                if full != 0 {
                    return Err(io::Error::from_raw_os_error(full));
                }
                pages.map(libc::MAP_SHARED, file.file.as_raw_fd(), offset)?;
                // Checkpoints are read here and there: what lies behind one is not what comes next.
                // SAFETY: the pages are mapped.
                unsafe { libc::madvise(pages.start.cast(), len, libc::MADV_RANDOM) };
            }
            Ok(pages)
        }

        /// Takes the pages out of RAM, as far as this process keeps them there; what they hold stays in the file.
        pub fn give_back(&self) {
            // SAFETY: the pages are mapped, and shared with the file: nothing that they hold is lost.
            unsafe { libc::madvise(self.start.cast(), self.len, libc::MADV_DONTNEED) };
        }

        fn map(&self, flags: libc::c_int, file: libc::c_int, offset: usize) -> io::Result<()> {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: the pages are whole and inside of memory that is ours, by the promise to `Pages::new`.
            let mapped = unsafe {
                libc::mmap(self.start.cast(), self.len, access, flags | libc::MAP_FIXED, file, offset as _)
            };
            if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
        }
    }

    /// The memory becomes the allocator's kind again before it is freed.
    impl Drop for Pages {
        fn drop(&mut self) {
            if self.len > 0 {
                let unmapped = self.map(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
                debug_assert!(unmapped.is_ok(), "{unmapped:?}");
            }
        }
    }

    fn page_bytes() -> usize {
        // SAFETY: it only asks.
        usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
    }
}

/// Where no memory can be mapped over.
#[cfg(not(target_os = "linux"))]
mod pages {
    use std::io;
    use std::path::Path;

    pub struct File;

    impl File {
        pub fn create(_: &Path) -> io::Result<Self> {
            Err(io::Error::new(io::ErrorKind::Unsupported, "only Linux maps files over memory here"))
        }
    }

    pub struct Pages;

    impl Pages {
        /// # Safety
        ///
        /// Nothing to promise: there is no [`File`] to call it with.
        pub unsafe fn new(_: *mut u8, _: usize, _: &mut File) -> io::Result<Self> {
            Ok(Self)
        }

        pub fn give_back(&self) {}
    }
}
