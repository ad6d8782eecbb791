//! Whom routes name.

use std::collections::HashSet;

use meteora_core::reach::Names;

use crate::plan::RouteParts;

/// The adapters' own names in these routes, each once; and the names that lead beyond their reach, as they are written.
pub(super) fn named<'a>(routes: &'a [RouteParts], known: &'a Names) -> (Vec<&'a str>, Vec<&'a str>) {
    let (mut names, mut beyond) = (Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    for (kind, listed, _) in routes {
        for name in listed {
            // A group that there is not is the plan's to refuse.
            let members = match kind.as_str() {
                "only" => known.expand(name).unwrap_or_default(),
                _ => vec![name.as_str()],
            };
            for member in members {
                match known.resolve(member) {
                    Some(adapter) if seen.insert(adapter) => names.push(adapter),
                    Some(_) => {}
                    None => beyond.push(member),
                }
            }
        }
    }
    (names, beyond)
}
