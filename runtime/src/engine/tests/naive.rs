//! One stream of the toy model, straight from the words of the contract, over lists that keep everything.

use mcedge_models::spec::Segmentation;

use super::RolledBack;
use super::toy::{C, HEADS, M};
use super::toy::{Checkpoint, Memory, Setup, initial, weight};

mod room;

/// A checkpoint before its context has become a mean.
#[derive(Clone)]
struct Sums {
    m: Vec<f32>,
    gate: Vec<f32>,
    context: Vec<f32>,
    tokens: u64,
    /// The stream's tokens when it was made.
    end: u64,
    /// For each segment since: what its gates added up to, and the segment's tokens. The last may not have ended yet.
    read: Vec<(f64, u64)>,
}

pub struct Naive {
    setup: Setup,
    segmentation: Segmentation,
    start: Memory,
    memory: Memory,
    /// From the oldest to the youngest.
    checkpoints: Vec<Sums>,
    losses: Vec<f32>,
    inside: u64,
    /// The memory as the segment began.
    good: Memory,
    /// Times it has been gone back to.
    back: usize,
}

impl Naive {
    pub fn new(setup: &Setup, stream: usize) -> Self {
        let start = Memory { m: vec![initial(stream); M], context: vec![0.0; C] };
        let segmentation = setup.contract().segmentation;
        let (memory, good) = (start.clone(), start.clone());
        Self {
            setup: setup.clone(),
            segmentation,
            start,
            memory,
            checkpoints: vec![],
            losses: vec![],
            inside: 0,
            good,
            back: 0,
        }
    }

    pub fn push(&mut self, x: f32) -> Vec<f32> {
        let loss = self.memory.loss(x);
        self.memory.write(x);
        let output = self.memory.read(x, &self.checkpoints(), self.inside as i64);
        for sums in &mut self.checkpoints {
            if self.inside == 0 {
                sums.read.push((0.0, 0));
            }
            let (gates, tokens) = sums.read.last_mut().unwrap();
            *gates += (0..HEADS).map(|head| f64::from(weight(&sums.m, head, x))).sum::<f64>();
            *tokens += 1;
        }
        self.inside += 1;
        if self.ends(loss) {
            self.end_segment();
            (self.good, self.back) = (self.memory.clone(), 0);
        }
        self.losses.push(loss);
        output
    }

    /// What it is to go back after a token that was none.
    pub fn go_back(&mut self) -> RolledBack {
        let tokens = std::mem::take(&mut self.inside);
        self.back += 1;
        if self.back > 16 {
            (self.good, self.back) = (self.start.clone(), 0);
            self.memory = self.good.clone();
            return RolledBack::ToStart;
        }
        self.memory = self.good.clone();
        RolledBack::ToSegment { tokens }
    }

    /// The live checkpoints as they are read, from the oldest to the youngest.
    pub fn checkpoints(&self) -> Vec<Checkpoint> {
        let mean = |sums: &Sums| match self.setup.context {
            "mean" => sums.context.iter().map(|c| c / sums.tokens as f32).collect(),
            _ => sums.context.clone(),
        };
        let checkpoint =
            |sums: &Sums| Checkpoint { m: sums.m.clone(), context: mean(sums), gate: sums.gate.clone() };
        self.checkpoints.iter().map(checkpoint).collect()
    }

    /// Tokens of the live checkpoints, from the oldest to the youngest.
    pub fn tokens(&self) -> Vec<u64> {
        self.checkpoints.iter().map(|sums| sums.tokens).collect()
    }

    /// Where they lie: the stream's tokens when each was made.
    pub fn ends_by_age(&self) -> Vec<u64> {
        self.checkpoints.iter().map(|sums| sums.end).collect()
    }

    fn ends(&self, loss: f32) -> bool {
        match self.segmentation {
            Segmentation::Constant { size } => self.inside == size as u64,
            Segmentation::Logarithmic {} => true,
            Segmentation::Surprise { window, threshold, min_size, max_size } => {
                let before = &self.losses[self.losses.len().saturating_sub(window)..];
                let n = before.len() as f64;
                let m = before.iter().map(|&l| f64::from(l)).sum::<f64>() / n;
                let s = (before.iter().map(|&l| (f64::from(l) - m).powi(2)).sum::<f64>() / n).sqrt();
                let z = if n < 2.0 { 0.0 } else { (f64::from(loss) - m) / s.max(1e-6) };
                let is_surprise = z > f64::from(threshold);
                self.inside == max_size as u64 || (self.inside >= min_size as u64 && is_surprise)
            }
        }
    }

    fn end_segment(&mut self) {
        self.checkpoints.push(Sums {
            m: self.memory.m.clone(),
            gate: self.memory.gate(),
            context: self.memory.context.clone(),
            tokens: self.inside,
            end: self.losses.len() as u64 + 1,
            read: vec![],
        });
        if let Segmentation::Logarithmic {} = self.segmentation {
            self.merge_twins();
        }
        self.make_room();
        self.memory.context = self.start.context.clone();
        if self.setup.init == "restart" {
            self.memory = self.start.clone();
        }
        self.inside = 0;
    }

    fn merge_twins(&mut self) {
        while let [.., older, younger] = &self.checkpoints[..]
            && older.tokens == younger.tokens
        {
            self.unite(self.checkpoints.len() - 2);
        }
    }

    /// The checkpoint at position `older` and the next become one.
    fn unite(&mut self, older: usize) {
        let younger = self.checkpoints.remove(older + 1);
        let older = &mut self.checkpoints[older];
        let add = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a + b).collect::<Vec<_>>();
        let restarts = self.setup.init == "restart";
        older.m = if restarts { add(&older.m, &younger.m) } else { younger.m };
        older.gate = if restarts { add(&older.gate, &younger.gate) } else { younger.gate };
        older.context = add(&older.context, &younger.context);
        older.tokens += younger.tokens;
        older.end = younger.end;
        for ((gates, _), (more, _)) in older.read.iter_mut().rev().zip(younger.read.iter().rev()) {
            *gates += more;
        }
    }
}
