//! Executes a [`Request`] on an open store. Blocks on the disk; belongs on a thread that may.

use super::views::{DiffView, DoctorView, MountView, RangeView, SnapshotView, StatusView, VolumeView, shown};
use super::{Reply, Request, life};
use crate::failure::Failure;
use crate::hooks::{self, Occasion};
use crate::size::human;
use anyhow::{Context as _, Result};
use outcrop_store::image::{ImportOptions, Progress};
use outcrop_store::schedule::Hooks;
use outcrop_store::scrub::ScrubOptions;
use outcrop_store::{DeleteVolume, Name, NewVolume, RenameMode, Store, Sync, VolumeInfo};
use std::collections::BTreeMap;

/// What an execution has besides the request.
pub struct Context<'a> {
    /// The open store.
    pub store: &'a Store,
    /// The mount, in the daemon.
    pub mount: Option<&'a MountView>,
    /// Told how a long operation goes.
    pub progress: &'a dyn Progress,
}

/// Does what is asked: durable on return.
pub fn execute(context: &Context<'_>, request: Request) -> Result<Reply> {
    let store = context.store;
    Ok(match request {
        Request::VolumeList => Reply::Volumes(store.volumes().iter().map(|info| listed(store, info)).collect()),
        Request::VolumeShow { name } => {
            let info = store.volume_info(&name)?;
            Reply::Volume(
                volume_view(store, &info).with_taken(store.volume_taken(info.id).ok()).with_sums(store.integrity(info.id).ok()),
            )
        }
        Request::VolumeCreate { name, size, image, mode, uid, gid } => {
            store
                .create_volume(&name, &NewVolume { size, image, mode, uid, gid })
                .with_context(|| format!("creating volume '{name}'"))?;
            Reply::Volume(volume_view(store, &store.volume_info(&name)?))
        }
        Request::VolumeResize { name, size, shrink } => {
            let volume = store.volume(&name)?;
            let now = volume.stat().size;
            if size < now && !shrink {
                return Err(Failure::new(format!("volume '{name}' has {now} bytes ({}); {size} would cut data off", human(now)))
                    .hint("add --shrink if that is meant; a snapshot taken before keeps what is cut off")
                    .into());
            }
            volume.set_size(size).and_then(|()| volume.sync(Sync::All)).with_context(|| format!("resizing volume '{name}'"))?;
            Reply::Volume(volume_view(store, &store.volume_info(&name)?))
        }
        Request::VolumeRename { from, to } => {
            store.rename_volume(&from, &to, RenameMode::NoReplace).with_context(|| format!("renaming volume '{from}'"))?;
            Reply::Volume(volume_view(store, &store.volume_info(&to)?))
        }
        Request::VolumeDelete { name, snapshots, now } => {
            let what = if snapshots { DeleteVolume::WithSnapshots } else { DeleteVolume::Head };
            store.delete_volume(&name, what, life::keep(now)).with_context(|| format!("deleting volume '{name}'"))?;
            Reply::Done
        }
        Request::SnapshotCreate { volume, name, labels, hooks } => {
            Reply::Snapshots(create_snapshot(context, volume.as_ref(), &name, &labels, &hooks)?)
        }
        Request::SnapshotList { volume } => {
            let id = volume.map(|name| store.volume_info(&name)).transpose()?.map(|info| info.id);
            let wanted = |volume| id.is_none_or(|id| id == volume);
            Reply::Snapshots(store.snapshots().iter().filter(|info| wanted(info.volume)).map(SnapshotView::from).collect())
        }
        Request::VolumeRevert { name, snapshot, force, now } => life::revert(store, &name, &snapshot, force, now)?,
        Request::VolumeClone { volume, snapshot, is_file, new_name } => {
            life::clone(store, &volume, snapshot, is_file, &new_name)?
        }
        Request::SnapshotDelete { volume, names, now } => life::delete_snapshots(store, volume.as_ref(), names, now)?,
        Request::SnapshotRename { from, to } => life::rename_snapshot(store, &from, &to)?,
        Request::RemovedList { volume } => life::removed(store, volume.as_ref())?,
        Request::Undo { what, snapshot, new_name } => life::undo(store, &what, snapshot.as_ref(), new_name.as_ref())?,
        Request::SnapshotDiff { volume, a, b } => {
            let mut ranges = Vec::new();
            let sizes = store
                .diff(&volume, &a, b.as_ref(), &mut |range| {
                    ranges.push(RangeView { offset: range.start, length: range.end - range.start });
                    Ok(())
                })
                .with_context(|| format!("comparing snapshot '{a}' of volume '{volume}'"))?;
            let bytes = ranges.iter().map(|range| range.length).sum();
            Reply::Diff(DiffView { size_a: sizes.a, size_b: sizes.b, bytes, ranges })
        }
        Request::ImageImport { name, path, sha256, allow_backing_in } => {
            let options = ImportOptions { sha256, allow_backing_in };
            let info = store
                .import_image(&name, &path, &options, context.progress)
                .with_context(|| format!("importing image '{name}'"))?;
            Reply::Image((&info).into())
        }
        Request::ImageCreate { name, volume, snapshot } => {
            let info = store
                .create_image(&name, &volume, snapshot.as_ref(), context.progress)
                .with_context(|| format!("making image '{name}'"))?;
            Reply::Image((&info).into())
        }
        Request::ImageList => Reply::Images(store.images().iter().map(Into::into).collect()),
        Request::ImageShow { name } => Reply::Image((&store.image_info(&name)?).into()),
        Request::ImageDelete { name } => {
            store.delete_image(&name)?;
            Reply::Done
        }
        Request::Flush { volume: None } => {
            store.flush().context("flushing the store")?;
            Reply::Done
        }
        Request::Flush { volume: Some(name) } => {
            store.volume(&name)?.sync(Sync::All).with_context(|| format!("flushing volume '{name}'"))?;
            Reply::Done
        }
        Request::JobList => Reply::Jobs(store.jobs().iter().map(Into::into).collect()),
        Request::JobShow { id } => Reply::Job((&store.job(id)?).into()),
        Request::JobCancel { id } => super::jobs::cancel(store, id)?,
        Request::JobResume { id } => super::jobs::resume(store, id, context.progress)?,
        Request::ExportEnd { .. } => return Err(Failure::new("the store is not mounted: nobody else exports from it").into()),
        Request::Status => Reply::Status(status(context)?),
        Request::Space => Reply::Space((&store.space_report()?).into()),
        Request::Metrics => Reply::Metrics(crate::metrics::of_store(store)?),
        Request::Doctor => Reply::Doctor(DoctorView::new(&store.doctor()?)),
        Request::Scrub { volume, rate } => {
            let report = store.scrub(&ScrubOptions { volume, rate }, context.progress).context("scrubbing")?;
            Reply::Scrub((&report).into())
        }
        Request::ClearFault { volume } => {
            store.clear_fault(&volume)?;
            Reply::Done
        }
        Request::Schedule { action } => super::schedules::execute(context, action)?.0,
        Request::Unmount { .. } => return Err(Failure::new("the store is not mounted").into()),
    })
}

