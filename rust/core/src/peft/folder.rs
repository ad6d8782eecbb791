//! An adapter's folder: wherever its path leads, or beneath a root that nothing may lead out of.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The folder under which all adapters lie. It is held open: what is opened is found from there, never by a path that
/// could be changed between a look and the use.
///
/// Links are followed where the kernel can tell that they stay beneath the root (Linux 5.6 and later), and refused
/// elsewhere; an adapter's two files may be links within its own folder.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    #[cfg(unix)]
    handle: File,
}

impl Root {
    /// Errors: [`Error::Io`] if there is no such folder, or the system can't open relative to one.
    #[cfg(unix)]
    pub fn open(path: &Path) -> Result<Root> {
        let failed = |source| io_error(path, source);
        Ok(Root {
            handle: options(libc::O_DIRECTORY).open(path).map_err(failed)?,
            path: std::path::absolute(path).map_err(failed)?,
        })
    }

    /// Errors: [`Error::Io`]: this system can't open relative to a folder.
    #[cfg(not(unix))]
    pub fn open(path: &Path) -> Result<Root> {
        Err(io_error(path, io::ErrorKind::Unsupported.into()))
    }

    /// The folder at `path`: relative to the root, or absolute and inside it.
    pub(crate) fn folder<'a>(&self, path: &'a Path) -> Result<Folder<'a>> {
        let failed = |source| io_error(path, source);
        let within = match path.is_absolute() {
            true => path.strip_prefix(&self.path).map_err(|_| failed(outside()))?,
            false => path,
        };
        #[cfg(unix)]
        return Ok(Folder::Beneath {
            handle: beneath::open(&self.handle, within, libc::O_DIRECTORY).map_err(failed)?,
            path,
        });
        #[cfg(not(unix))]
        Err(failed(io::ErrorKind::Unsupported.into()))
    }
}

/// A folder from which files are opened.
pub(crate) enum Folder<'a> {
    Anywhere(&'a Path),
    #[cfg(unix)]
    Beneath {
        handle: File,
        path: &'a Path,
    },
}

impl Folder<'_> {
    /// A file's path, for messages.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        match self {
            Folder::Anywhere(path) => path.join(file),
            #[cfg(unix)]
            Folder::Beneath { path, .. } => path.join(file),
        }
    }

    /// Opens what is there, without waiting for a writer. A device is not opened, since that can act on it.
    pub(crate) fn open(&self, file: &str) -> io::Result<Opened> {
        match self {
            Folder::Anywhere(folder) => {
                let path = folder.join(file);
                let metadata = std::fs::metadata(&path)?;
                match metadata.is_file() {
                    true => options(0).open(path).map(Opened::File),
                    false => Ok(Opened::Other(metadata)),
                }
            }
            #[cfg(unix)]
            Folder::Beneath { handle, .. } => beneath::open(handle, file.as_ref(), 0).map(Opened::File),
        }
    }

    /// What a file's name stands for now.
    pub(crate) fn metadata(&self, file: &str) -> io::Result<Metadata> {
        match self {
            Folder::Anywhere(folder) => std::fs::metadata(folder.join(file)),
            #[cfg(unix)]
            Folder::Beneath { handle, .. } => beneath::open(handle, file.as_ref(), 0)?.metadata(),
        }
    }
}

/// What [`Folder::open`] found.
pub(crate) enum Opened {
    /// Something that could be opened; it need not be a regular file.
    File(File),
    /// What is not worth opening.
    Other(Metadata),
}

fn options(flags: i32) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(flags | libc::O_NONBLOCK | libc::O_NOCTTY);
    }
    options
}

fn outside() -> io::Error {
    let reason = "leads out of the adapter root, or follows a link that does";
    io::Error::new(io::ErrorKind::PermissionDenied, reason)
}

/// An error of the system, with its path.
pub(crate) fn io_error(path: &Path, source: io::Error) -> Error {
    Error::Io {
        path: path.to_owned(),
        source,
    }
}

#[cfg(unix)]
mod beneath {
    //! Opening relative to a folder without leaving it.

    use std::ffi::{CString, OsStr};
    use std::fs::File;
    use std::io;
    use std::os::fd::{AsRawFd, FromRawFd};
    use std::os::unix::ffi::OsStrExt;
    use std::path::{Component, Path};

    use super::outside;

    const FLAGS: i32 = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;

    pub(super) fn open(folder: &File, path: &Path, flags: i32) -> io::Result<File> {
        #[cfg(target_os = "linux")]
        match by_kernel(folder, path, flags) {
            Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {}
            Err(error) if error.raw_os_error() == Some(libc::EXDEV) => return Err(outside()),
            opened => return opened,
        }
        by_steps(folder, path, flags)
    }

