//! The board's clock on this machine's.
//!
//! What a board sends comes late by as much as the line, its driver and this machine's scheduler take, and never early. So
//! the true relation of the clocks is the line that lies under all arrivals and closest to them: of the lower convex hull,
//! the edge over their mean (Moon, Skelly, Towsley: "Estimation and removal of clock skew from network delay
//! measurements", INFOCOM 1999). A late arrival lies above the hull and changes nothing, however late it is. The points
//! are the quickest arrivals of windows of a second, the last 64 of them: that follows a crystal that warms up, and bounds
//! memory. The delay of the quickest ones cannot be seen from one end, and stays in the offset.

use std::collections::VecDeque;

/// How the board's clock goes against this machine's, by the running fit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ClockFit {
    /// What is added to the board's time of the newest arrival for this machine's, in µs.
    pub offset_us: i64,
    /// How much faster the board's clock goes than this machine's, in parts of a million; 0 until there are some windows.
    pub drift_ppm: f64,
    /// How much later than the quickest ones arrivals are, in µs: the mean over the last few hundred.
    pub jitter_us: f64,
    /// Arrivals that the fit has seen since it began: at the board's start, or where one of the clocks was set.
    pub samples: u64,
}

/// A running fit of a board's clock to this machine's.
///
/// # Invariants
///
/// - Times that it gives do not go back while the board's go on, but where the fit has moved back by more than a
///   second at once.
/// - `quickest` has 64 points at most, in the order of the board's time.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// The board's time and this machine's of the first arrival: points are from there.
    origin: Option<(u64, i64)>,
    quickest: VecDeque<Point>,
    window: Window,
    line: Line,
    newest_us: f64,
    /// The quickest arrivals of the last windows, where those were far above the line: a stall, or a clock that has been
    /// set. Fewer than [`ASTRAY_WINDOWS`].
    astray: Vec<Point>,
    jitter_us: f64,
    arrivals: u64,
    /// This machine's time that was given last.
    given_us: Option<i64>,
    /// The board's time that it was given for, where its clock is still the same.
    given_device_us: Option<u64>,
}

/// An arrival.
#[derive(Clone, Copy, Debug, Default)]
struct Point {
    /// The board's time.
    x_us: f64,
    /// By how much this machine's is ahead of it.
    y_us: f64,
}

/// The arrivals since the last window ended.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    began_us: f64,
    arrivals: u32,
    /// The one that is lowest against the line.
    best: Point,
}

/// `at`, and from there so much up for each µs.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    at: Point,
    slope: f64,
}

const WINDOWS: usize = 64;
/// A window has so many arrivals and lasts so long, or only the longer time.
const WINDOW_ARRIVALS: u32 = 8;
const WINDOW_US: f64 = 1e6;
const LONG_WINDOW_US: f64 = 30e6;
/// Fewer windows say nothing about the drift: 16 ms of jitter look like one.
const DRIFT_WINDOWS: usize = 4;
/// No oscillator is further off; an RC one is by 2 %.
const MOST_DRIFT: f64 = 0.05;
/// An arrival this far below the line, or of a time of the board's this far back, means that one of the clocks has been
/// set, or has slept; and how fast a clock may leave a fit that has not seen it go.
const STEP_US: f64 = 100e3;
const STRAY: f64 = 1e-3;
/// A window that is further above the line has seen a stall, and is left out of the fit.
const ASTRAY_US: f64 = 20e3;
/// So many of them in a row are no delay any more: they are what is fitted from there on.
const ASTRAY_WINDOWS: usize = 8;
/// How far a time is behind the one before at least, while the fit is behind.
const SLOW_US: u64 = 5_000;
/// A time that is further ahead of the fit is of another clock, or of a bad time of the board's: it holds nothing up.
const MOST_AHEAD_US: i64 = 1_000_000;
/// Arrivals of which the jitter is the mean, about.
const JITTER_ARRIVALS: u64 = 256;

impl Clock {
    /// Nothing yet.
    pub fn new() -> Self {
        Clock::default()
    }

    /// What the board has stamped with `device_us` came at `host_us` by this machine's clock. One that is no newer than
    /// the one before is not used; where one of the clocks has been set, the fit starts over.
    pub fn arrived(&mut self, device_us: u64, host_us: i64) {
        let mut point = self.point(device_us, host_us);
        if self.has_leapt(point) {
            self.restart();
            point = self.point(device_us, host_us);
        }
        if self.arrivals > 0 && point.x_us <= self.newest_us {
            return;
        }
        self.line.at.y_us += self.line.below_us(point).min(0.0);
        self.newest_us = point.x_us;
        self.arrivals += 1;
        let above_us = self.line.below_us(point);
        self.jitter_us += (above_us - self.jitter_us) / self.arrivals.min(JITTER_ARRIVALS) as f64;
        self.window.take(point, &self.line);
        if self.window.is_over(point.x_us) {
            self.end_window();
        }
    }

