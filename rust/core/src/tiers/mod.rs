//! Disk → host → device: more adapters than the pools hold.
//!
//! The **host** tier ([`host`]) keeps adapters packed ([`packed`]) in one piece of memory ([`arena`]). A resident adapter
//! keeps its place there, so evicting it from the **device** moves nothing. Requests for what is not resident wait in a
//! [`queue`]; its first makes room ([`room`]) and brings all of its adapters in together.

pub mod arena;
pub mod host;
pub mod lru;
pub mod packed;
pub mod queue;
pub mod room;
