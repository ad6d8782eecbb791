//! The compiler of an installed CUDA toolkit.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::target::Target;
use crate::Compiler;

/// `nvcc`, from `CUDA_HOME` or the path.
pub struct Nvcc {
    program: PathBuf,
    version: String,
}

impl Nvcc {
    pub fn find() -> Option<Nvcc> {
        let home = env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("bin/nvcc"));
        home.into_iter()
            .chain([PathBuf::from("nvcc")])
            .find_map(|program| {
                let output = Command::new(&program).arg("--version").output().ok()?;
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                let version = text
                    .lines()
                    .find(|line| line.contains("release"))?
                    .trim()
                    .to_owned();
                Some(Nvcc { program, version })
            })
    }
}

impl Compiler for Nvcc {
    fn identity(&self) -> String {
        format!("nvcc ({})", self.version)
    }

    fn compile(&self, source: &Path, include: &Path, target: Target) -> Result<Vec<u8>, String> {
        let out = env::temp_dir().join(format!("meteora-{}-{}", std::process::id(), target.name()));
        let form = if target.ptx { "-ptx" } else { "-cubin" };
        let output = Command::new(&self.program)
            .args([
                form,
                "-O3",
                "-std=c++17",
                "-Werror",
                "all-warnings",
                "-arch",
                &target.name(),
                "-I",
            ])
            .arg(include)
            .arg("-o")
            .arg(&out)
            .arg(source)
            .output()
            .map_err(|error| format!("nvcc: {error}"))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            return Err(format!(
                "nvcc {} for {}:\n{text}",
                source.display(),
                target.name()
            ));
        }
        let image = std::fs::read(&out).map_err(|error| format!("{}: {error}", out.display()));
        std::fs::remove_file(&out).ok();
        let mut image = image?;
        if target.ptx {
            image.push(0); // as NVRTC gives it, and the driver wants it
        }
        Ok(image)
    }
}
