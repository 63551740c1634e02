//! Signals for want of a recording.

use std::f64::consts::TAU;

use clap::ValueEnum;

/// A signal that somebody who looks at it knows again.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Signal {
    /// Three sines of 1, 2 and 3 s
    Sine,
    /// Six channels of a machine that turns: acceleration with gravity, and rates of turn
    Imu,
    /// One that rises for 10 s and falls back
    Ramp,
    /// Two that jump between levels, one with noise
    Steps,
}

impl Signal {
    /// Names and units of the channels.
    pub fn channels(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Signal::Sine => &[("sine_1s", "V"), ("sine_2s", "V"), ("sine_3s", "V")],
            Signal::Imu => &[
                ("accel_x", "m/s^2"),
                ("accel_y", "m/s^2"),
                ("accel_z", "m/s^2"),
                ("gyro_x", "rad/s"),
                ("gyro_y", "rad/s"),
                ("gyro_z", "rad/s"),
            ],
            Signal::Ramp => &[("ramp", "V")],
            Signal::Steps => &[("step", "V"), ("noisy_step", "V")],
        }
    }

    /// What no value is past.
    pub fn largest(self) -> f32 {
        match self {
            Signal::Sine | Signal::Ramp => 1.0,
            Signal::Imu => 16.0,
            Signal::Steps => 4.0,
        }
    }

    /// The row of sample `sample`: a function of it alone.
    pub fn row(self, sample: u64, rate_hz: f64) -> Vec<f32> {
        let time_s = sample as f64 / rate_hz;
        let sine = |hz: f64, phase: f64| (TAU * (hz * time_s + phase)).sin();
        let noise = |channel: u64| noise(sample * 8 + channel);
        let values = match self {
            Signal::Sine => vec![sine(1.0, 0.0), sine(0.5, 0.0), sine(1.0 / 3.0, 0.0)],
            Signal::Imu => {
                // Turns five times a second, with a slow sway under it.
                let sway = 0.3 * sine(0.2, 0.0);
                vec![
                    1.5 * sine(5.0, 0.0) + 0.3 * sine(10.0, 0.1) + 0.05 * noise(0),
                    1.2 * sine(5.0, 0.25) + 0.05 * noise(1),
                    9.81 + 0.8 * sine(10.0, 0.3) + sway + 0.05 * noise(2),
                    0.10 * sine(5.0, 0.5) + 0.01 * noise(3),
                    0.08 * sine(5.0, 0.75) + 0.01 * noise(4),
                    sway + 0.01 * noise(5),
                ]
            }
            Signal::Ramp => vec![time_s.rem_euclid(10.0) / 10.0],
            Signal::Steps => {
                let level = [0.0, 2.0, 1.0, 3.0][(time_s / 2.0) as u64 as usize % 4];
                vec![level, level + 0.1 * noise(0)]
            }
        };
        values.into_iter().map(|value| value as f32).collect()
    }
}

/// About normal, of mean 0 and deviation 1; at most 3.5 either way.
fn noise(number: u64) -> f64 {
    let mixed = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    // The sum of four even numbers is nearly normal.
    let sum: u64 = (0..4).map(|part| (mixed >> (16 * part)) & 0xFFFF).sum();
    (sum as f64 / 65_535.0 - 2.0) * 3.0_f64.sqrt()
}
