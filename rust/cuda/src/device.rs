//! A device with the kernels loaded: once in a process, before any graph is captured.

use std::ffi::{c_char, c_int, CStr, CString};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::abi::{Op, CHOOSE_BYTES_MAX, OPS};
use crate::driver::{driver, Driver, Handle};
use crate::error::CudaError;
use crate::image::{self, Choice};
use crate::upload::SideCell;

/// Devices that a process may use.
const MOST: usize = 64;
const MULTIPROCESSORS: c_int = 16;
const MAJOR: c_int = 75;
const MINOR: c_int = 76;
const SHARED_OPTIN: c_int = 97;
const FUNCTION_REGISTERS: c_int = 4;
const FUNCTION_DYNAMIC_SHARED: c_int = 8;
const CAPTURE_RELAXED: c_int = 2;

/// A CUDA device: its primary context, which torch uses too, and the kernels' functions in it.
pub struct Device {
    pub(crate) driver: &'static Driver,
    /// Its number, as in `cuda:0`.
    pub ordinal: i32,
    /// The card's name.
    pub name: String,
    /// Its compute capability.
    pub capability: (i32, i32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Whether a launch may start while the one before it ends.
    pub(crate) early: bool,
    /// Which of the embedded images it took.
    pub choice: Choice,
    context: Handle,
    functions: [Handle; OPS],
    pub(crate) side: SideCell,
}

// SAFETY: handles of the driver, which is thread-safe; they are never destroyed.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

/// The context that is current while this lives; the thread's own comes back afterwards.
pub(crate) struct Current<'a> {
    driver: &'a Driver,
    pushed: bool,
}

impl Drop for Current<'_> {
    fn drop(&mut self) {
        if self.pushed {
            let mut popped: Handle = std::ptr::null_mut();
            // SAFETY: pops what was pushed; an out-pointer.
            unsafe { (self.driver.pop_context)(&mut popped) };
        }
    }
}

/// While this lives, calls of this thread do not disturb a capture that another thread has begun.
pub(crate) struct Relaxed<'a> {
    driver: &'a Driver,
    before: c_int,
}

impl<'a> Relaxed<'a> {
    pub fn new(driver: &'a Driver) -> Relaxed<'a> {
        let mut mode = CAPTURE_RELAXED;
        // SAFETY: swaps the mode of this thread with the one at the pointer.
        unsafe { (driver.exchange_capture_mode)(&mut mode) };
        Relaxed { driver, before: mode }
    }
}

impl Drop for Relaxed<'_> {
    fn drop(&mut self) {
        // SAFETY: as in `new`.
        unsafe { (self.driver.exchange_capture_mode)(&mut self.before) };
    }
}

/// How many devices the driver has.
///
/// # Errors
/// There is no driver.
pub fn device_count() -> Result<usize, CudaError> {
    let driver = driver()?;
    let mut count = 0;
    // SAFETY: an out-pointer.
    driver.check("device_count", unsafe { (driver.device_count)(&mut count) })?;
    Ok(count as usize)
}

/// The device `ordinal`, with the kernels loaded by the first call.
///
/// # Errors
/// No driver, no such device, or no kernels for it.
pub fn device(ordinal: i32) -> Result<&'static Device, CudaError> {
    static DEVICES: [OnceLock<Device>; MOST] = [const { OnceLock::new() }; MOST];
    static LOADING: Mutex<()> = Mutex::new(());
    let place = usize::try_from(ordinal).ok().and_then(|place| DEVICES.get(place));
    let place = place.ok_or_else(|| CudaError::NoDriver(format!("no CUDA device {ordinal}")))?;
    if let Some(device) = place.get() {
        return Ok(device);
    }
    let _loading = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(device) = place.get() {
        return Ok(device);
    }
    let loaded = Device::load(ordinal)?;
    Ok(place.get_or_init(|| loaded))
}

