//! The header of a safetensors file: checked by the safetensors crate, then by us.

use std::ops::Range;

use safetensors::SafeTensors;

use super::json::{check_depth, check_keys};
use super::limits::Limits;
use super::Context;
use crate::error::Result;

/// Bytes that say how long the header is.
pub(crate) const PREFIX: usize = 8;

/// What the header says of one tensor; the range lies within the file.
#[derive(Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    /// As safetensors spells it.
    pub(crate) dtype: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) range: Range<usize>,
}

/// The tensors of a file, in the order of their bytes.
///
/// The crate refuses a header that is truncated, is not JSON, or whose tensors overlap, leave holes, don't fill the
/// file, or don't have the size of their shape. We refuse one that is too large, before it is parsed, and one in
/// which a name stands twice, of which the crate takes the last.
pub(crate) fn parse(file: &[u8], limits: &Limits, context: &Context) -> Result<Vec<Entry>> {
    let prefix: [u8; PREFIX] = match file.get(..PREFIX).map(TryFrom::try_from) {
        Some(Ok(prefix)) => prefix,
        _ => {
            return Err(context.format(format!(
                "safetensors header: the file has only {} bytes",
                file.len()
            )))
        }
    };
    let length = u64::from_le_bytes(prefix);
    if length > limits.max_header_bytes {
        let limit = limits.max_header_bytes;
        return Err(context.format(format!(
            "safetensors header: {length} bytes, more than the limit of {limit}"
        )));
    }
    let header = usize::try_from(length)
        .ok()
        .and_then(|length| file.get(PREFIX..PREFIX + length));
    let Some(header) = header else {
        let most = file.len() - PREFIX;
        return Err(context.format(format!(
            "safetensors header: {length} bytes announced, {most} there"
        )));
    };
    let not_json = |reason| context.format(format!("safetensors header: {reason}"));
    check_depth(header, limits.max_json_depth).map_err(not_json)?;
    let (_, metadata) = SafeTensors::read_metadata(file).map_err(|error| {
        context.format(format!(
            "safetensors header: {}",
            super::shown(&error.to_string())
        ))
    })?;
    let names = metadata.offset_keys();
    limits.check(names.len(), 0, context)?;
    check_keys(header).map_err(not_json)?;

    let start = PREFIX + header.len();
    let mut entries = Vec::new();
    for name in names {
        let Some(info) = metadata.info(&name) else {
            continue;
        };
        let (from, to) = info.data_offsets;
        // The crate has checked both against the file's end; this says so again, with the tensor's name.
        let range = start
            .checked_add(from)
            .zip(start.checked_add(to))
            .map(|(from, to)| from..to);
        let Some(range) = range.filter(|range| file.get(range.clone()).is_some()) else {
            return Err(context.tensor(&name, "its data lies outside the file"));
        };
        let (dtype, shape) = (info.dtype.to_string(), info.shape.clone());
        entries.push(Entry {
            name,
            dtype,
            shape,
            range,
        });
    }
    Ok(entries)
}
