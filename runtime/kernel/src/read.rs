//! The read: the online memory and the live checkpoints, weighted.

use super::ahead::{self, Ahead};
use super::checkpoints::Checkpoints;
use super::matvec::{self, RowSum};
use super::parameters::{self, Order, Parameters, Tensor};
use super::plan::{Normalizer, Plan, Scoring, Scratch, Weights};
use super::simd::{Simd, WIDE};
use super::{Cells, Run, cell, math, ops};

/// Reads the memories at the token's q into y. A memory of weight 0 is not touched.
#[inline(always)]
pub(super) fn read<S: Simd>(
    simd: S,
    plan: &Plan,
    scratch: &mut Scratch,
    run: &mut Run<'_, '_>,
    head: usize,
    token: usize,
) {
    if plan.sigmoid {
        return cell::read_sigmoid(simd, plan, scratch, run, head, token);
    }
    let chosen = weigh(simd, plan, scratch, run, head, token);
    let part = plan.part(head, token);
    if !run.gates.is_empty() {
        let gates = gates_of(plan, run.gates, head, token);
        gates.fill(0.0);
        for i in 0..chosen.count {
            gates[chosen.slot(scratch, i)] = scratch.weights[i];
        }
        gates[plan.capacity] = scratch.weights[chosen.count];
    }
    if let Some(input) = scratch.inputs.first_mut() {
        ops::map(plan.feature_map, &scratch.q, input);
    }
    if let Some(normalizer) = plan.normalizer {
        normalize_weights(simd, plan, normalizer, scratch, run, head, chosen);
    }
    let y = &mut run.y[part];
    y.fill(0.0);
    scratch.sums.fill(RowSum::ZERO);
    if chosen.count > 0 && plan.is_matrix() {
        simd.apart(matrices(plan, scratch, run.cache[plan.layers[0].weight], head, chosen));
    } else {
        for i in 0..chosen.count {
            let index = head * plan.capacity + chosen.slot(scratch, i);
            let order = chosen.order(plan, scratch, head, i);
            let checkpoint = Parameters { tensors: run.cache, index, order };
            add_memory(simd, plan, scratch, checkpoint, scratch.weights[i], y);
        }
    }
    let online = Parameters::only(&*run.present, head);
    add_memory(simd, plan, scratch, online, scratch.weights[chosen.count], y);
    if plan.soup {
        read_soup(simd, plan, scratch, y);
    }
    matvec::add_lane_sums(simd, &scratch.sums, y);
}

/// A head's and token's part of the gates, `[N + 1]`.
#[inline(always)]
pub(super) fn gates_of<'g>(plan: &Plan, gates: &'g mut [f32], head: usize, token: usize) -> &'g mut [f32] {
    let row = plan.capacity + 1;
    &mut gates[(token * plan.heads + head) * row..][..row]
}

/// Divides the weights by the normalisers: each by its own memory's, a soup's by the soup's.
#[inline(always)]
fn normalize_weights<S: Simd>(
    simd: S,
    plan: &Plan,
    normalizer: Normalizer,
    scratch: &mut Scratch,
    run: &Run<'_, '_>,
    head: usize,
    chosen: Chosen,
) {
    let (input, slots) = (&scratch.inputs[0], &scratch.slots);
    let product = |i: usize| {
        if i < chosen.count {
            let index = head * plan.capacity + chosen.slot_in(slots, i);
            let checkpoint = Parameters::only(run.cache, index);
            checkpoint.normalizer(simd, plan, normalizer.cached, input)
        } else {
            let online = Parameters::only(&*run.present, head);
            online.normalizer(simd, plan, normalizer.state, input)
        }
    };
    let mut of_soup = 0.0;
    let weights = &mut scratch.weights[..=chosen.count];
    for (memory, weight) in weights.iter_mut().enumerate().filter(|(_, w)| **w != 0.0) {
        if plan.normalizes_soup {
            of_soup += *weight * product(memory);
        } else {
            *weight /= math::at_least(product(memory), 1e-6);
        }
    }
    if plan.normalizes_soup {
        let scale = 1.0 / math::at_least(of_soup, 1e-6);
        weights.iter_mut().for_each(|weight| *weight *= scale);
    }
}

/// The checkpoints that are read: all that are live, or some of them.
#[derive(Clone, Copy)]
struct Chosen {
    count: usize,
    /// Whether they are those whose slots `scratch.slots[..count]` lists, in ascending order; else slots `0..count`.
    listed: bool,
}

