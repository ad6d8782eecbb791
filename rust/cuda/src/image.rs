//! The embedded kernels, and which of them a device takes.

use crate::error::CudaError;

/// One translation unit, compiled for one architecture.
#[derive(Debug)]
pub struct Image {
    /// The source's name without its extension.
    pub source: &'static str,
    /// Ten times the compute capability.
    pub arch: i32,
    /// Whether it is PTX, which the driver compiles when it is loaded.
    pub ptx: bool,
    /// Its size.
    pub bytes: usize,
    deflated: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/images.rs"));

impl Image {
    /// The image itself; PTX ends in a zero.
    pub(crate) fn inflate(&self) -> Result<Vec<u8>, CudaError> {
        let damaged = || CudaError::Image(format!("{}.{}", self.source, self.arch));
        let image = miniz_oxide::inflate::decompress_to_vec_with_limit(self.deflated, self.bytes);
        image
            .ok()
            .filter(|image| image.len() == self.bytes)
            .ok_or_else(damaged)
    }
}

/// What a device takes of the embedded images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Ten times the compute capability.
    pub arch: i32,
    /// Whether it is PTX.
    pub ptx: bool,
}

/// Whether there are embedded kernels.
pub fn built() -> bool {
    !IMAGES.is_empty()
}

/// What compiled them; empty if there are none.
pub fn compiler() -> &'static str {
    COMPILER
}

/// SHA-256 of the sources that they were compiled from.
pub fn source_hash() -> &'static str {
    SOURCE_HASH
}

/// The embedded images, and the bytes that each takes.
pub fn sizes() -> impl Iterator<Item = (&'static Image, usize)> {
    IMAGES.iter().map(|image| (image, image.deflated.len()))
}

/// The images of a choice, one for each source.
pub(crate) fn images(choice: Choice) -> impl Iterator<Item = &'static Image> {
    IMAGES
        .iter()
        .filter(move |image| (image.arch, image.ptx) == (choice.arch, choice.ptx))
}

/// What runs best on compute capability `major.minor`: machine code runs within its major version from its minor
/// version on; PTX on everything from its own version on.
pub fn choose(major: i32, minor: i32, offered: impl Iterator<Item = Choice>) -> Option<Choice> {
    let capability = 10 * major + minor;
    offered
        .filter(|choice| choice.arch <= capability && (choice.ptx || choice.arch / 10 == major))
        .max_by_key(|choice| (!choice.ptx, choice.arch))
}

/// All that is embedded.
pub(crate) fn offered() -> impl Iterator<Item = Choice> {
    IMAGES.iter().map(|image| Choice {
        arch: image.arch,
        ptx: image.ptx,
    })
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;
    use crate::abi::Op;

    #[test]
    fn a_device_takes_the_nearest_machine_code_else_ptx() {
        let cubins = [80, 86, 89, 90, 100, 120].map(|arch| Choice { arch, ptx: false });
        let all = || cubins.into_iter().chain([Choice { arch: 90, ptx: true }]);
        let chosen = |major, minor| choose(major, minor, all()).map(|choice| (choice.arch, choice.ptx));
        assert_eq!(chosen(7, 5), None);
        assert_eq!(chosen(8, 0), Some((80, false)));
        assert_eq!(chosen(8, 7), Some((86, false)));
        assert_eq!(chosen(8, 9), Some((89, false)));
        assert_eq!(chosen(9, 0), Some((90, false)));
        assert_eq!(chosen(10, 3), Some((100, false)));
        assert_eq!(chosen(11, 0), Some((90, true)));
        assert_eq!(chosen(12, 1), Some((120, false)));
        assert_eq!(chosen(15, 0), Some((90, true)));
    }

    /// Bytes of local memory that each function of a cubin takes, spilled registers among them: by the records of its
    /// `.nv.info` (an ELF section), which are (format, attribute, u16 length or value), then a payload if the format is 4.
    fn frames(cubin: &[u8]) -> Vec<(String, u32)> {
        const FRAME_SIZE: u8 = 0x11;
        let number = |at: usize, bytes: usize| {
            let bytes = cubin[at..at + bytes].iter().rev();
            bytes.fold(0usize, |value, &byte| value << 8 | usize::from(byte))
        };
        let text = |at: usize| {
            CStr::from_bytes_until_nul(&cubin[at..])
                .unwrap()
                .to_str()
                .unwrap()
        };
        let headers = number(0x28, 8);
        let header = |index: usize| headers + 64 * index;
        let begin = |index: usize| number(header(index) + 24, 8);
        let section = |name: &str| {
            let names = begin(number(0x3e, 2));
            (0..number(0x3c, 2))
                .find(|&index| text(names + number(header(index), 4)) == name)
                .unwrap()
        };
        let (info, symbols) = (section(".nv.info"), section(".symtab"));
        let symbol_names = begin(number(header(symbols) + 40, 4));
        let (mut at, end) = (begin(info), begin(info) + number(header(info) + 32, 8));
        let mut found = Vec::new();
        while at < end {
            if cubin[at] == 4 && cubin[at + 1] == FRAME_SIZE {
                let name = text(symbol_names + number(begin(symbols) + 24 * number(at + 4, 4), 4));
                found.push((name.to_owned(), number(at + 8, 4) as u32));
            }
            at += 4 + if cubin[at] == 4 { number(at + 2, 2) } else { 0 };
        }
        found
    }

    #[test]
    fn no_kernel_spills_a_register() {
        for image in IMAGES.iter().filter(|image| !image.ptx) {
            let frames = frames(&image.inflate().unwrap());
            let own = |op: &&Op| op.symbol().starts_with(image.source);
            for op in Op::ALL.iter().filter(own) {
                assert!(
                    frames.iter().any(|(name, _)| name == op.symbol()),
                    "{}",
                    op.symbol()
                );
            }
            assert!(
                frames.iter().all(|&(_, bytes)| bytes == 0),
                "sm_{}: {frames:?}",
                image.arch
            );
        }
    }

    #[test]
    fn all_of_them_take_less_than_a_megabyte() {
        let bytes: usize = sizes().map(|(_, bytes)| bytes).sum();
        assert!(bytes <= 1_000_000, "{bytes}");
    }

    #[test]
    fn every_image_inflates_to_its_size() {
        for image in IMAGES {
            assert_eq!(
                image.inflate().unwrap().len(),
                image.bytes,
                "{}.{}",
                image.source,
                image.arch
            );
        }
    }
}
