//! From the names of the package `memory-caching` 0.1.0 to ours.

use super::PytorchError;
use super::pickle::{Id, Object, Objects};
use crate::spec::{
    Aggregation, Block, Caching, Coefficient, Context, Deep, FeatureMap, Head, Init, Input, Memory, Norm,
    Objective, Query, Segmentation, Sign, Spec,
};

/// Names of the tensors: the package's and ours.
pub const TENSORS: [(&str, &str); 9] = [
    ("embed.weight", "embed.weight"),
    ("mc.q_proj.weight", "blocks.0.mix.q.weight"),
    ("mc.k_proj.weight", "blocks.0.mix.k.weight"),
    ("mc.v_proj.weight", "blocks.0.mix.v.weight"),
    ("mc.u_proj.weight", "blocks.0.mix.u.weight"),
    ("mc.o_proj.weight", "blocks.0.mix.o.weight"),
    ("norm.weight", "norm.weight"),
    ("norm.bias", "norm.bias"),
    ("head.weight", "head.weight"),
];

/// The spec of the package's `TinyMemoryCachingLM`, from the payload's `model_spec`.
///
/// A key that is absent has the package's default. Keys that don't bear on what the model computes are read over.
pub fn spec(objects: &Objects, payload: Id) -> Result<Spec, PytorchError> {
    let model = Fields::new(objects, payload, "model_spec")?;
    let family = model.word("model_family", "tiny_lm")?.trim().to_lowercase();
    if family != "tiny_mc_lm" {
        return Err(model.wrong("model_family", format!("{family:?}"), "\"tiny_mc_lm\""));
    }
    let vocab_size = model.count("vocab_size", 256)?;
    let name = match objects.entry(payload, "run_name").map(|id| objects.get(id)) {
        Some(Object::Str(name)) if !name.is_empty() => name.clone(),
        _ => family,
    };
    let spec = Spec {
        format: crate::spec::FORMAT.into(),
        name,
        input: Input::Tokens { vocab_size },
        d_model: model.count("d_model", 64)?,
        blocks: vec![Block {
            norm: Norm::None,
            residual: false,
            num_heads: model.count("num_heads", 2)?,
            normalize_qk: false,
            memory: memory(&model)?,
            caching: caching(&model)?,
            mlp: None,
        }],
        final_norm: true,
        head: Head::Logits { size: vocab_size },
    };
    spec.check().map_err(PytorchError::Spec)?;
    Ok(spec)
}

fn memory(model: &Fields<'_>) -> Result<Memory, PytorchError> {
    let kinds = [("linear", 0), ("dla", 1), ("titans", 2), ("swla", 3)];
    match model.choice("backend", "linear", &kinds)? {
        0 => Ok(Memory::Linear { feature_map: FeatureMap::Identity, normalized: false }),
        1 => {
            let keys =
                ["memory_width", "memory_depth", "objective", "inner_update_mode", "step_size", "momentum"];
            let dla = model.part("dla", &keys)?;
            Ok(Memory::Dla(deep(&dla, "dot", 0.0, 1.0, None)?))
        }
        2 => {
            let keys = [
                "memory_width",
                "memory_depth",
                "objective",
                "inner_update_mode",
                "step_size",
                "momentum",
                "retention_alpha",
                "update_convention",
            ];
            let titans = model.part("titans", &keys)?;
            let signs = [("paper", Sign::Paper), ("gradient_descent", Sign::Descent)];
            let sign = titans.choice("update_convention", "paper", &signs)?;
            let retention = titans.number("retention_alpha", 1.0)?;
            Ok(Memory::Titans(deep(&titans, "l2", 0.9, retention, Some(sign))?))
        }
        _ => {
            let swla = model.part("swla", &["alpha", "beta", "lam"])?;
            let constant = |key, default| swla.number(key, default).map(Coefficient::Constant);
            let (alpha, beta) = (constant("alpha", 1.0)?, constant("beta", 0.0)?);
            Ok(Memory::Swla { alpha, beta, lambda: constant("lam", 1.0)? })
        }
    }
}

fn deep(
    part: &Fields<'_>,
    objective: &'static str,
    momentum: f32,
    retention: f32,
    sign: Option<Sign>,
) -> Result<Deep, PytorchError> {
    Ok(Deep {
        depth: part.count("memory_depth", 2)?,
        width: part.count("memory_width", 64)?,
        bias: true,
        skip: false,
        objective: part.choice("objective", objective, &[("l2", Objective::L2), ("dot", Objective::Dot)])?,
        step_size: Coefficient::Constant(part.number("step_size", 0.05)?),
        momentum: part.number("momentum", momentum)?,
        retention: Coefficient::Constant(retention),
        sign,
    })
}

