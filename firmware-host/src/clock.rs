//! The board's clock on this machine's.

/// How the board's clock goes against this machine's, by the running fit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ClockFit {
    /// What is added to the board's time of the newest sample for µs since the Unix epoch.
    pub offset_us: i64,
    /// How much faster the board's clock goes than this machine's, in parts of a million.
    pub drift_ppm: f64,
    /// How much later than the quickest ones samples come, in µs, in the mean.
    pub jitter_us: f64,
    /// Arrivals that the fit has seen since the board's start.
    pub samples: u64,
}

/// A running fit.
#[derive(Debug, Default)]
pub struct Clock {
    fit: ClockFit,
    best: Option<i64>,
}

impl Clock {
    /// Nothing yet.
    pub fn new() -> Self {
        Clock::default()
    }

    /// What was taken at `device_us` by the board's clock came at `host_us` by this machine's.
    pub fn arrived(&mut self, device_us: u64, host_us: i64) {
        let offset = host_us.saturating_sub_unsigned(device_us);
        self.best = Some(self.best.map_or(offset, |best| best.min(offset)));
        self.fit.samples += 1;
    }

    /// This machine's time of the board's.
    pub fn host_us(&mut self, device_us: u64) -> i64 {
        self.best.unwrap_or_default().saturating_add_unsigned(device_us)
    }

    /// The fit, with the offset at the newest arrival.
    pub fn fit(&self) -> ClockFit {
        ClockFit { offset_us: self.best.unwrap_or_default(), ..self.fit }
    }

    /// The board has started over: its clock has, too.
    pub fn restart(&mut self) {
        *self = Clock::new();
    }
}
