//! Products and mixers against loops in f64 that share no code with them.

use mcedge_models::contract::{Dtype, Mixer as Around};
use mcedge_models::spec::{
    Aggregation, Caching, Coefficient, Context, FeatureMap, FromInput, Init, Memory, Query, Segmentation,
};

use super::*;

/// Numbers that no two rows or columns have alike.
fn numbers(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919 + seed * 104_729 + 13) % 2003) as f32 / 1001.5 - 1.0).collect()
}

fn check(rows: usize, depth: usize, stride: usize, first: usize, columns: usize) {
    let (x, w) = (numbers(rows * depth, 1), numbers(depth * stride, 2));
    let before = numbers(rows * columns, 3);
    for isa in Isa::available() {
        for tiles in [Tiles::Narrow, Tiles::Wide] {
            let mut y = before.clone();
            let mut strip = vec![StripRow::default(); depth];
            let w = Columns { w: &w, stride, first, columns };
            isa.run(ProductTask { x: &x, w, y: &mut y, strip: &mut strip, tiles });
            for (n, (found, before)) in y.iter().zip(&before).enumerate() {
                let (row, column) = (n / columns, first + n % columns);
                let products =
                    (0..depth).map(|d| f64::from(x[row * depth + d]) * f64::from(w.w[d * stride + column]));
                let expected = f64::from(*before) + products.sum::<f64>();
                let error = (f64::from(*found) - expected).abs();
                assert!(error < 1e-6 * depth as f64 + 1e-6, "{isa}: {found}, expected {expected}");
            }
        }
    }
}

#[test]
fn a_product_is_that_of_a_naive_loop_whatever_its_sizes() {
    for rows in [1, 2, 3, 4, 5, 8, 11, 13, 64] {
        for (depth, stride, first, columns) in
            [(1, 1, 0, 1), (3, 7, 2, 5), (8, 16, 0, 16), (9, 40, 1, 39), (16, 100, 32, 64), (17, 33, 0, 33)]
        {
            check(rows, depth, stride, first, columns);
        }
    }
    check(1, 128, 516, 0, 516);
    check(7, 128, 516, 384, 128);
}

fn linear() -> Memory {
    Memory::Linear { feature_map: FeatureMap::Identity, normalized: false }
}

/// A function with a mixer of 18.
fn function(norm: Norm, output: bool, residual: bool, memory: &Memory) -> MemoryFunction {
    let caching = Caching {
        aggregation: Aggregation::Grm,
        query: Query::U,
        context: Context::Mean,
        temperature: 1.0,
        top_k: None,
        segmentation: Segmentation::Constant { size: 4 },
        init: Init::Continue,
    };
    MemoryFunction {
        num_heads: 2,
        head_size: 9,
        normalize_qk: false,
        memory: memory.clone(),
        caching,
        cache_dtype: Dtype::F32,
        gates: false,
        mixer: Some(Around { norm, output, residual }),
    }
}

