//! Images by name: import, list, show, delete.
//!
//! An import holds no lock while it copies. A label that names its layer is durable before the layer is made, so that
//! whatever ends the process, the next open removes what was half made; an error or a cancel removes it at once. The
//! layer is sealed and durable before the one commit that gives it its name.

use super::keep::dropped_by;
use crate::catalog::Catalog;
use crate::catalog::names::settled;
use crate::catalog::records::{Change, ImageRecord, LayerRecord};
use crate::catalog::state::State;
use crate::disk::now_ns;
use crate::error::{Error, Noun, Result};
use crate::ids::{ImageId, LayerId};
use crate::image::{BlockSink, Content, ImportOptions, OpenImage, Progress, Received, Surroundings, Workshop, copy_view};
use crate::jobs::{Both, Job, JobKind, Task};
use crate::layer::LayerWriter;
use crate::name::Name;
use crate::store::{Context, ImageInfo, view};
use crate::units::BLOCK_SIZE;
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

impl BlockSink for LayerWriter {
    fn write(&mut self, block: u64, data: &[u8]) -> Result<()> {
        LayerWriter::write(self, block, data)
    }
}

/// Every image, by name.
pub(super) fn list(catalog: &Catalog) -> Vec<ImageInfo> {
    let state = catalog.read();
    let mut users = users(&state);
    let mut images: Vec<_> =
        state.images.values().map(|image| info_of(image, users.remove(&image.layer).unwrap_or_default())).collect();
    images.sort_by(|a, b| a.name.cmp(&b.name));
    images
}

/// One image.
pub(super) fn info(catalog: &Catalog, name: &Name) -> Result<ImageInfo> {
    let state = catalog.read();
    let image = state.image_named(name).ok_or_else(|| not_found(name))?;
    Ok(info_of(image, users(&state).remove(&image.layer).unwrap_or_default()))
}

/// Imports the image file `path` as `name`, as a job.
pub(super) fn import(
    context: &Arc<Context>,
    name: &Name,
    path: &Path,
    options: &ImportOptions,
    progress: &dyn Progress,
) -> Result<ImageInfo> {
    free(context, name)?;
    let task = Task::Import {
        name: name.clone(),
        path: path.to_owned(),
        sha256: options.sha256.clone(),
        allow_backing_in: options.allow_backing_in.clone(),
    };
    let subject = format!("image '{name}' from {}", crate::name::escape(path.as_os_str().as_bytes()));
    let job = context.begin_job(JobKind::Import, subject, Some(task))?;
    import_as(context, job, name, path, options, progress)
}

/// Imports as a job that has begun.
pub(crate) fn import_as(
    context: &Context,
    job: Job,
    name: &Name,
    path: &Path,
    options: &ImportOptions,
    progress: &dyn Progress,
) -> Result<ImageInfo> {
    let progress = &Both { job: &job, progress };
    let outcome = free(context, name).and_then(|()| {
        let disk = &context.disk;
        let surroundings = Surroundings { directory: disk.path.clone(), floor: disk.gauge.floor() };
        let mut source: Box<dyn Content> = match &context.options.image_reader {
            None => Box::new(OpenImage::open(path, options, &Workshop::of(&surroundings), progress)?),
            Some(reader) => Box::new(Received::start(&**reader, path, options, &surroundings, progress)?),
        };
        let (size, format) = (source.size(), source.format().to_owned());
        make(context, name, size, format, progress, |writer| source.copy_to(writer, progress))
    });
    job.end_with(&outcome);
    outcome
}

/// Makes image `name` of what `volume` is in `snapshot` or, without it, at this instant, as a job. The content is copied into
/// a root layer of its own, so that the image depends on nothing and nothing on it.
pub(super) fn from_volume(
    context: &Arc<Context>,
    name: &Name,
    volume: &Name,
    snapshot: Option<&Name>,
    progress: &dyn Progress,
) -> Result<ImageInfo> {
    free(context, name)?;
    let task = Task::Image { name: name.clone(), volume: volume.clone(), snapshot: snapshot.cloned() };
    let what = snapshot.map_or_else(|| volume.to_string(), |snapshot| format!("{volume}@{snapshot}"));
    let job = context.queue_job(JobKind::Image, format!("image '{name}' from '{what}'"), Some(task))?;
    from_volume_as(context, job, name, volume, snapshot, progress)
}

