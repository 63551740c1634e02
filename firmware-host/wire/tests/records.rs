//! What a frame and a record must be: they come back as they were, and none is out of its range.

mod common;

use common::checks::naive;
use common::{Xorshift, frame, with_record};
use mcedge_wire::*;

fn record(body: Body<'_>) -> Record<'_> {
    Record { stream: 3, boot: 7, sequence: 9, time_us: 1_000_000_007, body }
}

#[test]
fn a_record_comes_back_from_its_frame() {
    let mut random = Xorshift(1);
    for _ in 0..5000 {
        with_record(&mut random, |record| {
            let frame = frame(record);
            assert_eq!(
                frame.iter().position(|&byte| byte == 0),
                Some(frame.len() - 1),
                "one zero, at the end"
            );
            let (mut decoder, mut bytes): (Decoder, _) = (Decoder::new(), &frame[..]);
            assert_eq!(decoder.next(&mut bytes), Some(Ok(*record)));
            assert!(bytes.is_empty());
            let counts = Counts { bytes: frame.len() as u64, records: 1, ..Counts::default() };
            assert_eq!(*decoder.counts(), counts);
        });
    }
}

#[test]
fn a_frame_is_as_the_naive_one_and_takes_no_more_room_than_it_needs() {
    let mut random = Xorshift(2);
    for _ in 0..300 {
        with_record(&mut random, |record| {
            let frame = frame(record);
            let [naive::Outcome::Record(bytes)] = &naive::outcomes(&frame, MAX_FRAME)[..] else {
                panic!("{record:?}");
            };
            assert_eq!(frame, naive::frame(bytes));
            let mut room = vec![0xAA; frame.len()];
            assert_eq!(encode(record, &mut room), Ok(&frame[..]));
            let found = random_below(frame.len());
            assert_eq!(encode(record, &mut room[..found]), Err(EncodeError::Room { found }));
            assert_eq!(encode(record, &mut []), Err(EncodeError::Room { found: 0 }));
            let found = frame.len() - 1;
            assert_eq!(encode(record, &mut room[..found]), Err(EncodeError::Room { found }));
        });
    }
}

fn random_below(bound: usize) -> usize {
    Xorshift(bound as u64).below(bound)
}

#[test]
fn the_largest_record_of_each_kind_has_a_frame() {
    let name = "twenty-four bytes long, ";
    let channels = [Channel { name, unit: "8 bytes.", scale: 1.0 }; MAX_CHANNELS];
    let channels = Channels::Listed(&channels);
    let values = [f32::MAX; 255];
    let data = [0xFF; MAX_RECORD - 24];
    for body in [
        Body::Descriptor(Descriptor { name, rate_hz: 0.1, element: Element::F32, channels }),
        Body::Samples(Samples { span_us: 1, element: Element::I16, channels: 1, data: &data }),
        Body::Prediction(Prediction { score: Some(f32::INFINITY), values: Values::Listed(&values) }),
    ] {
        let frame = frame(&record(body));
        assert!(frame.len() <= MAX_FRAME);
        assert_eq!(Decoder::<MAX_FRAME>::new().next(&mut &frame[..]), Some(Ok(record(body))));
    }
}

const CHANNEL: Channel<'static> = Channel { name: "x", unit: "g", scale: 1.0 };

fn no_frame(record: &Record<'_>, field: Field) {
    let expected = Err(EncodeError::Record(RecordError::Field(field)));
    assert_eq!(encode(record, &mut [0; 2 * MAX_FRAME]), expected, "{record:?}");
}

fn descriptor<'a>(rate_hz: f32, name: &'a str, channels: &'a [Channel<'a>]) -> Body<'a> {
    Body::Descriptor(Descriptor {
        name,
        rate_hz,
        element: Element::I16,
        channels: Channels::Listed(channels),
    })
}

