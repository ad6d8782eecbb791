//! Whom routes name.

use std::collections::HashSet;

use meteora_core::naming::Naming;
use meteora_core::reach::Reach;

use crate::plan::RouteParts;

/// The adapters' own names in these routes, each once; and the names that lead beyond `reach`, as they are written.
pub(super) fn named<'a>(
    routes: &'a [RouteParts],
    naming: &'a Naming,
    reach: &Reach,
) -> (Vec<&'a str>, Vec<&'a str>) {
    let (mut names, mut beyond) = (Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    for (kind, listed, _) in routes {
        for name in listed {
            // A group that there is not is the plan's to refuse.
            let members = match kind.as_str() {
                "only" => naming.expand(name, reach).unwrap_or_default(),
                _ => vec![name.as_str()],
            };
            for member in members {
                match reach.resolve(naming, member) {
                    Some(adapter) if seen.insert(adapter) => names.push(adapter),
                    Some(_) => {}
                    None => beyond.push(member),
                }
            }
        }
    }
    (names, beyond)
}
