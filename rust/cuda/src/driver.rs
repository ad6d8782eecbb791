//! The functions of the driver API that are used here, found in libcuda at run time.

use std::env;
use std::ffi::{c_char, c_int, c_uint, c_void, CStr, CString};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::error::CudaError;

/// A context, module, function, stream or event of the driver.
pub type Handle = *mut c_void;
/// An address on a device.
pub type Address = u64;

/// Grid, block and stream of a launch (`CUlaunchConfig`).
#[repr(C)]
pub struct LaunchConfig {
    pub grid: [c_uint; 3],
    pub block: [c_uint; 3],
    pub shared_bytes: c_uint,
    pub stream: Handle,
    pub attributes: *const LaunchAttribute,
    pub attribute_count: c_uint,
}

/// One attribute of a launch (`CUlaunchAttribute`: a padded id and a union of 64 bytes that holds pointers).
#[repr(C, align(8))]
pub struct LaunchAttribute {
    pub id: c_uint,
    pub pad: [u8; 4],
    pub value: [c_int; 16],
}

/// The library of a driver; `METEORA_LIBCUDA` names another.
const LIBRARY: &str = "libcuda.so.1";

macro_rules! driver {
    ($($name:ident = $symbol:literal ($($arg:ty),*);)*) => {
        /// The driver's functions, each under a short name; every one returns a CUresult.
        pub struct Driver {
            $(pub(crate) $name: unsafe extern "C" fn($($arg),*) -> c_int,)*
            /// The tests' emulator, and only that, has a function for what was wrong with the last launch.
            pub(crate) last_fault: Option<unsafe extern "C" fn() -> *const c_char>,
            /// What `cuDriverGetVersion` says: 1000 · major + 10 · minor.
            pub version: i32,
            /// The library's name.
            pub library: String,
        }

        impl Driver {
            /// # Safety
            /// `library` is an open libcuda, whose symbols have the types declared below (cuda.h).
            unsafe fn find(library: Handle, name: &str) -> Result<Driver, CudaError> {
                Ok(Driver {
                    // SAFETY: the caller's promise.
                    $($name: unsafe {
                        let address = symbol(library, concat!($symbol, "\0"));
                        let Some(address) = address else {
                            return Err(CudaError::NoDriver(format!("{name} has no {}", $symbol)));
                        };
                        std::mem::transmute::<Handle, unsafe extern "C" fn($($arg),*) -> c_int>(address)
                    },)*
                    // SAFETY: as above; the name is the emulator's own.
                    last_fault: unsafe {
                        symbol(library, "meteora_emulator_last_fault\0").map(|address| {
                            std::mem::transmute::<Handle, unsafe extern "C" fn() -> *const c_char>(address)
                        })
                    },
                    version: 0,
                    library: name.to_owned(),
                })
            }
        }

        const NAMES: &[(&str, &str)] = &[$((stringify!($name), $symbol)),*];
    };
}

driver! {
    init = "cuInit"(c_uint);
    driver_version = "cuDriverGetVersion"(*mut c_int);
    device_count = "cuDeviceGetCount"(*mut c_int);
    device_get = "cuDeviceGet"(*mut c_int, c_int);
    device_attribute = "cuDeviceGetAttribute"(*mut c_int, c_int, c_int);
    device_name = "cuDeviceGetName"(*mut c_char, c_int, c_int);
    retain_context = "cuDevicePrimaryCtxRetain"(*mut Handle, c_int);
    current_context = "cuCtxGetCurrent"(*mut Handle);
    push_context = "cuCtxPushCurrent_v2"(Handle);
    pop_context = "cuCtxPopCurrent_v2"(*mut Handle);
    load_module = "cuModuleLoadData"(*mut Handle, *const c_void);
    get_function = "cuModuleGetFunction"(*mut Handle, Handle, *const c_char);
    function_attribute = "cuFuncGetAttribute"(*mut c_int, c_int, Handle);
    set_function_attribute = "cuFuncSetAttribute"(Handle, c_int, c_int);
    launch = "cuLaunchKernelEx"(*const LaunchConfig, Handle, *mut *mut c_void, *mut *mut c_void);
    error_name = "cuGetErrorName"(c_int, *mut *const c_char);
    error_string = "cuGetErrorString"(c_int, *mut *const c_char);
    create_stream = "cuStreamCreate"(*mut Handle, c_uint);
    synchronize_stream = "cuStreamSynchronize"(Handle);
    capture_info = "cuStreamGetCaptureInfo_v2"(Handle, *mut c_int, *mut u64, *mut Handle, *mut *const Handle, *mut usize);
    exchange_capture_mode = "cuThreadExchangeStreamCaptureMode"(*mut c_int);
    create_event = "cuEventCreate"(*mut Handle, c_uint);
    record_event = "cuEventRecord"(Handle, Handle);
    synchronize_event = "cuEventSynchronize"(Handle);
    destroy_event = "cuEventDestroy_v2"(Handle);
    allocate_host = "cuMemAllocHost_v2"(*mut *mut c_void, usize);
    register_host = "cuMemHostRegister_v2"(*mut c_void, usize, c_uint);
    unregister_host = "cuMemHostUnregister"(*mut c_void);
    host_to_device = "cuMemcpyHtoDAsync_v2"(Address, *const c_void, usize, Handle);
    device_to_host = "cuMemcpyDtoHAsync_v2"(*mut c_void, Address, usize, Handle);
}

