//! What the thread at the device hands to the one that polls.

use mcedge_wire::{Element, Record, Samples, State, Status};

use super::event::{BadFrames, Stream};

/// When something came, by two clocks of this machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct At {
    /// µs since the link was opened; never goes back, and on Linux goes on while the machine sleeps.
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
/// - `items` has at most `frames` items of samples, [`STATUSES`] statuses beside ends, [`NOTICES`] notices and [`OTHERS`]
///   others: what comes seldom and matters (a descriptor, a hangup) has room when what comes each second has none.
/// - `data` is as long as the `bytes` of all items together, and stays within the capacity of [`Inbox::new`].
#[derive(Debug)]
pub struct Inbox {
    items: Vec<Item>,
    data: Vec<u8>,
    /// Items of samples that there may be.
    frames: usize,
    /// Other items that there are: statuses, notices and the rest.
    others: usize,
    statuses: usize,
    notices: usize,
    rest: usize,
}

const STATUSES: usize = 64;
const NOTICES: usize = 64;
const OTHERS: usize = 128;

impl Inbox {
    /// Room for so many frames of samples, and for so many bytes of them.
    pub fn new(frames: usize, bytes: usize) -> Self {
        let items = Vec::with_capacity(frames + STATUSES + NOTICES + OTHERS);
        Inbox { items, data: Vec::with_capacity(bytes), frames, others: 0, statuses: 0, notices: 0, rest: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub fn clear(&mut self) {
        self.items.clear();
        self.data.clear();
        (self.others, self.statuses, self.notices, self.rest) = (0, 0, 0, 0);
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

    /// Takes anything but samples, unless there are far too many of its kind already. A status that says what the one
    /// before said takes its place: it counts from the start, as that did.
    pub fn push(&mut self, item: Item) {
        if let (Some(Item::Status { head, status }), Item::Status { head: new, status: newer }) =
            (self.items.last_mut(), &item)
            && (head.stream, head.boot, status.state) == (new.stream, new.boot, newer.state)
        {
            (*head, *status) = (*new, *newer);
            return;
        }
        let (room, most) = match &item {
            Item::Status { status, .. } if status.state != State::Ended => (&mut self.statuses, STATUSES),
            Item::Notice(_) => (&mut self.notices, NOTICES),
            _ => (&mut self.rest, OTHERS),
        };
        if *room < most {
            *room += 1;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn head(sequence: u32) -> Head {
        Head { at: At::default(), stream: 0, boot: 1, sequence, time_us: 0 }
    }

    fn status(sequence: u32, state: State) -> Item {
        let status = Status { state, dropped: sequence, received: 0, bad: 0 };
        Item::Status { head: head(sequence), status }
    }

    #[test]
    fn a_status_each_second_leaves_room_for_what_matters() {
        let mut inbox = Inbox::new(1000, 1 << 16);
        (0..1000).for_each(|sequence| inbox.push(status(sequence, State::Running)));
        let [Item::Status { head, status: newest }] = inbox.parts().0 else {
            panic!("{:?}", inbox.parts().0)
        };
        assert_eq!((head.sequence, newest.dropped), (999, 999));
        // With samples between them, and notices.
        for sequence in 0..1000 {
            let samples = Samples { span_us: 0, element: Element::I16, channels: 1, data: &[0; 2] };
            inbox.push_samples(self::head(sequence), &samples);
            inbox.push(status(sequence, State::Running));
            inbox.push(Item::Notice(String::new()));
        }
        let before = inbox.parts().0.len();
        assert!(before <= 1000 + STATUSES + NOTICES, "{before}");
        inbox.push(Item::Unplugged);
        inbox.push(status(1000, State::Ended));
        inbox.push(status(1000, State::Running));
        let [.., unplugged, ended] = inbox.parts().0 else { panic!("nothing") };
        assert!(matches!(unplugged, Item::Unplugged));
        assert!(matches!(ended, Item::Status { status, .. } if status.state == State::Ended));
        let (items, data) = inbox.parts();
        assert_eq!((items.len(), data.len()), (before + 2, 2000));
        inbox.clear();
        inbox.push(status(0, State::Running));
        assert_eq!(inbox.others(), 1);
    }
}
