//! The commands: from arguments to a request, and from its answer to the terminal.

pub mod args;
mod export;
pub mod helper;
mod job;
mod manual;
mod mount;
mod schedule;
mod scrub;
pub mod session;
mod source;
mod umount;

use crate::failure::{Failure, exit};
use crate::locate::{self, Target};
use crate::operations::{Reply, Request};
use crate::output;
use crate::output::progress::Meter;
use anyhow::Result;
use args::{Cli, Command, Doctor, Flush, Image, Output, Snapshot, Undo, Volume};
use outcrop_store::Name;
use rustix::fs::Mode;
use rustix::process::{getegid, geteuid, umask};
use source::Source;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Does what the command line says; gives the exit code.
pub fn run(cli: Cli) -> Result<u8> {
    let store = cli.store.as_deref();
    match cli.command {
        Command::Mount(mount) => mount::run(&mount).map(|()| 0),
        Command::Umount(umount) => umount::run(&umount.target, umount.force).map(|()| 0),
        Command::Flush(flush) => self::flush(store, &flush),
        Command::Volume(volume) => self::volume(store, volume),
        Command::Snapshot(snapshot) => self::snapshot(store, snapshot),
        Command::Image(image) => self::image(store, image),
        Command::Schedule(schedule) => self::schedule::run(store, schedule),
        Command::Undo(undo) => self::undo(store, &undo),
        Command::Export(export) => export::run(store, &export).map(|()| 0),
        Command::Job(job) => job::run(store, job),
        Command::Status(output) => ask(&locate::store(store)?, Request::Status, output),
        Command::Space(output) => ask(&locate::store(store)?, Request::Space, output),
        Command::Metrics => ask(&locate::store(store)?, Request::Metrics, Output { json: false }),
        Command::Scrub(scrub) => scrub::run(store, &scrub),
        Command::Doctor(doctor) => self::doctor(store, &doctor),
        Command::Completions { shell } => manual::completions(shell).map(|()| 0),
        Command::Man { dir } => manual::man(dir.as_deref()).map(|()| 0),
    }
}

/// Asks, and prints the answer.
fn ask(store: &Path, request: Request, output: Output) -> Result<u8> {
    let reply = session::call(store, request, Meter::silent())?;
    output::reply(&reply, output.json)?;
    Ok(0)
}

/// Asks for a change: the answer is printed for programs only.
fn change(store: &Path, request: Request, json: bool) -> Result<u8> {
    let reply = session::call(store, request, Meter::silent())?;
    if json {
        output::reply(&reply, true)?;
    }
    Ok(0)
}

/// A volume by name or by its file's path, and the store that it is in.
fn volume_of(store: Option<&Path>, argument: &OsStr) -> Result<(PathBuf, Name)> {
    match locate::target(argument)? {
        Target::Name(name) => Ok((locate::store(store)?, name)),
        Target::Volume { store: found, name } => {
            same_store(store, &found)?;
            Ok((found, name))
        }
        Target::Root { .. } => Err(usage(format!("'{}' is not a volume", argument.display()))),
        Target::Snapshot { path } => Err(usage(format!("{} is a snapshot, not a volume", path.display()))),
    }
}

/// `--store` may repeat what a path says, not contradict it. (`OUTCROP_STORE` is the same to us; a path wins over nothing.)
fn same_store(option: Option<&Path>, found: &Path) -> Result<()> {
    if let Some(option) = option {
        let named = locate::store(Some(option))?;
        if named != found {
            return Err(usage(format!(
                "the path is in store {}, but --store (or OUTCROP_STORE) names {}",
                found.display(),
                named.display()
            )));
        }
    }
    Ok(())
}

fn usage(message: String) -> anyhow::Error {
    Failure::new(message).code(exit::USAGE).into()
}

