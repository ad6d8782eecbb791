//! The CUDA kernels of meteora-rs, launched through the driver API.
//!
//! `libcuda` is opened at run time and only when a CUDA device is asked for; nothing of CUDA is linked. The kernels
//! were compiled when this crate was built (`build/main.rs`) and are embedded, deflated. Memory, streams and lifetimes
//! are the caller's: [`launch`] neither allocates nor synchronises.
//!
//! [`launch`]: launch::launch

pub mod abi;
mod device;
mod driver;
mod error;
mod fence;
mod image;
pub mod launch;
mod page_lock;
pub mod plan;
mod upload;

pub use device::{device, device_count, Device};
pub use driver::{driver, emulated, Driver};
pub use error::CudaError;
pub use fence::Fence;
pub use image::{built, choose, compiler, sizes, source_hash, Choice, Image};
pub use page_lock::PageLock;
pub use upload::{download, Upload};
