//! `outcrop mount`.

use super::args::Mount;
use crate::daemon::{self, Config, background};
use crate::failure::Failure;
use crate::locate;
use crate::options::Options;
use anyhow::{Context as _, Result};
use rustix::process::geteuid;
use std::ffi::OsString;
use std::path::PathBuf;

/// Mounts: in the background, or here until the mount is gone.
pub fn run(mount: &Mount) -> Result<()> {
    if mount.daemon {
        background::leave_session();
    }
    let outcome = configure(mount).and_then(|config| match (mount.foreground, mount.daemon) {
        (false, false) => start(mount, &config),
        (_, true) => daemon::run(&config, background::report_ready),
        (true, false) => daemon::run(&config, ready_in_foreground),
    });
    if let (true, Err(error)) = (mount.daemon, &outcome) {
        // Once the mount answered, nobody listens any more, and the log has it.
        background::report_failure(Failure::of(error));
        std::process::exit(1);
    }
    outcome
}

fn configure(mount: &Mount) -> Result<Config> {
    let mut options = Options::default();
    for list in &mount.options {
        options.add(list)?;
    }
    if let Some(cache) = &mount.cache {
        options.add(&format!("cache={cache}"))?;
    }
    if let Some(threads) = &mount.threads {
        options.add(&format!("threads={threads}"))?;
    }
    Ok(Config {
        store: locate::absolute(&mount.source)?,
        target: locate::absolute(&mount.mountpoint)?,
        options,
        foreground: mount.foreground,
        log: mount.log.clone(),
    })
}

fn start(mount: &Mount, config: &Config) -> Result<()> {
    background::start(&arguments(mount, config))?;
    // The promise of exit code 0: the mount answers, and to this process too.
    rustix::fs::statvfs(&config.target).with_context(|| format!("asking the mount on {}", config.target.display()))?;
    if !geteuid().is_root() && config.options.mount.allow_other != Some(true) {
        eprintln!("outcrop: mounted for you alone: root, and so 'mount -o loop', can't see into {}", config.target.display());
        eprintln!("hint: '-o allow_other' lets root in, where /etc/fuse.conf has 'user_allow_other'");
    }
    Ok(())
}

/// The same command, for the process in the background. `--` keeps odd paths from being options.
fn arguments(mount: &Mount, config: &Config) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["mount".into(), "--daemon".into()];
    let mut add = |flag: &str, value: &String| arguments.push(format!("{flag}={value}").into());
    mount.options.iter().for_each(|list| add("--options", list));
    mount.cache.iter().for_each(|size| add("--cache", size));
    mount.threads.iter().for_each(|number| add("--threads", number));
    mount.log.iter().for_each(|filter| add("--log", filter));
    arguments.push("--".into());
    arguments.extend([&config.store, &config.target].map(|path: &PathBuf| path.clone().into_os_string()));
    arguments
}

fn ready_in_foreground() -> Result<()> {
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may")]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};
    use clap::Parser as _;

    fn parse(arguments: impl IntoIterator<Item = OsString>) -> Mount {
        match Cli::try_parse_from(std::iter::once("outcrop".into()).chain(arguments)).unwrap().command {
            Command::Mount(mount) => mount,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_background_gets_the_same_command() {
        let given = ["mount", "-o", "ro,threads=2", "--cache", "64M", "--log=debug", "--", "-store", "/mnt/a b"];
        let given = parse(given.map(OsString::from));
        let config = configure(&given).unwrap();
        let passed = parse(arguments(&given, &config));
        assert!(passed.daemon && !passed.foreground);
        assert!(passed.source.is_absolute() && passed.source.ends_with("-store"));
        assert_eq!(passed.mountpoint, PathBuf::from("/mnt/a b"));
        let again = configure(&passed).unwrap();
        assert!(again.options.mount.read_only);
        assert_eq!(again.options.mount.threads, Some(2));
        assert_eq!(again.options.store.cache_bytes, 64 << 20);
        assert_eq!(again.log.as_deref(), Some("debug"));
    }
}