impl Chosen {
    /// The slot of checkpoint `i`, `0..count`.
    #[inline(always)]
    fn slot(self, scratch: &Scratch, i: usize) -> usize {
        self.slot_in(&scratch.slots, i)
    }

    /// What is read after checkpoint `i` of a head.
    #[inline(always)]
    fn order(self, plan: &Plan, scratch: &Scratch, head: usize, i: usize) -> Order {
        let first = head * plan.capacity;
        let slots = self.listed.then_some(&scratch.slots[..]);
        Order::of_checkpoint(first, slots, self.count, after(plan, head), i)
    }

    #[inline(always)]
    fn slot_in(self, slots: &[usize], i: usize) -> usize {
        if self.listed { slots[i] } else { i }
    }
}

/// Which checkpoints are read, and their weights and the online memory's, into `weights[..=count]`.
///
/// Of those that are not read only the score is computed, so that the rest of a read costs the same however many there
/// are.
#[inline(always)]
fn weigh<S: Simd>(
    simd: S,
    plan: &Plan,
    scratch: &mut Scratch,
    run: &Run<'_, '_>,
    head: usize,
    token: usize,
) -> Chosen {
    let live = plan.live(run);
    let mut chosen = Chosen { count: live, listed: false };
    if head == 0 && !matches!(plan.weights, Weights::Gates(scoring) if live > scoring.top_k) {
        for layer in &plan.layers {
            if live > 0 {
                ahead::prefetch_first(simd, run.cache[layer.weight].block(0, live * layer.weights()));
            }
        }
    }
    match plan.weights {
        Weights::One => scratch.weights[..=live].fill(1.0),
        Weights::Mean => scratch.weights[..=live].fill(1.0 / (live + 1) as f32),
        Weights::Gates(scoring) => {
            score(simd, plan, scoring, scratch, run, head, token);
            if live > scoring.top_k {
                chosen = Chosen { count: scoring.top_k, listed: true };
                let slots = &mut scratch.slots[..scoring.top_k];
                choose(&scratch.weights[..live], slots);
                // Slots ascend, so that none is read after it has been written.
                for (i, &slot) in slots.iter().enumerate() {
                    scratch.weights[i] = scratch.weights[slot];
                }
                scratch.weights[scoring.top_k] = scratch.weights[live];
            }
            ops::softmax(simd, &mut scratch.weights, chosen.count + 1);
        }
    }
    chosen
}

/// ⟨u, context⟩ / temperature of the live checkpoints and of the online memory, into `weights[..=live]`.
#[inline(always)]
fn score<S: Simd>(
    simd: S,
    plan: &Plan,
    scoring: Scoring,
    scratch: &mut Scratch,
    run: &Run<'_, '_>,
    head: usize,
    token: usize,
) {
    let (dh, live) = (plan.head_size, plan.live(run));
    let u = if scoring.with_u { &run.u[plan.part(head, token)] } else { &*scratch.q };
    let scores = &mut scratch.weights[..=live];
    if live > 0 {
        let contexts = run.cache[scoring.cached_contexts].block(head, plan.capacity * dh);
        let ahead = Ahead::new(contexts, dh, Order { end: live, then: live });
        parameters::matvec(simd, contexts.block(0, live * dh), u, &mut scores[..live], ahead);
    }
    let context = &run.present[scoring.context][head * dh..][..dh];
    let tokens = if scoring.mean { run.segment_length + token + 1 } else { 1 };
    scores[live] = matvec::dot(simd, context, u) / tokens as f32;
    for score in scores {
        *score *= scoring.scale;
    }
}

/// The slots of the best scores, as many as `slots` has room for, in ascending order; of equal scores, the lower slot's is
/// the better.
///
/// One pass, with the best so far kept in order: few scores are among the best of those before them, and a vector's worth
/// of which none is goes by at once.
fn choose(scores: &[f32], slots: &mut [usize]) {
    let mut count = 0;
    for (block, some) in scores.chunks(WIDE).enumerate() {
        let is_better = |&worst: &usize| some.iter().fold(false, |any, &score| any | (score > scores[worst]));
        if count == slots.len() && !slots.last().is_some_and(is_better) {
            continue;
        }
        for (lane, &score) in some.iter().enumerate() {
            if count == slots.len() {
                match slots.last() {
                    Some(&worst) if score > scores[worst] => count -= 1,
                    _ => continue,
                }
            }
            let better = slots[..count].iter().rposition(|&other| scores[other] >= score);
            let place = better.map_or(0, |better| better + 1);
            slots.copy_within(place..count, place + 1);
            slots[place] = block * WIDE + lane;
            count += 1;
        }
    }
    slots.sort_unstable();
}

