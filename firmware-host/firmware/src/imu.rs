//! An MPU-6050 in software, at its registers, on an I²C bus of its own.

use core::sync::atomic::{AtomicU32, Ordering};

use embedded_hal::i2c::{ErrorKind, ErrorType, I2c, NoAcknowledgeSource, Operation};

pub const ADDRESS: u8 = 0x68;

const GYRO_CONFIG: u8 = 0x1B;
const ACCEL_CONFIG: u8 = 0x1C;
const ACCEL_XOUT_H: u8 = 0x3B;
const GYRO_ZOUT_L: u8 = 0x48;
const PWR_MGMT_1: u8 = 0x6B;
const WHO_AM_I: u8 = 0x75;
const RESET: u8 = 0x80;
const SLEEP: u8 = 0x40;

/// What sample `n` is, in g and °/s: gravity on z, a vibration of 4 Hz at 100 samples a second on x, slower ones and a
/// ramp on the others. Every 10 s it begins again.
pub fn signal(n: u32) -> [f32; 6] {
    let n = n % 1000;
    let ramp = n as f32 / 1000.0;
    let at = |period: u32| triangle(n % period, period);
    [0.5 * at(25), 0.25 * at(40), 1.0 + 0.125 * at(100), 90.0 * at(50), 200.0 * (ramp - 0.5), 45.0 * at(250)]
}

/// From 0 to 1, to -1, and back to 0.
fn triangle(at: u32, period: u32) -> f32 {
    let phase = at as f32 / period as f32;
    match phase {
        phase if phase < 0.25 => 4.0 * phase,
        phase if phase < 0.75 => 2.0 - 4.0 * phase,
        phase => 4.0 * phase - 4.0,
    }
}

/// Samples that the sensor has taken.
static TAKEN: AtomicU32 = AtomicU32::new(0);

/// How many samples the sensor has taken: the last one is one less.
pub fn taken() -> u32 {
    TAKEN.load(Ordering::Relaxed)
}

/// The sensor's registers, and the one that is next. A read of the axes is of the next sample.
pub struct Imu {
    registers: [u8; 128],
    pointer: u8,
}

impl Imu {
    pub fn new() -> Self {
        let mut registers = [0; 128];
        registers[usize::from(PWR_MGMT_1)] = SLEEP;
        registers[usize::from(WHO_AM_I)] = 0x68;
        Imu { registers, pointer: 0 }
    }

    fn register(&mut self, number: u8) -> &mut u8 {
        &mut self.registers[usize::from(number % 128)]
    }

    fn write(&mut self, bytes: &[u8]) {
        let Some((&pointer, values)) = bytes.split_first() else { return };
        self.pointer = pointer;
        for &value in values {
            let number = self.pointer;
            match number {
                PWR_MGMT_1 if value & RESET != 0 => *self = Imu::new(),
                WHO_AM_I | ACCEL_XOUT_H..=GYRO_ZOUT_L => {}
                _ => *self.register(number) = value,
            }
            self.pointer = number.wrapping_add(1);
        }
    }

    fn read(&mut self, to: &mut [u8]) {
        if self.pointer == ACCEL_XOUT_H && *self.register(PWR_MGMT_1) & SLEEP == 0 {
            self.sample();
        }
        for byte in to {
            let number = self.pointer;
            *byte = *self.register(number);
            self.pointer = number.wrapping_add(1);
        }
    }

    /// Measures: what the axes are at the full scales that are set. Each step of a full scale halves the counts.
    fn sample(&mut self) {
        let accel = 16384.0 / f32::from(1u8 << (*self.register(ACCEL_CONFIG) >> 3 & 3));
        let gyro = 131.0 / f32::from(1u8 << (*self.register(GYRO_CONFIG) >> 3 & 3));
        let signal = signal(taken());
        for (axis, value) in signal.into_iter().enumerate() {
            let counts = (value * if axis < 3 { accel } else { gyro }) as i16;
            // Between the accelerations and the rotations stands the temperature.
            let at = usize::from(ACCEL_XOUT_H) + 2 * axis + if axis < 3 { 0 } else { 2 };
            self.registers[at..at + 2].copy_from_slice(&counts.to_be_bytes());
        }
        TAKEN.store(taken().wrapping_add(1), Ordering::Relaxed);
    }
}

impl ErrorType for Imu {
    type Error = ErrorKind;
}

impl I2c for Imu {
    fn transaction(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), ErrorKind> {
        if address != ADDRESS {
            return Err(ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address));
        }
        for operation in operations {
            match operation {
                Operation::Write(bytes) => self.write(bytes),
                Operation::Read(to) => self.read(to),
            }
        }
        Ok(())
    }
}
