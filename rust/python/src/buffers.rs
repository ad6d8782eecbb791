//! A site's torch buffers, by address: what loads write and the eager paths read.

use meteora_core::kernel::{screen_stride, write_screen, Site};
use meteora_core::layout::{TableEntry, KIND_ABS, PAGE_BYTES_PER_COLUMN};
use meteora_core::peft::Module;
use meteora_core::tiers::packed::{GateForm, PackedModule};
use meteora_core::{pack, DType};
use meteora_cuda::CudaError;

use crate::memory::{Memory, Writer};

/// The sizes of a site's buffers.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub in_features: usize,
    pub out_features: usize,
    pub slots: usize,
    pub pages: usize,
}

/// The addresses of a site's buffers, and their sizes.
///
/// site.py, the only maker, gives the addresses of live tensors of exactly these sizes in this memory, and gives new
/// ones whenever they move; the torch module that holds the tensors holds what holds this. Rows that a snapshot can
/// reach are not written while it lives. All `SAFETY` below rests on that.
#[derive(Clone, Copy)]
pub struct Buffers {
    pub sizes: Sizes,
    pub memory: Memory,
    pub gate: usize,
    pub gate_bias: usize,
    pub screen: usize,
    pub lora_a: usize,
    pub lora_b_packed: usize,
    pub table: usize,
}

