//! What a frame and a stream of them must be.

use crate::*;

const CHANNELS: [Channel; 2] = [
    Channel { name: "accel_x", unit: "g", scale: 1.0 / 16384.0 },
    Channel { name: "température", unit: "°C", scale: 0.01 },
];

fn records() -> Vec<Record<'static>> {
    let record = |sequence, body| Record { stream: 3, boot: 7, sequence, time_us: 1_000_000_007, body };
    let data = &[1, 0, 0, 0, 0xff, 0xff, 0x00, 0x80];
    let channels = Channels::Listed(&CHANNELS);
    vec![
        record(
            0,
            Body::Descriptor(Descriptor { name: "imu", rate_hz: 100.0, element: Element::I16, channels }),
        ),
        record(
            u32::MAX,
            Body::Samples(Samples { span_us: 10_000, element: Element::I16, channels: 2, data }),
        ),
        record(5, Body::Samples(Samples { span_us: 0, element: Element::F32, channels: 2, data })),
        record(9, Body::Status(Status { state: State::Ended, dropped: 1, received: 2, bad: 3 })),
        record(0, Body::Describe),
        record(0, Body::Start),
        record(0, Body::Stop),
        record(0, Body::Rate(50.0)),
        record(8, Body::Prediction(Prediction { score: None, values: Values::Listed(&[0.0, 1.5, -2.0]) })),
        record(8, Body::Prediction(Prediction { score: Some(1.0), values: Values::Listed(&[]) })),
    ]
}

#[test]
fn a_record_comes_back_from_its_frame() {
    for record in records() {
        let mut room = [0xAA; MAX_FRAME];
        let frame = encode(&record, &mut room).expect("a frame");
        assert_eq!(frame.iter().position(|&byte| byte == 0), Some(frame.len() - 1), "one zero, at the end");
        let mut decoder: Decoder = Decoder::new();
        let mut bytes = frame;
        assert_eq!(decoder.next(&mut bytes), Some(Ok(record)));
        assert!(bytes.is_empty());
    }
}
