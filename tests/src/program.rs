//! The program under test: built once a test run, the same profile as the tests.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// `OUTCROP_BIN`, or `outcrop` built beside these tests.
///
/// Cargo gives `CARGO_BIN_EXE_…` only to a binary's own package, so it is built here: cargo holds no lock while tests run.
pub fn path() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(given) = std::env::var_os("OUTCROP_BIN") {
            return given.into();
        }
        // <target>/<profile>/deps/<this test>
        let this = std::env::current_exe().unwrap_or_else(|error| panic!("finding this test's file: {error}"));
        let Some(profile) = this.ancestors().nth(2) else { panic!("{} is not in a target directory", this.display()) };
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--package", "outcrop", "--bin", "outcrop", "--manifest-path"]);
        build.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"));
        if let Some(target) = profile.parent() {
            build.arg("--target-dir").arg(target);
        }
        match profile.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => {}
            Some(name) => {
                build.args(["--profile", name]);
            }
        }
        crate::run(&mut build);
        profile.join("outcrop")
    })
}

/// The program, knowing no store but what it is told.
pub fn outcrop() -> Command {
    let mut command = Command::new(path());
    command.env_remove("OUTCROP_STORE").env_remove("OUTCROP_LOG").env_remove("RUST_LOG").env("NO_COLOR", "1");
    command
}
