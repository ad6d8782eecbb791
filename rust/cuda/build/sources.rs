//! The kernels' sources.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// All that is compiled.
pub struct Sources {
    pub folder: PathBuf,
    /// Name and path of each translation unit: every `*.cu` under the folder.
    pub units: Vec<(String, PathBuf)>,
    /// SHA-256 over names and contents of all files that a unit may include.
    pub hash: String,
}

impl Sources {
    pub fn read(folder: &Path) -> Result<Sources, String> {
        let mut files = Vec::new();
        walk(folder, &mut files)?;
        files.sort();
        let mut hash = Sha256::new();
        let mut units: Vec<(String, PathBuf)> = Vec::new();
        for path in files {
            let extension = path.extension().and_then(|text| text.to_str()).unwrap_or("");
            if !["cu", "cuh", "h"].contains(&extension) {
                continue;
            }
            let text = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            let relative = path.strip_prefix(folder).map_err(|error| error.to_string())?;
            hash.update(relative.to_string_lossy().replace('\\', "/"));
            hash.update([0]);
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(&text);
            if extension == "cu" {
                let name = path
                    .file_stem()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                if units.iter().any(|(known, _)| *known == name) {
                    return Err(format!("two kernel sources are named {name}.cu"));
                }
                units.push((name, path));
            }
        }
        let hash = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Sources {
            folder: folder.to_path_buf(),
            units,
            hash,
        })
    }
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), String> {
    let problem = |error: std::io::Error| format!("{}: {error}", folder.display());
    for entry in fs::read_dir(folder).map_err(problem)? {
        let path = entry.map_err(problem)?.path();
        if path.is_dir() {
            walk(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
