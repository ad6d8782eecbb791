//! The rank rows of the pools: which pages are taken, and how much of the budget.
//!
//! Two limits hold at once. **Pages** are memory: an adapter takes one contiguous run of them, at the same
//! place in every site. **Rank rows** are the budget that the user sets as `pool_rank`: an adapter costs its
//! largest rank, rounded up to a page, and as many times that as its elements are larger than the model's. A
//! smaller element type saves memory, never budget, so that what fits does not depend on which adapters came
//! first; pages then run short only by fragmentation.

use std::ops::Range;

use crate::dtype::DType;
use crate::layout::{pages, PAGE_ROWS};

/// What an adapter asks of the pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Contiguous pages.
    pub pages: usize,
    /// Rank rows of the budget.
    pub rank_rows: usize,
}

impl Need {
    /// For weights of `dtype` whose largest rank over all sites is `max_rank`, in a model whose elements have
    /// `element_size` bytes.
    pub fn new(max_rank: usize, dtype: DType, element_size: usize) -> Need {
        Need {
            pages: pages(max_rank, dtype),
            rank_rows: max_rank.next_multiple_of(PAGE_ROWS) * (dtype.size() / element_size.max(1)).max(1),
        }
    }
}

/// Pages in pools of `pool_rank` rank rows for a model whose elements have `element_size` bytes.
pub fn capacity_pages(pool_rank: usize, element_size: usize) -> usize {
    pool_rank.div_ceil(PAGE_ROWS) * element_size.max(2) / 2
}

/// Pages and budget in use.
#[derive(Debug)]
pub(crate) struct Rows {
    /// Owners of each page. More than one while an adapter is replaced in place: then the old run and the
    /// new one overlap until one of them is given up. One byte a page keeps the search a linear scan of a few
    /// microseconds for any pool that fits a machine.
    owners: Vec<u8>,
    /// Which pages were ever taken: memory of the process from then on.
    touched: Vec<bool>,
    total: usize,
    used: usize,
}

impl Rows {
    pub(crate) fn new(pool_rank: usize, element_size: usize) -> Rows {
        Rows {
            owners: vec![0; capacity_pages(pool_rank, element_size)],
            touched: vec![false; capacity_pages(pool_rank, element_size)],
            total: pool_rank,
            used: 0,
        }
    }

    /// The lowest free run of `pages` pages, counting those that only `own` holds as free; `own` itself, from
    /// its start, where it is large enough.
    pub(crate) fn find(&self, pages: usize, own: &Range<usize>) -> Option<Range<usize>> {
        if pages == 0 {
            return Some(0..0);
        }
        let free = |page| self.is_free(page, own);
        if pages <= own.len() && own.clone().take(pages).all(free) {
            return Some(own.start..own.start + pages);
        }
        let mut start = 0;
        for page in 0..self.owners.len() {
            if !free(page) {
                start = page + 1;
            } else if page + 1 - start == pages {
                return Some(start..page + 1);
            }
        }
        None
    }

    /// Marks a run taken and charges `cost` rank rows.
    pub(crate) fn take(&mut self, run: &Range<usize>, cost: usize) {
        self.owners[run.clone()]
            .iter_mut()
            .for_each(|owners| *owners += 1);
        self.touched[run.clone()].fill(true);
        self.used += cost;
    }

    /// Undoes [`Rows::take`].
    pub(crate) fn give(&mut self, run: &Range<usize>, cost: usize) {
        self.owners[run.clone()]
            .iter_mut()
            .for_each(|owners| *owners -= 1);
        self.used -= cost;
    }

    /// Rank rows of the budget in all.
    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// Rank rows of the budget that are charged.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Rank rows of the budget that are left.
    pub(crate) fn free(&self) -> usize {
        self.total - self.used
    }

    /// Pages that nobody holds.
    pub(crate) fn free_pages(&self) -> usize {
        self.owners.iter().filter(|&&owners| owners == 0).count()
    }

    /// Pages that were ever taken.
    pub(crate) fn touched_pages(&self) -> usize {
        self.touched.iter().filter(|&&touched| touched).count()
    }

    /// Pages in all.
    pub(crate) fn total_pages(&self) -> usize {
        self.owners.len()
    }

    /// The largest free run, in pages, counting those that only `own` holds as free.
    pub(crate) fn largest_run(&self, own: &Range<usize>) -> usize {
        let (mut largest, mut run) = (0, 0);
        for page in 0..self.owners.len() {
            run = if self.is_free(page, own) { run + 1 } else { 0 };
            largest = largest.max(run);
        }
        largest
    }

    fn is_free(&self, page: usize, own: &Range<usize>) -> bool {
        self.owners[page] == u8::from(own.contains(&page))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Range<usize> = 0..0;

    #[test]
    fn need_counts_pages_and_budget() {
        let need = |rank, dtype, size| {
            let need = Need::new(rank, dtype, size);
            (need.pages, need.rank_rows)
        };
        assert_eq!(need(8, DType::F32, 4), (2, 8));
        assert_eq!(
            need(9, DType::BF16, 4),
            (2, 16),
            "half the memory, the same budget"
        );
        assert_eq!(
            need(4, DType::F32, 2),
            (2, 16),
            "twice the model's element: twice the budget"
        );
        assert_eq!(need(64, DType::F16, 2), (8, 64));
        assert_eq!(need(0, DType::F32, 4), (0, 0));
    }

    #[test]
    fn capacity_rounds_up_to_pages() {
        assert_eq!(capacity_pages(512, 2), 64);
        assert_eq!(capacity_pages(512, 4), 128);
        assert_eq!(capacity_pages(9, 2), 2);
        assert_eq!(
            capacity_pages(8, 1),
            1,
            "a page is never thinner than 16-bit rows"
        );
    }

    #[test]
    fn the_lowest_run_that_is_large_enough() {
        let mut rows = Rows::new(64, 2);
        rows.take(&(2..3), 8);
        rows.take(&(6..7), 8);
        assert_eq!(rows.find(1, &NONE), Some(0..1));
        assert_eq!(rows.find(3, &NONE), Some(3..6));
        assert_eq!(rows.find(4, &NONE), None);
        assert_eq!(rows.largest_run(&NONE), 3);
        rows.give(&(2..3), 8);
        assert_eq!(rows.find(6, &NONE), Some(0..6), "neighbours coalesce");
        assert_eq!((rows.free_pages(), rows.used()), (7, 8));
    }

    #[test]
    fn a_run_of_ones_own_counts_as_free() {
        let mut rows = Rows::new(32, 2);
        rows.take(&(0..1), 8);
        rows.take(&(1..3), 16);
        assert_eq!(rows.find(3, &(1..3)), Some(1..4), "grows over its own pages");
        assert_eq!(rows.find(1, &(1..3)), Some(1..2), "stays where it is");
        assert_eq!(rows.find(4, &(1..3)), None);
        rows.take(&(1..4), 0);
        rows.give(&(1..3), 16);
        assert_eq!(rows.free_pages(), 0, "the new run holds the pages that both had");
    }
}
