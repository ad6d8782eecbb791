//! Folders that are not what they seem. Every case returns; none waits.
#![cfg(unix)]

mod peft_support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use meteora_core::peft::{parse, Adapter, Limits, Source};
use meteora_core::{Error, Result};
use peft_support::*;

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";

fn good() -> tempfile::TempDir {
    folder(&config(""), &safetensors(&pair(Q0, 2)))
}

#[track_caller]
fn not_found(result: Result<Adapter>, path: &Path) {
    match result {
        Err(Error::Io { path: named, source }) => {
            assert_eq!(named, path);
            assert_eq!(source.kind(), std::io::ErrorKind::NotFound);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_there() {
    let folder = good();
    let nowhere = folder.path().join("nowhere");
    not_found(from_folder(&nowhere), &nowhere);
    fs::remove_file(folder.path().join(TENSORS)).unwrap();
    not_found(from_folder(folder.path()), &folder.path().join(TENSORS));
    fs::remove_file(folder.path().join(CONFIG)).unwrap();
    not_found(from_folder(folder.path()), &folder.path().join(CONFIG));
}

#[test]
fn a_file_in_place_of_the_folder() {
    let folder = good();
    let result = from_folder(&folder.path().join(CONFIG));
    assert!(matches!(result, Err(Error::Io { .. })), "{result:?}");
}

#[test]
fn links_to_files_are_followed() {
    let (blobs, snapshot) = (good(), tempfile::tempdir().unwrap());
    for name in [CONFIG, TENSORS] {
        symlink(blobs.path().join(name), snapshot.path().join(name)).unwrap();
    }
    from_folder(snapshot.path()).unwrap();
    fs::remove_file(blobs.path().join(TENSORS)).unwrap();
    not_found(from_folder(snapshot.path()), &snapshot.path().join(TENSORS));
}

#[test]
fn devices_and_pipes() {
    for name in [CONFIG, TENSORS] {
        for device in ["/dev/zero", "/dev/null", "/dev/tty", "/dev/stdin"] {
            if !Path::new(device).exists() {
                continue;
            }
            let folder = good();
            fs::remove_file(folder.path().join(name)).unwrap();
            symlink(device, folder.path().join(name)).unwrap();
            assert!(from_folder(folder.path()).is_err(), "{name} -> {device}");
        }
        let folder = good();
        let pipe = folder.path().join(name);
        fs::remove_file(&pipe).unwrap();
        assert!(std::process::Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success());
        refused(from_folder(folder.path()), &[name, "not a regular file"]);
        fs::remove_file(&pipe).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(&pipe).unwrap();
        refused(from_folder(folder.path()), &[name, "not a regular file"]);
    }
}

#[test]
fn a_folder_in_place_of_a_file() {
    for name in [CONFIG, TENSORS] {
        let folder = good();
        fs::remove_file(folder.path().join(name)).unwrap();
        fs::create_dir(folder.path().join(name)).unwrap();
        refused(from_folder(folder.path()), &[name, "is a folder"]);
    }
}

#[test]
fn a_link_to_itself() {
    let folder = good();
    fs::remove_file(folder.path().join(TENSORS)).unwrap();
    symlink(TENSORS, folder.path().join(TENSORS)).unwrap();
    assert!(matches!(from_folder(folder.path()), Err(Error::Io { .. })));
}

#[test]
fn pickled_tensors_alone() {
    let folder = good();
    fs::rename(
        folder.path().join(TENSORS),
        folder.path().join("adapter_model.bin"),
    )
    .unwrap();
    refused(
        from_folder(folder.path()),
        &["adapter_model.bin", "save the adapter as safetensors"],
    );
}

#[test]
fn a_sparse_giant_is_refused_unread() {
    let folder = good();
    let file = fs::OpenOptions::new()
        .write(true)
        .open(folder.path().join(TENSORS))
        .unwrap();
    file.set_len(8 << 30).unwrap();
    refused(from_folder(folder.path()), &["not fully covered"]);
    file.set_len(17 << 30).unwrap();
    refused(from_folder(folder.path()), &["more than the limit"]);
}

#[test]
fn names_are_checked_before_any_file() {
    for name in ["../tiny", "__base__", "", "a/b"] {
        let error = parse(
            name,
            Source::Folder(Path::new("/dev/null")),
            &sites(),
            &Limits::default(),
        )
        .unwrap_err();
        assert!(error.to_string().contains("(file: <name>)"), "{error}");
    }
}

#[test]
fn the_adapter_outlives_its_folder() {
    let folder = good();
    let adapter = from_folder(folder.path()).unwrap();
    let hash = adapter.content_hash();
    drop(folder);
    assert_eq!(adapter.content_hash(), hash);
}
