//! Where a site's buffers are, and how they are written there.

use meteora_cuda::{CudaError, Device, Upload};

/// Host memory, or that of a CUDA device.
#[derive(Clone, Copy)]
pub enum Memory {
    Host,
    Device(&'static Device),
}

/// Writes to one memory; those to a device are done when [`Writer::finish`] returns.
pub enum Writer<'a> {
    Host,
    Device(Upload<'a>),
}

impl PartialEq for Memory {
    fn eq(&self, other: &Memory) -> bool {
        match (self, other) {
            (Memory::Host, Memory::Host) => true,
            (Memory::Device(one), Memory::Device(other)) => one.ordinal == other.ordinal,
            _ => false,
        }
    }
}

impl Memory {
    /// Begins to write.
    pub fn writer<'a>(self) -> Result<Writer<'a>, CudaError> {
        Ok(match self {
            Memory::Host => Writer::Host,
            Memory::Device(device) => Writer::Device(Upload::begin(device)?),
        })
    }
}

impl<'a> Writer<'a> {
    /// Copies `bytes` to `to`, a device's from where they are.
    ///
    /// # Safety
    /// As many bytes of this memory begin at `to`, and nobody reads or writes them before `finish`. `bytes` are page-locked,
    /// if this memory is a device's.
    pub unsafe fn copy(&mut self, to: usize, bytes: &'a [u8]) -> Result<(), CudaError> {
        match self {
            // SAFETY: the caller's promise.
            Writer::Host => unsafe { self.write(to, bytes.len(), |out| out.copy_from_slice(bytes)) },
            // SAFETY: the caller's promise.
            Writer::Device(upload) => unsafe { upload.copy(to, bytes) },
        }
    }

    /// Lets `fill` write the `len` bytes at `to`.
    ///
    /// # Safety
    /// `len` bytes of this memory begin at `to`, and nobody reads or writes them before `finish`.
    pub unsafe fn write(
        &mut self,
        to: usize,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), CudaError> {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Writer::Host => fill(std::slice::from_raw_parts_mut(to as *mut u8, len)),
                Writer::Device(upload) => upload.write(to, len, fill)?,
            }
        }
        Ok(())
    }

    /// Fills `bytes` with those at `from`, with all that this has written.
    ///
    /// # Safety
    /// As many bytes of this memory begin at `from`, and nobody writes them meanwhile.
    pub unsafe fn read(&mut self, from: usize, bytes: &mut [u8]) -> Result<(), CudaError> {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Writer::Host => {
                    bytes.copy_from_slice(std::slice::from_raw_parts(from as *const u8, bytes.len()))
                }
                Writer::Device(upload) => upload.read(from, bytes)?,
            }
        }
        Ok(())
    }

    /// Waits until all writes are done.
    pub fn finish(&mut self) -> Result<(), CudaError> {
        match self {
            Writer::Host => Ok(()),
            Writer::Device(upload) => upload.finish(),
        }
    }
}

/// Each memory once.
pub fn distinct(memories: impl Iterator<Item = Memory>) -> Vec<Memory> {
    let mut found: Vec<Memory> = Vec::new();
    for memory in memories {
        if !found.contains(&memory) {
            found.push(memory);
        }
    }
    found
}

/// Waits until what was written to these memories has arrived.
pub fn finish(memories: impl Iterator<Item = Memory>) -> Result<(), CudaError> {
    distinct(memories)
        .into_iter()
        .try_for_each(|memory| memory.writer()?.finish())
}