impl Device {
    /// Makes the device's context current in this thread, if it is not.
    pub(crate) fn enter(&self) -> Result<Current<'static>, CudaError> {
        enter(self.driver, self.context)
    }

    /// Which capture of a graph `stream` is in: no other of the process has the same number.
    ///
    /// # Errors
    /// What the driver says.
    ///
    /// # Safety
    /// `stream` is a live stream of the device's primary context.
    pub unsafe fn capture(&self, stream: Handle) -> Result<Option<u64>, CudaError> {
        let _current = self.enter()?;
        let (mut status, mut id): (c_int, u64) = (0, 0);
        // SAFETY: the caller's stream; out-pointers, of which the last three may be null.
        let code = unsafe {
            (self.driver.capture_info)(
                stream,
                &mut status,
                &mut id,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            )
        };
        self.driver.check("capture_info", code)?;
        Ok((status != 0).then_some(id))
    }

    /// The function of `op`.
    pub(crate) fn function(&self, op: Op) -> Handle {
        self.functions[op as usize]
    }

    fn load(ordinal: i32) -> Result<Device, CudaError> {
        let driver = driver()?;
        let _relaxed = Relaxed::new(driver);
        let (mut id, mut context) = (0, std::ptr::null_mut());
        let mut name = [0 as c_char; 128];
        // SAFETY: out-pointers; the name's length is given. The context is retained for the life of the process.
        let name = unsafe {
            driver.check("device_get", (driver.device_get)(&mut id, ordinal))?;
            driver.check(
                "device_name",
                (driver.device_name)(name.as_mut_ptr(), name.len() as c_int - 1, id),
            )?;
            driver.check("retain_context", (driver.retain_context)(&mut context, id))?;
            CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned()
        };
        let attribute = |which: c_int| {
            let mut value = 0;
            // SAFETY: an out-pointer.
            let code = unsafe { (driver.device_attribute)(&mut value, which, id) };
            driver.check("device_attribute", code).map(|()| value)
        };
        let (major, minor) = (attribute(MAJOR)?, attribute(MINOR)?);
        let _current = enter(driver, context)?;
        let (choice, modules) = if driver.last_fault.is_some() {
            // The emulator has the kernels in itself.
            (
                Choice {
                    arch: 10 * major + minor,
                    ptx: false,
                },
                vec![load_module(driver, b"\0")?],
            )
        } else {
            if !image::built() {
                return Err(CudaError::NotBuilt);
            }
            let choice = image::choose(major, minor, image::offered());
            let choice = choice.ok_or_else(|| CudaError::NoImage {
                device: ordinal,
                name: name.clone(),
                major,
                minor,
            })?;
            let load = |image: &image::Image| load_module(driver, &image.inflate()?);
            (
                choice,
                image::images(choice).map(load).collect::<Result<Vec<_>, _>>()?,
            )
        };
        let shared = attribute(SHARED_OPTIN)?.min(CHOOSE_BYTES_MAX as c_int);
        let mut functions = [std::ptr::null_mut(); OPS];
        for &op in Op::ALL {
            let shared = op.uses_dynamic_shared().then_some(shared);
            functions[op as usize] = touch(driver, &modules, op.symbol(), shared)?;
        }
        let multiprocessors = attribute(MULTIPROCESSORS)?.max(1) as u32;
        Ok(Device {
            driver,
            ordinal,
            name,
            capability: (major, minor),
            multiprocessors,
            early: starts_early(major, driver.version),
            choice,
            context,
            functions,
            side: SideCell::new(),
        })
    }
}

/// Programmatic stream serialisation came with sm_90 (CUDA Programming Guide, 4.5); graphs know it since CUDA 12.3, when
/// their edges got data: "the only use for non-default edge data is enabling Programmatic Dependent Launch" (4.2), and
/// its release notes say that it "may now be described natively in CUDA Graphs". It is the driver that captures, so its
/// version counts; one rule for graphs and streams, so that a warm-up launches as the capture does.
fn starts_early(major: i32, driver_version: i32) -> bool {
    major >= 9 && driver_version >= 12_030
}

fn enter(driver: &'static Driver, context: Handle) -> Result<Current<'static>, CudaError> {
    let mut current: Handle = std::ptr::null_mut();
    // SAFETY: an out-pointer, and a live context.
    unsafe {
        driver.check("current_context", (driver.current_context)(&mut current))?;
        if current == context {
            return Ok(Current {
                driver,
                pushed: false,
            });
        }
        driver.check("push_context", (driver.push_context)(context))?;
    }
    Ok(Current { driver, pushed: true })
}

fn load_module(driver: &Driver, image: &[u8]) -> Result<Handle, CudaError> {
    let mut module: Handle = std::ptr::null_mut();
    // SAFETY: a whole image (PTX ends in a zero), which the driver copies.
    driver.check("load_module", unsafe {
        (driver.load_module)(&mut module, image.as_ptr().cast())
    })?;
    Ok(module)
}

/// Finds a function and makes the driver load it, which it would else put off to the first launch: inside the capture
/// of a graph that fails.
fn touch(
    driver: &Driver,
    modules: &[Handle],
    symbol: &str,
    shared: Option<c_int>,
) -> Result<Handle, CudaError> {
    let name = CString::new(symbol).unwrap_or_default();
    let mut function: Handle = std::ptr::null_mut();
    let mut code = 0;
    for &module in modules {
        // SAFETY: a loaded module, a C string, an out-pointer.
        code = unsafe { (driver.get_function)(&mut function, module, name.as_ptr()) };
        if code == 0 {
            break;
        }
    }
    let named = |error| match error {
        CudaError::Call {
            function,
            code,
            name,
            text,
        } => CudaError::Call {
            function,
            code,
            name,
            text: format!("{symbol}: {text}"),
        },
        other => other,
    };
    driver.check("get_function", code).map_err(named)?;
    let mut registers = 0;
    // SAFETY: a function of a loaded module, and an out-pointer.
    unsafe {
        let code = (driver.function_attribute)(&mut registers, FUNCTION_REGISTERS, function);
        driver.check("function_attribute", code).map_err(named)?;
        if let Some(bytes) = shared {
            let code = (driver.set_function_attribute)(function, FUNCTION_DYNAMIC_SHARED, bytes);
            driver.check("set_function_attribute", code).map_err(named)?;
        }
    }
    Ok(function)
}

#[cfg(test)]
mod tests {
    use super::starts_early;

    #[test]
    fn launches_start_early_where_card_and_driver_know_it() {
        let all = [(8, 13_000), (9, 12_020), (9, 12_030), (12, 13_000)];
        assert_eq!(
            all.map(|(major, driver)| starts_early(major, driver)),
            [false, false, true, true]
        );
    }
}
