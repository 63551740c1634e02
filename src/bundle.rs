//! BUNDLE on the command line: a bundle, or a model that becomes one in a cache folder first.

use std::borrow::Cow;
use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context, Result, bail, ensure};
use mcedge_export::{Bundle, step_graph, with_post_training_mean};
use mcedge_models::Model;
use mcedge_models::contract::Contract;
use mcedge_models::spec::Spec;

use crate::Usage;
use crate::export::Options;

/// The argument BUNDLE, with the options of an export for when there is one.
#[derive(clap::Args, Clone)]
pub struct BundleArg {
    /// A bundle, or a model directory or .pt checkpoint, which is exported into a cache folder first
    pub bundle: PathBuf,
    #[command(flatten, next_help_heading = "When BUNDLE is a model, not a bundle")]
    pub options: Options,
}

impl BundleArg {
    /// The bundle's directory. A model is exported with what `ask` adds to the options.
    pub fn directory(&self, ask: impl FnOnce(&mut Options) -> Result<()>) -> Result<PathBuf> {
        directory(&self.bundle, &self.options, ask)
    }

    /// The checkpoints that each stream of `contract` keeps within the budget: all of the capacity, when it is of an
    /// export within that budget. None without a budget, and, which is said, where there is nothing to bound.
    ///
    /// # Errors
    ///
    /// As [`Budget::checkpoints`](crate::budget::Budget::checkpoints).
    pub fn slots(&self, contract: &Contract) -> Result<Option<usize>> {
        let Some(budget) = self.options.cache_budget else { return Ok(None) };
        let checkpoints = budget.checkpoints(contract)?;
        if checkpoints.is_none() {
            eprintln!("mcedge: --cache-budget has nothing to bound: no block reads checkpoints");
        }
        Ok(checkpoints.map(|checkpoints| checkpoints.min(contract.capacity)))
    }

    /// Whether it is a bundle, and no model.
    pub fn is_bundle(&self) -> bool {
        is_bundle(&self.bundle)
    }
}

/// Exports `model` and tells the exporter's warnings.
pub fn make(model: &Model, options: &Options) -> Result<Bundle> {
    let bundle = mcedge_export::bundle(&*spec(model, options)?, &model.weights, options.export())
        .with_context(|| format!("cannot export {}", model.spec.name))?;
    for warning in &bundle.warnings {
        eprintln!("mcedge: warning: {warning}");
    }
    Ok(bundle)
}

/// The contract that an export of `model` would have.
pub fn contract(model: &Model, options: &Options) -> Result<Contract> {
    let graph = step_graph(&*spec(model, options)?, &model.weights, options.export());
    Ok(graph.with_context(|| format!("cannot export {}", model.spec.name))?.contract().clone())
}

/// What an export makes a model to be.
fn spec<'m>(model: &'m Model, options: &Options) -> Result<Cow<'m, Spec>> {
    let Some(size) = options.post_training_mean else { return Ok(Cow::Borrowed(&model.spec)) };
    let cached = with_post_training_mean(&model.spec, size as usize);
    let name = &model.spec.name;
    Ok(Cow::Owned(cached.with_context(|| format!("cannot give {name} a --post-training-mean"))?))
}

/// The bundle at `path`, or the one that its model is exported to: with `options`, and what `ask` adds to them. A bundle
/// has a capacity of its own, of which a budget may leave a part unused: [`BundleArg::slots`].
pub fn directory(
    path: &Path,
    options: &Options,
    ask: impl FnOnce(&mut Options) -> Result<()>,
) -> Result<PathBuf> {
    if is_bundle(path) {
        let message = "--capacity, --cache-dtype, --chunk, --batch, --gates and --post-training-mean are for a model: a \
                       bundle has its own";
        ensure!(options.suit_a_bundle(), Usage(message.into()));
        return Ok(path.to_owned());
    }
    check_model(path)?;
    let mut options = *options;
    ask(&mut options)?;
    if options.cache_budget.is_some() {
        options = options.settle(&Model::load(path)?)?;
    }
    let cached = cache_folder()?.join(key(path, &options)?);
    if !is_bundle(&cached) {
        fill(&cached, path, &options)?;
    }
    Ok(cached)
}

/// The model at `path`, which is no bundle.
pub fn load(path: &Path) -> Result<Model> {
    check_model(path)?;
    Ok(Model::load(path)?)
}

/// Whether there is a model at `path`.
fn check_model(path: &Path) -> Result<()> {
    let is_model = path.join("config.json").is_file() || path.extension().is_some_and(|ext| ext == "pt");
    if !is_model {
        let found = if path.is_dir() { "a directory with neither" } else { "not there, or not a directory" };
        bail!(
            "{}: {found}; expected a bundle (step.onnx) or a model (config.json, or a .pt file)",
            path.display()
        );
    }
    Ok(())
}

/// Exports the model at `path` to `cached`. Of several that do so at once, the first to rename wins, and the others take
/// what it made.
fn fill(cached: &Path, path: &Path, options: &Options) -> Result<()> {
    let model = Model::load(path)?;
    fs::create_dir_all(cache_folder()?)?;
    let fresh = cached.with_extension(process::id().to_string());
    make(&model, options)?.write(&fresh).context("cannot write to the cache folder")?;
    if let Err(error) = fs::rename(&fresh, cached) {
        let _ = fs::remove_dir_all(&fresh);
        if !is_bundle(cached) {
            return Err(error).with_context(|| format!("cannot write {}", cached.display()));
        }
    }
    Ok(())
}

/// Whether there is a bundle at `path`.
pub fn is_bundle(path: &Path) -> bool {
    path.join("step.onnx").is_file()
}

/// `mcedge` in the user's cache folder.
fn cache_folder() -> Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    Ok(base.unwrap_or_else(env::temp_dir).join("mcedge"))
}

/// A folder name that changes with the model, the options and this very build of the program.
fn key(path: &Path, options: &Options) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    let build = fs::metadata(env::current_exe()?)?;
    (env!("CARGO_PKG_VERSION"), build.len(), build.modified().ok()).hash(&mut hasher);
    options.hash(&mut hasher);
    for file in Model::files(path)? {
        fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?.hash(&mut hasher);
    }
    let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(format!("{name}-{:016x}", hasher.finish()))
}