    /// An arrival, from the first one.
    fn point(&mut self, device_us: u64, host_us: i64) -> Point {
        let (device_0, host_0) = *self.origin.get_or_insert((device_us, host_us));
        let x_us = device_us as f64 - device_0 as f64;
        Point { x_us, y_us: host_us.saturating_sub(host_0) as f64 - x_us }
    }

    /// Whether a point is of other clocks than those before: the board's has gone back, wrapped at 32 bits or was wrong
    /// for a while, or the point is earlier than can be, since this machine has slept or the board's clock has leapt.
    fn has_leapt(&self, point: Point) -> bool {
        let ahead_us = point.x_us - self.newest_us;
        let earliest_us = -STEP_US - STRAY * ahead_us;
        self.arrivals > 0
            && (ahead_us < -STEP_US || ahead_us > 0.0 && self.line.below_us(point) < earliest_us)
    }

    /// This machine's time of the board's, in µs: by the fit; what was given last, before anything has arrived.
    ///
    /// Where the fit has moved back under what was given, time goes at half its pace or 5 ms a call, whatever is less,
    /// until the fit has caught up. Where it has moved back by more than a second, time goes back with it.
    pub fn host_us(&mut self, device_us: u64) -> i64 {
        let Some((device_0, host_0)) = self.origin else { return self.given_us.unwrap_or_default() };
        let x_us = device_us as f64 - device_0 as f64;
        let fitted_us = host_0.saturating_add((x_us + self.line.y_us(x_us)).round() as i64);
        let least_us = self.least_us(device_us).filter(|us| us.saturating_sub(fitted_us) <= MOST_AHEAD_US);
        let host_us = least_us.map_or(fitted_us, |least_us| least_us.max(fitted_us));
        (self.given_us, self.given_device_us) = (Some(host_us), Some(device_us));
        host_us
    }

    /// The least time that is not behind what was given.
    fn least_us(&self, device_us: u64) -> Option<i64> {
        let slow_us = match self.given_device_us {
            Some(before_us) if before_us == device_us => 0,
            Some(before_us) => (device_us.saturating_sub(before_us) / 2).clamp(1, SLOW_US),
            None => 1,
        };
        Some(self.given_us?.saturating_add_unsigned(slow_us))
    }

    /// The fit.
    pub fn fit(&self) -> ClockFit {
        let Some((device_0, host_0)) = self.origin else { return ClockFit::default() };
        let offset_us = self.line.y_us(self.newest_us).round() as i64;
        ClockFit {
            offset_us: host_0.saturating_sub_unsigned(device_0).saturating_add(offset_us),
            drift_ppm: (1.0 / (1.0 + self.line.slope) - 1.0) * 1e6,
            jitter_us: self.jitter_us,
            samples: self.arrivals,
        }
    }

    /// The board has started over, and so has its clock. What is given goes on from what was given last.
    pub fn restart(&mut self) {
        *self = Clock { given_us: self.given_us, ..Clock::default() };
    }

    /// Fits anew to these points alone.
    fn begin(&mut self, points: &[Point]) {
        self.quickest = points.iter().copied().collect();
        self.window = Window::default();
        self.astray.clear();
        self.fit_line();
    }

    fn end_window(&mut self) {
        let Window { best, .. } = std::mem::take(&mut self.window);
        let is_astray = self.line.below_us(best) > ASTRAY_US && self.quickest.len() >= DRIFT_WINDOWS;
        if is_astray && self.astray.len() + 1 < ASTRAY_WINDOWS {
            return self.astray.push(best);
        }
        let mut astray = std::mem::take(&mut self.astray);
        if is_astray {
            astray.push(best);
            return self.begin(&astray);
        }
        if self.quickest.len() == WINDOWS {
            self.quickest.pop_front();
        }
        self.quickest.push_back(best);
        self.fit_line();
    }

