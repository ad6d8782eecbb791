//! Copies between host and device that disturb no request: from pinned memory, on a stream of their own.

use std::marker::PhantomData;
use std::sync::{MutexGuard, OnceLock, PoisonError};

use crate::device::{Device, Relaxed};
use crate::driver::{Address, Handle};
use crate::error::CudaError;

/// Bytes of pinned memory for each device: packing one half of an adapter of 8 MiB while the other is copied.
const CAPACITY: usize = 16 << 20;
/// Rows begin at multiples of this in the pinned memory.
const ALIGNMENT: usize = 64;
const NON_BLOCKING: u32 = 1;

/// A device's pinned memory and side stream, once something has been copied.
pub(crate) struct Side {
    stream: Handle,
    pinned: *mut u8,
    used: usize,
}

// SAFETY: a stream and memory that any thread may use, one at a time (behind a mutex).
unsafe impl Send for Side {}

/// Writes to a device's memory; they are done when [`Upload::finish`] returns.
///
/// What is copied from where it is (`'a`) is borrowed until then: nobody can write it, and no other gets its place.
pub struct Upload<'a> {
    device: &'static Device,
    side: MutexGuard<'static, Side>,
    /// Whether the device may still read memory that is not ours.
    borrows: bool,
    borrowed: PhantomData<&'a [u8]>,
}

impl<'a> Upload<'a> {
    /// Begins, when no other thread is at it.
    ///
    /// # Errors
    /// No pinned memory, or no stream.
    pub fn begin(device: &'static Device) -> Result<Upload<'a>, CudaError> {
        let side = device.side()?.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Upload {
            device,
            side,
            borrows: false,
            borrowed: PhantomData,
        })
    }

    /// Copies `bytes`, which are [page-locked](crate::PageLock), from where they are to the address `to` of the device.
    ///
    /// # Errors
    /// What the driver says.
    ///
    /// # Safety
    /// As many bytes of the device's memory begin at `to`, and nobody reads or writes them before `finish`.
    pub unsafe fn copy(&mut self, to: usize, bytes: &'a [u8]) -> Result<(), CudaError> {
        self.borrows = true;
        // SAFETY: the caller's address; `bytes` are borrowed until the drop, which waits for the copy.
        unsafe { self.send(to, bytes) }
    }

    /// Copies `len` bytes, which `fill` writes, to the address `to` of the device.
    ///
    /// # Errors
    /// What the driver says.
    ///
    /// # Safety
    /// `len` bytes of the device's memory begin at `to`, and nobody reads or writes them before `finish`.
    pub unsafe fn write(
        &mut self,
        to: usize,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), CudaError> {
        if len <= CAPACITY {
            // SAFETY: the caller's promise.
            return unsafe { self.write_part(to, len, fill) };
        }
        let mut bytes = vec![0u8; len];
        fill(&mut bytes);
        for (index, part) in bytes.chunks(CAPACITY).enumerate() {
            // SAFETY: a part of the caller's memory.
            unsafe { self.write_part(to + index * CAPACITY, part.len(), |out| out.copy_from_slice(part))? };
        }
        Ok(())
    }

    /// # Safety
    /// As [`Upload::write`]; `len` is at most [`CAPACITY`].
    unsafe fn write_part(
        &mut self,
        to: usize,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), CudaError> {
        if self.side.used + len > CAPACITY {
            self.finish()?;
        }
        let start = self.side.used;
        // SAFETY: inside the pinned memory, of which the copies on their way use only what is before `start`.
        let pinned = unsafe { std::slice::from_raw_parts_mut(self.side.pinned.add(start), len) };
        fill(pinned);
        // SAFETY: pinned memory that stays as it is until `finish`, and the caller's address.
        unsafe { self.send(to, pinned)? };
        self.side.used = (start + len).next_multiple_of(ALIGNMENT);
        Ok(())
    }

