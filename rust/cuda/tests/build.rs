//! The build script as cargo runs it, where the only compiler is an `nvcc` of ours that notes what it is asked for.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A line for each call; the image is the name of what was compiled.
const NVCC: &str = r#"#!/bin/sh
[ "$1" = --version ] && { echo "Cuda compilation tools, release 12.8, V12.8.93"; exit 0; }
echo "$*" >> "$LOG"
while [ "$1" != -o ]; do shift; done
[ -n "$FAILS" ] && { echo "error: no such instruction" >&2; exit 2; }
printf '%s' "${3##*/}" > "$2"
"#;

/// The build script that this crate was built with.
fn script() -> PathBuf {
    let builds = Path::new(env!("OUT_DIR")).ancestors().nth(2).unwrap();
    let made = |path: &PathBuf| fs::metadata(path).and_then(|about| about.modified()).ok();
    let scripts = fs::read_dir(builds)
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("meteora-cuda-"));
    let newest = scripts
        .map(|entry| entry.path().join("build-script-main"))
        .filter(|path| path.is_file())
        .max_by_key(made);
    newest.expect("a build script")
}

/// Runs it with nothing on the path but what `folder/bin` has.
fn build(folder: &Path, fails: bool) -> Output {
    let out = folder.join("target/debug/build/meteora-cuda-0/out");
    fs::create_dir_all(&out).unwrap();
    let mut command = Command::new(script());
    command
        .env_clear()
        .env("PATH", folder.join("bin"))
        .env("LOG", folder.join("log"))
        .env("OUT_DIR", &out)
        .env("CARGO_MANIFEST_DIR", env!("CARGO_MANIFEST_DIR"));
    if fails {
        command.env("FAILS", "1");
    }
    command.output().unwrap()
}

fn with_nvcc() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let nvcc = folder.path().join("bin/nvcc");
    fs::create_dir(folder.path().join("bin")).unwrap();
    fs::write(&nvcc, NVCC).unwrap();
    fs::set_permissions(&nvcc, fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn table(folder: &Path) -> String {
    fs::read_to_string(folder.join("target/debug/build/meteora-cuda-0/out/images.rs")).unwrap()
}

#[test]
fn nvcc_compiles_each_source_for_each_architecture_and_warnings_are_errors() {
    let folder = with_nvcc();
    let done = build(folder.path(), false);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let log = fs::read_to_string(folder.path().join("log")).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let cuda = root.join("cuda");
    let mut expected = Vec::new();
    for source in ["decode", "prefill"] {
        for target in [
            "sm_80",
            "sm_86",
            "sm_89",
            "sm_90",
            "sm_100",
            "sm_120",
            "compute_90",
        ] {
            let form = if target == "compute_90" { "-ptx" } else { "-cubin" };
            expected.push((
                format!(
                    "{form} -O3 -std=c++17 -Werror all-warnings -arch {target} -I {}",
                    cuda.display()
                ),
                format!("{}", cuda.join(source).join(format!("{source}.cu")).display()),
            ));
        }
    }
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), expected.len());
    for (line, (options, source)) in lines.iter().zip(&expected) {
        assert!(
            line.starts_with(options.as_str()) && line.ends_with(source.as_str()),
            "{line}"
        );
    }
    let table = table(folder.path());
    assert!(table.contains("nvcc (Cuda compilation tools, release 12.8, V12.8.93)"));
    assert_eq!(table.matches("Image {").count(), expected.len());
    // "decode.cu" and a zero behind PTX.
    assert!(
        table.contains("arch: 90, ptx: true, bytes: 10,")
            && table.contains("arch: 90, ptx: false, bytes: 9,")
    );

    fs::remove_file(folder.path().join("log")).unwrap();
    assert!(build(folder.path(), true).status.success(), "images are kept");
    assert!(!folder.path().join("log").exists());
}

#[test]
fn a_kernel_that_does_not_compile_fails_the_build() {
    let folder = with_nvcc();
    let done = build(folder.path(), true);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(!done.status.success());
    assert!(
        said.contains("decode.cu for sm_80") && said.contains("error: no such instruction"),
        "{said}"
    );
    assert!(!folder
        .path()
        .join("target/debug/build/meteora-cuda-0/out/images.rs")
        .exists());
}

#[test]
fn without_a_compiler_there_is_a_warning_and_no_image() {
    let folder = tempfile::tempdir().unwrap();
    let done = build(folder.path(), false);
    assert!(done.status.success());
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(
        said.contains("cargo::warning=no CUDA compiler: built without CUDA kernels"),
        "{said}"
    );
    assert!(!table(folder.path()).contains("Image {"));
}
