//! The command line, as clap reads it. Help texts, completions and man pages come from here.

use super::schedule::{HookArguments, Schedule};
use crate::size::{SizeError, parse_volume};
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use outcrop_store::export::ExportFormat;
use outcrop_store::jobs::JobId;
use std::ffi::OsString;
use std::path::PathBuf;

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    it failed (doctor, scrub: something is wrong)
  2    the command line makes no sense
  3    in use: a mount or a volume with open files, another process's store, an image with
       volumes
  130  interrupted (Ctrl-C)

Names are written as lists show them: a backslash is \\\\, other odd bytes are \\xNN.
A volume may also be given by its file's path in a mount, which names the store too.

JSON.md in tools/ describes the fields that --json prints.";

const MOUNT_HELP: &str = "\
Options of -o (comma-separated; the last one wins):
  ro, rw               read-only, or not
  allow_other          let other users in (default for root; noallow_other)
  default_permissions  the kernel checks modes (default; nodefault_permissions)
  nosuid, nodev        default (suid, dev)
  noexec, noatime, ... as for any file system
  threads=N            threads that take requests (default: one a core)
  pool=N               threads that wait for the disk (default: 32)
  deadline=TIME        how long a caller waits at most (90s, 5m, 1h; default: 5m)
  cache=SIZE           memory for finding blocks (default: 256M)
  open-files=N         layer files held open at once (default: 512)
  flush=TIME           time between background flushes (500ms, 5s, 1m; default: 5s)
  snapshot-pause=TIME  how long a snapshot stops writes at most (default: 5s)
  undo=TIME            how long what is deleted can be restored (30m, 24h, 7d; 0: not at all;
                       default: 24h)
  metrics=ADDRESS      serve /metrics for Prometheus there: 127.0.0.1:9095, or another
                       loopback address and port
  floor=SIZE           free space at which writes get ENOSPC, so that deleting works
                       (default: 64M)
  fsname=TEXT          shown as the source instead of the store's path, by which
                       commands find the store of a mount: rather leave it
  noauto, nofail, _netdev, x-... are for mount(8) and systemd: ignored here";

const SPACE_HELP: &str = "\
The table:
  DATA    what it shows as data: ALONE and SHARED together
  ALONE   what no other volume, snapshot or image needs
  SHARED  what others need too
  FREES   what comes back when this one is deleted, undo has given it up, and the
          layers that are left are merged

A snapshot that several clones stand on frees nothing before all but one are gone. What
volumes hold is counted from the maps; 'used' is what the disk's file system says.";

/// Versioned volumes as files: snapshots, clones of images, and an fsync that can be believed.
#[derive(Debug, Parser)]
#[command(name = "outcrop", version, after_help = EXIT_CODES, max_term_width = 90, disable_help_subcommand = true)]
pub struct Cli {
    /// The store: its directory, or a path in its mount [default: the mount that the working directory is in]
    #[arg(long, env = "OUTCROP_STORE", global = true, value_name = "STORE", value_hint = ValueHint::DirPath)]
    pub store: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mount a store; makes the store and the mount point where they are missing
    Mount(Mount),
    /// Unmount, and return when the store is flushed and closed
    Umount(Umount),
    /// Make everything written so far durable: of a store, or of one volume
    Flush(Flush),
    /// Volumes: the files in the mount
    #[command(subcommand, visible_alias = "vol")]
    Volume(Volume),
    /// Snapshots: the directories under .snapshots
    #[command(subcommand, visible_alias = "snap")]
    Snapshot(Snapshot),
    /// Backing images: what volumes can start from
    #[command(subcommand)]
    Image(Image),
    /// Schedules: snapshots at times, and which of them are kept
    #[command(subcommand)]
    Schedule(Schedule),
    /// Restore what was deleted, or what a volume held before a revert
    Undo(Undo),
    /// Write a volume, as it is now or in a snapshot, to a raw or qcow2 file
    Export(Export),
    /// Jobs: long work, as it goes on and as it ended
    #[command(subcommand)]
    Job(Job),
    /// Show the store, its mount, and what happened
    Status(Output),
    /// Show the disk's space, and what each volume, snapshot and image holds, shares, and would free
    #[command(after_help = SPACE_HELP)]
    Space(Output),
    /// Print numbers for monitoring, as Prometheus reads them
    Metrics,
    /// Read everything from the disk and compare it with its checksums
    Scrub(Scrub),
    /// Look for damage, and say what to do about it
    Doctor(Doctor),
    /// Print a script that completes commands in a shell
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the man page, or write one for every command into a directory
    Man {
        /// The directory; made where it is missing.
        #[arg(value_hint = ValueHint::DirPath)]
        dir: Option<PathBuf>,
    },
}

