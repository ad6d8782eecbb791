//! Images that are there already: from an earlier build, or in a folder that the builder names.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::sources::Sources;
use crate::target::TARGETS;
use crate::Image;

/// Beside the images, the hash of the sources that they were made from.
const HASH_FILE: &str = "SOURCE_SHA256";

/// Where images of these sources by this compiler are kept: a folder that can serve as `METEORA_CUDA_PREBUILT`.
pub fn folder(out: &Path, sources: &Sources, compiler: &str) -> Result<PathBuf, String> {
    let key = Sha256::digest(format!("{}\n{compiler}", sources.hash));
    let key: String = key.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    // OUT_DIR is <target>/<profile>/build/<package>/out.
    let target = out.ancestors().nth(4).unwrap_or(out);
    let folder = target.join("cuda").join(key);
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    write(&folder.join(HASH_FILE), sources.hash.as_bytes())?;
    Ok(folder)
}

/// The images of `folder`, if they were made from these sources.
pub fn prebuilt(folder: &Path, sources: &Sources) -> Result<Vec<Image>, String> {
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read(&path).map_err(|error| format!("METEORA_CUDA_PREBUILT: {}: {error}", path.display()))
    };
    let found = String::from_utf8_lossy(&read(HASH_FILE)?).trim().to_owned();
    if found != sources.hash {
        return Err(format!(
            "METEORA_CUDA_PREBUILT: the images in {} are of other sources: their hash is {found}, that of cuda/ is {}",
            folder.display(),
            sources.hash
        ));
    }
    let mut images = Vec::new();
    for (name, _) in &sources.units {
        for target in TARGETS {
            let bytes = read(&target.file_name(name))?;
            images.push(Image {
                source: name.clone(),
                target,
                bytes,
            });
        }
    }
    Ok(images)
}

/// Writes a file whole or not at all: builds of two profiles may run at once.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let part = path.with_extension(format!("part{}", std::process::id()));
    let done = fs::write(&part, bytes).and_then(|()| fs::rename(&part, path));
    done.map_err(|error| format!("{}: {error}", path.display()))
}
