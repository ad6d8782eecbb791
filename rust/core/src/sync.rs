//! What threads share: std's, or loom's, which tries every order of events (`make loom`).
//!
//! `Arc` is std's in both: it can't be had weak or unsized from loom. So what loom takes on trust is that whoever drops
//! the last handle comes after all others.

#[cfg(loom)]
pub(crate) use loom::{
    hint::spin_loop,
    sync::{
        atomic::{AtomicUsize, Ordering},
        Condvar, Mutex, MutexGuard, RwLock,
    },
};
#[cfg(not(loom))]
pub(crate) use std::{
    hint::spin_loop,
    sync::{
        atomic::{AtomicUsize, Ordering},
        Condvar, Mutex, MutexGuard, RwLock,
    },
};
