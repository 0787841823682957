//! A directory of a test's own.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A fresh directory, removed with all in it when dropped. Its name holds this process' number, for `tests/tidy`.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes one; `name` is for people.
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = format!("outcrop-test-{}-{count}-{name}", std::process::id());
        // The kernel tells mount points without symbolic links: so must we.
        let base = std::env::temp_dir().canonicalize().unwrap_or_else(|error| panic!("the temporary directory: {error}"));
        let path = base.join(directory);
        std::fs::create_dir(&path).unwrap_or_else(|error| panic!("making {}: {error}", path.display()));
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path in it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// A directory in it, made.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.join(name);
        std::fs::create_dir_all(&path).unwrap_or_else(|error| panic!("making {}: {error}", path.display()));
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing mounted below may be emptied: whoever leaked it is named instead.
        let mounted = mounts_below(&self.path);
        if mounted.is_empty() {
            let _ = std::fs::remove_dir_all(&self.path);
        } else {
            eprintln!("left {} behind: mounted below it is {mounted:?}", self.path.display());
        }
    }
}

/// Mount points at or below `path`, in the order in which they were mounted.
pub fn mounts_below(path: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(|point| PathBuf::from(unescape(point)));
    points.filter(|point| point.starts_with(path)).collect()
}

/// Whether something is mounted exactly at `path`.
pub fn is_mounted(path: &Path) -> bool {
    mounts_below(path).iter().any(|point| point == path)
}

/// mountinfo writes space, tab, newline and backslash as `\040`.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}
