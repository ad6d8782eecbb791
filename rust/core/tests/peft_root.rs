//! Adapters beneath a root: nothing else is reached, and nothing else is told of.
#![cfg(unix)]

mod peft_support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use meteora_core::peft::{parse, Adapter, Limits, Root, Source};
use meteora_core::{Error, Result};
use peft_support::*;

const TENSORS: &str = "adapter_model.safetensors";

/// A root with `math` in it, and `secret` beside it.
fn places() -> tempfile::TempDir {
    let places = tempfile::tempdir().unwrap();
    for place in ["root/math", "secret"] {
        fs::create_dir_all(places.path().join(place)).unwrap();
        let good = folder(&config(""), &safetensors(&pair(Q0, 2)));
        for file in ["adapter_config.json", TENSORS] {
            fs::copy(good.path().join(file), places.path().join(place).join(file)).unwrap();
        }
    }
    places
}

fn load(root: &Root, path: impl AsRef<Path>) -> Result<Adapter> {
    parse(
        "it",
        Source::Beneath(root, path.as_ref()),
        &sites(),
        &Limits::default(),
    )
}

#[track_caller]
fn denied(result: Result<Adapter>) {
    match result {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => {
            assert!(source.to_string().contains("adapter root"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_lies_inside() {
    let places = places();
    let root = Root::open(&places.path().join("root")).unwrap();
    load(&root, "math").unwrap();
    load(&root, "./math/").unwrap();
    load(&root, places.path().join("root/math")).unwrap();
    let missing = load(&root, "law");
    assert!(
        matches!(missing, Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound)
    );
}

#[test]
fn what_lies_outside() {
    let places = places();
    let inside = places.path().join("root");
    let root = Root::open(&inside).unwrap();
    symlink("../secret", inside.join("link")).unwrap();
    symlink(places.path().join("secret"), inside.join("absolute")).unwrap();
    for path in ["../secret", "math/../../secret", "link", "absolute"] {
        denied(load(&root, path));
    }
    denied(load(&root, places.path().join("secret")));
}

#[test]
fn files_that_are_links() {
    let places = places();
    let root = Root::open(&places.path().join("root")).unwrap();
    let math = places.path().join("root/math");
    fs::remove_file(math.join(TENSORS)).unwrap();
    symlink(places.path().join("secret").join(TENSORS), math.join(TENSORS)).unwrap();
    denied(load(&root, "math"));
    fs::remove_file(math.join(TENSORS)).unwrap();
    symlink("/dev/zero", math.join(TENSORS)).unwrap();
    denied(load(&root, "math"));
}

#[test]
fn pipes_and_folders_in_place_of_files() {
    let places = places();
    let root = Root::open(&places.path().join("root")).unwrap();
    let tensors = places.path().join("root/math").join(TENSORS);
    fs::remove_file(&tensors).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&tensors).status();
    assert!(made.unwrap().success());
    assert!(
        matches!(load(&root, "math"), Err(Error::AdapterFormat { reason, .. }) if reason.contains("pipe"))
    );
    fs::remove_file(&tensors).unwrap();
    fs::create_dir(&tensors).unwrap();
    assert!(
        matches!(load(&root, "math"), Err(Error::AdapterFormat { reason, .. }) if reason.contains("folder"))
    );
    assert!(load(&root, places.path().join("root/math/adapter_config.json")).is_err());
}

#[test]
fn a_root_that_is_none() {
    let places = places();
    assert!(Root::open(&places.path().join("nowhere")).is_err());
    assert!(Root::open(&places.path().join("root/math").join(TENSORS)).is_err());
}
