//! The one error type of the core: every message names the adapter, the tensor or option, and the file.

use std::path::PathBuf;

/// What can go wrong; the Python boundary maps each variant to one exception class.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that no live adapter has.
    #[error("no adapter named {name:?}; {}", told(.known, .of_route))]
    AdapterNotFound {
        /// The name that was asked for.
        name: String,
        /// The names that exist.
        known: Vec<String>,
        /// Whether these are only those that the route names as well: the others are no business of who uses it.
        of_route: bool,
    },
    /// An adapter whose name, config or tensors are malformed or do not fit the model.
    #[error("adapter {adapter:?}: {}{reason} (file: {file})", tensor.as_ref().map(|t| format!("tensor {t}: ")).unwrap_or_default())]
    AdapterFormat {
        /// The adapter's name.
        adapter: String,
        /// The tensor at fault, where there is one.
        tensor: Option<String>,
        /// The file, or `<memory>`.
        file: String,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// A well-formed adapter that uses a PEFT option which is not supported.
    #[error("adapter {adapter:?}: PEFT option {option} is not supported: {reason} (file: {file})")]
    AdapterUnsupported {
        /// The adapter's name.
        adapter: String,
        /// The option, as PEFT spells it, with its value.
        option: String,
        /// The file, or `<memory>`.
        file: String,
        /// Why, and what to do.
        reason: String,
    },
    /// An operation that a name or a running request forbids.
    #[error("adapter {adapter:?} is in use: {reason}")]
    AdapterInUse {
        /// The adapter's name.
        adapter: String,
        /// By what, and what to do.
        reason: String,
    },
    /// No room in the slots or the rank rows.
    #[error("adapter {adapter:?} does not fit: needs {needed} {what}, free {free} of {total} (largest run {largest_run}), pinned {pinned}{}; unload an adapter or raise {setting}", until_requests_end(.held))]
    Capacity {
        /// The adapter's name.
        adapter: String,
        /// `slots` or `rank rows`.
        what: &'static str,
        /// The amount needed.
        needed: usize,
        /// The amount free.
        free: usize,
        /// The largest free contiguous run.
        largest_run: usize,
        /// The amount there is in all.
        total: usize,
        /// The amount held by pinned adapters.
        pinned: usize,
        /// The amount that only running requests hold: free again when they end.
        held: usize,
        /// The `MeteoraConfig` field that sets the total.
        setting: &'static str,
    },
    /// A route that can't be followed.
    #[error("route: {0}")]
    Route(String),
    /// An I/O error, with its path.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

impl Error {
    /// The same, naming of the adapters that exist only those that the asker may know of.
    pub fn telling(mut self, may_know: impl Fn(&str) -> bool) -> Error {
        if let Error::AdapterNotFound { known, .. } = &mut self {
            known.retain(|name| may_know(name));
        }
        self
    }

    /// The same, telling of no adapter but those that the route names itself.
    pub fn telling_of_route(self, names: impl Fn(&str) -> bool) -> Error {
        let mut told = self.telling(names);
        if let Error::AdapterNotFound { of_route, .. } = &mut told {
            *of_route = true;
        }
        told
    }
}

/// `none` of a part must not read as if there were no others.
fn told(known: &[String], of_route: &bool) -> String {
    let known = list(known);
    match of_route {
        false => format!("loaded: {known}"),
        true => format!("of the names in this route, loaded: {known}; registered_adapters() has all"),
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

fn until_requests_end(held: &usize) -> String {
    match held {
        0 => String::new(),
        held => format!(", held {held} until running requests end"),
    }
}

/// The core's result.
pub type Result<T> = std::result::Result<T, Error>;
