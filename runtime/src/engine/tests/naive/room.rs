//! What the naive stream does when it has one checkpoint too many: each policy, in the words that its name comes with.

use super::{Naive, Sums};
use crate::Policy;
use crate::engine::tests::toy::{Checkpoint, DH};

impl Naive {
    pub(super) fn make_room(&mut self) {
        let slots = self.setup.slots.map_or(self.setup.capacity, |slots| slots.min(self.setup.capacity));
        if slots == 0 {
            self.checkpoints.clear();
        }
        if self.checkpoints.len() <= slots {
            return;
        }
        let all = self.checkpoints();
        let new = all.len() - 1;
        match self.setup.policy {
            Policy::Oldest => drop(self.checkpoints.remove(0)),
            Policy::LeastRead => {
                let means = self.checkpoints[..new].iter().map(|sums| mean_gate(sums, slots));
                drop(self.checkpoints.remove(least(means)));
            }
            Policy::Thin if slots == 1 => drop(self.checkpoints.remove(0)),
            Policy::Thin => {
                let gap = |i: usize| self.checkpoints[i + 1].end - self.checkpoints[i - 1].end;
                let closest = 1 + least((1..new).map(|i| gap(i) as f64));
                drop(self.checkpoints.remove(closest));
            }
            Policy::Novel => {
                let likeness = |i: usize| -> f64 {
                    (0..=new).filter(|&j| j != i).map(|j| likeness(&all[i], &all[j])).sum()
                };
                let likeness: Vec<f64> = (0..=new).map(likeness).collect();
                let most = likeness.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let alike = likeness.iter().position(|likeness| *likeness > most - 1e-10);
                drop(self.checkpoints.remove(alike.unwrap()));
            }
            Policy::Merge => self.unite(least((0..new).map(|i| loss(&all[i], &all[i + 1])))),
            Policy::Logarithmic => {
                let now = self.checkpoints[new].end;
                let part = |i: usize| {
                    let (older, younger) = (&self.checkpoints[i], &self.checkpoints[i + 1]);
                    (older.tokens + younger.tokens) as f64 / (now - (older.end - older.tokens)) as f64
                };
                self.unite(least((0..new).map(part)));
            }
        }
    }
}

/// The first of several that are the least but for their rounding.
fn least(values: impl Iterator<Item = f64>) -> usize {
    let mut best = (0, f64::INFINITY);
    for (i, value) in values.enumerate() {
        if best.1 == f64::INFINITY || value < best.1 - 1e-10 * best.1.abs() {
            best = (i, value);
        }
    }
    best.0
}

/// The mean gate, where a segment counts half as much for every `slots` segments since.
fn mean_gate(sums: &Sums, slots: usize) -> f64 {
    let (mut gates, mut tokens) = (0.0, 0.0);
    for (age, (sum, count)) in sums.read.iter().rev().enumerate() {
        let counts = 2f64.powf(-(age as f64) / slots as f64);
        gates += counts * sum;
        tokens += counts * *count as f64;
    }
    gates / tokens
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// The cosines of two checkpoints' contexts, head by head.
fn likeness(a: &Checkpoint, b: &Checkpoint) -> f64 {
    let heads = a.context.chunks(DH).zip(b.context.chunks(DH));
    let cosine = |(a, b): (&[f32], &[f32])| match (dot(a, a) * dot(b, b)).sqrt() {
        0.0 => 0.0,
        lengths => dot(a, b) / lengths,
    };
    heads.map(cosine).sum()
}

/// What is lost of two checkpoints that become one.
fn loss(a: &Checkpoint, b: &Checkpoint) -> f64 {
    let tensors = [(&a.m, &b.m, DH * DH), (&a.context, &b.context, DH), (&a.gate, &b.gate, DH)];
    let heads = tensors.into_iter().flat_map(|(a, b, inner)| a.chunks(inner).zip(b.chunks(inner)));
    let lost = |(a, b): (&[f32], &[f32])| {
        let difference: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
        let whole = dot(a, a) + dot(b, b);
        if whole == 0.0 { 0.0 } else { difference / whole }
    };
    heads.map(lost).sum()
}