impl Buffers {
    /// The buffers as the CPU kernels read them; they must be in host memory.
    pub fn site(&self) -> Site<'_> {
        let Sizes {
            in_features,
            out_features,
            slots,
            pages,
        } = self.sizes;
        assert!(matches!(self.memory, Memory::Host), "buffers in host memory");
        let pool = |width: usize| pages * PAGE_BYTES_PER_COLUMN * width;
        // SAFETY: live buffers of these sizes; what the kernel reads of them is not written meanwhile.
        unsafe {
            Site {
                in_features,
                out_features,
                slots,
                gate: slice(self.gate, slots * in_features),
                gate_bias: slice(self.gate_bias, slots),
                screen: Some(slice(self.screen, slots * screen_stride(in_features))),
                lora_a: slice(self.lora_a, pool(in_features)),
                lora_b_packed: slice(self.lora_b_packed, pool(out_features)),
                table: slice(self.table, slots),
            }
        }
    }

    /// Makes `slot` an adapter that misses this site.
    pub fn clear_slot(&self, writer: &mut Writer, slot: usize, page_start: usize) -> Result<(), CudaError> {
        self.write_entry(writer, slot, TableEntry::new(page_start, 0, DType::F32, 0.0))
    }

    /// Makes `slot` the same adapter as `like`: the same rows, at the same rank and scaling.
    pub fn copy_entry(&self, writer: &mut Writer, like: usize, slot: usize) -> Result<(), CudaError> {
        let entry = self.entry(writer, like)?;
        self.write_entry(writer, slot, entry)
    }

    /// Writes a module's rows and its entry.
    pub fn write_slot(
        &self,
        writer: &mut Writer,
        slot: usize,
        page_start: usize,
        module: &Module,
    ) -> Result<(), CudaError> {
        let row_bytes = module.rank * module.dtype.size();
        let (a, a_len) = self.rows(self.lora_a, page_start, self.sizes.in_features, row_bytes);
        let (b, b_len) = self.rows(self.lora_b_packed, page_start, self.sizes.out_features, row_bytes);
        // SAFETY: inside the pools (asserted); the rows belong to a reservation, so nobody reads them now.
        unsafe {
            writer.write(a, a_len, |out| pack::pack_lora_a(module, out))?;
            writer.write(b, b_len, |out| pack::pack_lora_b(module, out))?;
        }
        let entry = TableEntry::new(page_start, module.rank, module.dtype, module.scaling);
        self.write_entry(writer, slot, entry)
    }

    /// Copies a packed module's rows, and writes its entry.
    pub fn write_packed<'a>(
        &self,
        writer: &mut Writer<'a>,
        slot: usize,
        page_start: usize,
        module: &PackedModule<'a>,
    ) -> Result<(), CudaError> {
        let row_bytes = module.rank * module.dtype.size();
        let (a, a_len) = self.rows(self.lora_a, page_start, self.sizes.in_features, row_bytes);
        let (b, b_len) = self.rows(self.lora_b_packed, page_start, self.sizes.out_features, row_bytes);
        for (to, len, rows) in [(a, a_len, module.a), (b, b_len, module.b)] {
            assert_eq!(len, rows.len(), "packed rows");
            // SAFETY: inside the pools (asserted); the rows belong to a reservation, so nobody reads them now.
            unsafe {
                match module.page_locked {
                    true => writer.copy(to, rows)?,
                    false => writer.write(to, len, |out| out.copy_from_slice(rows))?,
                }
            }
        }
        let entry = TableEntry::new(page_start, module.rank, module.dtype, module.scaling);
        self.write_entry(writer, slot, entry)
    }

    /// Where in a pool of this width the rows of a run of pages begin, and how many bytes they have.
    fn rows(&self, pool: usize, page_start: usize, width: usize, row_bytes: usize) -> (usize, usize) {
        let start = page_start * PAGE_BYTES_PER_COLUMN * width;
        let len = row_bytes * width;
        let end = self.sizes.pages * PAGE_BYTES_PER_COLUMN * width;
        assert!(start + len <= end, "page {page_start}: {len} bytes");
        (pool + start, len)
    }

    /// The gate row of a live `slot`, and what goes with it.
    pub fn read_gate(&self, slot: usize) -> Result<(Vec<f32>, GateForm), CudaError> {
        let (row, bias, sign_free) = self.gate_of(slot)?;
        let value = |bytes: &[u8]| f32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let form = GateForm {
            bias: value(&bias),
            sign_free,
        };
        Ok((row.chunks_exact(4).map(value).collect(), form))
    }

    /// Makes `row` the gate of `slot`, with its bias, its sign and its screen row.
    pub fn write_gate(
        &self,
        writer: &mut Writer,
        slot: usize,
        row: &[f32],
        bias: f32,
        sign_free: bool,
    ) -> Result<(), CudaError> {
        let width = self.sizes.in_features;
        let stride = screen_stride(width);
        assert!(slot < self.sizes.slots, "slot {slot} of {}", self.sizes.slots);
        assert_eq!(row.len(), width, "gate row");
        let kind = self.entry(writer, slot)?.kind & !KIND_ABS | if sign_free { KIND_ABS } else { 0 };
        let kind_at = self.entry_at(slot) + std::mem::offset_of!(TableEntry, kind);
        // SAFETY: row `slot` of each buffer; nobody reads it now: the slot is reserved, or no request runs.
        unsafe {
            writer.write(self.gate + 4 * slot * width, 4 * width, |out| {
                out.copy_from_slice(bytes_of(row))
            })?;
            writer.write(self.screen + slot * stride, stride, |out| {
                write_screen(row, bias, sign_free, out);
            })?;
            writer.write(self.gate_bias + 4 * slot, 4, |out| {
                out.copy_from_slice(&bias.to_ne_bytes())
            })?;
            writer.write(kind_at, 4, |out| out.copy_from_slice(&kind.to_ne_bytes()))
        }
    }

    /// Whether the gate of `slot` is the same as at `other`, to the bit.
    pub fn same_gate(&self, other: &Buffers, slot: usize) -> Result<bool, CudaError> {
        Ok(self.gate_of(slot)? == other.gate_of(slot)?)
    }

    /// The bytes of a slot's row and bias, and its sign.
    fn gate_of(&self, slot: usize) -> Result<(Vec<u8>, [u8; 4], bool), CudaError> {
        let width = self.sizes.in_features;
        let mut writer = self.memory.writer()?;
        let (mut row, mut bias) = (vec![0; 4 * width], [0; 4]);
        // SAFETY: row `slot` of each buffer, which only a writer changes, and there is one at a time.
        unsafe {
            writer.read(self.gate + 4 * slot * width, &mut row)?;
            writer.read(self.gate_bias + 4 * slot, &mut bias)?;
        }
        Ok((row, bias, self.entry(&mut writer, slot)?.sign_free()))
    }

    fn entry_at(&self, slot: usize) -> usize {
        assert!(slot < self.sizes.slots, "slot {slot} of {}", self.sizes.slots);
        self.table + slot * size_of::<TableEntry>()
    }

    fn entry(&self, writer: &mut Writer, slot: usize) -> Result<TableEntry, CudaError> {
        let mut bytes = [0; size_of::<TableEntry>()];
        // SAFETY: inside the table, which only a writer changes, and there is one at a time.
        unsafe { writer.read(self.entry_at(slot), &mut bytes)? };
        // SAFETY: the bytes of an entry, of which any are valid.
        Ok(unsafe { bytes.as_ptr().cast::<TableEntry>().read_unaligned() })
    }

    fn write_entry(&self, writer: &mut Writer, slot: usize, entry: TableEntry) -> Result<(), CudaError> {
        // SAFETY: inside the table; no snapshot names the slot, so nobody reads the entry now. An entry is four ints.
        unsafe {
            let bytes =
                std::slice::from_raw_parts(std::ptr::from_ref(&entry).cast::<u8>(), size_of::<TableEntry>());
            writer.write(self.entry_at(slot), bytes.len(), |out| out.copy_from_slice(bytes))
        }
    }
}

fn bytes_of(row: &[f32]) -> &[u8] {
    // SAFETY: the same memory, seen as bytes.
    unsafe { std::slice::from_raw_parts(row.as_ptr().cast(), size_of_val(row)) }
}

/// # Safety
/// `len` elements at `address`, which nobody writes for as long as the caller borrows them.
unsafe fn slice<'a, T>(address: usize, len: usize) -> &'a [T] {
    // SAFETY: the caller's contract.
    unsafe { std::slice::from_raw_parts(address as *const T, len) }
}