fn flush(store: Option<&Path>, flush: &Flush) -> Result<u8> {
    let Some(argument) = &flush.target else {
        return change(&locate::store(store)?, Request::Flush { volume: None }, false);
    };
    // `vol` in the directory that it is mounted in: nobody would say `./vol`.
    let as_path = locate::target(Path::new(".").join(argument).as_os_str());
    let (store, volume) = match as_path {
        Ok(Target::Root { store: found }) => (found, None),
        _ => {
            if let Ok(Target::Root { store: found }) = locate::target(argument) {
                (found, None)
            } else {
                let (store, name) = volume_of(store, argument)?;
                (store, Some(name))
            }
        }
    };
    change(&store, Request::Flush { volume }, false)
}

fn volume(store: Option<&Path>, command: Volume) -> Result<u8> {
    match command {
        Volume::List(output) => ask(&locate::store(store)?, Request::VolumeList, output),
        Volume::Show { volume, output } => {
            let (store, name) = volume_of(store, &volume)?;
            ask(&store, Request::VolumeShow { name }, output)
        }
        Volume::Create { volume, size, image, output } => {
            let (store, name) = volume_of(store, &volume)?;
            let image = image.as_deref().map(locate::name).transpose()?;
            let request =
                Request::VolumeCreate { name, size, image, mode: new_mode(), uid: geteuid().as_raw(), gid: getegid().as_raw() };
            change(&store, request, output.json)
        }
        Volume::Resize { volume, size, shrink, output } => {
            let (store, name) = volume_of(store, &volume)?;
            change(&store, Request::VolumeResize { name, size, shrink }, output.json)
        }
        Volume::Rename { volume, new_name, output } => {
            let (store, from) = volume_of(store, &volume)?;
            let (_, to) = volume_of(Some(&store), &new_name)?;
            change(&store, Request::VolumeRename { from, to }, output.json)
        }
        Volume::Revert { volume, snapshot, force, now, output } => {
            let (store, name) = volume_of(store, &volume)?;
            let snapshot = locate::name(&snapshot)?;
            change(&store, Request::VolumeRevert { name, snapshot, force, now }, output.json)
        }
        Volume::Clone { source, new_name, output } => {
            let (store, source) = source::find(store, &source)?;
            let (_, new_name) = volume_of(Some(&store), &new_name)?;
            let request =
                Request::VolumeClone { volume: source.volume, snapshot: source.snapshot, is_file: source.is_file, new_name };
            change(&store, request, output.json)
        }
        Volume::Delete { volume, snapshots, now } => {
            let (store, name) = volume_of(store, &volume)?;
            change(&store, Request::VolumeDelete { name, snapshots, now }, false)
        }
    }
}

/// The mode that a new file gets: as touch(1) makes it.
fn new_mode() -> u32 {
    let mask = umask(Mode::empty());
    umask(mask);
    0o666 & !mask.bits()
}