impl Driver {
    /// Turns a CUresult into an error that names the function.
    pub(crate) fn check(&self, function: &'static str, code: c_int) -> Result<(), CudaError> {
        if code == 0 {
            return Ok(());
        }
        let text = |get: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int| {
            let mut text: *const c_char = std::ptr::null();
            // SAFETY: an out-pointer for a string of the library's, which lives as long as it.
            unsafe {
                get(code, &mut text);
                (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
            }
        };
        let fault = self.last_fault.and_then(|last_fault| {
            // SAFETY: a function without arguments, whose string lives until the next launch.
            unsafe {
                let fault = last_fault();
                (!fault.is_null()).then(|| CStr::from_ptr(fault).to_string_lossy().into_owned())
            }
        });
        let function = NAMES
            .iter()
            .find(|(short, _)| *short == function)
            .map_or(function, |(_, symbol)| symbol);
        let unknown = || "unknown".to_owned();
        Err(CudaError::Call {
            function,
            code,
            name: text(self.error_name).unwrap_or_else(unknown),
            text: fault
                .filter(|text| !text.is_empty())
                .or_else(|| text(self.error_string))
                .unwrap_or_else(unknown),
        })
    }
}

/// The driver, opened by the first call that finds one.
///
/// # Errors
/// There is none, or it does not start; asked again, it is looked for again.
pub fn driver() -> Result<&'static Driver, CudaError> {
    static DRIVER: OnceLock<Driver> = OnceLock::new();
    static OPENING: Mutex<()> = Mutex::new(());
    if let Some(driver) = DRIVER.get() {
        return Ok(driver);
    }
    let _opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(driver) = DRIVER.get() {
        return Ok(driver);
    }
    let opened = open()?;
    Ok(DRIVER.get_or_init(|| opened))
}

/// Whether the driver in use is the tests' emulator, for which device memory is host memory.
pub fn emulated() -> bool {
    driver().is_ok_and(|driver| driver.last_fault.is_some())
}

fn open() -> Result<Driver, CudaError> {
    let name = env::var("METEORA_LIBCUDA").unwrap_or_else(|_| LIBRARY.to_owned());
    let text = CString::new(name.clone()).map_err(|error| CudaError::NoDriver(error.to_string()))?;
    // SAFETY: the driver's library, or the one that the user names in its place; opening it runs its initialisers.
    let library = unsafe { libc::dlopen(text.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if library.is_null() {
        return Err(CudaError::NoDriver(format!("{name} can't be opened")));
    }
    // SAFETY: an open libcuda.
    let mut driver = unsafe { Driver::find(library, &name)? };
    let mut version = 0;
    // SAFETY: the first call of the API, and an out-pointer.
    unsafe {
        driver
            .check("init", (driver.init)(0))
            .map_err(|error| CudaError::NoDriver(error.to_string()))?;
        driver.check("driver_version", (driver.driver_version)(&mut version))?;
    }
    driver.version = version;
    Ok(driver)
}

/// # Safety
/// `library` is an open handle.
unsafe fn symbol(library: Handle, name: &'static str) -> Option<Handle> {
    let text = CStr::from_bytes_with_nul(name.as_bytes()).ok()?;
    // SAFETY: an open handle and a C string.
    let address = unsafe { libc::dlsym(library, text.as_ptr()) };
    (!address.is_null()).then_some(address)
}
