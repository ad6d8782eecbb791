//! Reading files that somebody else wrote: regular files only, whole, and never a call that waits for a writer.
//!
//! No file is mapped. A mapped file that is truncated ends the process with SIGBUS, and one that is written into changes
//! after it was checked; what is read is ours. A file that changes while it is read is an error.

use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read, Seek};
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::contents::Contents;
use super::folder::{io_error, Folder, Opened};
use super::Context;
use crate::error::{Error, Result};

/// Opens a regular file. What was looked at before it was opened is looked at again, since a path can change meanwhile.
fn open(folder: &Folder<'_>, name: &str, context: &Context, limit: u64) -> Result<File> {
    let failed = |source| io_error(&folder.path(name), source);
    let (file, metadata) = match folder.open(name).map_err(failed)? {
        Opened::File(file) => {
            let metadata = file.metadata().map_err(failed)?;
            (Some(file), metadata)
        }
        Opened::Other(metadata) => (None, metadata),
    };
    let kind = if metadata.is_dir() {
        "a folder"
    } else {
        "a device, pipe or socket"
    };
    let file = file.filter(|_| metadata.is_file());
    let file = file.ok_or_else(|| context.format(format!("is {kind}, not a regular file")))?;
    if metadata.len() > limit {
        return Err(context.format(format!(
            "has {} bytes, more than the limit of {limit}",
            metadata.len()
        )));
    }
    Ok(file)
}

/// A file that is being read, from one state of it: the head first, so that a file which makes no sense costs no more.
///
/// The memory has the file's length at once, and takes place as it is filled.
pub(crate) struct Reading<'a> {
    file: File,
    path: PathBuf,
    context: &'a Context,
    before: Stamp,
    contents: Contents,
    read: usize,
}

impl<'a> Reading<'a> {
    /// Errors: [`Error::AdapterFormat`] if it is no regular file or larger than `limit` bytes; [`Error::Io`].
    pub(crate) fn open(
        folder: &Folder<'_>,
        name: &str,
        context: &'a Context,
        limit: u64,
    ) -> Result<Reading<'a>> {
        let path = folder.path(name);
        let failed = |source| io_error(&path, source);
        let file = open(folder, name, context, limit)?;
        wait_for_writer(&file).map_err(failed)?;
        settle(&file.metadata().map_err(failed)?);
        let metadata = file.metadata().map_err(failed)?;
        let length = usize::try_from(metadata.len().min(limit));
        let length = length.map_err(|_| failed(ErrorKind::OutOfMemory.into()))?;
        let contents = Contents::new(length).map_err(failed)?;
        Ok(Reading {
            file,
            path,
            context,
            before: Stamp::of(&metadata),
            contents,
            read: 0,
        })
    }

    /// The file's whole length, the first `bytes` of which are what it says; the rest may be anything yet.
    ///
    /// Errors: [`Error::AdapterFormat`] if it has become shorter; [`Error::Io`].
    pub(crate) fn head(&mut self, bytes: u64) -> Result<&[u8]> {
        let end = usize::try_from(bytes).map_or(self.contents.len(), |bytes| bytes.min(self.contents.len()));
        if self.read < end {
            match self.file.read_exact(&mut self.contents[self.read..end]) {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Err(changed(self.context)),
                Err(error) => return Err(io_error(&self.path, error)),
                Ok(()) => self.read = end,
            }
        }
        Ok(&self.contents)
    }

    /// All of it, and the stamp of its state.
    ///
    /// Errors: [`Error::AdapterFormat`] if it was written to since it was opened; [`Error::Io`].
    pub(crate) fn finish(mut self) -> Result<(Contents, Stamp)> {
        self.head(u64::MAX)?;
        let metadata = self
            .file
            .metadata()
            .map_err(|source| io_error(&self.path, source))?;
        if Stamp::of(&metadata) != self.before {
            return Err(changed(self.context));
        }
        Ok((self.contents, self.before))
    }
}

/// The contents of a small file, and the stamp of their state. Errors: as [`Reading`].
pub(crate) fn read(
    folder: &Folder<'_>,
    name: &str,
    context: &Context,
    limit: u64,
) -> Result<(Contents, Stamp)> {
    Reading::open(folder, name, context, limit)?.finish()
}

/// Holds a name against the stamp of what was read under it: a folder's files belong together.
///
/// Errors: [`Error::AdapterFormat`] if another file is there now, or the same was written to; [`Error::Io`].
pub(crate) fn unchanged(folder: &Folder<'_>, name: &str, context: &Context, stamp: Stamp) -> Result<()> {
    match folder.metadata(name) {
        Ok(metadata) if Stamp::of(&metadata) == stamp => Ok(()),
        Ok(_) => Err(changed(context)),
        Err(source) => Err(io_error(&folder.path(name), source)),
    }
}

fn changed(context: &Context) -> Error {
    let advice = "write adapters to a folder of their own and rename it when it is whole";
    context.format(format!("changed while it was read; {advice}"))
}

/// What changes with a file's contents: device, inode, size, and the times of the last write and change in ns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp([i128; 5]);

impl std::fmt::Display for Stamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let numbers = self.0.map(|number| number.to_string());
        f.write_str(&numbers.join("."))
    }
}

impl Stamp {
    #[cfg(unix)]
    pub(crate) fn of(metadata: &Metadata) -> Stamp {
        use std::os::unix::fs::MetadataExt;
        let time =
            |seconds: i64, nanoseconds: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        Stamp([
            metadata.dev().into(),
            metadata.ino().into(),
            metadata.size().into(),
            time(metadata.mtime(), metadata.mtime_nsec()),
            time(metadata.ctime(), metadata.ctime_nsec()),
        ])
    }

    #[cfg(not(unix))]
    pub(crate) fn of(metadata: &Metadata) -> Stamp {
        let time = metadata.modified().ok();
        let since = time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        Stamp([
            0,
            0,
            metadata.len().into(),
            since.map_or(0, |since| since.as_nanos() as i128),
            0,
        ])
    }
}

/// Returns when a write to the file that is going on is over: its time was set as it began, so that it would not show.
///
/// A write holds the file's lock in the kernel, and so does a search for data, on file systems whose reads don't wait
/// themselves; those that can't search have nothing to wait for.
fn wait_for_writer(file: &File) -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    // SAFETY: a call that touches no memory, on a file that is open.
    unsafe {
        libc::lseek(file.as_raw_fd(), 0, libc::SEEK_DATA);
    }
    (&*file).rewind()
}

/// A file's times advance with the system's tick, up to 10 ms: two writes within one look like one. So a file that
/// was written just now is left alone until the tick is over; any later write then shows.
fn settle(metadata: &Metadata) {
    const TICK: Duration = Duration::from_millis(10);
    let age = metadata
        .modified()
        .ok()
        .and_then(|written| SystemTime::now().duration_since(written).ok());
    if let Some(rest) = age.and_then(|age| TICK.checked_sub(age)) {
        std::thread::sleep(rest);
    }
}

/// Whether an error says that there is no such file.
pub(crate) fn is_not_found(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == ErrorKind::NotFound)
}
