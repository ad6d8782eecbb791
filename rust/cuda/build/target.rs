//! What the kernels are compiled for.

/// A GPU architecture, and whether its machine code or PTX, which a driver can still compile for newer ones.
#[derive(Clone, Copy)]
pub struct Target {
    /// Ten times the compute capability.
    pub arch: u32,
    pub ptx: bool,
}

/// Machine code for every architecture from Ampere on, and PTX of the first for those to come.
pub const TARGETS: [Target; 7] = [
    Target { arch: 80, ptx: false },
    Target { arch: 86, ptx: false },
    Target { arch: 89, ptx: false },
    Target { arch: 90, ptx: false },
    Target {
        arch: 100,
        ptx: false,
    },
    Target {
        arch: 120,
        ptx: false,
    },
    Target { arch: 90, ptx: true },
];

impl Target {
    /// The compilers' name for it.
    pub fn name(self) -> String {
        let kind = if self.ptx { "compute" } else { "sm" };
        format!("{kind}_{}", self.arch)
    }

    /// The name of the file that holds the image of `unit`.
    pub fn file_name(self, unit: &str) -> String {
        let extension = if self.ptx { "ptx" } else { "cubin" };
        format!("{unit}.{}.{extension}", self.name())
    }
}
