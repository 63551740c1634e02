//! Streams, and the line to the host.

use embedded_io::Write;
use mcedge_wire::{ALL_STREAMS, Body, Decoder, Prediction, Record};

use crate::sender::Sender;
use crate::stream::Stream;

/// How often a stream says how it fares.
const STATUS_US: u64 = 1_000_000;

/// A board: some sensors' streams, and a serial line on which they are sent and the host's commands come.
///
/// The firmware's loop calls [`Board::poll`] when a sample is due or before, and [`Board::receive`] with what has come. `N`
/// bounds the bytes of a command's frame: 128 are enough for predictions of 24 values.
pub struct Board<'b, 's, W, const N: usize = 128> {
    streams: &'b mut [Stream<'s>],
    sender: Sender<W>,
    decoder: Decoder<N>,
    has_begun: bool,
    status_due_us: u64,
}

/// A prediction that has come, with what it answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answer<'a> {
    /// The stream.
    pub stream: u8,
    /// The number of the sample.
    pub sequence: u32,
    /// The sample's time, by the board's clock.
    pub time_us: u64,
    /// What the model says.
    pub prediction: Prediction<'a>,
}

impl<'b, 's, W: Write, const N: usize> Board<'b, 's, W, N> {
    /// A board with these streams, whose ids differ. `boot` is a number that differs from one start to the next, such as a
    /// count in memory that outlives a reset, or the noise of an ADC; 0 where there is none.
    ///
    /// `writer` may wait until it has room: samples that come due meanwhile are counted as dropped.
    pub fn new(writer: W, boot: u8, streams: &'b mut [Stream<'s>]) -> Self {
        let sender = Sender::new(writer, boot);
        Board { streams, sender, decoder: Decoder::new(), has_begun: false, status_due_us: 0 }
    }

    /// The streams, for what a firmware shows of them.
    pub fn streams(&self) -> &[Stream<'s>] {
        self.streams
    }

    /// Records from the host that were understood, and frames that were not.
    pub fn commands(&self) -> (u32, u32) {
        let counts = self.decoder.counts();
        (counts.records as u32, counts.bad() as u32)
    }

    /// Does what is due at this time, in µs since the start: takes samples, sends frames. When to come again, at the latest.
    pub fn poll(&mut self, now_us: u64) -> u64 {
        if !self.has_begun {
            self.has_begun = true;
            self.status_due_us = now_us.saturating_add(STATUS_US);
            self.streams.iter_mut().for_each(|stream| stream.describe(now_us, &mut self.sender));
        }
        for stream in &mut *self.streams {
            stream.poll(now_us, &mut self.sender);
        }
        if now_us >= self.status_due_us {
            self.status_due_us = now_us.saturating_add(STATUS_US);
            self.report(ALL_STREAMS, now_us);
        }
        let due_us = self.streams.iter().filter_map(Stream::due_us);
        due_us.fold(self.status_due_us, u64::min)
    }

    /// Takes bytes from the host, in any pieces, and does what they say; predictions go to `answer`.
    pub fn receive(&mut self, mut bytes: &[u8], now_us: u64, mut answer: impl FnMut(&Answer<'_>)) {
        loop {
            let (stream, command) = match self.decoder.next(&mut bytes) {
                None => return,
                // It is counted.
                Some(Err(_)) => continue,
                Some(Ok(Record { stream, sequence, time_us, body, .. })) => match body {
                    Body::Prediction(prediction) => {
                        answer(&Answer { stream, sequence, time_us, prediction });
                        continue;
                    }
                    Body::Describe => (stream, Command::Describe),
                    Body::Start => (stream, Command::Start),
                    Body::Stop => (stream, Command::Stop),
                    Body::Rate(rate_hz) => (stream, Command::Rate(rate_hz)),
                    // What boards say, from another one.
                    Body::Descriptor(_) | Body::Samples(_) | Body::Status(_) => continue,
                },
            };
            self.obey(stream, command, now_us);
        }
    }

    fn obey(&mut self, id: u8, command: Command, now_us: u64) {
        for stream in self.streams.iter_mut().filter(|stream| id == ALL_STREAMS || id == stream.id()) {
            match command {
                Command::Describe => stream.describe(now_us, &mut self.sender),
                Command::Start => stream.start(),
                Command::Stop => stream.stop(&mut self.sender),
                Command::Rate(rate_hz) => {
                    stream.set_rate(rate_hz, &mut self.sender);
                    stream.describe(now_us, &mut self.sender);
                }
            }
        }
        if matches!(command, Command::Describe | Command::Stop) {
            self.report(id, now_us);
        }
    }

    fn report(&mut self, id: u8, now_us: u64) {
        let commands = self.commands();
        for stream in self.streams.iter_mut().filter(|stream| id == ALL_STREAMS || id == stream.id()) {
            stream.report(now_us, commands, &mut self.sender);
        }
    }
}

/// What a host asks for, without what it borrows.
#[derive(Clone, Copy)]
enum Command {
    Describe,
    Start,
    Stop,
    Rate(f32),
}
