//! Tensor handles of the shim, and what they point to.

use super::shim::{Shim, Tensor};
use super::slices::slice;

/// A tensor handle of ours to delete.
pub struct Owned(pub &'static Shim, pub Tensor);

impl Owned {
    /// The handle, which is somebody else's to delete.
    pub fn release(self) -> Tensor {
        let handle = self.1;
        std::mem::forget(self);
        handle
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: a handle that the kernel owns, deleted once.
        unsafe { (self.0.delete)(self.1) };
    }
}

/// A tensor by address.
pub struct View {
    pub address: usize,
    pub sizes: Vec<i64>,
    pub strides: Vec<i64>,
    pub dtype: i32,
    /// Torch's device type and index; the CPU is (0, 0 or -1).
    pub device: (i32, i32),
}

impl View {
    pub fn of(tensor: &Owned) -> View {
        let shim = tensor.0;
        let (mut data, mut dim, mut dtype) = (std::ptr::null_mut(), 0i64, 0i32);
        let mut device = (0, 0);
        let (mut sizes, mut strides) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: a live handle and out-pointers; sizes and strides have `dim` elements.
        unsafe {
            (shim.data_ptr)(tensor.1, &mut data);
            (shim.dim)(tensor.1, &mut dim);
            (shim.sizes)(tensor.1, &mut sizes);
            (shim.strides)(tensor.1, &mut strides);
            (shim.dtype)(tensor.1, &mut dtype);
            (shim.device_type)(tensor.1, &mut device.0);
            (shim.device_index)(tensor.1, &mut device.1);
            View {
                address: data as usize,
                sizes: slice::<i64>(sizes as usize, dim as usize).to_vec(),
                strides: slice::<i64>(strides as usize, dim as usize).to_vec(),
                dtype,
                device,
            }
        }
    }

    pub fn len(&self) -> usize {
        self.sizes.iter().product::<i64>() as usize
    }

    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.sizes
            .iter()
            .zip(&self.strides)
            .rev()
            .all(|(&size, &stride)| {
                let fits = size == 1 || stride == expected;
                expected *= size;
                fits
            })
            || self.len() == 0
    }

    /// The elements in order, as bytes.
    pub fn gather(&self, element: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len() * element);
        let mut index = vec![0i64; self.sizes.len()];
        for _ in 0..self.len() {
            let offset: i64 = index
                .iter()
                .zip(&self.strides)
                .map(|(i, stride)| i * stride)
                .sum();
            let start = self.address as i64 + offset * element as i64;
            // SAFETY: an element of the tensor, by its own strides.
            bytes.extend_from_slice(unsafe { slice::<u8>(start as usize, element) });
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                if index[axis] < self.sizes[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        bytes
    }
}

/// A new contiguous tensor of the shape, type and device of `view`.
pub fn empty_like(shim: &'static Shim, view: &View) -> Result<Owned, String> {
    let mut strides = vec![1i64; view.sizes.len()];
    for axis in (1..strides.len()).rev() {
        strides[axis - 1] = strides[axis] * view.sizes[axis].max(1);
    }
    empty(shim, &view.sizes, &strides, view.dtype, view.device)
        .ok_or_else(|| "the output could not be allocated".to_owned())
}

/// `bytes` bytes of torch's allocator for this device.
pub fn empty_bytes(shim: &'static Shim, bytes: usize, device: (i32, i32)) -> Result<Owned, String> {
    // SAFETY: a function without arguments.
    let uint8 = unsafe { (shim.uint8)() };
    empty(shim, &[bytes as i64], &[1], uint8, device)
        .ok_or_else(|| format!("a workspace of {bytes} bytes could not be allocated"))
}

fn empty(
    shim: &'static Shim,
    sizes: &[i64],
    strides: &[i64],
    dtype: i32,
    device: (i32, i32),
) -> Option<Owned> {
    let mut out: Tensor = std::ptr::null_mut();
    let (dims, sizes, strides) = (sizes.len() as i64, sizes.as_ptr(), strides.as_ptr());
    // SAFETY: arrays of `dims` elements and an out-pointer.
    let status =
        unsafe { (shim.empty_strided)(dims, sizes, strides, dtype, device.0, device.1.max(0), &mut out) };
    (status == 0).then_some(Owned(shim, out))
}
