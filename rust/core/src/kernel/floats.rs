//! Activations in the model's element type.

use super::element::{Bf16, Element, F16, F32};
use super::isa::{dispatch, Kernel};
use super::lane::{Lane, LANES};
use crate::DType;

/// Runs `$body` with `$element` standing for the element type of `$dtype`.
macro_rules! with_element {
    ($dtype:expr, $element:ident => $body:expr) => {
        match $dtype {
            $crate::DType::F32 => {
                type $element = $crate::kernel::element::F32;
                $body
            }
            $crate::DType::F16 => {
                type $element = $crate::kernel::element::F16;
                $body
            }
            $crate::DType::BF16 => {
                type $element = $crate::kernel::element::Bf16;
                $body
            }
        }
    };
}
pub(super) use with_element;

/// Activations to read, `[tokens, features]`.
#[derive(Debug, Clone, Copy)]
pub enum Floats<'a> {
    /// binary32.
    F32(&'a [f32]),
    /// The bits of binary16.
    F16(&'a [u16]),
    /// The bits of bfloat16.
    Bf16(&'a [u16]),
}

/// Activations to add to, `[tokens, features]`.
#[derive(Debug)]
pub enum FloatsMut<'a> {
    /// binary32.
    F32(&'a mut [f32]),
    /// The bits of binary16.
    F16(&'a mut [u16]),
    /// The bits of bfloat16.
    Bf16(&'a mut [u16]),
}

impl Floats<'_> {
    /// Elements.
    pub fn len(&self) -> usize {
        match self {
            Floats::F32(values) => values.len(),
            Floats::F16(values) | Floats::Bf16(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rows `tokens` of width `features` as f32: in place where they are f32 already, else widened into `room`.
    pub(super) fn widened(
        &self,
        tokens: std::ops::Range<usize>,
        features: usize,
        room: &mut Vec<f32>,
    ) -> *const f32 {
        let range = tokens.start * features..tokens.end * features;
        let count = range.len();
        if room.len() < count && !matches!(self, Floats::F32(_)) {
            room.resize(count, 0.0);
        }
        let to = room.as_mut_ptr();
        match self {
            Floats::F32(values) => return values[range].as_ptr(),
            // SAFETY: `count` elements behind both pointers.
            Floats::F16(values) => unsafe { dispatch(Widen::<F16>(values[range].as_ptr(), to, count)) },
            // SAFETY: as above.
            Floats::Bf16(values) => unsafe { dispatch(Widen::<Bf16>(values[range].as_ptr(), to, count)) },
        }
        to
    }
}

/// Widens `.2` elements from `.0` to `.1`.
struct Widen<X: Element>(*const X::Bits, *mut f32, usize);

impl<X: Element> Kernel for Widen<X> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lane>(self) {
        let Widen(from, to, count) = self;
        let whole = count - count % LANES;
        // SAFETY: all offsets are below `count`.
        unsafe {
            let mut at = 0;
            while at < whole {
                F32::store(X::load::<L>(from.add(at)), to.add(at));
                at += LANES;
            }
            let rest = count - whole;
            F32::store_some(X::load_some::<L>(from.add(at), rest), to.add(at), rest);
        }
    }
}

/// [`FloatsMut`] shared by tasks, each of which writes rows of its own.
#[derive(Clone, Copy)]
pub(super) struct SharedRows {
    start: *mut u8,
    pub(super) dtype: DType,
}

// SAFETY: a pointer for tasks that write disjoint rows.
unsafe impl Sync for SharedRows {}
// SAFETY: as above.
unsafe impl Send for SharedRows {}

impl SharedRows {
    /// The rows of `floats`, and how many elements there are.
    pub(super) fn of(floats: FloatsMut<'_>) -> (SharedRows, usize) {
        let (start, dtype, len) = match floats {
            FloatsMut::F32(values) => (values.as_mut_ptr().cast(), DType::F32, values.len()),
            FloatsMut::F16(values) => (values.as_mut_ptr().cast(), DType::F16, values.len()),
            FloatsMut::Bf16(values) => (values.as_mut_ptr().cast(), DType::BF16, values.len()),
        };
        (SharedRows { start, dtype }, len)
    }

    /// The first byte of element `index`.
    pub(super) fn element(&self, index: usize) -> *mut u8 {
        self.start.wrapping_add(index * self.dtype.size())
    }
}
