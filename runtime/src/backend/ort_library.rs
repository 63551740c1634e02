//! Finding and loading ONNX Runtime's library.

use std::env;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use ort::environment::Environment;
use ort::logging::LogLevel;

use crate::Error;

/// The ONNX Runtime that this process has loaded: one, for as long as it lives.
pub struct OnnxRuntime {
    environment: Environment,
    path: PathBuf,
}

static LOADED: OnceLock<OnnxRuntime> = OnceLock::new();
/// Held while looking: two threads must not load two libraries.
static LOOKING: Mutex<()> = Mutex::new(());

impl OnnxRuntime {
    /// Loads ONNX Runtime, once a process: from `library` when given, else from `ORT_DYLIB_PATH`, from beside the
    /// executable, from the loader's path, or from the `onnxruntime` package of the active Python.
    ///
    /// # Errors
    ///
    /// [`Error::NoOnnxRuntime`] with every place that was looked at and why it would not do.
    pub fn load(library: Option<&Path>) -> Result<&'static Self, Error> {
        let _looking = LOOKING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(loaded) = LOADED.get() {
            return Ok(loaded);
        }
        let mut looked = String::new();
        for candidate in candidates(library) {
            match Self::open(&candidate) {
                Ok(runtime) => return Ok(LOADED.get_or_init(|| runtime)),
                Err(reason) => {
                    let _ = write!(looked, "\n  {}: {reason}", candidate.display());
                }
            }
        }
        Err(Error::NoOnnxRuntime { looked })
    }

    /// The library's file, or the name that the loader resolved.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the library says of itself: version, commit and build flags.
    pub fn build_info(&self) -> &'static str {
        ort::info()
    }

    /// Execution providers compiled into the library, under ONNX Runtime's names.
    pub fn providers(&self) -> Vec<String> {
        use ort::ep::{self, ExecutionProvider};
        let known: [(&str, ort::Result<bool>); 5] = [
            ("TensorrtExecutionProvider", ep::TensorRT::is_available()),
            ("CUDAExecutionProvider", ep::CUDA::is_available()),
            ("OpenVINOExecutionProvider", ep::OpenVINO::is_available()),
            ("XnnpackExecutionProvider", ep::XNNPACK::is_available()),
            ("CPUExecutionProvider", Ok(true)),
        ];
        let available = known.into_iter().filter(|(_, available)| matches!(available, Ok(true)));
        available.map(|(name, _)| name.to_owned()).collect()
    }

    pub(crate) fn environment(&self) -> &Environment {
        &self.environment
    }

    fn open(path: &Path) -> Result<Self, String> {
        // A bare name is for the loader; anything else must be there.
        if path.components().count() > 1 && !path.is_file() {
            return Err("no such file".into());
        }
        let builder = ort::init_from(path).map_err(|error| error.to_string())?;
        let environment = builder.with_telemetry(false).build().map_err(|error| error.to_string())?;
        environment.set_log_level(LogLevel::Error);
        Ok(Self { environment, path: path.to_owned() })
    }
}

/// Where to look, in order. An explicit path is the only one: who names a library wants that one.
fn candidates(library: Option<&Path>) -> Vec<PathBuf> {
    if let Some(path) = library {
        return vec![path.to_owned()];
    }
    let mut paths: Vec<PathBuf> = Vec::new();
    if let Some(path) = env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
        paths.push(path.into());
    }
    let beside = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(library_name())));
    paths.extend(beside);
    paths.push(library_name().into());
    paths.extend(python_libraries());
    paths
}

fn library_name() -> &'static str {
    if cfg!(windows) {
        "onnxruntime.dll"
    } else if cfg!(target_vendor = "apple") {
        "libonnxruntime.dylib"
    } else {
        "libonnxruntime.so"
    }
}

/// The libraries inside the `onnxruntime` package of the active Python: one or none.
fn python_libraries() -> Vec<PathBuf> {
    let Some(package) = python_package() else { return Vec::new() };
    let Ok(entries) = package.join("capi").read_dir() else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    // The wheel carries the version in the name: libonnxruntime.so.1.31.1.
    paths.retain(|path| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(library_name()))
    });
    paths.sort();
    paths
}

/// The folder of the active Python's `onnxruntime` package. Asking Python is the one way that knows of virtual
/// environments, user sites and distributions alike; the package itself is not imported.
fn python_package() -> Option<PathBuf> {
    const FIND: &str =
        "import importlib.util as u; s = u.find_spec('onnxruntime'); print(s.origin if s else '')";
    let active = ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(env::var_os);
    let pythons = active.map(|prefix| PathBuf::from(prefix).join("bin/python")).chain(["python3".into()]);
    pythons.into_iter().find_map(|python| {
        let output = Command::new(python).args(["-c", FIND]).output().ok()?;
        let origin = String::from_utf8(output.stdout).ok()?;
        Some(Path::new(origin.trim()).parent()?.to_owned()).filter(|path| path.is_dir())
    })
}
