//! What parsing needs to know of a model: its sites, limits, and the root that adapters lie in.

use std::collections::HashMap;
use std::path::PathBuf;

use meteora_core::peft::{self, Adapter, Limits, Root, SiteShape, Source};
use pyo3::prelude::*;

use crate::errors::{raise, to_py};

/// (path, in_features, out_features, layer) of a site.
pub type SiteParts = (String, usize, usize, usize);

pub struct Parsing {
    sites: Vec<SiteShape>,
    limits: Limits,
    pub root: Option<Root>,
}

impl Parsing {
    pub fn new(
        sites: Vec<SiteParts>,
        limits: HashMap<String, u64>,
        root: Option<PathBuf>,
    ) -> PyResult<Parsing> {
        let site = |(path, in_features, out_features, layer)| SiteShape {
            path,
            in_features,
            out_features,
            layer: Some(layer),
        };
        Ok(Parsing {
            sites: sites.into_iter().map(site).collect(),
            limits: read(limits)?,
            root: root.map(|root| Root::open(&root)).transpose().map_err(to_py)?,
        })
    }

    pub fn sites(&self) -> &[SiteShape] {
        &self.sites
    }

    pub fn has_root(&self) -> bool {
        self.root.is_some()
    }

    pub fn parse(&self, name: &str, source: Source<'_>) -> meteora_core::Result<Adapter> {
        peft::parse(name, source, &self.sites, &self.limits)
    }

    pub fn check_sizes(&self, name: &str, tensors: usize, bytes: u64) -> PyResult<()> {
        self.limits.check_memory(name, tensors, bytes).map_err(to_py)
    }
}

/// The limits of `meteora_rs.limits.Limits`, by the names of its fields.
fn read(fields: HashMap<String, u64>) -> PyResult<Limits> {
    let mut limits = Limits::default();
    for (field, value) in fields {
        let size = usize::try_from(value).unwrap_or(usize::MAX);
        match field.as_str() {
            "max_file_bytes" => limits.max_file_bytes = value,
            "max_header_bytes" => limits.max_header_bytes = value,
            "max_config_bytes" => limits.max_config_bytes = value,
            "max_rank" => limits.max_rank = size,
            "max_tensors" => limits.max_tensors = size,
            "max_json_depth" => limits.max_json_depth = size,
            "max_patterns" => limits.max_patterns = size,
            _ => return Err(raise("MeteoraError", format!("no limit is called {field:?}"))),
        }
    }
    Ok(limits)
}