/// How an answer is printed.
#[derive(Debug, Clone, Copy, Args)]
pub struct Output {
    /// Print JSON with stable fields, for programs
    #[arg(long)]
    pub json: bool,
}

/// `outcrop mount`
#[derive(Debug, Clone, Args)]
#[command(after_help = MOUNT_HELP)]
pub struct Mount {
    /// The store's directory
    #[arg(value_name = "STORE", value_hint = ValueHint::DirPath)]
    pub source: PathBuf,
    /// Where to mount it
    #[arg(value_hint = ValueHint::DirPath)]
    pub mountpoint: PathBuf,
    /// Mount options, comma-separated (listed below)
    #[arg(short = 'o', long = "options", value_name = "OPTIONS", allow_hyphen_values = true)]
    pub options: Vec<String>,
    /// Stay in the foreground, with the log on stderr
    #[arg(short, long)]
    pub foreground: bool,
    /// Memory for finding blocks, as -o cache=
    #[arg(long, value_name = "SIZE")]
    pub cache: Option<String>,
    /// Threads that take requests, as -o threads=
    #[arg(long, value_name = "N")]
    pub threads: Option<String>,
    /// What to log: error, warn, info, debug, trace, or as RUST_LOG has it [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// The process that was put in the background.
    #[arg(long, hide = true, conflicts_with = "foreground")]
    pub daemon: bool,
}

/// `outcrop umount`
#[derive(Debug, Args)]
pub struct Umount {
    /// The mount point, or the store
    #[arg(value_name = "MOUNTPOINT|STORE", value_hint = ValueHint::DirPath)]
    pub target: PathBuf,
    /// Detach it though it is in use: its users are served until they close
    #[arg(short, long)]
    pub force: bool,
}

/// `outcrop flush`
#[derive(Debug, Args)]
pub struct Flush {
    /// A store, its mount, or a volume [default: the whole store]
    #[arg(value_name = "STORE|VOLUME", value_hint = ValueHint::AnyPath)]
    pub target: Option<OsString>,
}

/// `outcrop volume`
#[derive(Debug, Subcommand)]
pub enum Volume {
    /// List volumes
    #[command(visible_alias = "ls")]
    List(Output),
    /// Show one volume
    Show {
        /// Its name, or its file's path
        volume: OsString,
        #[command(flatten)]
        output: Output,
    },
    /// Make a volume
    Create {
        /// Its name
        volume: OsString,
        /// Its size: bytes, or with a unit (40G, 500MB); the image's if not given
        #[arg(long, value_parser = volume_size, required_unless_present = "image", allow_hyphen_values = true)]
        size: Option<u64>,
        /// The image to start from
        #[arg(long)]
        image: Option<OsString>,
        #[command(flatten)]
        output: Output,
    },
    /// Change a volume's size
    Resize {
        /// Its name, or its file's path
        volume: OsString,
        /// Its new size: bytes, or with a unit (40G, 500MB)
        #[arg(value_parser = volume_size, allow_hyphen_values = true)]
        size: u64,
        /// Let it become smaller: what lies beyond is gone
        #[arg(long)]
        shrink: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Give a volume another name; its snapshots keep theirs
    Rename {
        /// Its name, or its file's path
        volume: OsString,
        /// Its new name
        new_name: OsString,
        #[command(flatten)]
        output: Output,
    },
    /// Make a volume what it was at one of its snapshots; all its snapshots stay
    Revert {
        /// Its name, or its file's path
        volume: OsString,
        /// The snapshot
        snapshot: OsString,
        /// Though it is open: whoever has it open gets "Stale file handle" from then on
        #[arg(short, long)]
        force: bool,
        /// Don't keep what it holds now for 'outcrop undo'
        #[arg(long)]
        now: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Make a new volume of another one, or of a snapshot: at once, whatever its size
    Clone {
        /// The volume, or the snapshot as VOLUME@SNAPSHOT (an @ in a name is \\x40), or the path of either
        #[arg(value_name = "VOLUME[@SNAPSHOT]")]
        source: OsString,
        /// The new volume's name
        new_name: OsString,
        #[command(flatten)]
        output: Output,
    },
    /// Delete a volume; its snapshots stay
    #[command(visible_alias = "rm")]
    Delete {
        /// Its name, or its file's path
        volume: OsString,
        /// Delete its snapshots too
        #[arg(long)]
        snapshots: bool,
        /// Don't keep it for 'outcrop undo': its space comes back at once
        #[arg(long)]
        now: bool,
    },
}

/// `outcrop snapshot`
#[derive(Debug, Subcommand)]
pub enum Snapshot {
    /// Snapshot one volume, or all of them at one instant
    #[command(
        override_usage = "outcrop snapshot create [OPTIONS] VOLUME NAME\n       outcrop snapshot create [OPTIONS] --all NAME"
    )]
    Create {
        /// The volume (not with --all), then the snapshot's name
        #[arg(required = true, num_args = 1..=2, value_names = ["VOLUME", "NAME"])]
        names: Vec<OsString>,
        /// Every volume, at one instant
        #[arg(long)]
        all: bool,
        /// A label to keep with it; may be given several times
        #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
        labels: Vec<(String, String)>,
        #[command(flatten)]
        hooks: HookArguments,
        #[command(flatten)]
        output: Output,
    },
    /// List snapshots, of one volume or all
    #[command(visible_alias = "ls")]
    List {
        /// The volume
        volume: Option<OsString>,
        /// List what was deleted (or left by a revert) and can be restored with 'outcrop undo'
        #[arg(long)]
        undo: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Delete snapshots of one volume, or of all; while they are open they can still be read
    #[command(
        visible_alias = "rm",
        override_usage = "outcrop snapshot delete [OPTIONS] VOLUME NAME...\n       outcrop snapshot delete [OPTIONS] --all NAME..."
    )]
    Delete {
        /// The volume (not with --all), then the snapshots' names
        #[arg(required = true, num_args = 1.., value_names = ["VOLUME", "NAME"])]
        names: Vec<OsString>,
        /// Of every volume: the whole directory .snapshots/NAME
        #[arg(long)]
        all: bool,
        /// Don't keep them for 'outcrop undo': their space comes back at once
        #[arg(long)]
        now: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Give a snapshot, of all the volumes that it is of, another name
    Rename {
        /// The snapshot
        name: OsString,
        /// Its new name
        new_name: OsString,
        #[command(flatten)]
        output: Output,
    },
    /// List what may have changed since a snapshot, as ranges of bytes; what is outside of them has not
    Diff {
        /// The volume
        volume: OsString,
        /// The snapshot to compare with
        a: OsString,
        /// The other snapshot [default: the volume as it is now]
        b: Option<OsString>,
        #[command(flatten)]
        output: Output,
    },
}

