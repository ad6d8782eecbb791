//! Compiles `cuda/` to one image for each source and GPU architecture and embeds them, deflated.
//!
//! The compiler is the first of: a folder of images made before (`METEORA_CUDA_PREBUILT`, checked by the hash of the
//! sources), NVRTC from its wheel, `nvcc`. Without any, the crate is built without images and says so in a warning.
//! A kernel that does not compile fails the build. Images are kept under `target/cuda/<hash>`, so that check, test
//! and release builds compile them once.

mod cache;
mod nvcc;
mod nvrtc;
mod sources;
mod target;

use std::env;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use sources::Sources;
use target::{Target, TARGETS};

/// What turns a source into an image for a target.
trait Compiler {
    /// Name and version: with the sources, all that an image depends on.
    fn identity(&self) -> String;
    /// The image, or what the compiler says is wrong.
    fn compile(&self, source: &Path, include: &Path, target: Target) -> Result<Vec<u8>, String>;
}

struct Image {
    source: String,
    target: Target,
    bytes: Vec<u8>,
}

fn main() {
    if let Err(message) = run() {
        eprintln!("{message}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), String> {
    for variable in ["METEORA_CUDA_PREBUILT", "PYO3_PYTHON", "VIRTUAL_ENV", "CUDA_HOME"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    println!("cargo::rerun-if-changed=build");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let sources = Sources::read(&root()?.join("cuda"))?;
    println!("cargo::rerun-if-changed={}", sources.folder.display());

    let (images, compiler) = if let Some(folder) = env::var_os("METEORA_CUDA_PREBUILT") {
        let folder = PathBuf::from(folder);
        println!("cargo::rerun-if-changed={}", folder.display());
        (cache::prebuilt(&folder, &sources)?, "prebuilt".to_owned())
    } else if let Some(compiler) = find_compiler()? {
        let folder = cache::folder(&out, &sources, &compiler.identity())?;
        (
            compile(&sources, compiler.as_ref(), &folder)?,
            compiler.identity(),
        )
    } else {
        println!(
            "cargo::warning=no CUDA compiler: built without CUDA kernels (pip install {}; then build again after \
             `cargo clean -p meteora-cuda`)",
            nvrtc::WHEEL
        );
        (Vec::new(), String::new())
    };
    embed(&images, &compiler, &sources.hash, &out)
}

/// The root of the repository, or of the source distribution.
fn root() -> Result<PathBuf, String> {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is not set")?);
    let root = here
        .ancestors()
        .nth(2)
        .ok_or("the crate is not in its repository")?;
    Ok(root.to_path_buf())
}

fn find_compiler() -> Result<Option<Box<dyn Compiler>>, String> {
    if let Some(found) = nvrtc::Nvrtc::find()? {
        return Ok(Some(Box::new(found)));
    }
    Ok(nvcc::Nvcc::find().map(|found| Box::new(found) as Box<dyn Compiler>))
}

fn compile(sources: &Sources, compiler: &dyn Compiler, folder: &Path) -> Result<Vec<Image>, String> {
    let mut images = Vec::new();
    for (name, source) in &sources.units {
        for target in TARGETS {
            let path = folder.join(target.file_name(name));
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                Err(_) => {
                    let bytes = compiler.compile(source, &sources.folder, target)?;
                    cache::write(&path, &bytes)?;
                    bytes
                }
            };
            images.push(Image {
                source: name.clone(),
                target,
                bytes,
            });
        }
    }
    Ok(images)
}

/// Writes the deflated images and the table that `src/image.rs` includes.
fn embed(images: &[Image], compiler: &str, hash: &str, out: &Path) -> Result<(), String> {
    let mut table = format!("static COMPILER: &str = {compiler:?};\nstatic SOURCE_HASH: &str = {hash:?};\n");
    table.push_str("static IMAGES: &[Image] = &[\n");
    for image in images {
        let file = format!("{}.deflate", image.target.file_name(&image.source));
        let deflated = miniz_oxide::deflate::compress_to_vec(&image.bytes, 9);
        cache::write(&out.join(&file), &deflated)?;
        let Target { arch, ptx } = image.target;
        writeln!(
            table,
            "    Image {{ source: {:?}, arch: {arch}, ptx: {ptx}, bytes: {}, deflated: \
             include_bytes!(concat!(env!(\"OUT_DIR\"), \"/\", {file:?})) }},",
            image.source,
            image.bytes.len(),
        )
        .map_err(|error| error.to_string())?;
    }
    table.push_str("];\n");
    cache::write(&out.join("images.rs"), table.as_bytes())
}