    /// The edge of the lower hull over the mean of the points, where there are enough for a drift.
    fn fit_line(&mut self) {
        let points = &self.quickest;
        let lowest = points.iter().copied().min_by(|a, b| a.y_us.total_cmp(&b.y_us)).unwrap_or_default();
        self.line = Line { at: lowest, slope: 0.0 };
        if points.len() < DRIFT_WINDOWS {
            return;
        }
        let mean_us = points.iter().map(|point| point.x_us).sum::<f64>() / points.len() as f64;
        let hull = lower_hull(points);
        if let Some(&[a, b]) = hull.windows(2).find(|edge| edge[1].x_us >= mean_us) {
            let slope = ((b.y_us - a.y_us) / (b.x_us - a.x_us)).clamp(-MOST_DRIFT, MOST_DRIFT);
            self.line = Line { at: b, slope };
        }
    }
}

impl Window {
    fn take(&mut self, point: Point, line: &Line) {
        if self.arrivals == 0 {
            self.began_us = point.x_us;
        }
        if self.arrivals == 0 || line.below_us(point) <= line.below_us(self.best) {
            self.best = point;
        }
        self.arrivals += 1;
    }

    fn is_over(&self, now_us: f64) -> bool {
        let lasts_us = now_us - self.began_us;
        lasts_us >= WINDOW_US && self.arrivals >= WINDOW_ARRIVALS || lasts_us >= LONG_WINDOW_US
    }
}

impl Line {
    fn y_us(&self, x_us: f64) -> f64 {
        self.at.y_us + self.slope * (x_us - self.at.x_us)
    }

    /// How far it is below a point.
    fn below_us(&self, point: Point) -> f64 {
        point.y_us - self.y_us(point.x_us)
    }
}

