//! The functions of torch's stable C shim that are used here, found in the loaded libtorch_cpu.

use std::ffi::{c_char, c_void, CStr, CString};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A tensor handle of the shim.
pub type Tensor = *mut c_void;
/// A kernel: (stack, number of inputs, number of outputs). It owns its inputs.
pub type Kernel = unsafe extern "C-unwind" fn(*mut u64, u64, u64);
/// A range of tasks for `parallel_for`.
pub type RangeTask = extern "C" fn(i64, i64, *mut c_void);

macro_rules! shim {
    ($($name:ident = $symbol:literal : fn($($arg:ty),*) $(-> $ret:ty)?;)*) => {
        /// The functions, each under its short name.
        pub struct Shim {
            $(pub $name: unsafe extern "C-unwind" fn($($arg),*) $(-> $ret)?,)*
        }

        impl Shim {
            /// # Safety
            /// The handles are those of libtorch_cpu and libc10, whose symbols have the types declared below
            /// (torch/csrc/inductor/aoti_torch/c/shim.h, torch/csrc/stable/c/shim.h, c10/util/Exception.h).
            unsafe fn find(libraries: [*mut c_void; 2]) -> Result<Shim, String> {
                Ok(Shim { $($name: {
                    let address = symbol(libraries, concat!($symbol, "\0"))?;
                    // SAFETY: the caller's promise.
                    unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C-unwind" fn($($arg),*) $(-> $ret)?>(address) }
                },)* })
            }
        }
    };
}

shim! {
    library_fragment = "aoti_torch_library_init_fragment":
        fn(*const c_char, *const c_char, u32, *mut *mut c_void) -> i32;
    library_impl = "aoti_torch_library_init_impl":
        fn(*const c_char, *const c_char, *const c_char, u32, *mut *mut c_void) -> i32;
    define = "aoti_torch_library_def": fn(*mut c_void, *const c_char) -> i32;
    implement = "aoti_torch_library_impl": fn(*mut c_void, *const c_char, Kernel) -> i32;
    data_ptr = "aoti_torch_get_data_ptr": fn(Tensor, *mut *mut c_void) -> i32;
    dim = "aoti_torch_get_dim": fn(Tensor, *mut i64) -> i32;
    sizes = "aoti_torch_get_sizes": fn(Tensor, *mut *mut i64) -> i32;
    strides = "aoti_torch_get_strides": fn(Tensor, *mut *mut i64) -> i32;
    dtype = "aoti_torch_get_dtype": fn(Tensor, *mut i32) -> i32;
    device_type = "aoti_torch_get_device_type": fn(Tensor, *mut i32) -> i32;
    device_index = "aoti_torch_get_device_index": fn(Tensor, *mut i32) -> i32;
    copy_into = "aoti_torch_copy_": fn(Tensor, Tensor, i32) -> i32;
    cuda = "aoti_torch_device_type_cuda": fn() -> i32;
    empty_strided = "aoti_torch_empty_strided":
        fn(i64, *const i64, *const i64, i32, i32, i32, *mut Tensor) -> i32;
    delete = "aoti_torch_delete_tensor_object": fn(Tensor) -> i32;
    float32 = "aoti_torch_dtype_float32": fn() -> i32;
    float16 = "aoti_torch_dtype_float16": fn() -> i32;
    bfloat16 = "aoti_torch_dtype_bfloat16": fn() -> i32;
    int32 = "aoti_torch_dtype_int32": fn() -> i32;
    uint8 = "aoti_torch_dtype_uint8": fn() -> i32;
    parallel_for = "torch_parallel_for": fn(i64, i64, i64, RangeTask, *mut c_void) -> i32;
    num_threads = "torch_get_num_threads": fn(*mut u32) -> i32;
    check_fail = "_ZN3c106detail14torchCheckFailEPKcS2_jS2_":
        fn(*const c_char, *const c_char, u32, *const c_char) -> ();
}

static SHIM: OnceLock<Shim> = OnceLock::new();
/// The folder of torch's libraries.
static LIBRARIES: OnceLock<PathBuf> = OnceLock::new();

/// The shim, if [`load`] has found it.
pub fn get() -> Option<&'static Shim> {
    SHIM.get()
}

/// The stream on which torch's work for CUDA device `ordinal` goes in this thread.
///
/// It is in torch's CUDA library, which is there wherever there are CUDA tensors.
pub fn current_stream(ordinal: i32) -> Result<*mut c_void, String> {
    type CurrentStream = unsafe extern "C-unwind" fn(i32, *mut *mut c_void) -> i32;
    static FOUND: OnceLock<CurrentStream> = OnceLock::new();
    let current = match FOUND.get() {
        Some(current) => *current,
        None => {
            let lib = LIBRARIES.get().ok_or("torch has not been found")?;
            let library = open(lib, "libtorch_cuda")?;
            let address = symbol([library, library], "aoti_torch_get_current_cuda_stream\0")?;
            // SAFETY: the symbol's type, as declared in torch/csrc/inductor/aoti_torch/c/shim.h.
            *FOUND.get_or_init(|| unsafe { std::mem::transmute::<*mut c_void, CurrentStream>(address) })
        }
    };
    let mut stream = std::ptr::null_mut();
    // SAFETY: an out-pointer.
    match unsafe { current(ordinal, &mut stream) } {
        0 => Ok(stream),
        _ => Err(format!("torch has no current stream for CUDA device {ordinal}")),
    }
}

/// Finds the shim in the libtorch beside `torch_init`, the `__file__` of the imported torch.
pub fn load(torch_init: &str) -> Result<&'static Shim, String> {
    if let Some(shim) = SHIM.get() {
        return Ok(shim);
    }
    let lib = Path::new(torch_init)
        .parent()
        .unwrap_or(Path::new(""))
        .join("lib");
    let lib = LIBRARIES.get_or_init(|| lib);
    let libraries = [open(lib, "libtorch_cpu")?, open(lib, "libc10")?];
    // SAFETY: the two libraries that `find` asks for.
    let shim = unsafe { Shim::find(libraries)? };
    Ok(SHIM.get_or_init(|| shim))
}

fn open(lib: &Path, name: &str) -> Result<*mut c_void, String> {
    let path = lib.join(format!("{name}{}", std::env::consts::DLL_SUFFIX));
    let text = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|error| error.to_string())?;
    // SAFETY: a path; NOLOAD only finds what torch has loaded, so no code of the library's is run.
    let handle = unsafe { libc::dlopen(text.as_ptr(), libc::RTLD_NOLOAD | libc::RTLD_LAZY) };
    if handle.is_null() {
        return Err(format!("torch's {} is not loaded", path.display()));
    }
    Ok(handle)
}

fn symbol(libraries: [*mut c_void; 2], name: &'static str) -> Result<*mut c_void, String> {
    let text = CStr::from_bytes_with_nul(name.as_bytes()).map_err(|error| error.to_string())?;
    // SAFETY: open handles and a C string.
    let found = libraries
        .into_iter()
        .map(|library| unsafe { libc::dlsym(library, text.as_ptr()) });
    found
        .into_iter()
        .find(|address| !address.is_null())
        .ok_or_else(|| {
            format!(
                "this torch has no {}; torch 2.10 or later is needed",
                text.to_string_lossy()
            )
        })
}
