//! The one map from the core's errors to Python's classes.

use std::io::ErrorKind;
use std::panic::{catch_unwind, AssertUnwindSafe};

use meteora_core::Error;
use pyo3::exceptions::{PyOSError, PyPermissionError};
use pyo3::prelude::*;

/// The exception for a core error: the class of `meteora_rs.errors` with the variant's name, or `OSError`.
pub fn to_py(error: Error) -> PyErr {
    let class = match &error {
        Error::AdapterNotFound { .. } => "AdapterNotFoundError",
        Error::AdapterFormat { .. } => "AdapterFormatError",
        Error::AdapterUnsupported { .. } => "AdapterUnsupportedError",
        Error::AdapterInUse { .. } => "AdapterInUseError",
        Error::Capacity { .. } => "CapacityError",
        Error::Route(_) => "RouteError",
        Error::Io { path, source } => {
            // With an errno, OSError becomes the subclass that people catch (FileNotFoundError, …).
            let path = path.display().to_string();
            return match source.raw_os_error() {
                Some(errno) => PyOSError::new_err((errno, strerror(source), path)),
                None if source.kind() == ErrorKind::PermissionDenied => {
                    PyPermissionError::new_err(format!("{path}: {source}"))
                }
                None => PyOSError::new_err(format!("{path}: {source}")),
            };
        }
    };
    raise(class, error.to_string())
}

/// A panic in `work` becomes a MeteoraError: PyO3's own exception for it is no `Exception`, and would end a service that
/// outlives every other error.
pub fn caught<T>(work: impl FnOnce() -> T) -> PyResult<T> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("a panic");
        raise(
            "MeteoraError",
            format!("internal error, please report it: {text}"),
        )
    })
}

/// Work without the GIL, with its panics [`caught`].
pub fn contained<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> PyResult<T> {
    caught(|| py.detach(work))
}

/// An exception of `meteora_rs.errors`, by name.
pub fn raise(class: &str, message: String) -> PyErr {
    Python::attach(|py| {
        let found = py
            .import("meteora_rs.errors")
            .and_then(|module| module.getattr(class));
        match found {
            Ok(class) => match class.call1((message,)) {
                Ok(instance) => PyErr::from_value(instance),
                Err(error) => error,
            },
            Err(error) => error,
        }
    })
}

/// The system's words without the "(os error n)" that Python adds in its own way.
fn strerror(source: &std::io::Error) -> String {
    let text = source.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}