/// The corners of the lower convex hull of points that ascend in x.
fn lower_hull(points: &VecDeque<Point>) -> Vec<Point> {
    let mut hull: Vec<Point> = Vec::with_capacity(points.len());
    for &point in points {
        while let [.., a, b] = hull[..] {
            let turn = (b.x_us - a.x_us) * (point.y_us - a.y_us) - (b.y_us - a.y_us) * (point.x_us - a.x_us);
            if turn > 0.0 {
                break;
            }
            hull.pop();
        }
        hull.push(point);
    }
    hull
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A generator of numbers, the same ones each time: from 0 to 1.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self) -> f64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as f64 / (1_u64 << 31) as f64
        }
    }

    /// A board whose clock goes `ppm` too fast, a line, and the fit.
    struct World {
        ppm: f64,
        dice: Dice,
        clock: Clock,
        /// The true time of this machine.
        now_us: f64,
        /// The board's time at `now_us` 0.
        board_0_us: f64,
        given_us: i64,
        /// Times that went back, by more than a second each.
        steps_back: u32,
    }

    /// How a line delays.
    #[derive(Clone, Copy, Debug)]
    enum Delay {
        /// Up to 16 ms, evenly.
        Even,
        /// To the next tick of 16 ms of this machine, as a USB adapter does.
        Ticks,
        /// 0.2 ms in the mean, and one in fifty up to 300 ms.
        Spikes,
    }

    impl World {
        fn new(ppm: f64) -> Self {
            let board_0_us = 5e6;
            World {
                ppm,
                dice: Dice(ppm.to_bits()),
                clock: Clock::new(),
                now_us: 0.0,
                board_0_us,
                given_us: i64::MIN,
                steps_back: 0,
            }
        }

        fn delay_us(&mut self, delay: Delay) -> f64 {
            let roll = self.dice.roll();
            match delay {
                Delay::Even => 16e3 * roll,
                Delay::Ticks => (self.now_us / 16e3).ceil() * 16e3 - self.now_us,
                Delay::Spikes if self.dice.roll() < 0.02 => 300e3 * roll,
                Delay::Spikes => -200.0 * (1.0 - roll).ln(),
            }
        }

        fn board_us(&self) -> u64 {
            (self.board_0_us + self.now_us * (1.0 + self.ppm * 1e-6)) as u64
        }

        /// The next sample, `gap_us` behind the one before, and `extra_us` later than the line alone would have it; gives
        /// how far the fit is from the true time.
        fn sample(&mut self, gap_us: f64, delay: Delay, extra_us: f64) -> f64 {
            self.now_us += gap_us;
            let delay_us = self.delay_us(delay) + extra_us;
            let board_us = self.board_us();
            self.clock.arrived(board_us, (self.now_us + delay_us) as i64);
            let given_us = self.clock.host_us(board_us);
            let is_step_back = given_us < self.given_us.saturating_sub(MOST_AHEAD_US / 2);
            assert!(is_step_back || given_us > self.given_us, "time goes back at {} µs", self.now_us);
            self.steps_back += u32::from(is_step_back);
            self.given_us = given_us;
            given_us as f64 - self.now_us
        }

        /// Samples each `gap_us` for so many seconds; gives the largest error.
        fn play(&mut self, seconds: f64, gap_us: f64, delay: Delay) -> f64 {
            let samples = (seconds * 1e6 / gap_us) as u64;
            (0..samples).map(|_| self.sample(gap_us, delay, 0.0).abs()).fold(0.0, f64::max)
        }

        /// The board's clock leaps.
        fn leap(&mut self, leap_us: f64) {
            self.board_0_us += leap_us;
        }
    }

    #[test]
    fn an_hour_of_any_drift_and_jitter_stays_within_its_bound() {
        // After two minutes the error stays under a bound far below the jitter.
        let cases = [
            (10_000.0, Delay::Even, 20e3, 250.0, 10.0),
            (10_000.0, Delay::Spikes, 20e3, 20.0, 1.0),
            (1_000.0, Delay::Even, 20e3, 50.0, 3.0),
            // A period that is no multiple of the tick meets the tick now and then.
            (9_973.0, Delay::Ticks, 20e3, 150.0, 10.0),
            // One a second: it takes half a minute to know the drift, and the quickest of eight are still late.
            (1_000_000.0, Delay::Even, 34e3, 6_000.0, 20.0),
        ];
        for (gap_us, delay, most_early_us, most_us, most_ppm) in cases {
            for ppm in [-500.0, -40.0, 0.0, 20.0, 500.0] {
                let mut world = World::new(ppm);
                let early_us = world.play(120.0, gap_us, delay);
                assert!(early_us < most_early_us, "{gap_us} {delay:?} {ppm}: {early_us} µs in the beginning");
                let seconds = if gap_us < 2_000.0 { 600.0 } else { 3_600.0 };
                let error_us = world.play(seconds, gap_us, delay);
                assert!(error_us < most_us, "{gap_us} {delay:?} {ppm}: {error_us} µs");
                let drift_ppm = world.clock.fit().drift_ppm;
                assert!((drift_ppm - ppm).abs() < most_ppm, "{gap_us} {delay:?} {ppm}: {drift_ppm} ppm");
            }
        }
    }

    #[test]
    fn a_crystal_that_warms_up_is_followed() {
        let mut world = World::new(0.0);
        world.play(120.0, 10_000.0, Delay::Spikes);
        // 6 ppm a minute, which is a lot.
        for _ in 0..600 {
            let before = world.now_us * world.ppm * 1e-6;
            world.ppm += 0.1;
            world.board_0_us += before - world.now_us * world.ppm * 1e-6;
            let error_us = world.play(1.0, 10_000.0, Delay::Spikes);
            assert!(error_us < 500.0, "{error_us} µs at {} ppm", world.ppm);
        }
    }

    #[test]
    fn a_stall_and_a_pause_leave_the_fit_as_it_was() {
        for ppm in [-500.0, 100.0] {
            let mut world = World::new(ppm);
            world.play(120.0, 10_000.0, Delay::Even);
            // The machine reads nothing for five seconds, and then all at once.
            for sample in 0..500 {
                let error_us = world.sample(10_000.0, Delay::Even, 5e6 - f64::from(sample) * 10_000.0);
                assert!(error_us.abs() < 1_000.0, "{error_us} µs in a stall");
            }
            // Unplugged for ten minutes.
            world.now_us += 600e6;
            let error_us = world.play(60.0, 10_000.0, Delay::Even);
            assert!(error_us < 600e6 * 20e-6, "{error_us} µs after a pause");
            assert!(world.play(60.0, 10_000.0, Delay::Even) < 1_500.0);
        }
    }

    #[test]
    fn a_clock_that_leaps_is_found_again_at_once() {
        // Back as 32 bits wrap; ahead as it goes where this machine has slept and the board has not.
        for leap_us in [-3_600e6, -0.2e6, 0.2e6, 2e6, 60e6, 3_600e6, 2_f64.powi(62)] {
            let mut world = World::new(50.0);
            world.leap(4_000e6);
            world.play(120.0, 10_000.0, Delay::Even);
            world.leap(leap_us);
            let error_us = world.play(60.0, 10_000.0, Delay::Even);
            assert!(error_us < 20e3, "{leap_us}: {error_us} µs");
            assert_eq!(world.steps_back, 0, "{leap_us}");
        }
        // The board has slept for a minute, and its clock with it: it falls behind for good.
        let mut world = World::new(50.0);
        world.play(120.0, 10_000.0, Delay::Even);
        world.now_us += 60e6;
        world.board_0_us -= 60e6 * (1.0 + 50e-6);
        world.play(12.0, 10_000.0, Delay::Even);
        let error_us = world.play(60.0, 10_000.0, Delay::Even);
        assert!(error_us < 2_500.0, "{error_us} µs");
    }

    #[test]
    fn a_time_that_was_far_off_holds_nothing_up() {
        // A stall of eight seconds and more is taken for a board that has slept, until it ends.
        let mut world = World::new(0.0);
        world.play(120.0, 10_000.0, Delay::Even);
        for _ in 0..2_000 {
            world.sample(10_000.0, Delay::Even, 30e6);
        }
        world.play(3.0, 10_000.0, Delay::Even);
        assert_eq!(world.steps_back, 1);
        let error_us = world.play(10.0, 10_000.0, Delay::Even);
        assert!(error_us < 20e3, "{error_us} µs");
        // A time at the end of all, and then a new start.
        let mut clock = Clock::new();
        clock.arrived(0, 0);
        assert_eq!(clock.host_us(u64::MAX), i64::MAX);
        clock.restart();
        assert_eq!(clock.host_us(0), i64::MAX, "nothing has arrived");
        clock.arrived(0, 2_000_000);
        assert_eq!(clock.host_us(0), 2_000_000);
    }

    #[test]
    fn a_board_that_starts_over_starts_the_fit_over() {
        let mut world = World::new(-200.0);
        world.play(120.0, 10_000.0, Delay::Even);
        world.board_0_us = 1e3 - world.now_us * (1.0 + world.ppm * 1e-6);
        world.clock.restart();
        assert!(world.play(120.0, 10_000.0, Delay::Even) < 24e3);
        assert!(world.play(60.0, 10_000.0, Delay::Even) < 1_000.0);
        assert!(world.clock.fit().samples < 20_000, "arrivals are since the start");
    }

    #[test]
    fn a_time_that_is_bad_once_is_no_leap_of_the_others() {
        for bad_us in [-100e6, -0.5e6, -0.05e6, 0.5e6, 2_f64.powi(32), 2_f64.powi(62)] {
            let mut world = World::new(50.0);
            world.play(120.0, 10_000.0, Delay::Even);
            world.leap(bad_us);
            world.sample(10_000.0, Delay::Even, 0.0);
            world.leap(-bad_us);
            let error_us = world.play(60.0, 10_000.0, Delay::Even);
            assert!(error_us < 20e3, "{bad_us}: {error_us} µs");
            assert_eq!(world.steps_back, 0, "{bad_us}");
        }
        // As bad as can be.
        let mut clock = Clock::new();
        for (device_us, host_us) in [(0, 0), (1 << 63, 10_000), (u64::MAX, 20_000), (30_000, 30_000)] {
            clock.arrived(device_us, host_us);
            assert_eq!(clock.host_us(device_us), host_us);
        }
    }

    #[test]
    fn a_new_start_keeps_this_machines_time_alone() {
        // Another board, up for ten hours; the same one up for as long as before; a new one.
        for device_us in [36_000_000_000, 5_000_000, 0] {
            let mut clock = Clock::new();
            clock.arrived(5_000_000, 1_000_000);
            assert_eq!(clock.host_us(5_000_000), 1_000_000);
            clock.restart();
            clock.arrived(device_us, 1_000_100);
            assert_eq!(clock.host_us(device_us), 1_000_100, "{device_us}");
            // An earlier one of the same frame is not before what was given.
            clock.restart();
            clock.arrived(device_us + 200, 1_000_250);
            assert_eq!(clock.host_us(device_us), 1_000_101, "{device_us}");
        }
    }

    #[test]
    fn jitter_is_the_mean_delay() {
        let mut world = World::new(0.0);
        world.play(300.0, 10_000.0, Delay::Even);
        let jitter_us = world.clock.fit().jitter_us;
        assert!((6_000.0..10_000.0).contains(&jitter_us), "{jitter_us} µs");
    }

    #[test]
    fn any_arrivals_leave_a_fit_that_is_finite() {
        let cases: [&[(u64, i64)]; 4] = [
            &[(0, i64::MAX), (u64::MAX, i64::MIN)],
            &[(u64::MAX, 0), (0, 0), (1, i64::MAX)],
            &[(5, 5), (5, 5), (4, 9)],
            &[(0, i64::MIN), (1, i64::MAX), (1 << 40, 0)],
        ];
        for arrivals in cases {
            let mut clock = Clock::new();
            for &(device_us, host_us) in arrivals {
                clock.arrived(device_us, host_us);
                clock.host_us(device_us);
            }
            let fit = clock.fit();
            assert!(fit.drift_ppm.is_finite() && fit.jitter_us.is_finite(), "{arrivals:?}: {fit:?}");
        }
    }
}
