//! What is drawn, character by character.

use mcedge_firmware_host::{BadFrames, ClockFit, Counters, Gap, GapCause, Sample};

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::super::feed::sections;
use super::super::view::tests::stream;
use super::*;

fn picture(view: &View, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| draw(frame, view)).expect("drawn");
    let text = terminal.backend().to_string().replace('"', "");
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn view(channels: &[(&str, &str)]) -> View {
    let stream = stream(channels);
    let mut view = View::new("serial:///dev/ttyACM0", &stream, true);
    for sequence in (0..1000_u32).filter(|sequence| !(885..900).contains(sequence)) {
        let values: Vec<f32> = (0..channels.len())
            .map(|at| ((sequence as f32) * 0.02 * (at + 1) as f32).sin() * 10_f32.powi(at as i32 - 2))
            .collect();
        let device_us = u64::from(sequence) * 10_000;
        if sequence == 900 {
            view.gap(&Gap { missing: Some(15), us: 150_000, cause: GapCause::Lost });
        }
        view.sample(&Sample { sequence, device_us, time_us: device_us as i64, values: &values });
    }
    let counters = Counters {
        samples: 1_234_567,
        missing: 15,
        frames: 123_456,
        bad_frames: BadFrames { crc: 3, ..BadFrames::default() },
        reconnects: 1,
        ..Counters::default()
    };
    let clock = ClockFit { offset_us: 0, drift_ppm: -12.34, jitter_us: 210.0, samples: 0 };
    view.update(sections(&counters), counters.missing, counters.bad_frames.sum(), Some(clock));
    view.notices.push_back(("12:00:01".into(), "the port has gone".into()));
    view.notices.push_back(("12:00:02".into(), "/dev/ttyACM0 is back after 0.42 s".into()));
    (view.elapsed, view.silence) = (Duration::from_secs(754), Duration::ZERO);
    view
}

const IMU: [(&str, &str); 6] = [
    ("accel_x", "m/s^2"),
    ("accel_y", "m/s^2"),
    ("accel_z", "m/s^2"),
    ("gyro_x", "rad/s"),
    ("gyro_y", "rad/s"),
    ("gyro_z", "rad/s"),
];

#[test]
fn a_screen_of_80_by_24_shows_all() {
    let expected = "\
\x20mcedge monitor serial:///dev/ttyACM0                            running  12:34
┌ imu: 100 Hz nominal, 100.00 Hz measured ─────────────────────────────────────┐
│ channel unit       last       min       max  last 1.60 s                     │
│ accel_x m/s^2    0.0090   -0.0100    0.0100  ▁▁▁▁▁▁▁▁▁   ▂▂▃▃▃▄▄▄▅▅▅▆▆▆▇▇▇███│
│ accel_y m/s^2    0.0771   -0.1000    0.1000  ▇▇▆▅▅▄▃▃▂   ▁▁▁▂▂▂▃▄▄▅▆▆▇▇█████▇│
│ accel_z m/s^2   -0.2472   -1.0000    1.0000  ▅▆▇████▇▆   ▂▂▁▁▁▂▂▃▄▅▆▇████▇▆▅▄│
│ gyro_x  rad/s   -9.8189  -10.0000   10.0000  ▁▁▂▃▄▅▇██   ▅▃▂▁▁▁▂▃▄▆▇███▇▆▄▃▂▁│
│ gyro_y  rad/s   -58.993   -99.999   100.000  ▇▅▃▂▁▁▂▄▅   ▇▆▄▃▁▁▁▃▄▆▇██▇▅▃▂▁▁▂│
│ gyro_z  rad/s    478.97  -1000.00    999.99  ▆██▇▅▃▂▁▂   ██▆▄▂▁▁▂▄▆██▇▅▃▂▁▂▃▅│
└──────────────────────────────────────────────────────────────────────────────┘
┌ link ────────────────────────────────────────────────────────────────────────┐
│ samples   used 1,234,567  missing 15  duplicate 0  late 0                    │
│ frames    good 123,456  CRC 3  stuffing 0  oversized 0  record 0  cut 0      │
│ dropped   by our queue 0  by the board 0                                     │
│ board     reconnects 1  restarts 0                                           │
│ clock     drift -12.3 ppm  jitter 0.210 ms  its 0 is -                       │
└──────────────────────────────────────────────────────────────────────────────┘
┌ notices ─────────────────────────────────────────────────────────────────────┐
│ 12:00:01 the port has gone                                                   │
│ 12:00:02 /dev/ttyACM0 is back after 0.42 s                                   │
│                                                                              │
│                                                                              │
└──────────────────────────────────────────────────────────────────────────────┘
\x20s stop the board   q quit
";
    assert_eq!(picture(&view(&IMU), 80, 24), expected);
}

#[test]
fn no_size_is_too_small_and_none_too_large() {
    let many: Vec<(&str, &str)> = (0..32).map(|_| ("a_name_of_24_characters_", "m/s^2")).collect();
    for channels in [&IMU[..], &IMU[..1], &many] {
        let view = view(channels);
        for (width, height) in [(1, 1), (2, 3), (10, 5), (20, 8), (39, 12), (60, 20), (160, 48), (300, 100)] {
            let lines = picture(&view, width, height).lines().count();
            assert_eq!(lines, usize::from(height), "{width} by {height}");
        }
    }
    assert!(picture(&view(&many), 80, 24).contains("channels more"));
    assert!(picture(&view(&IMU), 34, 24).contains("accel_x"), "the narrow one still has names and values");
}

#[test]
fn numbers_have_five_digits_and_fit() {
    for (value, expected) in [
        (0.0, "0"),
        (1.0, "1.0000"),
        (-9.80665, "-9.8067"),
        (101_325.0, "101325"),
        (0.012_345, "0.0123"),
        (1e-9, "1.00e-9"),
        (-1.5e38, "-1.50e38"),
        (f32::NAN, "NaN"),
        (f32::NEG_INFINITY, "-inf"),
    ] {
        assert_eq!(number(value), expected);
        assert!(number(value).len() <= NUMBER);
    }
    assert_eq!(["0", "999", "1,000", "1,234,567"].map(str::to_owned), [0, 999, 1000, 1_234_567].map(grouped));
}

#[test]
fn keys_are_obeyed() {
    let of = |code, modifiers| wish(KeyEvent::new(code, modifiers));
    let none = KeyModifiers::NONE;
    assert_eq!(of(KeyCode::Char('q'), none), Some(Wish::Quit));
    assert_eq!(of(KeyCode::Esc, none), Some(Wish::Quit));
    assert_eq!(of(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Wish::Quit));
    assert_eq!(of(KeyCode::Char('s'), none), Some(Wish::Toggle));
    assert_eq!(of(KeyCode::Char('c'), none), None);
}

#[test]
fn what_a_board_says_cannot_move_the_cursor() {
    let mut view = view(&[("\u{1b}[2Jx", "\n")]);
    view.notice("\u{1b}]0;title\u{7}");
    assert!(!picture(&view, 80, 24).contains('\u{1b}'));
}