    /// openat2(2): the kernel resolves links, and refuses what would leave the folder.
    #[cfg(target_os = "linux")]
    fn by_kernel(folder: &File, path: &Path, flags: i32) -> io::Result<File> {
        let path = c_path(path.as_os_str())?;
        let resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS;
        // struct open_how: flags, mode, resolve.
        let how: [u64; 3] = [(FLAGS | flags) as u64, 0, resolve];
        // SAFETY: the path ends in a zero, `how` has the size that is told, and both outlive the call.
        let opened = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                folder.as_raw_fd(),
                path.as_ptr(),
                how.as_ptr(),
                std::mem::size_of_val(&how),
            )
        };
        owned(opened)
    }

    /// One component after the other, none of them a link.
    pub(super) fn by_steps(folder: &File, path: &Path, flags: i32) -> io::Result<File> {
        let mut steps: Vec<&OsStr> = Vec::new();
        for component in path.components() {
            match component {
                Component::Normal(step) => steps.push(step),
                Component::CurDir => {}
                _ => return Err(outside()),
            }
        }
        let Some((last, above)) = steps.split_last() else {
            return step(folder, OsStr::new("."), flags);
        };
        let mut at = folder.try_clone()?;
        for each in above {
            at = step(&at, each, libc::O_DIRECTORY)?;
        }
        step(&at, last, flags)
    }

    fn step(folder: &File, name: &OsStr, flags: i32) -> io::Result<File> {
        let name = c_path(name)?;
        // SAFETY: the name ends in a zero and outlives the call.
        let opened = unsafe {
            libc::openat(
                folder.as_raw_fd(),
                name.as_ptr(),
                FLAGS | libc::O_NOFOLLOW | flags,
            )
        };
        owned(opened.into()).map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP) => outside(),
            _ => error,
        })
    }

    fn c_path(path: &OsStr) -> io::Result<CString> {
        let path = if path.is_empty() { OsStr::new(".") } else { path };
        CString::new(path.as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
    }

    fn owned(opened: i64) -> io::Result<File> {
        match i32::try_from(opened) {
            // SAFETY: the system has just opened it, and nobody else knows its number.
            Ok(descriptor) if descriptor >= 0 => Ok(unsafe { File::from_raw_fd(descriptor) }),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("root/tenant/math")).unwrap();
        std::fs::write(folder.path().join("root/tenant/math/file"), "in").unwrap();
        std::fs::write(folder.path().join("secret"), "out").unwrap();
        let root = Root::open(&folder.path().join("root")).unwrap();
        (folder, root)
    }

    type Open = fn(&File, &Path, i32) -> io::Result<File>;

    /// Both ways of opening.
    const WAYS: [Open; 2] = [beneath::open, beneath::by_steps];

    fn text(opened: io::Result<File>) -> io::Result<String> {
        let mut text = String::new();
        opened?.read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn what_lies_beneath_is_opened() {
        let (_folder, root) = root();
        for open in WAYS {
            assert_eq!(
                text(open(&root.handle, Path::new("tenant/./math/file"), 0)).unwrap(),
                "in"
            );
            assert!(open(&root.handle, Path::new(""), libc::O_DIRECTORY).is_ok());
            let missing = open(&root.handle, Path::new("tenant/none"), 0).unwrap_err();
            assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        }
    }

    #[test]
    fn nothing_leads_out() {
        let (folder, root) = root();
        let inside = folder.path().join("root");
        symlink("../secret", inside.join("relative")).unwrap();
        symlink(folder.path().join("secret"), inside.join("absolute")).unwrap();
        symlink("..", inside.join("up")).unwrap();
        symlink("/proc/self/root", inside.join("magic")).unwrap();
        for open in WAYS {
            for path in [
                "relative",
                "absolute",
                "up/secret",
                "../secret",
                "tenant/../../secret",
                "/etc/passwd",
                "magic/etc/passwd",
            ] {
                let error = text(open(&root.handle, Path::new(path), 0)).unwrap_err();
                let refused = matches!(
                    error.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::NotADirectory
                );
                assert!(refused, "{path}: {error}");
            }
        }
    }

    #[test]
    fn a_link_that_stays_inside_is_followed_by_the_kernel_only() {
        let (folder, root) = root();
        symlink("math", folder.path().join("root/tenant/current")).unwrap();
        let path = Path::new("tenant/current/file");
        assert!(text(beneath::by_steps(&root.handle, path, 0)).is_err());
        if let Ok(text) = text(beneath::open(&root.handle, path, 0)) {
            assert_eq!(text, "in"); // an older kernel refuses
        }
    }

    #[test]
    fn what_is_opened_is_found_from_the_root_as_it_was() {
        let (folder, root) = root();
        std::fs::rename(folder.path().join("root"), folder.path().join("moved")).unwrap();
        std::fs::create_dir_all(folder.path().join("root/tenant/math")).unwrap();
        assert!(root
            .folder(Path::new("tenant/math"))
            .unwrap()
            .metadata("file")
            .is_ok());
    }

    #[test]
    fn absolute_paths_are_held_against_the_root() {
        let (folder, root) = root();
        assert!(root.folder(&folder.path().join("root/tenant/math")).is_ok());
        assert!(root.folder(folder.path()).is_err());
        assert!(root.folder(&folder.path().join("root/../root/tenant")).is_err());
    }
}
