//! What the names and shapes of a state dictionary say: which tensor is what.

use std::collections::BTreeSet;
use std::fmt;

use super::source::Shapes;
use super::{ConvertError, list};
use crate::weights::{WeightsError, check_shape};

/// r, z, n.
pub const GRU_GATES: usize = 3;
/// i, f, g, o.
pub const LSTM_GATES: usize = 4;

/// What people call an embedding: the part of its name before `.weight`.
pub const EMBEDDINGS: [&str; 6] = ["embed", "embedding", "embeddings", "emb", "word_embeddings", "encoder"];
/// What people call a linear layer after the recurrent network.
pub const HEADS: [&str; 13] = [
    "fc",
    "head",
    "linear",
    "out",
    "output",
    "decoder",
    "proj",
    "projection",
    "classifier",
    "regressor",
    "dense",
    "lm_head",
    "readout",
];

/// The most numbers of the recurrent matrices of a model whose input is larger than its hidden state: 256 MiB.
const MAX_PADDED: usize = 1 << 26;

/// Which tensor is what.
///
/// # Invariants
///
/// Every tensor that it implies is in the file, and of the shape that it implies; none of the sizes is zero.
#[derive(Debug)]
pub struct Plan {
    /// What goes before `weight_ih_l0`.
    pub prefix: String,
    /// [`GRU_GATES`] or [`LSTM_GATES`].
    pub gates: usize,
    pub layers: usize,
    /// Units of a layer.
    pub hidden: usize,
    /// What layer 0 takes.
    pub inputs: usize,
    /// Whether there are biases.
    pub biased: bool,
    pub embedding: Option<Matrix>,
    pub head: Option<Matrix>,
}

/// An embedding or a head: `{name}.weight`, and for a head perhaps `{name}.bias`.
#[derive(Debug)]
pub struct Matrix {
    pub name: String,
    pub rows: usize,
    pub biased: bool,
}

impl Plan {
    /// Every tensor finds its place, or there is no plan.
    pub fn new(shapes: &Shapes, ignore: &[String]) -> Result<Self, ConvertError> {
        if let Some(name) = ignore.iter().find(|name| !shapes.contains_key(*name)) {
            let found = list(&shapes.keys().cloned().collect::<Vec<_>>());
            return Err(super::setting("ignore", name, format!("a name of the file: {found}")));
        }
        let mut shapes = shapes.clone();
        shapes.retain(|name, _| !ignore.contains(name));
        let mut plan = Self::recurrent(&Named(&shapes))?;
        let mut left: BTreeSet<&str> = shapes.keys().map(String::as_str).collect();
        plan.claim_layers(&Named(&shapes), &mut left)?;
        plan.embedding = matrix("an embedding", &EMBEDDINGS, plan.inputs, &Named(&shapes), &mut left)?;
        plan.head = matrix("a head", &HEADS, plan.hidden, &Named(&shapes), &mut left)?;
        if let Some(head) = &mut plan.head {
            head.biased = left.remove(format!("{}.bias", head.name).as_str());
            if head.biased {
                Named(&shapes).expect(&format!("{}.bias", head.name), &[head.rows])?;
            }
        }
        if !left.is_empty() {
            let names = left.into_iter().map(|name| Named(&shapes).described(name)).collect();
            return Err(ConvertError::Unknown { names });
        }
        plan.check_padding()?;
        Ok(plan)
    }

