//! What the model says of slots, pages and rank rows: who has which, and what is free.

use std::ops::Range;
use std::rc::Rc;

use meteora_core::rows::Need;

use super::model::Model;

pub const SLOTS: usize = 4;
pub const ROWS: usize = 60;
pub const PAGES: usize = 16;

/// Where one generation, or several that differ in their gates, stand.
#[derive(Debug, PartialEq)]
pub struct Place {
    pub slot: usize,
    pub run: Range<usize>,
    pub cost: usize,
    /// The same for generations that share their rows.
    pub rows: Rc<()>,
}

impl Model {
    /// Each place once, whoever holds it, but for one.
    pub fn places(&self, but: Option<&Rc<Place>>) -> Vec<Rc<Place>> {
        let held = self.held.iter().flat_map(|(_, live)| live.values());
        let withdrawn = self
            .pending
            .iter()
            .filter_map(|pending| pending.withdrawn.as_ref());
        let generations = self
            .live
            .values()
            .chain(held)
            .chain(withdrawn)
            .map(|generation| &generation.place);
        let mut places: Vec<Rc<Place>> = Vec::new();
        for place in generations.chain(self.pending.iter().map(|pending| &pending.place)) {
            let known = |other: &Rc<Place>| Rc::ptr_eq(other, place);
            if !places.iter().any(known) && !but.is_some_and(known) {
                places.push(Rc::clone(place));
            }
        }
        places
    }

    /// Rank rows in use: a reload in place is charged the dearer of its two runs.
    pub fn cost(&self, but: Option<&Rc<Place>>) -> usize {
        let places = self.places(but);
        let first = |i: usize| {
            places[..i]
                .iter()
                .all(|other| !Rc::ptr_eq(&other.rows, &places[i].rows))
        };
        let all: usize = (0..places.len())
            .filter(|&i| first(i))
            .map(|i| places[i].cost)
            .sum();
        let twice = self
            .pending
            .iter()
            .filter_map(|p| Some(p.withdrawn.as_ref()?.place.cost.min(p.place.cost)));
        all - twice.sum::<usize>()
    }

    /// Whether nobody has a page of `run`.
    pub fn is_free(&self, but: Option<&Rc<Place>>, run: &Range<usize>) -> bool {
        let places = self.places(but);
        run.end <= PAGES
            && run
                .clone()
                .all(|page| places.iter().all(|place| !place.run.contains(&page)))
    }

    /// The largest run that nobody has.
    pub fn largest_run(&self) -> usize {
        let free = |run: &Range<usize>| self.is_free(None, run);
        (0..PAGES)
            .flat_map(|start| (start..=PAGES).map(move |end| start..end))
            .filter(free)
            .map(|run| run.len())
            .max()
            .unwrap_or(0)
    }

    /// The lowest run that is free, if the budget allows it.
    pub fn first_fit(&self, but: Option<&Rc<Place>>, need: Need) -> Option<Range<usize>> {
        if self.cost(but) + need.rank_rows > ROWS {
            return None;
        }
        (0..=PAGES)
            .map(|start| start..start + need.pages)
            .find(|run| self.is_free(but, run))
    }

    /// Whether one of the two is about to replace the other in place.
    pub fn replaces(&self, a: &Rc<Place>, b: &Rc<Place>) -> bool {
        self.pending.iter().any(|pending| {
            let is = |new, old| {
                let withdrawn = pending.withdrawn.as_ref();
                Rc::ptr_eq(&pending.place, new) && withdrawn.is_some_and(|w| Rc::ptr_eq(&w.place, old))
            };
            is(a, b) || is(b, a)
        })
    }
}
