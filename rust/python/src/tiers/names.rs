//! Whom routes name.

use std::collections::HashSet;

use meteora_core::naming::Naming;

use crate::plan::RouteParts;

/// The adapters' own names in these routes, each once.
pub(super) fn named<'a>(routes: &'a [RouteParts], naming: &'a Naming) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for (kind, listed, _) in routes {
        for name in listed {
            // A group that there is not is the plan's to refuse.
            let members = match kind.as_str() {
                "only" => naming.expand(name).unwrap_or_default(),
                _ => vec![name.as_str()],
            };
            names.extend(members.into_iter().map(|member| naming.resolve(member)));
        }
    }
    let mut seen = HashSet::new();
    names.retain(|name| seen.insert(*name));
    names
}