/// The memory that is read after a head's checkpoints where all are: the next head's first, or none that is known.
#[inline(always)]
fn after(plan: &Plan, head: usize) -> usize {
    (head + 1) % plan.heads * plan.capacity
}

/// The chosen checkpoints of a memory that is one matrix, W.
#[inline(always)]
fn matrices<'a>(
    plan: &Plan,
    scratch: &'a mut Scratch,
    w: Cells<'a>,
    head: usize,
    chosen: Chosen,
) -> Checkpoints<'a> {
    Checkpoints {
        w,
        first: head * plan.capacity,
        slots: chosen.listed.then_some(&scratch.slots[..]),
        then: after(plan, head),
        weights: &scratch.weights[..chosen.count],
        x: &scratch.inputs[0],
        weighted: &mut scratch.weighted,
        sums: &mut scratch.sums,
    }
}

/// Adds the memory's answer to `inputs[0]`, weighted, to `sums` and y; or its parameters to the soup.
#[inline(always)]
fn add_memory<S: Simd, T: Tensor>(
    simd: S,
    plan: &Plan,
    scratch: &mut Scratch,
    memory: Parameters<'_, T>,
    weight: f32,
    y: &mut [f32],
) {
    if weight == 0.0 {
    } else if plan.soup {
        add_to_soup(simd, plan, scratch, memory, weight);
    } else {
        add_answer(simd, plan, scratch, memory, weight, y);
    }
}

#[inline(always)]
fn add_answer<S: Simd, T: Tensor>(
    simd: S,
    plan: &Plan,
    scratch: &mut Scratch,
    memory: Parameters<'_, T>,
    weight: f32,
    y: &mut [f32],
) {
    let Some(last) = plan.layers.len().checked_sub(1) else {
        // A cell's answer is its h, the first of its tensors.
        let h = memory.tensors[0].cells().block(memory.index, plan.head_size);
        return parameters::add_scaled(simd, weight, h, y);
    };
    memory.hidden::<S, false>(simd, plan, scratch);
    let (layer, input) = (&plan.layers[last], &scratch.inputs[last]);
    let w = memory.weight(layer);
    let factor = weight * w.step();
    for (weighted, x) in scratch.weighted.iter_mut().zip(input) {
        *weighted = factor * x;
    }
    memory.add_products(simd, layer, &scratch.weighted, &mut scratch.sums);
    if let Some(bias) = memory.bias(layer) {
        parameters::add_scaled(simd, weight, bias, y);
    }
    if plan.skip {
        ops::add_scaled(simd, weight, &scratch.q, y);
    }
}

#[inline(always)]
fn add_to_soup<S: Simd, T: Tensor>(
    simd: S,
    plan: &Plan,
    scratch: &mut Scratch,
    memory: Parameters<'_, T>,
    weight: f32,
) {
    for layer in &plan.layers {
        parameters::add_scaled(simd, weight, memory.weight(layer), &mut scratch.soup[layer.weight]);
        if let (Some(bias), Some(index)) = (memory.bias(layer), layer.bias) {
            parameters::add_scaled(simd, weight, bias, &mut scratch.soup[index]);
        }
    }
}

/// Adds the soup's answer to `inputs[0]`, and empties it for the next.
#[inline(always)]
fn read_soup<S: Simd>(simd: S, plan: &Plan, scratch: &mut Scratch, y: &mut [f32]) {
    let mut soup = std::mem::take(&mut scratch.soup);
    add_answer(simd, plan, scratch, Parameters::only(&soup, 0), 1.0, y);
    for tensor in &mut soup {
        tensor.fill(0.0);
    }
    scratch.soup = soup;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chosen_are_the_best_and_of_equals_the_first() {
        let mut seed = 1u64;
        let mut next = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for _ in 0..2000 {
            let scores: Vec<f32> = (0..1 + next(100)).map(|_| next(12) as f32 - 6.0).collect();
            let mut slots = vec![usize::MAX; 1 + next(scores.len() as u64) as usize];
            choose(&scores, &mut slots);
            let mut expected: Vec<usize> = (0..scores.len()).collect();
            // A stable sort.
            expected.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            expected.truncate(slots.len());
            expected.sort();
            assert_eq!(slots, expected, "{scores:?}");
        }
    }
}