#[test]
fn a_descriptor_out_of_its_range_has_no_frame() {
    let named = |name| Channel { name, ..CHANNEL };
    let scaled = |scale| Channel { scale, ..CHANNEL };
    let long = "twenty-five bytes of name";
    for rate_hz in [0.0, -0.0, -1.0, f32::NAN, f32::INFINITY] {
        no_frame(&record(descriptor(rate_hz, "imu", &[CHANNEL])), Field::Rate);
    }
    for name in [long, "nul\0", "\x1b[2J"] {
        no_frame(&record(descriptor(1.0, name, &[CHANNEL])), Field::Text);
    }
    let lists: [(&[Channel<'_>], Field); _] = [
        (&[], Field::Channels),
        (&[CHANNEL; MAX_CHANNELS + 1], Field::Channels),
        (&[named(long)], Field::Text),
        (&[CHANNEL, named("a\nb")], Field::Text),
        (&[Channel { unit: "9 bytes..", ..CHANNEL }], Field::Text),
        (&[scaled(0.0)], Field::Scale),
        (&[scaled(f32::NAN)], Field::Scale),
        (&[CHANNEL, scaled(f32::NEG_INFINITY)], Field::Scale),
    ];
    for (channels, field) in lists {
        no_frame(&record(descriptor(1.0, "imu", channels)), field);
    }
}

#[test]
fn a_field_out_of_its_range_has_no_frame() {
    let samples =
        |span_us, channels, data| Body::Samples(Samples { span_us, element: Element::I16, channels, data });
    let prediction = |values| Body::Prediction(Prediction { score: None, values: Values::Listed(values) });
    for (body, field) in [
        (samples(0, 0, &[]), Field::Channels),
        (samples(0, 0, &[1, 2]), Field::Channels),
        (samples(0, MAX_CHANNELS as u8 + 1, &[0; 66]), Field::Channels),
        (samples(0, 2, &[]), Field::Samples),
        (samples(0, 2, &[1, 2, 3]), Field::Samples),
        (samples(0, 1, &[0; MAX_RECORD - 24 + 2]), Field::Samples),
        (samples(1, 2, &[1, 2, 3, 4]), Field::Span),
        (Body::Rate(0.0), Field::Rate),
        (Body::Rate(f32::NAN), Field::Rate),
        (prediction(&[0.0; 256]), Field::Values),
    ] {
        no_frame(&record(body), field);
    }
    let status = Body::Status(Status { state: State::Running, dropped: 0, received: 0, bad: 0 });
    for body in [descriptor(1.0, "imu", &[CHANNEL]), samples(0, 1, &[1, 2]), status, prediction(&[])] {
        no_frame(&Record { stream: ALL_STREAMS, ..record(body) }, Field::Stream);
    }
}

/// Bytes with a right CRC around them.
fn decoded(bytes: &[u8], check: impl FnOnce(Result<Record<'_>, FrameError>)) {
    check(Decoder::<MAX_FRAME>::new().next(&mut &naive::frame(bytes)[..]).expect("a frame"));
}

#[test]
fn bytes_that_are_no_record_are_an_error_that_names_what_was_found() {
    let header = |version, kind, stream| [&[version, kind, stream][..], &[0; 13]].concat();
    let with = |kind, body: &[u8]| [&header(1, kind, 3)[..], body].concat();
    let cases: [(Vec<u8>, RecordError); _] = [
        (vec![], RecordError::Length { found: 0 }),
        (header(1, 0x81, 255)[..15].to_vec(), RecordError::Length { found: 15 }),
        (vec![2], RecordError::Version { found: 2 }),
        (header(0, 0x81, 255), RecordError::Version { found: 0 }),
        (header(2, 0x81, 255), RecordError::Version { found: 2 }),
        (header(1, 0x04, 3), RecordError::Kind { found: 4 }),
        (with(0x81, &[0]), RecordError::Length { found: 17 }),
        (with(0x84, &[0; 3]), RecordError::Length { found: 19 }),
        (with(0x84, &[0; 4]), RecordError::Field(Field::Rate)),
        (with(0x03, &[0; 15]), RecordError::Length { found: 31 }),
        (with(0x03, &[&[3][..], &[0; 15]].concat()), RecordError::Field(Field::State)),
        (with(0x03, &[&[0, 1][..], &[0; 14]].concat()), RecordError::Field(Field::State)),
        (with(0x02, &[0, 0, 0, 0, 0, 1, 2, 0, 9, 9]), RecordError::Length { found: 26 }),
        (with(0x02, &[0, 0, 0, 0, 3, 1, 1, 0, 9, 9]), RecordError::Field(Field::Element)),
        (with(0x02, &[0, 0, 0, 0, 0, 1, 0, 0]), RecordError::Field(Field::Samples)),
        (with(0x02, &[0, 0, 0, 0, 0, 0, 9, 0]), RecordError::Field(Field::Channels)),
        (with(0x85, &[0, 0, 0, 0, 255, 255, 255, 255]), RecordError::Field(Field::Values)),
        (
            with(0x85, &[&[0, 0, 0, 0, 0, 1, 0, 0][..], &[0; 1024]].concat()),
            RecordError::Field(Field::Values),
        ),
    ];
    for (bytes, error) in cases {
        decoded(&bytes, |decoded| assert_eq!(decoded, Err(FrameError::Record(error)), "{bytes:02x?}"));
        assert_eq!(Record::decode(&bytes), Err(error));
    }
}

#[test]
fn a_text_of_a_record_is_text_with_zeros_behind_it() {
    let channels = Channels::Listed(&[Channel { name: "x", unit: "g", scale: 1.0 }]);
    let body = Body::Descriptor(Descriptor { name: "imu", rate_hz: 1.0, element: Element::I16, channels });
    let frame = frame(&record(body));
    let [naive::Outcome::Record(bytes)] = &naive::outcomes(&frame, MAX_FRAME)[..] else { panic!() };
    assert_eq!(&bytes[24..27], b"imu");
    for (at, byte) in
        [(24, 0x1B), (25, 0xFF), (25, 0), (47, b'x'), (48, 0xC3), (72, b'\n'), (79, b'x'), (22, 1)]
    {
        let mut bytes = bytes.clone();
        bytes[at] = byte;
        let expected = Err(RecordError::Field(Field::Text));
        assert_eq!(Record::decode(&bytes), expected, "byte {at} is {byte:#04x}");
    }
}

#[test]
fn numbers_and_times_of_samples_are_those_of_their_bytes() {
    let of = |element, data| Samples { span_us: 10_001, element, channels: 1, data };
    let numbers = |samples: Samples<'_>| samples.numbers().collect::<Vec<_>>();
    assert_eq!(numbers(of(Element::I16, &[1, 0, 0xFF, 0xFF, 0, 0x80])), [1.0, -1.0, -32768.0]);
    assert_eq!(numbers(of(Element::I32, &[0, 0, 0, 0x80, 1, 0, 0, 1])), [-2147483648.0, 16777216.0]);
    assert_eq!(numbers(of(Element::F32, &[0, 0, 0xC0, 0xBF])), [-1.5]);
    let three = of(Element::I16, &[0; 6]);
    assert_eq!([0, 1, 2].map(|sample| three.offset_us(sample)), [0, 5000, 10_001]);
    assert_eq!(Samples { span_us: 0, ..of(Element::I16, &[0; 2]) }.offset_us(0), 0);
}

#[test]
fn errors_say_what_was_found() {
    let said: [(&dyn core::error::Error, &str); _] = [
        (&FrameError::Stuffing, "not COBS"),
        (&FrameError::Crc { found: 0xABC, expected: 1 }, "CRC is 00000abc, that of its bytes 00000001"),
        (&FrameError::Oversized, "1210 bytes"),
        (
            &FrameError::Record(RecordError::Version { found: 2 }),
            "version 2 of the protocol, expected version 1",
        ),
        (&RecordError::Kind { found: 0x7F }, "kind 0x7f"),
        (&RecordError::Length { found: 17 }, "17 bytes"),
        (&RecordError::Field(Field::Channels), "1 to 32"),
        (&EncodeError::Room { found: 5 }, "5 bytes"),
        (&EncodeError::Record(RecordError::Field(Field::Rate)), "Hz above 0"),
    ];
    for (error, part) in said {
        let text = error.to_string();
        assert!(text.contains(part), "{text:?} has no {part:?}");
    }
    for field in [
        Field::Element,
        Field::Channels,
        Field::Samples,
        Field::Span,
        Field::Rate,
        Field::Scale,
        Field::Text,
        Field::State,
        Field::Stream,
        Field::Values,
    ] {
        assert!(RecordError::Field(field).to_string().len() > 20);
    }
}