fn create_snapshot(
    context: &Context<'_>,
    volume: Option<&Name>,
    name: &Name,
    labels: &BTreeMap<String, String>,
    hooks: &Hooks,
) -> Result<Vec<SnapshotView>> {
    let store = context.store;
    hooks.check()?;
    let all = || store.volumes().into_iter().filter(|info| info.live).filter_map(|info| info.name).collect();
    let volumes = volume.map_or_else(all, |volume| vec![volume.clone()]);
    let mount = context.mount.map(|mount| mount.target.as_str());
    let variables = crate::schedule::variables(store, mount, name, &volumes);
    let occasion = Occasion { hooks, store: store.path(), variables, unmounted_is_fine: false };
    let outcome = hooks::around(&occasion, &|| context.progress.cancelled(), || match volume {
        Some(volume) => store
            .snapshot(volume, name, labels)
            .map(|info| vec![info])
            .with_context(|| format!("taking snapshot '{name}' of volume '{volume}'")),
        None => store.snapshot_all(name, labels).with_context(|| format!("taking snapshot '{name}'")),
    });
    match (outcome.value, outcome.error) {
        (Some(infos), None) => Ok(infos.iter().map(SnapshotView::from).collect()),
        (Some(_), Some(error)) => Err(error.context(format!("snapshot '{name}' was taken, but"))),
        (None, error) => Err(error.unwrap_or_else(|| Failure::new(format!("snapshot '{name}' was not taken")).into())),
    }
}

/// In a list, the head's part is left out: it is counted from the maps, which may be large.
fn listed(store: &Store, info: &VolumeInfo) -> VolumeView {
    let volume = info.name.as_ref().filter(|_| info.live).and_then(|name| store.volume(name).ok());
    VolumeView { data: volume.map(|volume| volume.stat().data), ..VolumeView::new(info, None) }
}

/// What a volume takes is left out where it can't be told (a missing layer): the rest is worth showing then.
pub(super) fn volume_view(store: &Store, info: &VolumeInfo) -> VolumeView {
    let space = info.name.as_ref().filter(|_| info.live).and_then(|name| store.volume_space(name).ok());
    VolumeView::new(info, space)
}

fn status(context: &Context<'_>) -> Result<StatusView> {
    let store = context.store;
    Ok(StatusView {
        store: shown(store.path()),
        id: store.id().to_string(),
        mount: context.mount.cloned(),
        volumes: store.volumes().iter().filter(|info| info.live).count() as u64,
        snapshots: store.snapshots().len() as u64,
        images: store.images().len() as u64,
        space: (&store.space()?).into(),
        events: store.events().iter().map(Into::into).collect(),
    })
}