    /// # Safety
    /// As [`Upload::write`]; `bytes` are pinned, and stay as they are until the stream has been waited for.
    unsafe fn send(&self, to: usize, bytes: &[u8]) -> Result<(), CudaError> {
        let driver = self.device.driver;
        let _current = self.device.enter()?;
        let _relaxed = Relaxed::new(driver);
        // SAFETY: the caller's promise.
        let code = unsafe {
            (driver.host_to_device)(
                to as Address,
                bytes.as_ptr().cast(),
                bytes.len(),
                self.side.stream,
            )
        };
        driver.check("host_to_device", code)
    }

    /// Waits until everything written is on the device.
    ///
    /// # Errors
    /// What the driver says.
    pub fn finish(&mut self) -> Result<(), CudaError> {
        let driver = self.device.driver;
        let _current = self.device.enter()?;
        let _relaxed = Relaxed::new(driver);
        // SAFETY: our stream.
        driver.check("synchronize_stream", unsafe {
            (driver.synchronize_stream)(self.side.stream)
        })?;
        self.side.used = 0;
        self.borrows = false;
        Ok(())
    }

    /// Reads device memory into `bytes`, after what was written before.
    ///
    /// # Errors
    /// What the driver says.
    ///
    /// # Safety
    /// `bytes.len()` bytes of the device's memory begin at `from`, and nobody writes them meanwhile.
    pub unsafe fn read(&mut self, from: usize, bytes: &mut [u8]) -> Result<(), CudaError> {
        let driver = self.device.driver;
        let _current = self.device.enter()?;
        let _relaxed = Relaxed::new(driver);
        let stream = self.side.stream;
        // SAFETY: the caller's address; `bytes` is ours until `finish`.
        let code = unsafe {
            (driver.device_to_host)(bytes.as_mut_ptr().cast(), from as Address, bytes.len(), stream)
        };
        driver.check("device_to_host", code)?;
        self.finish()
    }
}

impl Drop for Upload<'_> {
    /// An error or a panic may have come between a copy and `finish`.
    fn drop(&mut self) {
        if self.borrows {
            let _ = self.finish(); // a stream that fails here reads nothing any more
        }
    }
}

impl Side {
    fn new(device: &Device) -> Result<Side, CudaError> {
        let driver = device.driver;
        let _current = device.enter()?;
        let _relaxed = Relaxed::new(driver);
        let (mut stream, mut pinned): (Handle, *mut std::ffi::c_void) =
            (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: out-pointers; both live as long as the process.
        unsafe {
            driver.check("create_stream", (driver.create_stream)(&mut stream, NON_BLOCKING))?;
            driver.check("allocate_host", (driver.allocate_host)(&mut pinned, CAPACITY))?;
        }
        Ok(Side {
            stream,
            pinned: pinned.cast(),
            used: 0,
        })
    }
}

impl Device {
    fn side(&self) -> Result<&std::sync::Mutex<Side>, CudaError> {
        if let Some(side) = self.side.get() {
            return Ok(side);
        }
        let made = Side::new(self)?;
        Ok(self.side.get_or_init(|| std::sync::Mutex::new(made)))
    }
}

/// Reads memory of `device` into `bytes`, after the work that `stream` has now.
///
/// # Errors
/// What the driver says.
///
/// # Safety
/// `bytes.len()` bytes of the device's memory begin at `from`, which only work on `stream` writes; `stream` is a stream
/// of the device's primary context on which no graph is being captured.
pub unsafe fn download(
    device: &Device,
    stream: Handle,
    from: usize,
    bytes: &mut [u8],
) -> Result<(), CudaError> {
    let driver = device.driver;
    let _current = device.enter()?;
    let _relaxed = Relaxed::new(driver);
    // SAFETY: the caller's promise; `bytes` is ours until the stream is done.
    unsafe {
        let code = (driver.device_to_host)(bytes.as_mut_ptr().cast(), from as Address, bytes.len(), stream);
        driver.check("device_to_host", code)?;
        driver.check("synchronize_stream", (driver.synchronize_stream)(stream))
    }
}

pub(crate) type SideCell = OnceLock<std::sync::Mutex<Side>>;
