//! NVRTC from its wheel: it compiles without a GPU, a driver, a toolkit or a host compiler.

use std::env;
use std::ffi::{c_char, c_int, c_void, CStr, CString};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::target::Target;
use crate::Compiler;

/// What to install. Images of 12.8 run on drivers from 525 on, those of 13 only from 580 on.
pub const WHEEL: &str = "nvidia-cuda-nvrtc-cu12==12.8.93";
/// Where the wheel has its libraries, below site-packages.
const FOLDER: &str = "nvidia/cuda_nvrtc/lib";
const LIBRARY: &str = "libnvrtc.so.12";

type Program = *mut c_void;
type Strings = *const *const c_char;

/// The loaded library.
pub struct Nvrtc {
    create:
        unsafe extern "C" fn(*mut Program, *const c_char, *const c_char, c_int, Strings, Strings) -> c_int,
    compile: unsafe extern "C" fn(Program, c_int, Strings) -> c_int,
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
    log: Getter,
    cubin: Getter,
    ptx: Getter,
    version: (c_int, c_int),
}

/// A function for the size of a result, and one for the result.
#[derive(Clone, Copy)]
struct Getter {
    size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    get: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
}

impl Nvrtc {
    /// NVRTC in the environment that the extension is built for; an error if it is there and can't be used.
    pub fn find() -> Result<Option<Nvrtc>, String> {
        let folders = module_folders().into_iter().map(|folder| folder.join(FOLDER));
        let Some(folder) = folders.into_iter().find(|folder| folder.join(LIBRARY).is_file()) else {
            return Ok(None);
        };
        // NVRTC opens its builtins by name, and finds them only if they are loaded already.
        if let Some(builtins) = builtins(&folder) {
            open(&builtins, libc::RTLD_NOW | libc::RTLD_GLOBAL)?;
        }
        let library = open(&folder.join(LIBRARY), libc::RTLD_NOW)?;
        // SAFETY: the handle is NVRTC's, whose functions have the types declared above (nvrtc.h).
        unsafe {
            let version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int =
                symbol(library, c"nvrtcVersion")?;
            let mut found = (0, 0);
            version(&mut found.0, &mut found.1);
            let getter = |size: &CStr, get: &CStr| -> Result<Getter, String> {
                Ok(Getter {
                    size: symbol(library, size)?,
                    get: symbol(library, get)?,
                })
            };
            Ok(Some(Nvrtc {
                create: symbol(library, c"nvrtcCreateProgram")?,
                compile: symbol(library, c"nvrtcCompileProgram")?,
                destroy: symbol(library, c"nvrtcDestroyProgram")?,
                log: getter(c"nvrtcGetProgramLogSize", c"nvrtcGetProgramLog")?,
                cubin: getter(c"nvrtcGetCUBINSize", c"nvrtcGetCUBIN")?,
                ptx: getter(c"nvrtcGetPTXSize", c"nvrtcGetPTX")?,
                version: found,
            }))
        }
    }

    /// # Safety
    /// `program` is a live program of this library.
    unsafe fn result(&self, program: Program, getter: Getter) -> Result<Vec<u8>, String> {
        let mut size = 0usize;
        // SAFETY: the caller's program; the buffer has the size that the library asks for.
        unsafe {
            let mut status = (getter.size)(program, &mut size);
            let mut bytes = vec![0u8; size];
            if status == 0 {
                status = (getter.get)(program, bytes.as_mut_ptr().cast());
            }
            if status == 0 {
                Ok(bytes)
            } else {
                Err(format!("NVRTC: error {status}"))
            }
        }
    }
}

impl Compiler for Nvrtc {
    fn identity(&self) -> String {
        format!("NVRTC {}.{}", self.version.0, self.version.1)
    }

    fn compile(&self, source: &Path, include: &Path, target: Target) -> Result<Vec<u8>, String> {
        let text = std::fs::read(source).map_err(|error| format!("{}: {error}", source.display()))?;
        let text = CString::new(text).map_err(|error| format!("{}: {error}", source.display()))?;
        // The name that messages show: as seen from the repository, so that images do not depend on where it is.
        let name = source.strip_prefix(include).unwrap_or(source).to_string_lossy();
        let name = CString::new(format!("cuda/{name}")).map_err(|error| error.to_string())?;
        let options = [
            format!("--gpu-architecture={}", target.name()),
            format!("--include-path={}", include.display()),
            // NVRTC gets the text alone: it does not know where quoted includes start from.
            format!("--include-path={}", source.parent().unwrap_or(include).display()),
            "--std=c++17".to_owned(),
            "--device-as-default-execution-space".to_owned(),
        ];
        let options: Vec<CString> = options.into_iter().flat_map(CString::new).collect();
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let mut program: Program = std::ptr::null_mut();
        // SAFETY: C strings that outlive the calls; the program is destroyed once.
        unsafe {
            let none = std::ptr::null();
            let status = (self.create)(&mut program, text.as_ptr(), name.as_ptr(), 0, none, none);
            if status != 0 {
                return Err(format!(
                    "NVRTC: no program of {}: error {status}",
                    source.display()
                ));
            }
            let status = (self.compile)(program, options.len() as c_int, options.as_ptr());
            let log = self.result(program, self.log).unwrap_or_default();
            let log = String::from_utf8_lossy(&log)
                .trim_end_matches('\0')
                .trim()
                .to_owned();
            let image = self.result(program, if target.ptx { self.ptx } else { self.cubin });
            (self.destroy)(&mut program);
            // Warnings are errors, here as elsewhere.
            if status != 0 || !log.is_empty() {
                return Err(format!(
                    "NVRTC {} for {}: status {status}\n{log}",
                    source.display(),
                    target.name()
                ));
            }
            image
        }
    }
}

/// The module search path of the interpreter that the extension is built for.
fn module_folders() -> Vec<PathBuf> {
    let in_env =
        env::var_os("VIRTUAL_ENV").map(|folder| PathBuf::from(folder).join("bin/python").into_os_string());
    let candidates = [env::var_os("PYO3_PYTHON"), in_env, Some("python3".into())];
    let mut folders = Vec::new();
    for python in candidates.into_iter().flatten() {
        let output = Command::new(&python)
            .args(["-c", "import sys; print('\\n'.join(sys.path))"])
            .output();
        if let Ok(output) = output {
            folders.extend(String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from));
        }
    }
    folders
}

fn builtins(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?;
    entries.flatten().map(|entry| entry.path()).find(|path| {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        name.starts_with("libnvrtc-builtins.so")
    })
}

fn open(path: &Path, flags: c_int) -> Result<*mut c_void, String> {
    let text = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|error| error.to_string())?;
    // SAFETY: a path; the library is NVIDIA's compiler, whose initialisers we run by using it at all.
    let handle = unsafe { libc::dlopen(text.as_ptr(), flags) };
    if handle.is_null() {
        return Err(format!("{} can't be loaded", path.display()));
    }
    Ok(handle)
}

/// # Safety
/// `library` is an open handle, and the symbol has the function type `T`.
unsafe fn symbol<T: Copy>(library: *mut c_void, name: &CStr) -> Result<T, String> {
    // SAFETY: an open handle and a C string.
    let address = unsafe { libc::dlsym(library, name.as_ptr()) };
    if address.is_null() {
        return Err(format!("NVRTC has no {}", name.to_string_lossy()));
    }
    assert_eq!(size_of::<T>(), size_of::<*mut c_void>());
    // SAFETY: the caller's promise; sizes are equal (asserted).
    Ok(unsafe { std::mem::transmute_copy(&address) })
}
