//! A site's torch buffers, by address: what loads write and the eager CPU path reads.

use meteora_core::kernel::{screen_stride, write_screen, Site};
use meteora_core::layout::{TableEntry, KIND_ABS, PAGE_BYTES_PER_COLUMN};
use meteora_core::peft::Module;
use meteora_core::{pack, DType};

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
/// site.py, the only maker, gives the addresses of live CPU tensors of exactly these sizes, and gives new ones
/// whenever they move; the torch module that holds the tensors holds what holds this. Rows that a snapshot can
/// reach are not written while it lives. All `SAFETY` below rests on that.
#[derive(Debug, Clone, Copy)]
pub struct Buffers {
    pub sizes: Sizes,
    pub gate: usize,
    pub gate_bias: usize,
    pub screen: usize,
    pub lora_a: usize,
    pub lora_b_packed: usize,
    pub table: usize,
}

impl Buffers {
    /// The buffers as kernels read them.
    pub fn site(&self) -> Site<'_> {
        let Sizes {
            in_features,
            out_features,
            slots,
            pages,
        } = self.sizes;
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
    pub fn clear_slot(&self, slot: usize, page_start: usize) {
        self.write_entry(slot, TableEntry::new(page_start, 0, DType::F32, 0.0));
    }

    /// Makes `slot` the same adapter as `like`: the same rows, at the same rank and scaling.
    pub fn copy_entry(&self, like: usize, slot: usize) {
        assert!(like < self.sizes.slots, "slot {like} of {}", self.sizes.slots);
        // SAFETY: inside the table (asserted); entries of live slots are not written.
        let entry = unsafe { (self.table as *const TableEntry).add(like).read() };
        self.write_entry(slot, entry);
    }

    /// Writes a module's rows and its entry.
    pub fn write_slot(&self, slot: usize, page_start: usize, module: &Module) {
        let rows = |pool: usize, width: usize| {
            let start = page_start * PAGE_BYTES_PER_COLUMN * width;
            let len = module.rank * width * module.dtype.size();
            let end = self.sizes.pages * PAGE_BYTES_PER_COLUMN * width;
            assert!(start + len <= end, "page {page_start}: {len} bytes");
            // SAFETY: inside the pool (asserted); the rows belong to a reservation, so nobody reads them now.
            unsafe { std::slice::from_raw_parts_mut((pool + start) as *mut u8, len) }
        };
        pack::pack_module(
            module,
            rows(self.lora_a, self.sizes.in_features),
            rows(self.lora_b_packed, self.sizes.out_features),
        );
        self.write_entry(
            slot,
            TableEntry::new(page_start, module.rank, module.dtype, module.scaling),
        );
    }

    /// Fills the gate row of `slot` by `fill`, and its bias, its sign and its screen row.
    pub fn write_gate(&self, slot: usize, bias: f32, sign_free: bool, fill: impl FnOnce(&mut [f32])) {
        let width = self.sizes.in_features;
        let stride = screen_stride(width);
        assert!(slot < self.sizes.slots, "slot {slot} of {}", self.sizes.slots);
        // SAFETY: row `slot` of each buffer; nobody reads it now: the slot is reserved.
        let (row, screen) = unsafe {
            (
                std::slice::from_raw_parts_mut((self.gate as *mut f32).add(slot * width), width),
                std::slice::from_raw_parts_mut((self.screen as *mut u8).add(slot * stride), stride),
            )
        };
        fill(row);
        write_screen(row, bias, sign_free, screen);
        // SAFETY: as above.
        unsafe {
            (self.gate_bias as *mut f32).add(slot).write(bias);
            let entry = (self.table as *mut TableEntry).add(slot);
            (*entry).kind = (*entry).kind & !KIND_ABS | if sign_free { KIND_ABS } else { 0 };
        }
    }

    /// Whether the gate of `slot` is the same as at `other`, to the bit.
    pub fn same_gate(&self, other: &Buffers, slot: usize) -> bool {
        let (mine, theirs) = (self.site(), other.site());
        let width = mine.in_features;
        width == theirs.in_features
            && bits(&mine.gate[slot * width..][..width]).eq(bits(&theirs.gate[slot * width..][..width]))
            && mine.gate_bias[slot].to_bits() == theirs.gate_bias[slot].to_bits()
            && mine.table[slot].sign_free() == theirs.table[slot].sign_free()
    }

    fn write_entry(&self, slot: usize, entry: TableEntry) {
        assert!(slot < self.sizes.slots, "slot {slot} of {}", self.sizes.slots);
        // SAFETY: inside the table (asserted); no snapshot names the slot, so nobody reads the entry now.
        unsafe { (self.table as *mut TableEntry).add(slot).write(entry) };
    }
}

fn bits(row: &[f32]) -> impl Iterator<Item = u32> + '_ {
    row.iter().map(|value| value.to_bits())
}

/// # Safety
/// `len` elements at `address`, which nobody writes for as long as the caller borrows them.
unsafe fn slice<'a, T>(address: usize, len: usize) -> &'a [T] {
    // SAFETY: the caller's contract.
    unsafe { std::slice::from_raw_parts(address as *const T, len) }
}
