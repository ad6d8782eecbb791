//! What can go wrong with a GPU.

/// Why something could not be done on a CUDA device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CudaError {
    /// The driver's library can't be opened, or is too old.
    #[error("no CUDA driver: {0}")]
    NoDriver(String),
    /// The crate was built where no CUDA compiler was.
    #[error("this build has no CUDA kernels: it was made without a CUDA compiler (NVRTC or nvcc)")]
    NotBuilt,
    /// No image runs on this device.
    #[error("CUDA device {device} ({name}, compute capability {major}.{minor}) is older than 8.0, the oldest that the kernels are made for")]
    NoImage {
        /// Its ordinal.
        device: i32,
        /// The card's name.
        name: String,
        /// Major part of its compute capability.
        major: i32,
        /// Minor part.
        minor: i32,
    },
    /// A function of the driver failed.
    #[error("{function}: {name} ({code}): {text}")]
    Call {
        /// The driver's function.
        function: &'static str,
        /// Its result.
        code: i32,
        /// The result's name.
        name: String,
        /// What the driver (or the emulator) says of it.
        text: String,
    },
    /// An embedded image is not what was embedded.
    #[error("the CUDA image {0} is damaged")]
    Image(String),
    /// Sizes that no kernel takes.
    #[error("{0}")]
    Shape(String),
}
