//! Opening files that somebody else wrote: regular files only, and never a call that waits.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::path::Path;

use memmap2::Mmap;

use super::Context;
use crate::error::{Error, Result};

/// Opens a regular file, links followed (hub caches are links into a blob store). A device is refused before it is
/// opened, since opening one can act on it; the opened file is looked at again, since a path can change meanwhile.
fn open(path: &Path, context: &Context, limit: u64) -> Result<File> {
    let refuse = |kind| context.format(format!("is {kind}, not a regular file"));
    let metadata = std::fs::metadata(path).map_err(|source| io(path, source))?;
    if !metadata.is_file() {
        return Err(refuse(if metadata.is_dir() {
            "a folder"
        } else {
            "a device, pipe or socket"
        }));
    }
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    }
    let file = options.open(path).map_err(|source| io(path, source))?;
    let metadata = file.metadata().map_err(|source| io(path, source))?;
    if !metadata.is_file() {
        return Err(refuse("not what it was when it was looked at"));
    }
    if metadata.len() > limit {
        return Err(context.format(format!(
            "has {} bytes, more than the limit of {limit}",
            metadata.len()
        )));
    }
    Ok(file)
}

/// The contents of a small file.
pub(crate) fn read(path: &Path, context: &Context, limit: u64) -> Result<Vec<u8>> {
    let file = open(path, context, limit)?;
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that grew, or that reports no size, from one that fits.
    let read = file.take(limit.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|source| io(path, source))?;
    if bytes.len() as u64 > limit {
        return Err(context.format(format!("is larger than the limit of {limit} bytes")));
    }
    Ok(bytes)
}

/// A file, mapped. Pages are read as they are touched.
pub(crate) fn map(path: &Path, context: &Context, limit: u64) -> Result<Mmap> {
    let file = open(path, context, limit)?;
    // SAFETY: the mapping is private and read-only, and every byte pattern is a valid u8. Somebody who truncates the
    // file while it is mapped can end the process with SIGBUS, and somebody who writes into it can change bytes after
    // they were checked: writers of adapters replace files, they do not rewrite them in place. No type's validity
    // rests on the contents.
    let map = unsafe { Mmap::map(&file) }.map_err(|source| io(path, source))?;
    let length = file.metadata().map_err(|source| io(path, source))?.len();
    if length != map.len() as u64 {
        return Err(context.format("changed its size while it was opened"));
    }
    Ok(map)
}

/// Whether there is something at the path; an error counts as nothing.
pub(crate) fn exists(path: &Path) -> bool {
    std::fs::metadata(path).is_ok()
}

/// An error of the system, with its path.
pub(crate) fn io(path: &Path, source: std::io::Error) -> Error {
    Error::Io {
        path: path.to_owned(),
        source,
    }
}

/// Whether an error says that there is no such file.
pub(crate) fn is_not_found(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == ErrorKind::NotFound)
}
