//! What the tests share: a small source of numbers, and records of every kind out of it.

#![allow(dead_code, reason = "each test file uses its own part")]

#[path = "../../../fuzz/src/lib.rs"]
pub mod checks;

use mcedge_wire::*;

/// Marsaglia's xorshift64.
pub struct Xorshift(pub u64);

impl Xorshift {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// Any bits, with many zeros and ones among them, which COBS and the CRC treat apart.
    pub fn byte(&mut self) -> u8 {
        match self.below(4) {
            0 => self.pick(&[0, 1, 0xFF, 0xFE]),
            _ => self.next() as u8,
        }
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.byte()).collect()
    }

    fn float(&mut self) -> f32 {
        f32::from_bits(u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()]))
    }

    /// A rate or a scale.
    fn positive(&mut self) -> f32 {
        loop {
            let value = self.float().abs();
            if value.is_finite() && value > 0.0 {
                return value;
            }
        }
    }

    fn text(&mut self, most: usize) -> &'static str {
        let texts = ["", "x", "accel_x", "m/s^2", "°C", "µg/m³", "twenty-four bytes of name"];
        let text = self.pick(&texts);
        text.get(..most).unwrap_or(text)
    }
}

/// Calls `check` with a record of any kind with any fields in their ranges.
pub fn with_record<T>(random: &mut Xorshift, check: impl FnOnce(&Record<'_>) -> T) -> T {
    let (stream, boot, sequence) = (random.below(255) as u8, random.byte(), random.next() as u32);
    let time_us = random.next() >> random.below(64);
    let channels: Vec<_> = (0..1 + random.below(MAX_CHANNELS))
        .map(|_| Channel { name: random.text(24), unit: random.text(8), scale: -random.positive() })
        .collect();
    let element = random.pick(&[Element::I16, Element::I32, Element::F32]);
    let sample = channels.len() * element.bytes();
    let samples = 1 + random.below((MAX_RECORD - 24) / sample);
    let data = random.bytes(samples * sample);
    let values: Vec<_> = (0..random.below(256)).map(|_| random.float()).collect();
    let body = match random.below(8) {
        0 => Body::Descriptor(Descriptor {
            name: random.text(24),
            rate_hz: random.positive(),
            element,
            channels: Channels::Listed(&channels),
        }),
        1 => Body::Samples(Samples {
            span_us: if samples > 1 { random.next() as u32 } else { 0 },
            element,
            channels: channels.len() as u8,
            data: &data,
        }),
        2 => Body::Status(Status {
            state: random.pick(&[State::Stopped, State::Running, State::Ended]),
            dropped: random.next() as u32,
            received: random.below(3) as u32,
            bad: u32::MAX,
        }),
        3 => Body::Describe,
        4 => Body::Start,
        5 => Body::Stop,
        6 => Body::Rate(random.positive()),
        _ => Body::Prediction(Prediction {
            score: Some(random.float()).filter(|score| !score.is_nan()),
            values: Values::Listed(&values),
        }),
    };
    let is_command = matches!(body, Body::Describe | Body::Start | Body::Stop | Body::Rate(_));
    let stream = if is_command && random.below(2) == 0 { ALL_STREAMS } else { stream };
    check(&Record { stream, boot, sequence, time_us, body })
}

/// The frame of a record.
pub fn frame(record: &Record<'_>) -> Vec<u8> {
    encode(record, &mut [0xAA; MAX_FRAME]).expect("a frame").to_vec()
}
