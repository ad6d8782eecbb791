//! A point in a stream's work that can be waited for.

use crate::device::{Device, Relaxed};
use crate::driver::Handle;
use crate::error::CudaError;

const DISABLE_TIMING: u32 = 2;

/// What a stream had to do when this was made.
pub struct Fence {
    device: &'static Device,
    event: Handle,
}

// SAFETY: an event may be used from any thread.
unsafe impl Send for Fence {}
// SAFETY: as above.
unsafe impl Sync for Fence {}

impl Fence {
    /// A fence behind the work on `stream`; None while a graph is captured there, since nothing runs then.
    ///
    /// # Errors
    /// What the driver says, such as a kernel that failed before.
    ///
    /// # Safety
    /// `stream` is a live stream of the device's primary context.
    pub unsafe fn record(device: &'static Device, stream: Handle) -> Result<Option<Fence>, CudaError> {
        let driver = device.driver;
        let _current = device.enter()?;
        let _relaxed = Relaxed::new(driver);
        let mut event: Handle = std::ptr::null_mut();
        // SAFETY: the caller's stream, an out-pointer, and an event that `Fence` owns as soon as there is one.
        unsafe {
            if device.capture(stream)?.is_some() {
                return Ok(None);
            }
            driver.check("create_event", (driver.create_event)(&mut event, DISABLE_TIMING))?;
            let fence = Fence { device, event };
            driver.check("record_event", (driver.record_event)(event, stream))?;
            Ok(Some(fence))
        }
    }

    /// Waits until that work is done.
    ///
    /// # Errors
    /// What the driver says.
    pub fn wait(&self) -> Result<(), CudaError> {
        let driver = self.device.driver;
        let _current = self.device.enter()?;
        let _relaxed = Relaxed::new(driver);
        // SAFETY: a live event.
        driver.check("synchronize_event", unsafe {
            (driver.synchronize_event)(self.event)
        })
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        // A thread that has none current is refused, and the event stays.
        let _current = self.device.enter();
        // SAFETY: the event is ours; the driver frees it when its work is done.
        unsafe { (self.device.driver.destroy_event)(self.event) };
    }
}