    /// The recurrent network by its first layer.
    fn recurrent(shapes: &Named<'_>) -> Result<Self, ConvertError> {
        let prefix = prefix(shapes)?;
        let name = format!("{prefix}weight_hh_l0");
        let hh = shapes.matrix(&name)?;
        refuse_variants(&prefix, shapes)?;
        let (rows, hidden) = (hh[0], hh[1]);
        let gates = if hidden == 0 || !rows.is_multiple_of(hidden) { 0 } else { rows / hidden };
        let refused = |reason: &str| ConvertError::Refused {
            name: name.clone(),
            shape: hh.to_vec(),
            reason: reason.to_owned(),
        };
        match gates {
            GRU_GATES | LSTM_GATES => {}
            1 => return Err(refused("that of a torch.nn.RNN, which is not read; expected a GRU or an LSTM")),
            _ => return Err(refused("expected [3 H, H] of a GRU or [4 H, H] of an LSTM")),
        }
        let inputs = shapes.matrix(&format!("{prefix}weight_ih_l0"))?[1];
        if inputs == 0 {
            return Err(refused("the network takes no input, expected one channel or more"));
        }
        let layers = (0..).find(|k| !shapes.has(&format!("{prefix}weight_hh_l{k}"))).unwrap_or_default();
        let biased = shapes.0.keys().any(|name| is_bias(name, &prefix));
        Ok(Plan { prefix, gates, layers, hidden, inputs, biased, embedding: None, head: None })
    }

    /// The tensors of the recurrent network: all there, of the right shape, and taken from those that are left.
    fn claim_layers(&self, shapes: &Named<'_>, left: &mut BTreeSet<&str>) -> Result<(), ConvertError> {
        for layer in 0..self.layers {
            for (name, shape) in self.layer(layer) {
                shapes.expect(&name, &shape)?;
                left.remove(name.as_str());
            }
        }
        Ok(())
    }

    /// Name and shape of a layer's tensors: `weight_ih`, `weight_hh`, and the biases where there are some.
    fn layer(&self, layer: usize) -> Vec<(String, Vec<usize>)> {
        let rows = self.gates * self.hidden;
        let inputs = if layer == 0 { self.inputs } else { self.hidden };
        let mut tensors = vec![("weight_ih", vec![rows, inputs]), ("weight_hh", vec![rows, self.hidden])];
        if self.biased {
            tensors.extend([("bias_ih", vec![rows]), ("bias_hh", vec![rows])]);
        }
        tensors.into_iter().map(|(name, shape)| (self.tensor(name, layer), shape)).collect()
    }

    /// The name of a layer's tensor in the file.
    pub fn tensor(&self, name: &str, layer: usize) -> String {
        format!("{}{name}_l{layer}", self.prefix)
    }

    /// Wide enough for the hidden state and for the input.
    pub fn d_model(&self) -> usize {
        self.hidden.max(self.inputs)
    }

    /// A model that is wider than its hidden state grows with the square of its input.
    fn check_padding(&self) -> Result<(), ConvertError> {
        let d = self.d_model();
        let padded = d.checked_mul(d).and_then(|n| n.checked_mul(2 * self.gates * self.layers));
        if d == self.hidden || padded.is_some_and(|n| n <= MAX_PADDED) {
            return Ok(());
        }
        let reason = format!(
            "{} inputs for {} units: the model's layers would be [{} · {d}, {d}], expected at most {MAX_PADDED} numbers in all; put a linear layer before the network and train again",
            self.inputs, self.hidden, self.gates
        );
        let (name, shape) = (self.tensor("weight_ih", 0), vec![self.gates * self.hidden, self.inputs]);
        Err(ConvertError::Refused { name, shape, reason })
    }

