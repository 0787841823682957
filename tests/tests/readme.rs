//! The README's commands do what it says, in the order in which it has them.
#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_tests::scratch::mounts_below;
use outcrop_tests::{Scratch, outcrop, require_loop, run};
use std::path::Path;
use std::process::Command;

const README: &str = include_str!("../../README.md");

/// The indented lines of a section.
fn commands(section: &str) -> String {
    let (_, after) =
        README.split_once(&format!("\n## {section}\n")).unwrap_or_else(|| panic!("README has no section '{section}'"));
    let text = after.split("\n## ").next().unwrap_or_default();
    let lines: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    assert!(!lines.is_empty(), "'{section}' has no commands");
    lines.join("\n")
}

/// A home of its own, in which nothing stays mounted.
struct Home(Scratch);

impl Home {
    fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        // `outcrop` as a person has it on the path.
        std::os::unix::fs::symlink(outcrop_tests::program::path(), scratch.directory("bin").join("outcrop")).unwrap();
        scratch.directory("mnt");
        Self(scratch)
    }

    /// Runs shell lines as they are in the README, with `~` and `/mnt` being this home's.
    #[track_caller]
    fn run(&self, lines: &str) -> String {
        let mnt = self.0.join("mnt");
        let lines = lines.replace("cargo run --release --", "outcrop").replace("cargo test --workspace", "true");
        let lines = lines.replace("/mnt/", &format!("{}/", mnt.display()));
        let path = format!("{}:{}:/usr/sbin:/sbin", self.0.join("bin").display(), std::env::var("PATH").unwrap_or_default());
        let mut shell = Command::new("bash");
        shell.args(["-eux", "-c", &lines]).current_dir(self.0.path()).env("HOME", self.0.path()).env("PATH", path);
        run(shell.env("OUTCROP_STORE", self.store()))
    }

    fn store(&self) -> std::path::PathBuf {
        self.0.join("outcrop")
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for point in mounts_below(self.0.path()).into_iter().rev() {
            let is_store = point == self.0.join("vol");
            if is_store {
                let _ = outcrop().args(["umount", "--force"]).arg(&point).output();
            }
            let _ = Command::new("umount").arg("-l").arg(&point).output();
        }
    }
}

#[test]
fn quick_start_works() {
    require_loop!("mkfs.ext4");
    let home = Home::new("quick");
    let said = home.run(&commands("Quick start"));
    assert!(said.contains("hello"), "the greeting is in the snapshot: {said}");
    assert!(mounts_below(home.0.path()).is_empty(), "nothing is left mounted");
    // And it can all be had again.
    home.run("outcrop mount ~/outcrop ~/vol; mount -o loop ~/vol/db /mnt/db; cat /mnt/db/greeting; umount /mnt/db");
    home.run("until outcrop umount ~/vol; do sleep 0.1; done");
}

#[test]
fn every_other_command_works() {
    require_loop!("qemu-img");
    let home = Home::new("commands");
    home.run("qemu-img create -q -f qcow2 debian-12.qcow2 10G; truncate -s 0 x");
    for mounted in [false, true] {
        if mounted {
            home.run("outcrop mount ~/outcrop ~/vol");
        }
        home.run(&commands("Volumes"));
        // Once something is installed.
        let images =
            commands("Images").replace("outcrop image create", "outcrop snapshot create vm1 installed\noutcrop image create");
        home.run(&images);
        home.run("outcrop volume delete vm1 --snapshots --now; outcrop image delete debian; outcrop image delete golden");
    }
    // With what those sections left: a volume, its snapshot, and jobs to cancel and resume.
    home.run("outcrop volume create vm1 --size 30M; outcrop snapshot create vm1 monday");
    let exports = commands("Exports").replace("zstd", "gzip").replace(".zst", ".gz");
    home.run(&exports);
    home.run("cmp vm1.raw ~/vol/vm1; gunzip -c vm1.raw.gz | cmp - vm1.raw; qemu-img compare -q vm1.qcow2 vm1.raw");
    let listed = home.run("outcrop job list");
    assert!(listed.contains("export") && listed.contains("completed"), "{listed}");
    home.run("outcrop volume delete vm1 --snapshots --now");
    home.run("outcrop volume create db --size 1G");
    let listed = home.run(&commands("Snapshots"));
    assert!(listed.contains("monday") && listed.contains("before-upgrade"), "{listed}");
    let said = home.run(&commands("Verification"));
    assert!(said.contains("damaged   0 blocks, 0 other errors"), "{said}");
    home.run("mkdir -p /mnt/db");
    let listed = home.run(&commands("Schedules"));
    assert!(listed.contains("nightly") && listed.contains("last run"), "{listed}");
    let said = home.run(&commands("The life of a layer"));
    assert!(said.contains("before-upgrade") && said.contains("UNTIL"), "{said}");
    home.run("outcrop umount ~/vol");
    assert!(Path::new(&home.store()).join("outcrop.json").is_file());
}