fn caching(model: &Fields<'_>) -> Result<Caching, PytorchError> {
    let aggregations = [
        ("residual", Aggregation::Residual),
        ("grm", Aggregation::Grm),
        ("soup", Aggregation::Soup),
        ("ssc", Aggregation::Ssc),
    ];
    let aggregation = model.choice("aggregation", "grm", &aggregations)?;
    let size = model.count("segment_size", 16)?;
    let segmentations =
        [("constant", Segmentation::Constant { size }), ("logarithmic", Segmentation::Logarithmic {})];
    let inits = [("checkpoint", Init::Continue), ("restart", Init::Restart)];
    let top_k = model.count("ssc_top_k", 2)?;
    Ok(Caching {
        aggregation,
        query: if model.flag("use_q_as_u", false)? { Query::Q } else { Query::U },
        context: Context::Sum,
        temperature: model.number("softmax_temperature", 1.0)?,
        top_k: (aggregation == Aggregation::Ssc).then_some(top_k),
        segmentation: model.choice("segmentation", "constant", &segmentations)?,
        init: model.choice("state_init_mode", "checkpoint", &inits)?,
    })
}

/// A dictionary of the payload, or the lack of one.
struct Fields<'a> {
    objects: &'a Objects,
    dict: Option<Id>,
    /// Where it is, as `model_spec.titans`.
    path: String,
}

impl<'a> Fields<'a> {
    fn new(objects: &'a Objects, payload: Id, key: &str) -> Result<Self, PytorchError> {
        let dict = super::dictionary(objects, payload, key)?;
        Ok(Fields { objects, dict: Some(dict), path: key.to_owned() })
    }

    /// The config of one backend; its keys are all known, and the package's defaults when it is absent or `None`.
    fn part(&self, key: &str, keys: &[&str]) -> Result<Self, PytorchError> {
        let part = |dict| Fields { objects: self.objects, dict, path: format!("{}.{key}", self.path) };
        let Some(id) = self.id(key) else { return Ok(part(None)) };
        let entries = match self.objects.get(id) {
            Object::None => return Ok(part(None)),
            Object::Dict(entries) => entries,
            _ => return Err(self.wrong(key, self.found(id), "a dictionary")),
        };
        for &(found, _) in entries {
            match self.objects.get(found) {
                Object::Str(name) if keys.contains(&name.as_str()) => {}
                _ => {
                    return Err(part(None).wrong(
                        "",
                        format!("a dictionary with {}", self.found(found)),
                        keys.join(", "),
                    ));
                }
            }
        }
        Ok(part(Some(id)))
    }

    fn id(&self, key: &str) -> Option<Id> {
        self.objects.entry(self.dict?, key)
    }

    fn count(&self, key: &str, default: usize) -> Result<usize, PytorchError> {
        let Some(id) = self.id(key) else { return Ok(default) };
        match *self.objects.get(id) {
            Object::Int(n) if n >= 0 => {
                usize::try_from(n).map_err(|_| self.wrong(key, n.to_string(), "a size of this machine"))
            }
            _ => Err(self.wrong(key, self.found(id), "a whole number, 0 or more")),
        }
    }

    fn number(&self, key: &str, default: f32) -> Result<f32, PytorchError> {
        let Some(id) = self.id(key) else { return Ok(default) };
        match *self.objects.get(id) {
            Object::Float(x) => Ok(x as f32),
            Object::Int(n) => Ok(n as f32),
            _ => Err(self.wrong(key, self.found(id), "a number")),
        }
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, PytorchError> {
        let Some(id) = self.id(key) else { return Ok(default) };
        match *self.objects.get(id) {
            Object::Bool(flag) => Ok(flag),
            _ => Err(self.wrong(key, self.found(id), "True or False")),
        }
    }

    fn word(&self, key: &str, default: &'a str) -> Result<&'a str, PytorchError> {
        let Some(id) = self.id(key) else { return Ok(default) };
        match self.objects.get(id) {
            Object::Str(word) => Ok(word),
            _ => Err(self.wrong(key, self.found(id), "a string")),
        }
    }

    fn choice<T: Copy>(&self, key: &str, default: &'a str, of: &[(&str, T)]) -> Result<T, PytorchError> {
        let word = self.word(key, default)?;
        let found = of.iter().find(|(name, _)| *name == word);
        found.map(|&(_, value)| value).ok_or_else(|| {
            let names: Vec<_> = of.iter().map(|(name, _)| *name).collect();
            self.wrong(key, described(&Object::Str(word.to_owned())), format!("one of {}", names.join(", ")))
        })
    }

    fn found(&self, id: Id) -> String {
        described(self.objects.get(id))
    }

    fn wrong(&self, key: &str, found: String, expected: impl Into<String>) -> PytorchError {
        let key = if key.is_empty() { self.path.clone() } else { format!("{}.{key}", self.path) };
        PytorchError::Value { key, found, expected: expected.into() }
    }
}

/// A value for people, short whatever it holds.
pub fn described(object: &Object) -> String {
    match object {
        Object::None => "None".into(),
        Object::Bool(flag) => format!("{flag}"),
        Object::Int(n) => n.to_string(),
        Object::Float(x) => x.to_string(),
        Object::Str(text) => format!("{:?}", text.chars().take(40).collect::<String>()),
        Object::Tuple(_) => "a tuple".into(),
        Object::List(_) => "a list".into(),
        Object::Dict(_) => "a dictionary".into(),
        Object::Tensor(_) => "a tensor".into(),
        Object::Storage(_) | Object::Opaque | Object::Name(_) => "another object".into(),
    }
}