/// `outcrop undo`
#[derive(Debug, Args)]
pub struct Undo {
    /// The volume, the snapshot (of all volumes), VOLUME@SNAPSHOT, or a number that 'snapshot list --undo' shows
    #[arg(value_name = "NAME|ID")]
    pub what: OsString,
    /// Another name for it: its own may be taken by now
    #[arg(long = "as", value_name = "NEW")]
    pub new_name: Option<OsString>,
    #[command(flatten)]
    pub output: Output,
}

/// `outcrop image`
#[derive(Debug, Subcommand)]
pub enum Image {
    /// Import a raw or qcow2 file (others through qemu-img)
    Import {
        /// The image's name
        name: OsString,
        /// The file
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// Refuse content whose SHA-256 is another
        #[arg(long, value_name = "HEX", value_parser = sha256)]
        sha256: Option<String>,
        /// A directory that backing files may lie in, besides the file's own; may be given several times
        #[arg(long = "allow-backing-in", value_name = "DIR", value_hint = ValueHint::DirPath)]
        allow_backing_in: Vec<PathBuf>,
        /// How to tell the progress
        #[arg(long, value_enum, default_value_t)]
        progress: ProgressKind,
        #[command(flatten)]
        output: Output,
    },
    /// Make an image of what a volume is, now or in a snapshot; the content is copied
    Create {
        /// The image's name
        name: OsString,
        /// The volume, and the snapshot if it is not the volume as it is now
        #[arg(long, value_name = "VOLUME[@SNAPSHOT]")]
        from: OsString,
        /// How to tell the progress
        #[arg(long, value_enum, default_value_t)]
        progress: ProgressKind,
        #[command(flatten)]
        output: Output,
    },
    /// List images
    #[command(visible_alias = "ls")]
    List(Output),
    /// Show one image
    Show {
        /// Its name
        name: OsString,
        #[command(flatten)]
        output: Output,
    },
    /// Delete an image that nothing stands on
    #[command(visible_alias = "rm")]
    Delete {
        /// Its name
        name: OsString,
    },
}

/// `outcrop export`
#[derive(Debug, Args)]
pub struct Export {
    /// The volume, and the snapshot if it is not the volume as it is now
    #[arg(value_name = "VOLUME[@SNAPSHOT]")]
    pub what: OsString,
    /// The file; - is stdout
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// How it is written: raw (a sparse file; plain bytes on stdout) or qcow2
    #[arg(long, default_value_t, value_name = "FORMAT", value_parser = PossibleValuesParser::new(["raw", "qcow2"]).try_map(|text| text.parse::<ExportFormat>()))]
    pub format: ExportFormat,
    /// Replace a file that is there
    #[arg(long)]
    pub force: bool,
    /// How to tell the progress
    #[arg(long, value_enum, default_value_t)]
    pub progress: ProgressKind,
}

