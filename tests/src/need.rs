//! What a test needs from the machine. A test that can't run says so for a person, and fails where `CI=true`.

use std::path::Path;

/// Something that a machine may lack.
#[derive(Debug, Clone, Copy)]
pub enum Need {
    /// The superuser: mounts, loop devices.
    Root,
    /// A usable `/dev/fuse`.
    Fuse,
    /// Loop devices.
    Loop,
    /// A program on the path.
    Program(&'static str),
}

impl Need {
    fn missing(self) -> Option<String> {
        match self {
            Need::Root => (!rustix::process::geteuid().is_root()).then(|| "root is needed".to_owned()),
            Need::Fuse => std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/fuse")
                .err()
                .map(|error| format!("/dev/fuse: {error} (modprobe fuse; install fuse3)")),
            Need::Loop => {
                (!Path::new("/dev/loop-control").exists()).then(|| "/dev/loop-control is missing (modprobe loop)".to_owned())
            }
            Need::Program(name) => (!on_path(name)).then(|| format!("'{name}' is not installed")),
        }
    }
}

fn on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let with_system = ["/usr/sbin", "/sbin"].map(std::path::PathBuf::from);
    std::env::split_paths(&path).chain(with_system).any(|directory| directory.join(name).is_file())
}

/// Whether all is there. If not, says what is missing, or panics where `CI=true`.
#[must_use]
#[track_caller]
pub fn have(needs: &[Need]) -> bool {
    let missing: Vec<String> = needs.iter().filter_map(|need| need.missing()).collect();
    if missing.is_empty() {
        return true;
    }
    let message = missing.join("; ");
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "this test can't run here, and CI must run it: {message}");
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    // Straight to the terminal: the harness hides what a passing test prints.
    let line = format!("SKIPPED {test}: {message}\n");
    let _ = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/stderr")
        .and_then(|mut err| std::io::Write::write_all(&mut err, line.as_bytes()));
    false
}

/// Leaves the test, loudly, when a mount can't be made here, or one of the programs named is missing.
#[macro_export]
macro_rules! require_mount {
    ($($program:literal),*) => {
        if !$crate::need::have(&[
            $crate::need::Need::Root,
            $crate::need::Need::Fuse,
            $($crate::need::Need::Program($program)),*
        ]) {
            return;
        }
    };
}

/// As [`require_mount!`], with loop devices.
#[macro_export]
macro_rules! require_loop {
    ($($program:literal),*) => {
        if !$crate::need::have(&[
            $crate::need::Need::Root,
            $crate::need::Need::Fuse,
            $crate::need::Need::Loop,
            $($crate::need::Need::Program($program)),*
        ]) {
            return;
        }
    };
}

/// Leaves the test, loudly, when one of the programs named is missing.
#[macro_export]
macro_rules! require_programs {
    ($($program:literal),*) => {
        if !$crate::need::have(&[$($crate::need::Need::Program($program)),*]) {
            return;
        }
    };
}
