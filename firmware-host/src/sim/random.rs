//! Chance that a seed decides.

/// SplitMix64: each number is a function of the seed and of how many came before.
pub struct Random(u64);

impl Random {
    /// The chances of one thing of many: other things' do not shift them.
    pub fn of(seed: u64, thing: u64) -> Self {
        let mut random = Random(seed ^ thing.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        random.bits();
        random
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Above 0, at most 1.
    pub fn unit(&mut self) -> f64 {
        ((self.bits() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// Whether a thing of this probability happens.
    pub fn happens(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.unit() <= probability
    }

    /// 0 to `count` - 1.
    pub fn below(&mut self, count: u64) -> u64 {
        self.bits() % count.max(1)
    }

    /// How many things pass before one of this probability happens.
    pub fn passed(&mut self, probability: f64) -> usize {
        match probability {
            p if p <= 0.0 => usize::MAX,
            p if p >= 1.0 => 0,
            p => (self.unit().ln() / (-p).ln_1p()) as usize,
        }
    }
}