fn snapshot(store: Option<&Path>, command: Snapshot) -> Result<u8> {
    match command {
        Snapshot::Create { names, all, labels, hooks, output } => {
            let (volume, name) = match (names.as_slice(), all) {
                ([name], true) => (None, name),
                ([volume, name], false) => (Some(volume), name),
                ([_], false) => {
                    return Err(Failure::new("a snapshot of which volume?")
                        .hint("'outcrop snapshot create VOLUME NAME' takes one, 'outcrop snapshot create --all NAME' all at one instant")
                        .code(exit::USAGE)
                        .into());
                }
                _ => return Err(usage("--all takes the snapshot's name only".to_owned())),
            };
            let name = locate::name(name)?;
            let labels = labels.into_iter().collect();
            let (store, volume) = match volume {
                Some(volume) => volume_of(store, volume).map(|(store, volume)| (store, Some(volume)))?,
                None => (locate::store(store)?, None),
            };
            let hooks = hooks.hooks()?;
            change(&store, Request::SnapshotCreate { volume, name, labels, hooks }, output.json)
        }
        Snapshot::List { volume, undo, output } => {
            let (store, volume) = match volume {
                Some(volume) => volume_of(store, &volume).map(|(store, volume)| (store, Some(volume)))?,
                None => (locate::store(store)?, None),
            };
            let request = if undo { Request::RemovedList { volume } } else { Request::SnapshotList { volume } };
            ask(&store, request, output)
        }
        Snapshot::Delete { names, all, now, output } => {
            let (volume, names) = match (names.as_slice(), all) {
                (names, true) => (None, names),
                ([volume, names @ ..], false) if !names.is_empty() => (Some(volume), names),
                _ => {
                    return Err(Failure::new("which snapshot, and of which volume?")
                        .hint("'outcrop snapshot delete VOLUME NAME...' deletes one volume's, 'outcrop snapshot delete --all NAME...' all volumes'")
                        .code(exit::USAGE)
                        .into());
                }
            };
            let names = names.iter().map(|name| locate::name(name)).collect::<Result<_>>()?;
            let (store, volume) = match volume {
                Some(volume) => volume_of(store, volume).map(|(store, volume)| (store, Some(volume)))?,
                None => (locate::store(store)?, None),
            };
            change(&store, Request::SnapshotDelete { volume, names, now }, output.json)
        }
        Snapshot::Rename { name, new_name, output } => {
            let (from, to) = (locate::name(&name)?, locate::name(&new_name)?);
            change(&locate::store(store)?, Request::SnapshotRename { from, to }, output.json)
        }
        Snapshot::Diff { volume, a, b, output } => {
            let (store, volume) = volume_of(store, &volume)?;
            let b = b.as_deref().map(locate::name).transpose()?;
            ask(&store, Request::SnapshotDiff { volume, a: locate::name(&a)?, b }, output)
        }
    }
}

fn undo(store: Option<&Path>, undo: &Undo) -> Result<u8> {
    let (store, source) = source::find(store, &undo.what)?;
    let new_name = undo.new_name.as_deref().map(locate::name).transpose()?;
    let request = Request::Undo { what: source.volume, snapshot: source.snapshot, new_name };
    let reply = session::call(&store, request, Meter::silent())?;
    output::reply(&reply, undo.output.json)?;
    Ok(0)
}

fn image(store: Option<&Path>, command: Image) -> Result<u8> {
    match command {
        Image::Import { name, file, sha256, allow_backing_in, progress, output } => {
            let store = locate::store(store)?;
            let name = locate::name(&name)?;
            // The daemon has another working directory.
            let path = locate::absolute(&file)?;
            let allow_backing_in = allow_backing_in.iter().map(|dir| locate::absolute(dir)).collect::<Result<_>>()?;
            let meter = Meter::new(&format!("importing {name}"), progress);
            let reply = session::call(&store, Request::ImageImport { name, path, sha256, allow_backing_in }, meter)?;
            output::reply(&reply, output.json)?;
            Ok(0)
        }
        Image::Create { name, from, progress, output } => {
            let name = locate::name(&name)?;
            let (store, Source { volume, snapshot, .. }) = source::find(store, &from)?;
            let meter = Meter::new(&format!("copying {name}"), progress);
            let reply = session::call(&store, Request::ImageCreate { name, volume, snapshot }, meter)?;
            output::reply(&reply, output.json)?;
            Ok(0)
        }
        Image::List(output) => ask(&locate::store(store)?, Request::ImageList, output),
        Image::Show { name, output } => ask(&locate::store(store)?, Request::ImageShow { name: locate::name(&name)? }, output),
        Image::Delete { name } => change(&locate::store(store)?, Request::ImageDelete { name: locate::name(&name)? }, false),
    }
}

fn doctor(store: Option<&Path>, doctor: &Doctor) -> Result<u8> {
    if let Some(volume) = &doctor.clear_fault {
        let (store, volume) = volume_of(store, volume)?;
        return change(&store, Request::ClearFault { volume }, false);
    }
    let store = locate::store(store)?;
    let reply = if doctor.rebuild_catalog {
        session::call_rebuilding(&store, Request::Doctor)?
    } else {
        session::call(&store, Request::Doctor, Meter::silent())?
    };
    output::reply(&reply, doctor.output.json)?;
    let errors = matches!(&reply, Reply::Doctor(view) if view.errors > 0);
    Ok(if errors { exit::FAILED } else { 0 })
}
