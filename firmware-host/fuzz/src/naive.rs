//! The protocol once more, slowly, from the text of README.md alone: what the decoder is held against.

/// What comes of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The record's bytes.
    Record(Vec<u8>),
    Oversized,
    Stuffing,
    Crc,
    /// The CRC is right, and the bytes are no record.
    NoRecord,
}

/// What comes of the frames in `bytes`, of which the last ends with the last zero.
pub fn outcomes(bytes: &[u8], max_frame: usize) -> Vec<Outcome> {
    let mut frames: Vec<_> = bytes.split(|&byte| byte == 0).collect();
    frames.pop();
    frames.into_iter().filter(|frame| !frame.is_empty()).map(|frame| outcome(frame, max_frame)).collect()
}

fn outcome(frame: &[u8], max_frame: usize) -> Outcome {
    if frame.len() > max_frame {
        return Outcome::Oversized;
    }
    let Some(mut bytes) = unstuff(frame) else { return Outcome::Stuffing };
    if bytes.len() < 4 {
        return Outcome::Stuffing;
    }
    let crc = bytes.split_off(bytes.len() - 4);
    if crc != crc32(&bytes).to_le_bytes() {
        return Outcome::Crc;
    }
    if !is_record(&bytes) {
        return Outcome::NoRecord;
    }
    // No score is any NaN: the bits of one are not kept.
    if bytes[1] == 0x85 && f32::from_le_bytes([bytes[16], bytes[17], bytes[18], bytes[19]]).is_nan() {
        bytes[16..20].copy_from_slice(&[0, 0, 0xC0, 0x7F]);
    }
    Outcome::Record(bytes)
}

/// A frame of `record`, whatever it is.
pub fn frame(record: &[u8]) -> Vec<u8> {
    let mut frame = stuff(&[record, &crc32(record).to_le_bytes()].concat());
    frame.push(0);
    frame
}

/// COBS: each run of bytes that are not zero behind its length plus one, a zero after each but the last and those of 254.
pub fn stuff(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut runs = bytes.split(|&byte| byte == 0).peekable();
    while let Some(mut run) = runs.next() {
        while run.len() > 254 || (run.len() == 254 && runs.peek().is_some()) {
            out.push(255);
            out.extend_from_slice(&run[..254]);
            run = &run[254..];
        }
        out.push(run.len() as u8 + 1);
        out.extend_from_slice(run);
    }
    out
}

fn unstuff(frame: &[u8]) -> Option<Vec<u8>> {
    let (mut out, mut at) = (Vec::new(), 0);
    while at < frame.len() {
        let run = usize::from(frame[at]);
        out.extend_from_slice(frame.get(at + 1..at + run)?);
        at += run;
        if run < 255 && at < frame.len() {
            out.push(0);
        }
    }
    Some(out)
}

/// CRC-32 of zip and Ethernet, a bit at a time.
pub fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

/// Whether `bytes` are a record of version 1.
fn is_record(bytes: &[u8]) -> bool {
    if bytes.len() < 16 || bytes[0] != 1 {
        return false;
    }
    let (stream, body) = (bytes[2], &bytes[16..]);
    let u16_at = |at: usize| usize::from(u16::from_le_bytes([body[at], body[at + 1]]));
    let four = |at: usize| [body[at], body[at + 1], body[at + 2], body[at + 3]];
    let u32_at = |at| u32::from_le_bytes(four(at));
    let f32_at = |at| f32::from_le_bytes(four(at));
    let is_rate = |rate: f32| rate > 0.0 && rate < f32::INFINITY;
    let is_text = |field: &[u8]| {
        let text: Vec<_> = field.iter().copied().take_while(|&byte| byte != 0).collect();
        let is_padded = field[text.len()..].iter().all(|&byte| byte == 0);
        is_padded && String::from_utf8(text).is_ok_and(|text| !text.chars().any(char::is_control))
    };
    match bytes[1] {
        0x01 => {
            let channels = if body.len() >= 32 { usize::from(body[5]) } else { 0 };
            stream != 255
                && (1..=32).contains(&channels)
                && body.len() == 32 + 36 * channels
                && is_rate(f32_at(0))
                && body[4] <= 2
                && u16_at(6) == 0
                && is_text(&body[8..32])
                && (0..channels).map(|channel| 32 + 36 * channel).all(|at| {
                    let scale = f32_at(at + 32);
                    is_text(&body[at..at + 24])
                        && is_text(&body[at + 24..at + 32])
                        && scale.is_finite()
                        && scale != 0.0
                })
        }
        0x02 => {
            stream != 255 && body.len() >= 8 && body[4] <= 2 && {
                let (size, channels, samples) =
                    ([2, 4, 4][usize::from(body[4])], usize::from(body[5]), u16_at(6));
                (1..=32).contains(&channels)
                    && samples >= 1
                    && body.len() == 8 + size * channels * samples
                    && bytes.len() <= 1200
                    && (samples > 1 || u32_at(0) == 0)
            }
        }
        0x03 => stream != 255 && body.len() == 16 && u32_at(0) <= 2,
        0x81..=0x83 => body.is_empty(),
        0x84 => body.len() == 4 && is_rate(f32_at(0)),
        0x85 => {
            stream != 255 && body.len() >= 8 && {
                let values = u32_at(4) as usize;
                values <= 255 && body.len() == 8 + 4 * values
            }
        }
        _ => false,
    }
}