/// The same as a job that waits to begin.
pub(crate) fn from_volume_as(
    context: &Arc<Context>,
    job: Job,
    name: &Name,
    volume: &Name,
    snapshot: Option<&Name>,
    progress: &dyn Progress,
) -> Result<ImageInfo> {
    let view = match view::open(context, volume, snapshot) {
        Ok(view) => view,
        // A name that there isn't makes no job.
        Err(error) => {
            job.abandon();
            return Err(error);
        }
    };
    job.start()?;
    let progress = &Both { job: &job, progress };
    let outcome = free(context, name).and_then(|()| {
        make(context, name, view.stat().size, "volume".to_owned(), progress, |writer| copy_view(&view, writer, progress))
    });
    job.end_with(&outcome);
    outcome
}

fn free(context: &Context, name: &Name) -> Result<()> {
    match context.catalog.read().image_named(name) {
        Some(_) => Err(Error::Exists { noun: Noun::Image, name: name.to_string() }),
        None => Ok(()),
    }
}

/// Makes an image of what `fill` writes; it gives the content's SHA-256.
fn make(
    context: &Context,
    name: &Name,
    size: u64,
    format: String,
    progress: &dyn Progress,
    fill: impl FnOnce(&mut LayerWriter) -> Result<String>,
) -> Result<ImageInfo> {
    let (catalog, disk) = (&context.catalog, &context.disk);
    let (id, layer) = (ImageId::new(), LayerId::new());
    // Dropped in the reverse order: an error removes the layer, then the label that tells of it.
    let import = catalog.begin_import(id, layer)?;
    let mut writer = LayerWriter::create(disk, layer, size)?;
    let sha256 = fill(&mut writer)?;
    let data_blocks = writer.finish()?;
    if progress.cancelled() {
        return Err(Error::Interrupted);
    }
    let operation = catalog.begin();
    let serial = operation.read().next_serial;
    let image = ImageRecord {
        id,
        serial,
        name: name.clone(),
        layer,
        size,
        data: data_blocks * BLOCK_SIZE,
        sha256,
        format,
        created_ns: now_ns(),
    };
    let info = info_of(&image, Vec::new());
    let changes = vec![Change::PutLayer(LayerRecord { id: layer, parent: None, revision: 0 }), Change::PutImage(image)];
    // A name that was taken meanwhile is refused in here.
    operation.prepare_import(import, changes)?.commit()?.promote()?;
    Ok(info)
}

/// Deletes an image that nobody stands on.
pub(super) fn delete(context: &Context, name: &Name) -> Result<()> {
    // Held to the commit, so that no volume is made of it meanwhile.
    let operation = context.catalog.begin();
    let state = operation.read();
    let image = state.image_named(name).ok_or_else(|| not_found(name))?;
    let (id, layer) = (image.id, image.layer);
    if let Some(users) = users(&state).remove(&layer) {
        return Err(Error::ImageInUse { image: name.to_string(), users });
    }
    // What can be restored may stand on it: then the layer stays, without a name.
    let changes = settled(&state, vec![Change::DeleteImage(id)]);
    drop(state);
    let dropped = dropped_by(&changes);
    operation.prepare(changes)?.commit()?.promote()?;
    // A volume that was deleted while open still reads from the layer: it goes when nobody has it open. Now, mostly, so that
    // the space is free on return.
    context.drop_layers(dropped);
    if let Err(error) = context.remove_dropped() {
        tracing::warn!(%error, %layer, "deleted it is, but its files are left for the next open");
    }
    Ok(())
}

/// Who stands on each root layer: volumes by name, then snapshots as `SNAPSHOT/VOLUME`.
fn users(state: &State) -> BTreeMap<LayerId, Vec<String>> {
    let mut users: BTreeMap<LayerId, Vec<String>> = BTreeMap::new();
    let mut add = |top: LayerId, user: String| {
        if let Some(root) = state.chain(top).first() {
            users.entry(*root).or_default().push(user);
        }
    };
    for volume in state.volumes.values() {
        if let Some(head) = volume.head {
            add(head, volume.name.as_ref().map_or_else(|| volume.id.to_string(), Name::to_string));
        }
    }
    for snapshot in state.snapshots.values() {
        add(snapshot.layer, format!("{}/{}", snapshot.set, snapshot.taken_as));
    }
    users
}

fn info_of(image: &ImageRecord, users: Vec<String>) -> ImageInfo {
    ImageInfo {
        id: image.id,
        name: image.name.clone(),
        serial: image.serial,
        layer: image.layer,
        size: image.size,
        data: image.data,
        sha256: image.sha256.clone(),
        format: image.format.clone(),
        created_ns: image.created_ns,
        users,
    }
}

pub(super) fn not_found(name: &Name) -> Error {
    Error::NotFound { noun: Noun::Image, name: name.to_string() }
}

#[cfg(test)]
mod tests;
