//! What the thread at the device hands to the one that polls.

use mcedge_wire::{Element, Record, Samples, Status};

use super::event::{BadFrames, Stream};

/// When something came, by two clocks of this machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct At {
    /// µs since the link was opened; never goes back.
    pub mono_us: i64,
    /// µs since the Unix epoch; goes where somebody sets it.
    pub wall_us: i64,
}

/// What every record of a board says beside its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub at: At,
    pub stream: u8,
    pub boot: u8,
    pub sequence: u32,
    pub time_us: u64,
}

/// Something that came.
#[derive(Debug)]
pub enum Item {
    /// Samples, whose bytes are the next ones of [`Inbox::data`].
    Samples {
        head: Head,
        span_us: u32,
        element: Element,
        channels: u8,
        bytes: usize,
    },
    Descriptor {
        head: Head,
        stream: Box<Stream>,
    },
    Status {
        head: Head,
        status: Status,
    },
    Unplugged,
    Back {
        notice: String,
    },
    Notice(String),
}

/// Items in the order in which they came, in two allocations that never grow.
///
/// # Invariants
///
/// - `items` has at most `frames` items of samples and [`OTHERS`] others: what comes seldom and matters (a status, a
///   hangup) has room when samples have none.
/// - `data` is as long as the `bytes` of all items together, and stays within the capacity of [`Inbox::new`].
#[derive(Debug)]
pub struct Inbox {
    items: Vec<Item>,
    data: Vec<u8>,
    /// Items of samples that there may be.
    frames: usize,
    /// Other items that there are.
    others: usize,
}

const OTHERS: usize = 256;

impl Inbox {
    /// Room for so many frames of samples, and for so many bytes of them.
    pub fn new(frames: usize, bytes: usize) -> Self {
        let items = Vec::with_capacity(frames + OTHERS);
        Inbox { items, data: Vec::with_capacity(bytes), frames, others: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub fn clear(&mut self) {
        self.items.clear();
        self.data.clear();
        self.others = 0;
    }

    /// How many items there are that are no samples.
    pub fn others(&self) -> usize {
        self.others
    }

    /// The items, and the bytes of the samples one behind the other.
    pub fn parts(&self) -> (&[Item], &[u8]) {
        (&self.items, &self.data)
    }

    /// Takes samples; no when there is no room.
    pub fn push_samples(&mut self, head: Head, samples: &Samples<'_>) -> bool {
        let Samples { span_us, element, channels, data } = *samples;
        let has_item = self.items.len() - self.others < self.frames;
        let has_room = has_item && self.data.len() + data.len() <= self.data.capacity();
        if has_room {
            self.data.extend_from_slice(data);
            self.items.push(Item::Samples { head, span_us, element, channels, bytes: data.len() });
        }
        has_room
    }

    /// Takes anything but samples, unless there are far too many already.
    pub fn push(&mut self, item: Item) {
        if self.others < OTHERS {
            self.others += 1;
            self.items.push(item);
        }
    }
}

impl Head {
    pub fn new(at: At, record: &Record<'_>) -> Self {
        let Record { stream, boot, sequence, time_us, .. } = *record;
        Head { at, stream, boot, sequence, time_us }
    }
}

/// What the thread at the device has seen and done.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub frames: u64,
    pub bad_frames: BadFrames,
    pub bytes: u64,
    pub queue_overflows: u64,
    pub reconnects: u64,
    pub sensor_errors: u64,
}
