//! Files that are written to while they are read: one state of them, or an error.
#![cfg(target_os = "linux")]

mod peft_support;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Barrier;
use std::time::Duration;

use memmap2::{Advice, Mmap};
use meteora_core::peft::{parse, Adapter, Limits, MemoryTensor, SiteShape, Source};
use meteora_core::{Error, Result};
use peft_support::{config, f32_bytes, folder, key, safetensors, Q0};

/// Wide enough for a reading to take some milliseconds.
const WIDTH: usize = 1 << 20;

fn wide() -> SiteShape {
    SiteShape {
        path: Q0.to_owned(),
        in_features: WIDTH,
        out_features: 4,
        layer: Some(0),
    }
}

/// Every element of A is `value`.
fn file_of(value: f32) -> Vec<u8> {
    let tensor = |half, shape: [usize; 2]| MemoryTensor {
        name: key(Q0, half),
        dtype: "F32".to_owned(),
        shape: shape.to_vec(),
        data: f32_bytes(std::iter::repeat_n(value, shape[0] * shape[1])),
    };
    safetensors(&[tensor("A", [2, WIDTH]), tensor("B", [4, 2])])
}

fn read(folder: &std::path::Path) -> Result<Adapter> {
    parse("a", Source::Folder(folder), &[wide()], &Limits::default())
}

/// The one value of all elements.
#[track_caller]
fn value(adapter: &Adapter) -> [u8; 4] {
    let module = &adapter.modules[0];
    let first = [module.a[0], module.a[1], module.a[2], module.a[3]];
    let same = |bytes: &[u8]| bytes.chunks_exact(4).all(|element| element == first);
    assert!(same(&module.a) && same(&module.b), "weights of two versions");
    first
}

/// Says so when it goes, a panic included: else the writer would never end.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Reads `rounds` times while `write` changes the file; how many readings succeeded.
fn race(rounds: usize, write: impl Fn(&File, usize) + Sync) -> usize {
    let folder = folder(&config(""), &file_of(0.0));
    let path = folder.path().join("adapter_model.safetensors");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ended = Ended(&done);
        scope.spawn(|| {
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            for turn in 0.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                write(&file, turn);
                std::thread::sleep(Duration::from_millis([0, 1, 25][turn % 3]));
            }
        });
        let mut whole = 0;
        for _ in 0..rounds {
            match read(folder.path()) {
                Ok(adapter) => {
                    value(&adapter);
                    whole += 1;
                }
                Err(Error::AdapterFormat { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        whole
    })
}

#[test]
fn written_in_place_never_gives_weights_of_two_versions() {
    let files = [file_of(1.0), file_of(2.0)];
    race(25, |file, turn| file.write_all_at(&files[turn % 2], 0).unwrap());
}

/// A file's time is that of the beginning of a write, which may go on for long: here it waits for what it writes to
/// come from the disk, page by page.
#[test]
fn a_write_that_is_going_on_is_waited_for() {
    let folder = folder(&config(""), &file_of(0.0));
    let path = folder.path().join("adapter_model.safetensors");
    for number in [1.0, 2.0, 3.0] {
        let slow = on_disk(&file_of(number));
        let begun = Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let file = OpenOptions::new().write(true).open(&path).unwrap();
                begun.wait();
                file.write_all_at(&slow, 0).unwrap();
            });
            begun.wait();
            std::thread::sleep(Duration::from_millis(5));
            assert_eq!(value(&read(folder.path()).unwrap()), number.to_le_bytes());
        });
    }
}

/// These bytes, mapped from a file that is in no cache.
fn on_disk(bytes: &[u8]) -> Mmap {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.sync_all().unwrap();
    // SAFETY: a call that reads no memory, on a file that is open.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    // SAFETY: nobody else has the file.
    let map = unsafe { Mmap::map(&file) }.unwrap();
    map.advise(Advice::Random).unwrap();
    map
}

#[test]
fn truncated_meanwhile_is_an_error_and_no_signal() {
    let whole = file_of(1.0);
    race(25, |file, turn| match turn % 2 {
        0 => file.set_len(4096).unwrap(),
        _ => file.write_all_at(&whole, 0).unwrap(),
    });
}

#[test]
fn what_was_read_stays() {
    let folder = folder(&config(""), &file_of(1.0));
    let adapter = read(folder.path()).unwrap();
    let path = folder.path().join("adapter_model.safetensors");
    OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(0)
        .unwrap();
    assert_eq!(value(&adapter), 1f32.to_le_bytes());
}
