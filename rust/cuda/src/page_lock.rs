//! Memory of ours that devices read where it is.

use crate::device::{Device, Relaxed};
use crate::error::CudaError;

/// For all devices, not for this context alone.
const PORTABLE: u32 = 1;

/// Memory that is page-locked while this lives.
pub struct PageLock {
    device: &'static Device,
    address: usize,
}

impl PageLock {
    /// Page-locks `len` bytes at `address`; all of it takes memory from now on.
    ///
    /// # Errors
    /// What the driver says, such as that the system's limit is reached.
    ///
    /// # Safety
    /// The memory is mapped, and no page of it goes back to the system or is replaced, until this is dropped.
    pub unsafe fn new(device: &'static Device, address: usize, len: usize) -> Result<PageLock, CudaError> {
        let driver = device.driver;
        let _current = device.enter()?;
        let _relaxed = Relaxed::new(driver);
        // SAFETY: the caller's promise.
        let code = unsafe { (driver.register_host)(address as *mut _, len, PORTABLE) };
        driver.check("register_host", code)?;
        Ok(PageLock { device, address })
    }
}

impl Drop for PageLock {
    fn drop(&mut self) {
        let driver = self.device.driver;
        // Where there is no context any more (a child process, the end of this one), nothing is page-locked either.
        if let Ok(_current) = self.device.enter() {
            let _relaxed = Relaxed::new(driver);
            // SAFETY: registered in `new`, once.
            unsafe { (driver.unregister_host)(self.address as *mut _) };
        }
    }
}
