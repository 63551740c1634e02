//! `mcedge convert`: a plain GRU or LSTM of PyTorch becomes a model directory.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use mcedge_models::spec::{Aggregation, Init};
use mcedge_models::{Converted, HeadKind, LoadError, Model, Settings};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::Error as WordError;

use crate::Usage;

/// Flags of `mcedge convert`: what a state dictionary cannot say.
#[derive(clap::Args)]
pub struct Args {
    /// The state dictionary of a torch.nn.GRU or torch.nn.LSTM, with an embedding and a linear head or without (.pt,
    /// .pth, .safetensors)
    source: PathBuf,
    /// The model's directory, made or replaced
    #[arg(short, long, value_name = "MODEL")]
    output: PathBuf,
    /// How cached states are read: none, residual or mean
    #[arg(long, value_parser = word::<Aggregation>)]
    aggregation: Option<Aggregation>,
    /// Heads of every layer, each of which reads on its own [with aggregation none: 1]
    #[arg(long, value_name = "N")]
    heads: Option<usize>,
    /// Tokens from one checkpoint to the next [with aggregation none: 256]
    #[arg(long, value_name = "TOKENS")]
    segment: Option<usize>,
    /// What a segment starts from: continue (the last one's end) or restart (zeros)
    #[arg(long, default_value = "continue", value_parser = word::<Init>)]
    init: Init,
    /// The model's name [default: the file's]
    #[arg(long)]
    name: Option<String>,
    /// What the head gives: logits, regression or classification [default: logits where each token has one, else
    /// regression]
    #[arg(long, value_name = "KIND", value_parser = word::<HeadKind>)]
    head: Option<HeadKind>,
    /// The channels' names, with commas between
    #[arg(long, value_delimiter = ',')]
    names: Vec<String>,
    /// Samples a second
    #[arg(long, value_name = "HZ")]
    rate: Option<f64>,
    /// A tensor to leave out; may be said again
    #[arg(long, value_name = "NAME")]
    ignore: Vec<String>,
}

impl Args {
    fn settings(&self) -> Settings {
        let stem = || self.source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut settings = Settings::new(self.name.clone().unwrap_or_else(stem));
        settings.aggregation = self.aggregation;
        settings.heads = self.heads;
        settings.segment_tokens = self.segment;
        settings.init = self.init;
        settings.head = self.head;
        settings.names.clone_from(&self.names);
        settings.rate_hz = self.rate;
        settings.ignore.clone_from(&self.ignore);
        settings
    }
}

/// Converts and says what was found and written.
pub fn convert(args: &Args) -> Result<ExitCode> {
    let Converted { model, found } = Model::convert(&args.source, &args.settings()).map_err(usage)?;
    let output = &args.output;
    model.save(output).context("cannot write the model")?;
    say!("{}: {found}", args.source.display());
    say!("{}: {}, d_model {}", output.display(), model.spec.name, model.spec.d_model);
    say!("export it with: mcedge export {} -o bundle", output.display());
    Ok(ExitCode::SUCCESS)
}

/// What other flags would do is an error of usage.
fn usage(error: LoadError) -> anyhow::Error {
    match &error {
        LoadError::Convert { error: reason, .. } if reason.is_usage() => Usage(error.to_string()).into(),
        _ => error.into(),
    }
}

/// A word of `config.json`.
fn word<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, String> {
    let deserializer: serde::de::value::StrDeserializer<'_, WordError> = text.into_deserializer();
    T::deserialize(deserializer).map_err(|error| error.to_string())
}