/// The norm of a row, in f64.
fn normed(norm: Norm, h: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f64> {
    let h: Vec<f64> = h.iter().map(|&h| f64::from(h)).collect();
    let size = h.len() as f64;
    let mean = if norm == Norm::LayerNorm { h.iter().sum::<f64>() / size } else { 0.0 };
    let square = h.iter().map(|h| (h - mean).powi(2)).sum::<f64>() / size;
    let number = |list: &[f32], n: usize, without: f64| list.get(n).map_or(without, |&x| f64::from(x));
    let root = match norm {
        Norm::LayerNorm => (square + 1e-5).sqrt(),
        Norm::RmsNorm => (square + 1e-6).sqrt(),
        Norm::None => 1.0,
    };
    let scaled = |(n, h): (usize, &f64)| (h - mean) / root * number(weight, n, 1.0) + number(bias, n, 0.0);
    h.iter().enumerate().map(scaled).collect()
}

/// Runs `streams` of `tokens`, whose memories answer with what they were given last.
fn check_mixer(function: &MemoryFunction, streams: usize, tokens: usize) {
    let Around { norm, output, residual } = function.mixer.unwrap();
    let d = function.num_heads * function.head_size;
    let rows = streams * tokens;
    let c: usize = function.projected().iter().map(|(_, columns)| columns).sum();
    let is_there = |is_there: bool, len: usize| if is_there { len } else { 0 };
    let has_bias = function.inputs().contains(&Role::ProjectionBias);
    let h = numbers(rows * d, 1);
    let norm_weight = numbers(is_there(norm != Norm::None, d), 2);
    let norm_bias = numbers(is_there(norm == Norm::LayerNorm, d), 3);
    let (w, b) = (numbers(d * c, 4), numbers(is_there(has_bias, c), 5));
    let o = numbers(is_there(output, d * d), 6);
    let weights = MixerWeights {
        norm: &norm_weight,
        norm_bias: &norm_bias,
        projections: &w,
        projection_bias: &b,
        output: &o,
    };
    let near = |found: f32, expected: f64, what: &str| {
        let error = (f64::from(found) - expected).abs();
        assert!(error < 2e-5 * expected.abs().max(1.0), "{what}: {found}, expected {expected}");
    };
    for isa in Isa::available() {
        let mut mixer = Mixer::with_isa(function, isa).unwrap();
        mixer.project(&h, &weights);
        for stream in 0..streams {
            let (operands, y) = mixer.stream(stream, tokens);
            let mut before = 0;
            for (role, cells) in operands {
                let columns = cells.len() / tokens;
                for (n, found) in cells.iter().enumerate() {
                    let row = stream * tokens + n / columns;
                    let column = before + n % columns;
                    let x = normed(norm, &h[row * d..][..d], &norm_weight, &norm_bias);
                    let products = x.iter().enumerate().map(|(n, x)| x * f64::from(w[n * c + column]));
                    let mut expected = products.sum::<f64>() + b.get(column).map_or(0.0, |&b| f64::from(b));
                    if matches!(role, Role::Coefficient(_)) {
                        expected = 1.0 / (1.0 + (-expected).exp());
                    }
                    near(*found, expected, &format!("{isa}: {role:?}"));
                }
                before += columns;
            }
            assert_eq!(before, c);
            y.copy_from_slice(&numbers(tokens * d, 7 + stream));
        }
        let read: Vec<f32> = (0..streams).flat_map(|stream| numbers(tokens * d, 7 + stream)).collect();
        let mut y = vec![f32::NAN; rows * d];
        mixer.mix(&h, &weights, &mut y);
        for (n, found) in y.iter().enumerate() {
            let (row, column) = (n / d, n % d);
            let product = |n: usize| f64::from(read[row * d + n]) * f64::from(o[n * d + column]);
            let read = if output { (0..d).map(product).sum() } else { f64::from(read[n]) };
            near(*found, read + if residual { f64::from(h[n]) } else { 0.0 }, &format!("{isa}: y"));
        }
    }
}

#[test]
fn a_mixer_is_the_norm_the_projections_and_the_way_out() {
    let coefficient = Coefficient::Input(FromInput::Input);
    let delta = Memory::GatedDelta { alpha: coefficient, beta: coefficient, correction: true };
    for memory in [linear(), delta, Memory::Gru {}] {
        for norm in [Norm::LayerNorm, Norm::RmsNorm, Norm::None] {
            for (output, residual) in [(true, true), (true, false), (false, true), (false, false)] {
                let function = function(norm, output, residual, &memory);
                for (streams, tokens) in [(1, 1), (1, 5), (5, 1), (3, 4)] {
                    check_mixer(&function, streams, tokens);
                }
            }
        }
    }
}

#[test]
fn a_mixer_works_in_what_it_says_and_keeps_it() {
    let function = function(Norm::LayerNorm, true, true, &linear());
    let mut mixer = Mixer::new(&function).unwrap();
    let (d, c) = (18, 4 * 18);
    let (weights, one, w, o) = (MixerWeights::default(), vec![1.0; d], vec![0.0; d * c], vec![0.0; d * d]);
    let weights = MixerWeights { norm: &one, norm_bias: &one, projections: &w, output: &o, ..weights };
    for rows in [1, 7, 3] {
        mixer.project(&vec![0.0; rows * d], &weights);
    }
    let held =
        (mixer.rows.capacity() + mixer.projected.capacity()) * 4 + size_of_val(&mixer.product.strip[..]);
    assert_eq!(held, mixer.scratch_bytes(7, 1));
    assert_eq!(mixer.scratch_bytes(1000, 1), mixer.scratch_bytes(64, 1));
    assert_eq!(mixer.scratch_bytes(1000, 100), mixer.scratch_bytes(1, 100));
}