    /// What the network takes, for people.
    pub fn input_words(&self) -> String {
        match &self.embedding {
            Some(embedding) => format!("{} tokens", embedding.rows),
            None => format!("{} channels", self.inputs),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.gates == GRU_GATES { "a GRU" } else { "an LSTM" };
        let plural = if self.layers == 1 { "" } else { "s" };
        write!(f, "{kind} of {} layer{plural}, {} units, ", self.layers, self.hidden)?;
        match &self.embedding {
            Some(embedding) => write!(f, "{} tokens (`{}`), ", embedding.rows, embedding.name)?,
            None => write!(f, "{} channels, ", self.inputs)?,
        }
        match &self.head {
            Some(head) => write!(f, "{} outputs (`{}`)", head.rows, head.name),
            None => write!(f, "no head"),
        }
    }
}

/// What goes before `weight_hh_l0`.
fn prefix(shapes: &Named<'_>) -> Result<String, ConvertError> {
    let of = |name: &String| {
        let prefix = name.strip_suffix("weight_hh_l0")?;
        (prefix.is_empty() || prefix.ends_with('.')).then(|| prefix.to_owned())
    };
    let mut prefixes: Vec<String> = shapes.0.keys().filter_map(of).collect();
    match prefixes.len() {
        1 => Ok(prefixes.remove(0)),
        0 => {
            let found = list(&shapes.0.keys().cloned().collect::<Vec<_>>());
            Err(ConvertError::NoRecurrent { found })
        }
        _ => {
            let names = prefixes.into_iter().map(|prefix| format!("`{prefix}weight_hh_l0`")).collect();
            Err(ConvertError::Several { what: "a recurrent network", names })
        }
    }
}

/// What PyTorch's recurrent networks can be besides, and the format's cannot.
fn refuse_variants(prefix: &str, shapes: &Named<'_>) -> Result<(), ConvertError> {
    for (name, shape) in shapes.0 {
        let Some(own) = name.strip_prefix(prefix) else { continue };
        let reason = if is_layer(own) && own.ends_with("_reverse") {
            "the network is bidirectional: it reads the stream from its end too, and a live stream has none"
        } else if own.starts_with("weight_hr_l") {
            "the LSTM projects its hidden state (proj_size), which the format's lstm does not"
        } else {
            continue;
        };
        let shape = shape.clone().unwrap_or_default();
        return Err(ConvertError::Refused { name: name.clone(), shape, reason: reason.into() });
    }
    Ok(())
}

/// Whether a name, without the prefix, is one of a recurrent network's.
fn is_layer(name: &str) -> bool {
    ["weight_ih_l", "weight_hh_l", "bias_ih_l", "bias_hh_l"].iter().any(|start| name.starts_with(start))
}

fn is_bias(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|own| is_layer(own) && own.starts_with("bias"))
}

/// The one matrix of `columns` columns that is called so, taken from the tensors that are left.
fn matrix(
    what: &'static str,
    names: &[&str],
    columns: usize,
    shapes: &Named<'_>,
    left: &mut BTreeSet<&str>,
) -> Result<Option<Matrix>, ConvertError> {
    let is_called_so = |name: &str| {
        let module = name.strip_suffix(".weight")?;
        names.contains(&module.rsplit('.').next()?).then(|| module.to_owned())
    };
    let mut found: Vec<String> = left.iter().filter_map(|name| is_called_so(name)).collect();
    if found.len() > 1 {
        let names = found.into_iter().map(|name| format!("`{name}.weight`")).collect();
        return Err(ConvertError::Several { what, names });
    }
    let Some(name) = found.pop() else { return Ok(None) };
    let weight = format!("{name}.weight");
    let rows = shapes.matrix(&weight)?[0];
    shapes.expect(&weight, &[rows, columns])?;
    left.remove(weight.as_str());
    Ok(Some(Matrix { name, rows, biased: false }))
}

/// Shapes to look up by name.
struct Named<'a>(&'a Shapes);

impl Named<'_> {
    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The tensor is there and has two axes.
    fn matrix(&self, name: &str) -> Result<[usize; 2], ConvertError> {
        match self.0.get(name) {
            Some(Ok(shape)) => shape.as_slice().try_into().map_err(|_| ConvertError::Refused {
                name: name.to_owned(),
                shape: shape.clone(),
                reason: "expected 2 axes".into(),
            }),
            _ => Err(ConvertError::Unknown { names: vec![self.described(name)] }),
        }
    }

    fn expect(&self, name: &str, expected: &[usize]) -> Result<(), ConvertError> {
        match self.0.get(name) {
            Some(Ok(found)) => Ok(check_shape(name, found, expected)?),
            Some(Err(_)) => Err(ConvertError::Unknown { names: vec![self.described(name)] }),
            None => {
                let (name, expected) = (name.to_owned(), expected.to_vec());
                Err(WeightsError::Missing { name, expected }.into())
            }
        }
    }

    /// A name and what is there.
    fn described(&self, name: &str) -> String {
        match self.0.get(name) {
            Some(Ok(shape)) => format!("`{name}` {shape:?}"),
            Some(Err(found)) => format!("`{name}` ({found})"),
            None => format!("`{name}` (absent)"),
        }
    }
}