/// `outcrop job`
#[derive(Debug, Subcommand)]
pub enum Job {
    /// List jobs: those that go on, and the last 100 of each kind that ended
    #[command(visible_alias = "ls")]
    List(Output),
    /// Show one job
    Show {
        /// Its number
        id: JobId,
        #[command(flatten)]
        output: Output,
    },
    /// Stop a job that goes on; what it did is taken back
    Cancel {
        /// Its number
        id: JobId,
        #[command(flatten)]
        output: Output,
    },
    /// Do a job anew that ended in an error or was cancelled
    Resume {
        /// Its number
        id: JobId,
        /// How to tell the progress
        #[arg(long, value_enum, default_value_t)]
        progress: ProgressKind,
        #[command(flatten)]
        output: Output,
    },
}

/// How progress is told, on stderr.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ProgressKind {
    /// A bar on a terminal, else lines
    #[default]
    Auto,
    /// A line every few seconds
    Lines,
    /// Not at all
    None,
}

/// `outcrop scrub`
#[derive(Debug, Args)]
pub struct Scrub {
    /// One volume, with its snapshots and its image [default: everything]
    pub volume: Option<OsString>,
    /// Read at most this much a second, as in 50M
    #[arg(long, value_name = "SIZE", value_parser = parse_volume)]
    pub rate: Option<u64>,
    /// How to tell the progress
    #[arg(long, value_enum, default_value_t)]
    pub progress: ProgressKind,
    #[command(flatten)]
    pub output: Output,
}

/// `outcrop doctor`
#[derive(Debug, Args)]
pub struct Doctor {
    /// Make the catalog again from the disk's labels (the old one is kept aside); not while mounted
    #[arg(long, conflicts_with = "clear_fault")]
    pub rebuild_catalog: bool,
    /// Let a volume whose flush failed be written again, from its last good flush
    #[arg(long, value_name = "VOLUME")]
    pub clear_fault: Option<OsString>,
    #[command(flatten)]
    pub output: Output,
}

fn volume_size(text: &str) -> Result<u64, SizeError> {
    parse_volume(text)
}

pub fn label(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE"),
    }
}

fn sha256(text: &str) -> Result<String, &'static str> {
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("a SHA-256 has 64 hex digits")
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may")]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_are_checked_before_anything_runs() {
        for size in ["0", "-1", "-4G", "many", "65T", "99999999999999999999"] {
            let error = Cli::try_parse_from(["outcrop", "volume", "create", "v", "--size", size]).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{size}");
            assert!(error.to_string().contains("--size"), "{size}: {error}");
        }
        assert!(Cli::try_parse_from(["outcrop", "volume", "create", "v"]).is_err(), "neither size nor image");
        assert!(Cli::try_parse_from(["outcrop", "volume", "create", "v", "--image", "i"]).is_ok());
    }

    #[test]
    fn what_is_deleted_is_named() {
        let parse = |line: &str| Cli::try_parse_from(["outcrop"].into_iter().chain(line.split(' ')));
        for good in [
            "snapshot delete db monday",
            "snapshot delete db monday tuesday --now",
            "snapshot rm --all monday tuesday",
            "snapshot rename a b",
            "snapshot list --undo",
            "snapshot list db --undo --json",
            "volume revert db monday --force --now",
            "volume clone db@monday new",
            "volume delete db --now --snapshots",
            "undo db --as other",
            "undo 17",
        ] {
            assert!(parse(good).is_ok(), "{good}: {}", parse(good).unwrap_err());
        }
        for bad in ["snapshot delete", "snapshot rename a", "volume revert db", "volume clone db", "undo", "undo a b"] {
            assert_eq!(parse(bad).unwrap_err().exit_code(), 2, "{bad}");
        }
    }

    #[test]
    fn labels_and_sums_are_checked() {
        let parse = |arguments: &[&str]| Cli::try_parse_from(["outcrop"].iter().chain(arguments));
        assert!(parse(&["snapshot", "create", "db", "s", "--label", "k=v", "--label", "a=b=c"]).is_ok());
        assert!(parse(&["snapshot", "create", "db", "s", "--label", "k"]).is_err());
        assert!(parse(&["image", "import", "i", "f", "--sha256", &"aB".repeat(32)]).is_ok());
        assert!(parse(&["image", "import", "i", "f", "--sha256", "abc"]).is_err());
    }
}
